"""The search for the settings of a backbone's training, by what a fixed detector makes of it, or by its loss."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from inlier.adaptation import adapt
from inlier.config import Config, merge
from inlier.data.manifest import Manifest
from inlier.downstream import has_both
from inlier.errors import ConfigError, InlierError
from inlier.evaluation import Evaluation, evaluate, write_to_folder
from inlier.experiments.detector_search import EVALUATION, MODEL, choose_metric, gain_of, told
from inlier.experiments.memory import peak_bytes, reset_peak
from inlier.experiments.outcome import Conclusion, Metric, Outcome, Run, Watch
from inlier.experiments.spaces import OBJECTIVE_SPACES, Space, read_space
from inlier.gate import downstream_auroc
from inlier.model import Model
from inlier.objectives import resolve_adaptation
from inlier.workflow import Progress, fit, no_progress

BACKBONE = "backbone"
"""What the folder of a finished search holds beside a model that uses it."""

HELD_OUT_RATIO = 0.15
"""Share of the photos whose loss is the metric, where it is asked for and nothing else is said."""


@dataclass(frozen=True, eq=False)
class BackboneTask:
    """The settings of an objective; see ``Task``.

    Attributes:
        given: Sections of keywords as the user gave them.
        data: Photos.
        device: Where the backbone runs.
        workers: Threads that decode, and make views.
    """

    name: str
    metric: Metric
    default: Config
    space: Space
    given: Config
    data: Manifest
    device: str
    workers: int
    kind: Literal["objective"] = "objective"

    @classmethod
    def of(cls, config: Config, data: Manifest, metric: str | None, device: str, workers: int) -> Self:
        """From sections of keywords, with ``space`` among them.

        Raises:
            ConfigError: They, the space or the metric cannot be used.
        """
        given: Config = {section: dict(keywords) for section, keywords in config.items() if section != "space"}
        chosen: Metric = "loss" if metric == "loss" else choose_metric(metric, data)
        if chosen == "loss":
            given["finetune"].setdefault("held_out_ratio", HELD_OUT_RATIO)
        default = resolve_adaptation(given, device=device)
        name = default["finetune"]["objective"]
        if name not in OBJECTIVE_SPACES:
            raise ConfigError(f"The objective {name} has nothing to search; it is computed and not trained.")
        space = read_space(name, OBJECTIVE_SPACES[name], config.get("space", {}))
        if chosen == "loss":  # losses at different temperatures do not compare
            space = tuple(of for of in space if of.key != "temperature")
        return cls(name, chosen, default, space, given, data, device, workers)

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """A loss is to be small."""
        return "minimize" if self.metric == "loss" else "maximize"

    @property
    def seed(self) -> int:
        """Of everything random."""
        seed: int = self.default["finetune"]["seed"]
        return seed

    def resolve(self, changes: Config) -> Config:
        """The default configuration, changed."""
        config: Config = self.given
        for section, keywords in changes.items():
            config = merge(config, section, **keywords)
        return resolve_adaptation(config, device=self.device)

    def prepare(self, progress: Progress) -> None:
        """Trials share nothing that is worth keeping: views are made anew for each."""

    @contextmanager
    def open(self, prepared: None) -> Iterator[Run]:
        """Judges by a training of its own for each trial."""
        yield self._judge

    def conclude(self, config: Config, out: Path, *, is_default: bool, progress: Progress) -> Conclusion:
        """Trains the winner, with its gate, and judges a detector over it on test, beside one over the frozen start."""
        adapted, unreadable = adapt(config, self.data, device=self.device, workers=self.workers, progress=progress)
        adapted.save(out / BACKBONE)
        labelled = [photo for photo in self.data.select("test").photos if photo.is_anomalous is not None]
        if not has_both(labelled):
            note = "The split test has no labelled normal and anomalous photos, so nothing was judged there."
            return Conclusion(unreadable=tuple(unreadable), notes=(note,))
        model, judged = self._evaluated({"weights": str(out / BACKBONE)}, config, progress)
        model.save(out / MODEL)
        write_to_folder(judged, model, out / EVALUATION)
        _, of_frozen = self._evaluated(self.given.get("backbone", {}), config, progress)
        gain, p_value = gain_of(of_frozen, judged, self.seed)
        note = (
            "On test the detector of the gate over the trained backbone is compared with the same detector over the "
            "backbone that the training began from."
        )
        return Conclusion(told(judged), told(of_frozen), gain, p_value, tuple(unreadable), (note,))

    def _judge(self, config: Config, watch: Watch | None) -> Outcome:
        reset_peak()
        began = time.perf_counter()
        num_looks = 0

        def report(row: Mapping[str, float]) -> None:
            nonlocal num_looks
            if watch is not None and self.metric == "loss" and "held_out_loss" in row:
                num_looks += 1
                watch(row["held_out_loss"], num_looks)

        adapted, _ = adapt(config, self.data, is_judged=False, device=self.device, workers=self.workers, report=report)
        seconds = time.perf_counter() - began
        if self.metric == "loss":
            losses = [row["held_out_loss"] for row in adapted.history if "held_out_loss" in row]
            if not losses:
                raise InlierError("The photos are of too few groups to hold some out, so there is no loss to go by.")
            value = min(losses)
        else:
            sections: Config = {name: config[name] for name in ("gate", "input") if name in config}
            value = downstream_auroc(
                sections,
                self.data,
                adapted.backbone,
                by_copies=self.metric == "synthetic",
                workers=self.workers,
                progress=no_progress,
            )
        return Outcome(value, fit_seconds=seconds, peak_bytes=peak_bytes())

    def _evaluated(self, backbone: Mapping[str, Any], config: Config, progress: Progress) -> tuple[Model, Evaluation]:
        sections: Config = {"backbone": dict(backbone), "input": config["input"]}
        sections["fit"] = {"detector": config["gate"]["detector"], "seed": self.seed}
        model, _ = fit(sections, self.data, device=self.device, workers=self.workers, progress=progress)
        return model, evaluate(model, self.data, seed=self.seed, workers=self.workers, progress=progress)
