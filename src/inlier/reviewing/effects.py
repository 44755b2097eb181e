"""What a refit changes: the verdicts that flip, and how well normal and anomalous photos are told apart on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inlier.comparison import sentence
from inlier.data.manifest import Photo
from inlier.decision.compare import compare_aurocs
from inlier.decision.intervals import Interval
from inlier.model import Model
from inlier.outputs import as_text, number_of
from inlier.reviewing.decisions import Review
from inlier.reviewing.regions import location_key
from inlier.reviewing.unseen import Looked, Unseen, score_unseen
from inlier.workflow import Progress

DEV_SENTENCE = (
    "No detector learns from photos of dev, before or after, so that their scores are of new photos to both; normal "
    "ones help to calibrate, which moves thresholds and no AUROC. Both are measured by the labels as corrected: where "
    "reviewers looked at photos of dev in the order of the old model's doubt, these labels are not blind to it."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A photo before and after a refit.

    Attributes:
        photo: As labelled now.
        scores: Of detectors that have not seen its group, before and after.
        p_values: Of these scores, by either calibration.
        verdicts: Likewise.
    """

    photo: Photo
    scores: tuple[float, float]
    p_values: tuple[float, float]
    verdicts: tuple[str, str]


def on_photos(before: Model, after: Model, looked: Looked, review: Review, *, progress: Progress) -> list[Outcome]:
    """Every photo that was read, judged by both models, or by others in place of one that has learned from it.

    What the review has of the model before is taken from there.
    """
    known = _known(before, looked, review)
    old = score_unseen(before, looked, progress=progress) if known is None else known
    new = score_unseen(after, looked, progress=progress)
    p_values = before.calibration.p_values(old.scores), after.calibration.p_values(new.scores)
    verdicts = tuple(
        model.calibration.decide(of.scores, **model.config["decide"], is_doubtful=of.lacks_region)
        for model, of in ((before, old), (after, new))
    )
    return [
        Outcome(
            photo,
            (float(old.scores[i]), float(new.scores[i])),
            (float(p_values[0][i]), float(p_values[1][i])),
            (verdicts[0][i], verdicts[1][i]),
        )
        for i, photo in enumerate(looked.photos)
    ]


def flips(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The photos whose verdict is another one now, those whose p-value moved most first."""
    flipped = [of for of in outcomes if of.verdicts[0] != of.verdicts[1]]
    flipped.sort(key=lambda of: -abs(float(np.log(of.p_values[0] / of.p_values[1]))))
    return [
        {
            "path": location_key(of.photo.path),
            "split": of.photo.split,
            "label": as_text(of.photo.label),
            "is_anomalous": of.photo.is_anomalous,
            "before": {"p_value": of.p_values[0], "verdict": of.verdicts[0]},
            "after": {"p_value": of.p_values[1], "verdict": of.verdicts[1]},
        }
        for of in flipped
    ]


def compare_on_dev(outcomes: Sequence[Outcome], *, seed: int = 0) -> dict[str, Any]:
    """AUROC on dev before and after, and the gain with a 95 % interval that respects groups; or why there is none."""
    labelled = [of for of in outcomes if of.photo.split == "dev" and of.photo.is_anomalous is not None]
    is_anomalous = np.array([bool(of.photo.is_anomalous) for of in labelled], dtype=np.bool_)
    num_anomalous = int(is_anomalous.sum())
    counts = {"num_normal": len(labelled) - num_anomalous, "num_anomalous": num_anomalous}
    if not 0 < num_anomalous < len(labelled):
        lacks = "no labelled" if not labelled else "no anomalous" if not num_anomalous else "no normal"
        told = f"dev has {lacks} photos, so that AUROC before and after cannot be compared; label some of both kinds."
        return {**counts, "before": None, "after": None, "gain": None, "p_value": None, "sentence": told}
    scores = np.array([of.scores for of in labelled]).T  # (2, N)
    groups = [as_text(of.photo.group) for of in labelled]
    (before, after), (difference,) = compare_aurocs(scores, is_anomalous, groups, seed=seed)
    told = sentence(difference, ("the model before", "the model after"), 1)
    gain = difference.gain if difference.ahead == 1 else _negative(difference.gain)
    return {
        **counts,
        "before": before.to_json(),
        "after": after.to_json(),
        "gain": gain.to_json(),
        "p_value": difference.p_value,
        "is_real": difference.is_real,
        "sentence": told[0].upper() + told[1:],
        "mind": DEV_SENTENCE,
    }


def _negative(gain: Interval) -> Interval:
    return Interval(-gain.value + 0.0, low=-gain.high + 0.0, high=-gain.low + 0.0)


def _known(before: Model, looked: Looked, review: Review) -> Unseen | None:
    """Scores that the review has of this model; None if it is of another one, looks at regions, or lacks a photo."""
    if review.facts.identity != before.identity or "regions" in before.config:
        return None
    scores = {photo.digest: photo.score for photo in review.photos()}
    found = [scores.get(looked.digests[photo]) for photo in looked.photos]
    known = np.array([score for score in found if score is not None])
    none = np.zeros(len(known), dtype=np.bool_)
    return Unseen(known, none, none) if len(known) == len(found) else None


def summary(report: dict[str, Any]) -> str:
    """What a refit changed, in a few lines."""
    counts, learned = report["counts"], report["learned"]
    lines = [
        f"{number_of(counts['num_joined'], 'photo')} joined those to learn from, {counts['num_left']} left them: "
        f"{learned['before']} before, {learned['after']} now."
    ]
    if counts["num_dev_joined"] or counts["num_dev_left"]:
        lines.append(f"Of dev {counts['num_dev_joined']} joined, and {counts['num_dev_left']} left.")
    flipped = number_of(len(report["flips"]), "verdict")
    lines.append(f"{flipped} of {report['num_compared']} {'flips' if len(report['flips']) == 1 else 'flip'}.")
    return "\n".join([*lines, report["dev"]["sentence"]])
