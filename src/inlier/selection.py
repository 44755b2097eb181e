"""Chooses among configurations where no photo of damage exists: by how well each tells photos from damaged copies.

Each normal photo is altered by CutPaste, once with a patch and once with a scar (``data.cutpaste``). A detector that
has seen neither the photo nor its group scores the photo and its copies; how often a copy scores above a normal photo
is the detector's AUROC.

What such copies say of real damage is little. Measured on real photos (``benchmarks/selection.py``), their order of the
candidates does not agree with that by real anomalies, and whoever takes what does best on copies finds real anomalies
worse than who keeps the default. Among hand-held photos, which differ from each other by more than a copy from its
photo, copies drown altogether. So the configuration as it stands is kept, unless a candidate finds the copies well, and
better than it by more than chance explains; which guards against a misfit, and promises no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_backbone, build_detector, resolve, resolve_selection
from inlier.config import Config, merge
from inlier.copies import STRIDE, Copies, draw_photos
from inlier.data.manifest import Manifest
from inlier.decision.intervals import Interval, bootstrap
from inlier.decision.metrics import image_auroc
from inlier.detectors.combined import Combined
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache
from inlier.model import Model, transform_of
from inlier.reading import normal_groups
from inlier.workflow import Progress, no_progress, normal_photos

MIN_GROUPS = 10
"""Groups of normal photos below which chance cannot be told from a lead, and nothing is chosen."""

MIN_AUROC = 0.6
"""What a candidate must reach on copies to be chosen: below it they drown in how photos differ anyway."""

NUM_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Trial:
    """How one candidate did.

    Attributes:
        name: What it is called in the list.
        config: Its resolved configuration.
        auroc: How often it scores an altered copy above a normal photo, with its 95 % interval.
        gain: How much more often than the first candidate, with an interval that holds for all candidates at once with
            95 %; None for the first.
    """

    name: str
    config: Config
    auroc: Interval
    gain: Interval | None


@dataclass(frozen=True)
class Selection:
    """What was compared, and what was chosen.

    Attributes:
        trials: One for each candidate, the configuration as it stands first.
        chosen: Which of them.
        num_photos: Normal photos that all were judged on, each beside its copies.
        num_groups: Of how many groups they are.
    """

    trials: tuple[Trial, ...]
    chosen: int
    num_photos: int
    num_groups: int

    @property
    def config(self) -> Config:
        """The resolved configuration that was chosen."""
        return self.trials[self.chosen].config

    @property
    def reason(self) -> str:
        """Why it was chosen, as one sentence."""
        first, chosen = self.trials[0], self.trials[self.chosen]
        if self.chosen:
            assert chosen.gain is not None  # for the type checker: only the first has none
            return (
                f"{chosen.name} finds altered copies more often than {first.name}, by {100 * chosen.gain.value:.1f} "
                f"points (at least {100 * chosen.gain.low:.1f})."
            )
        if self.num_groups < MIN_GROUPS:
            return f"{first.name} is kept: {self.num_groups} groups of photos are too few to choose by ({MIN_GROUPS})."
        if max(of.auroc.value for of in self.trials) < MIN_AUROC:
            return (
                f"{first.name} is kept: photos differ so much that no candidate finds altered copies (no AUROC reaches "
                f"{MIN_AUROC:g}), so copies cannot tell which one finds damage."
            )
        return f"{first.name} is kept: no other candidate finds altered copies more often than chance explains."

    def table(self) -> str:
        """The comparison for a person, one line a candidate, and the reason below."""
        width = max(len("candidate"), *(len(of.name) for of in self.trials))
        lines = [f"{'candidate':<{width}}  AUROC on altered copies   lead in points"]
        for place, of in enumerate(self.trials):
            gain = of.gain and f"{_points(of.gain.value)} ({_points(of.gain.low)} to {_points(of.gain.high)})"
            auroc = f"{of.auroc.value:.3f} ({of.auroc.low:.3f} to {of.auroc.high:.3f})"
            chosen = "   <- chosen" if place == self.chosen else ""
            lines.append(f"{of.name:<{width}}  {auroc:<24}  {gain or '':<22}{chosen}".rstrip())
        return "\n".join([*lines, self.reason])

    def kept_in(self, model: Model) -> Model:
        """The model that was fitted with what was chosen, its facts saying so."""
        return replace(model, facts=model.facts | {"selection": self.to_json()})

    def to_json(self) -> dict[str, Any]:
        """All of it but the configurations, as ``model.json`` keeps it."""
        return {
            "by": "synthetic",
            "num_photos": self.num_photos,
            "num_groups": self.num_groups,
            "chosen": self.trials[self.chosen].name,
            "reason": self.reason,
            "candidates": [
                {"name": of.name, "auroc": asdict(of.auroc), "gain": of.gain and asdict(of.gain)} for of in self.trials
            ],
        }


def select(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    *,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress = no_progress,
) -> Selection:
    """Compares the configuration with the candidates of its section ``select``, and chooses.

    Only normal photos of ``train`` and ``dev`` are looked at, at most ``max_photos`` of them, drawn by seed. A
    candidate wins if it reaches ``MIN_AUROC`` on copies, and leads the configuration as it stands by more than chance
    explains, with 95 % for all candidates together (paired bootstrap over groups, Bonferroni); of several the one with
    the largest lead, and of equal ones the first. Photos are embedded once for each backbone and size. Altered copies
    to learn from (``augment``) are left out of the comparison.

    Args:
        config: Sections of keywords; what is left out takes its default.
        data: Photos; anomalous ones and those of ``test`` are not looked at.
        layers: Stages of the backbone for every detector involved; None: those of the configurations.
        device: Where the backbones run.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ManifestError: There are no normal photos, or readable ones of fewer than two groups.
        ConfigError: A configuration cannot be used.
        WeightsError: A backbone's weights cannot be found.
    """
    section = resolve_selection(config)
    candidates = _candidates(config, section["candidates"], device=device, layers=layers)
    seed = next(iter(candidates.values()))["fit"]["seed"]
    normal = normal_photos(data)
    group_of = normal_groups(normal)
    photos = draw_photos(normal, section["max_photos"], seed=seed)
    trunks: dict[str, dict[str, Config]] = {}
    for name, of in candidates.items():
        trunks.setdefault(repr((of["backbone"], of["input"])), {})[name] = of
    read, compare = progress("Altering photos", len(photos) * len(trunks)), progress("Comparing", len(candidates))
    scores: dict[str, NDArray[np.float32]] = {}
    for configs in trunks.values():
        detectors = {name: build_detector(of) for name, of in configs.items()}
        backbone = build_backbone(next(iter(configs.values())), Combined([*detectors.values()]).layers).to(device)
        transform = transform_of(next(iter(configs.values())), backbone)
        with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
            copies = Copies.read(cache, backbone, transform, photos, group_of, seed=seed, workers=workers, advance=read)
            for name, detector in detectors.items():
                scores[name] = copies.scores(detector)
                compare(1)
    return _judge(candidates, scores, copies.folds, copies.groups, seed)


def _candidates(
    config: Mapping[str, Mapping[str, Any]], listed: Sequence[Any], *, device: str, layers: Sequence[int] | None
) -> dict[str, Config]:
    """Resolved configurations by name: the one given first, then those listed that differ from all before."""
    given = {name: dict(keywords) for name, keywords in config.items() if name != "select"}
    first = resolve(given, device=device, layers=layers)
    candidates = {first["fit"]["detector"]: first}
    for entry in listed:
        changes = {"fit": {"detector": entry}} if isinstance(entry, str) else entry
        if not (isinstance(changes, Mapping) and changes and all(isinstance(of, Mapping) for of in changes.values())):
            raise ConfigError(
                "candidates of [select] must be names of detectors, or tables of sections such as "
                f"{{ input.size = 320 }}, got {entry!r}."
            )
        changed = given
        for section, keywords in changes.items():
            changed = merge(changed, section, **keywords)
        resolved = resolve(changed, device=device, layers=layers)
        if resolved not in candidates.values():
            candidates[_unique(_name(resolved, changes), candidates)] = resolved
    return candidates


def _name(resolved: Config, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """The detector, and what else of the configuration a candidate changes."""
    others = [
        f"{section}.{key}={value}"
        for section, keywords in changes.items()
        for key, value in keywords.items()
        if (section, key) != ("fit", "detector")
    ]
    return ", ".join([resolved["fit"]["detector"], *others])


def _unique(name: str, taken: Collection[str]) -> str:
    """The name, or where it is taken the name with a number."""
    return next(new for new in chain([name], (f"{name} ({number})" for number in count(2))) if new not in taken)


def _judge(
    candidates: Mapping[str, Config],
    scores: Mapping[str, NDArray[np.float32]],
    folds: NDArray[np.int64],
    groups: Sequence[str],
    seed: int,
) -> Selection:
    """AUROC of each candidate and its lead over the first, and which to choose."""
    first, *others = candidates
    gains = {
        name: lead(scores[name], scores[first], folds, groups, num_leads=len(others), seed=seed) for name in others
    }
    trials = tuple(
        Trial(name, of, _auroc(scores[name], folds, groups, seed), gains.get(name)) for name, of in candidates.items()
    )
    num_groups = len(set(groups))
    values = [
        of.gain.value
        if of.gain and of.gain.low > 0 and of.auroc.value >= MIN_AUROC and num_groups >= MIN_GROUPS
        else 0.0
        for of in trials
    ]
    return Selection(trials, int(np.argmax(values)), len(groups), num_groups)


def _auroc(scores: NDArray[np.float32], folds: NDArray[np.int64], groups: Sequence[str], seed: int) -> Interval:
    """Within folds, since scores of detectors that learned from different photos do not compare."""
    is_copy = np.tile(np.arange(STRIDE) > 0, len(scores))
    owners = [group for group in groups for _ in range(STRIDE)]
    return bootstrap(image_auroc, scores.ravel(), is_copy, owners, folds=np.repeat(folds, STRIDE), seed=seed)


def lead(
    scores: NDArray[np.float32],
    other: NDArray[np.float32],
    folds: NDArray[np.int64],
    groups: Sequence[str],
    *,
    num_leads: int = 1,
    seed: int = 0,
) -> Interval:
    """How much larger the AUROC of the first scores is, with a percentile interval over resampled groups.

    Both sides of a pair are resampled together, and for both detectors alike, so what makes a photo hard for both
    cancels. Wins are added up by group beforehand: a resample in which group g appears w_g times has the AUROC
    w' A w / w' P w, with A the wins and P the number of pairs of a copy of one group and a photo of another.

    Args:
        scores: Of N photos and their copies, shape (N, 1 + copies).
        other: Likewise, by the detector to compare with.
        folds: Shape (N,); only photos of one fold compare.
        groups: Of each photo what must not be torn apart.
        num_leads: How many such intervals shall hold together (Bonferroni).
        seed: Seed of the resampling.

    Returns:
        Value in [-1, 1] with its interval.
    """
    names, member = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    belongs = np.eye(len(names))[member]  # (N, groups)
    is_pair = (folds[:, None] == folds[None, :]).astype(np.float64)
    num_pairs = belongs.T @ is_pair @ belongs
    won = belongs.T @ (is_pair * (_win_rates(scores) - _win_rates(other))) @ belongs
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(names))), draws])
    value, *resampled = ((weights @ won) * weights).sum(axis=1) / ((weights @ num_pairs) * weights).sum(axis=1)
    tail = (1 - LEVEL) / num_leads / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _win_rates(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """How many of photo i's copies score above photo j, ties counting half, as a share: shape (N, N)."""
    rates: NDArray[np.float64] = np.zeros((len(scores), len(scores)))
    for copies in scores[:, 1:].T:
        rates += (np.sign(copies[:, None] - scores[None, :, 0]) + 1) / 2
    shares: NDArray[np.float64] = rates / (scores.shape[1] - 1)
    return shares
