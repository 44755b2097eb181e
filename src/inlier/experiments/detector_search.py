"""The search for a detector's settings, over a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from inlier.build import parse_bytes, resolve
from inlier.config import Config, merge
from inlier.data.manifest import Manifest, Photo
from inlier.decision.compare import compare_aurocs
from inlier.decision.intervals import Interval
from inlier.downstream import has_both, labelled_dev
from inlier.errors import ConfigError
from inlier.evaluation import Evaluation, evaluate, write_to_folder
from inlier.experiments.judging import Reading, open_judge, read_photos
from inlier.experiments.outcome import Conclusion, Metric, Run
from inlier.experiments.spaces import DETECTOR_SPACES, Dimension, Space, read_space
from inlier.features.backbone import all_layers
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.workflow import Progress, fit

MODEL, EVALUATION = "model", "evaluation"
"""What the folder of a finished search holds: the winner, and how it did on test."""

MEASURES = ("image_auroc", "image_ap", "tpr_at_fpr_05", "pixel_auroc", "aupro_03")
"""What is told of test photos."""


@dataclass(frozen=True, eq=False)
class DetectorTask:
    """A detector's settings; see ``Task``.

    Attributes:
        given: Sections of keywords as the user gave them.
        data: Photos.
        store: Where features are kept.
        device: Where the backbone runs.
        workers: Threads that decode.
        command: What the user asked.
    """

    name: str
    metric: Metric
    default: Config
    space: Space
    given: Config
    data: Manifest
    store: FeatureStore
    device: str
    workers: int
    command: str
    kind: Literal["detector"] = "detector"
    direction: Literal["maximize"] = "maximize"

    @classmethod
    def of(
        cls,
        config: Config,
        data: Manifest,
        metric: str | None,
        store: FeatureStore,
        device: str,
        workers: int,
        command: str = "",
    ) -> Self:
        """From sections of keywords, with ``space`` among them.

        Raises:
            ConfigError: They, the space or the metric cannot be used.
        """
        given = {section: keywords for section, keywords in config.items() if section != "space"}
        default = resolve(given, device=device)
        name = default["fit"]["detector"]
        layers = all_layers(default["backbone"]["name"])
        space = read_space(name, DETECTOR_SPACES[name], config.get("space", {}))
        space = tuple(_within(of, layers) for of in space)
        return cls(name, choose_metric(metric, data), default, space, given, data, store, device, workers, command)

    @property
    def seed(self) -> int:
        """Of everything random."""
        seed: int = self.default["fit"]["seed"]
        return seed

    def resolve(self, changes: Config) -> Config:
        """The default configuration, changed."""
        config: Config = self.given
        for section, keywords in changes.items():
            config = merge(config, section, **keywords)
        return resolve(config, device=self.device)

    def prepare(self, progress: Progress) -> Reading:
        """Puts the features of all photos into the store."""
        return read_photos(
            self.default,
            self.data,
            metric=self.metric,
            layers=all_layers(self.default["backbone"]["name"]),
            store=self.store,
            device=self.device,
            workers=self.workers,
            progress=progress,
        )

    def open(self, prepared: Reading) -> AbstractContextManager[Run]:
        """Judges by the features in the store."""
        budget = parse_bytes(self.default["fit"]["memory_budget"])
        return open_judge(prepared, self.store, budget_bytes=budget)

    def conclude(self, config: Config, out: Path, *, is_default: bool, progress: Progress) -> Conclusion:
        """Fits the winner, and where test has labelled photos judges it there once, beside the default settings."""
        model, unreadable = self._fitted(config, progress)
        model.save(out / MODEL)
        labelled = [photo for photo in self.data.select("test").photos if photo.is_anomalous is not None]
        if not has_both(labelled):
            note = "The split test has no labelled normal and anomalous photos, so nothing was judged there."
            return Conclusion(unreadable=tuple(unreadable), notes=(note,))
        judged = self._evaluated(model, progress)
        write_to_folder(judged, model, out / EVALUATION)
        test = told(judged)
        if is_default:
            return Conclusion(test, test, unreadable=tuple(unreadable))
        base, _ = self._fitted(self.default, progress)
        of_base = self._evaluated(base, progress)
        gain, p_value = gain_of(of_base, judged, self.seed)
        return Conclusion(test, told(of_base), gain, p_value, tuple(unreadable))

    def _fitted(self, config: Config, progress: Progress) -> tuple[Model, list[tuple[Photo, str]]]:
        options: dict[str, Any] = {"device": self.device, "workers": self.workers, "store": self.store}
        return fit(config, self.data, progress=progress, **options)

    def _evaluated(self, model: Model, progress: Progress) -> Evaluation:
        options: dict[str, Any] = {"seed": self.seed, "workers": self.workers, "command": self.command}
        return evaluate(model, self.data, progress=progress, **options)


def choose_metric(asked: str | None, data: Manifest) -> Metric:
    """The metric asked for; none asked for: AUROC on dev where it has both kinds of photos, else on altered copies.

    Raises:
        ConfigError: There is no such metric for a detector.
    """
    if asked is None:
        return "auroc" if has_both(labelled_dev(data)) else "synthetic"
    if asked not in ("auroc", "synthetic"):
        raise ConfigError(f"--metric must be auroc or synthetic for a detector, got {asked}.")
    return asked  # type: ignore[return-value]


def told(evaluation: Evaluation) -> Mapping[str, Any]:
    """What a report tells of an evaluation."""
    return {name: evaluation.metrics[name] for name in MEASURES}


def gain_of(base: Evaluation, other: Evaluation, seed: int) -> tuple[Interval, float]:
    """How much larger the second one's AUROC on the same photos is, and the p-value of the paired test."""
    is_anomalous = np.array(base.table["is_anomalous"].to_pylist(), dtype=np.bool_)
    groups = base.table["group"].to_pylist()
    _, (found,) = compare_aurocs(np.array([base.scores, other.scores]), is_anomalous, groups, seed=seed)
    if found.ahead == 1:
        return found.gain, found.p_value
    return Interval(0.0 - found.gain.value, 0.0 - found.gain.high, 0.0 - found.gain.low), found.p_value


def _within(dimension: Dimension, layers: Sequence[int]) -> Dimension:
    """Without combinations of layers that the network does not have."""
    if dimension.key != "layers" or not dimension.choices:
        return dimension
    known = {str(layer) for layer in layers}
    choices = tuple(of for of in dimension.choices if {*str(of).split(",")} <= known)
    if not choices:
        raise ConfigError(f"{dimension.name} of [space] names no layers that the backbone has, {list(layers)}.")
    return replace(dimension, choices=choices)
