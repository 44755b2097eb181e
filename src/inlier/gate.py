"""The gate: is an adapted backbone any better than the frozen one it came from, at finding anomalies?

A backbone's own loss does not tell: the thesis saw it fall while detectors got worse by up to thirty points. So both
backbones serve one fixed detector, and what it finds is compared on the same photos, by tests paired over photos and
grouped by part. Where ``dev`` has labelled anomalies, they decide. Where it has none, altered copies of normal photos
(CutPaste) and the names of components stand in, which say little of real damage; the sentence says so.

Photos of ``test`` are never looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inlier.copies import STRIDE
from inlier.data.manifest import Manifest, Photo
from inlier.data.remote import Location
from inlier.decision.compare import LEVEL, compare_aurocs
from inlier.decision.intervals import MIN_GROUPS, Interval, group_index, mean_interval, num_effective_groups
from inlier.decision.metrics import image_auroc, within_folds
from inlier.downstream import Bench, CopyScores, DevScores, has_both, labelled_dev
from inlier.errors import ManifestError
from inlier.features.backbone import Backbone
from inlier.outputs import as_text
from inlier.selection import lead
from inlier.workflow import Progress, no_progress

Outcome = Literal["helps", "no evidence", "hurts"]
Kind = Literal["anomalies", "altered copies", "component names"]

_WHAT = {
    "anomalies": "AUROC on labelled photos of dev",
    "altered copies": "AUROC on altered copies of normal photos",
    "component names": "components named rightly",
}
_STAND_IN = "This says little of real damage: label some photos of dev, normal and anomalous ones, to know more."


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that both backbones were measured by.

    Attributes:
        kind: By what: labelled anomalies, altered copies of normal photos, or the nearest photos' component.
        frozen: AUROC of the detector over the frozen backbone, or share of photos named rightly, in [0, 1].
        adapted: Likewise over the adapted one.
        gain: The second less the first, in [-1, 1], with an interval that holds for all measures at once with 95 %.
        num_photos: That were judged.
        num_groups: Of how many groups they are.
    """

    kind: Kind
    frozen: float
    adapted: float
    gain: Interval
    num_photos: int
    num_groups: int

    @property
    def sentence(self) -> str:
        """The numbers, in hundredths."""
        gain = self.gain
        return (
            f"{_WHAT[self.kind]}: {self.frozen:.3f} frozen, {self.adapted:.3f} adapted, {_points(gain.value)} points "
            f"(95 %: {_points(gain.low)} to {_points(gain.high)}; {_number(self.num_photos, 'photo')} of "
            f"{_number(self.num_groups, 'group')})"
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether an adapted backbone helps, and what says so.

    Attributes:
        detector: The fixed detector's name.
        measures: What was measured; none where there was nothing to judge by.
        num_adapted_to: Photos among those judged that the backbone was adapted to; without labels, if anomalies judge.
        note: What a reader must not miss; "" where there is nothing.
    """

    detector: str
    measures: tuple[Measure, ...]
    num_adapted_to: int = 0
    note: str = ""

    @property
    def verdict(self) -> Outcome:
        """``hurts`` if some interval lies below 0, else ``helps`` if some lies above, else ``no evidence``."""
        if any(of.gain.high < 0 for of in self.measures):
            return "hurts"
        return "helps" if any(of.gain.low > 0 for of in self.measures) else "no evidence"

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, for a person."""
        found = {
            "helps": "The adapted backbone helps",
            "hurts": "The adapted backbone hurts",
            "no evidence": "There is no evidence that the adapted backbone helps",
        }[self.verdict]
        parts = [f"{found} {self.detector}" + "".join(f"; {of.sentence}" for of in self.measures) + "."]
        if self.num_adapted_to:
            were = _number(self.num_adapted_to, "of these photos was", "of these photos were")
            unlabelled = ", without labels" if self.measures[0].kind == "anomalies" else ""
            parts.append(f"{were} among those adapted to{unlabelled}.")
        return " ".join([*parts, *([self.note] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        """All of it, as ``model.json`` keeps it."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "detector": self.detector,
            "measures": [asdict(of) for of in self.measures],
            "num_adapted_to": self.num_adapted_to,
            "note": self.note,
        }


def judge(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    frozen: Backbone,
    adapted: Backbone,
    *,
    adapted_to: Collection[Photo] = (),
    workers: int = 2,
    progress: Progress = no_progress,
) -> Gate:
    """Compares two backbones by what one detector finds with each of them.

    The detector is fitted on normal photos of ``train``. With labelled normal and anomalous photos in ``dev``, it
    scores these, and the difference of the AUROCs is tested (``decision/compare.py``). Its interval reaches as far as
    that of the test and that of the paired bootstrap over groups, stratified by label, do together.

    Otherwise it scores normal photos and their altered copies: those of ``dev`` if they are of enough groups, else all
    by cross-fitting. And the nearest photos of other groups tell the component of these photos, where normal ones are
    labelled with it.

    Args:
        config: Sections of keywords, such as ``gate``; what is left out takes its default.
        data: Photos; those of ``test`` are not looked at.
        frozen: The backbone before, where it shall run, with the layers that the detector asks for.
        adapted: The backbone afterwards, likewise.
        adapted_to: Photos that it was trained on, to say how many of them it is judged by.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    bench = Bench.of(config, (frozen, adapted), workers, progress)
    known = {photo.path for photo in adapted_to}
    try:
        if has_both(labelled_dev(data)):
            found = bench.score_dev(data)
            measure, note = _by_anomalies(found, bench.seed)
            return Gate(bench.name, (measure,), _num_known(found.photos, known), note)
        copies = bench.score_copies(data)
        return Gate(bench.name, tuple(_by_copies(copies, bench.seed)), _num_known(copies.photos, known), _STAND_IN)
    except ManifestError as error:  # hours of training are not lost because nothing can judge them
        return Gate(bench.name, (), note=str(error))


def downstream_auroc(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    backbone: Backbone,
    *,
    by_copies: bool = False,
    workers: int = 2,
    progress: Progress = no_progress,
) -> float:
    """AUROC on the labelled photos of ``dev`` of the fixed detector: what a search for hyperparameters maximises.

    A trial's own loss cannot be compared between temperatures or objectives, and says nothing of anomalies (thesis,
    section 5.6.4). For the gain over the frozen backbone ask for that one too, once.

    Args:
        config: Sections of keywords, such as ``gate``; what is left out takes its default.
        data: Photos; those of ``test`` are not looked at.
        backbone: Where it shall run, with the layers that the detector asks for.
        by_copies: Whether altered copies of normal photos stand in for photos of anomalies.
        workers: Threads that decode.
        progress: Told how far it is.

    Returns:
        In [0, 1].

    Raises:
        ManifestError: ``dev`` lacks readable normal or anomalous photos, or ``train`` normal ones.
        ConfigError: The configuration cannot be used.
    """
    if by_copies:
        copies = Bench.of(config, (backbone,), workers, progress).score_copies(data)
        return _auroc_of_copies(copies.scores[0], copies.folds)
    if not has_both(labelled_dev(data)):
        raise ManifestError("A trial is judged by labelled photos of dev, and it lacks normal or anomalous ones.")
    found = Bench.of(config, (backbone,), workers, progress).score_dev(data)
    return image_auroc(found.scores[0], found.is_anomalous)


def _by_anomalies(found: DevScores, seed: int) -> tuple[Measure, str]:
    """The measure, and a note if photos are few."""
    names = np.array([as_text(photo.group) for photo in found.photos], dtype=np.str_)
    (frozen, adapted), (difference,) = compare_aurocs(found.scores, found.is_anomalous, names.tolist(), seed=seed)
    of_test, of_bootstrap = difference.gain, difference.resampled
    ends = min(of_test.low, of_bootstrap.low), max(of_test.high, of_bootstrap.high)
    is_ahead = difference.ahead == 1  # else the frozen one is, or neither
    low, high = ends if is_ahead else (0.0 - ends[1], 0.0 - ends[0])
    gain = Interval(adapted.value - frozen.value, low, high)
    worth = min(num_effective_groups(names[found.is_anomalous == flag]) for flag in (False, True))
    note = "So few photos, by their groups, can only show a large difference." if worth < MIN_GROUPS else ""
    num_groups = int(group_index(names).max()) + 1
    return Measure("anomalies", frozen.value, adapted.value, gain, len(names), num_groups), note


def _by_copies(found: CopyScores, seed: int) -> list[Measure]:
    num_measures = 2 if len(found.named) else 1
    frozen, adapted = found.scores
    gain = lead(adapted, frozen, found.folds, found.groups, num_leads=num_measures, seed=seed)
    aurocs = _auroc_of_copies(frozen, found.folds), _auroc_of_copies(adapted, found.folds)
    measures = [Measure("altered copies", *aurocs, gain, len(found.photos), len(set(found.groups)))]
    if num_measures > 1:
        before, after = found.is_named_rightly.astype(np.float64)
        groups = [found.groups[place] for place in found.named]
        gain = mean_interval(after - before, groups, lowest=-1.0, level=1 - (1 - LEVEL) / num_measures)
        shares = float(before.mean()), float(after.mean())
        measures.append(Measure("component names", *shares, gain, len(groups), len(set(groups))))
    return measures


def _auroc_of_copies(scores: NDArray[np.float32], folds: NDArray[np.int64]) -> float:
    """Within folds, since scores of detectors that learned from different photos do not compare."""
    is_copy = np.tile(np.arange(STRIDE) > 0, len(scores))
    return within_folds(image_auroc, scores.ravel(), is_copy, np.repeat(folds, STRIDE))


def _num_known(photos: Sequence[Photo], adapted_to: Collection[Location]) -> int:
    return sum(photo.path in adapted_to for photo in photos)


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def _number(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
