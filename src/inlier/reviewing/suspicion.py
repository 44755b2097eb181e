"""How much the label of a photo looks wrong, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inlier.data.manifest import Photo
from inlier.findings import nearest_photos, suspicious_labels
from inlier.outputs import as_text

SUREST_LABEL, LEAST_LABEL = 0.95, 0.8
"""Suspicion of the surest and of the last photo that lies deep among those of another label."""

FAR = 1.0
"""Spreads beyond the median distance to the nearest from which on a photo is far from all else."""
_OF_NORMAL = 1.4826  # what makes a median absolute deviation the standard deviation, if that distance were normal

AS_NORMAL = 0.5
"""P-value from which on a photo that counts as anomalous looks as normal as can be."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How much a label looks wrong, in [0, 1], and a sentence that says why; 0 and "" where it does not."""

    value: float = 0.0
    reason: str = ""

    def __or__(self, other: Suspicion) -> Suspicion:
        """Both, as if they were independent."""
        reason = " ".join(of.reason for of in sorted((self, other), key=lambda of: -of.value) if of.reason)
        return Suspicion(1 - (1 - self.value) * (1 - other.value), reason)


def suspect(
    photos: Sequence[Photo],
    *,
    scores: NDArray[np.float64],
    p_values: NDArray[np.float64],
    embeddings: NDArray[np.float32],
    kin: Sequence[NDArray[np.int64]],
    rate: float,
) -> list[Suspicion]:
    """What is suspicious about each photo's label.

    Photos that count as normal, as most of the bank does, and have a p-value of at most ``rate``: the smaller, the
    more suspicious, equals by score. Likewise those of them that lie far from the photos most like them, whatever
    detector the model has. Photos that count as anomalous and whose p-value is at least one half. And photos that lie
    deep among those of another label, as ``inlier doctor`` finds them.

    Args:
        photos: N photos, as the data have them.
        scores: Shape (N,), by detectors that have not seen them.
        p_values: Shape (N,), of these scores.
        embeddings: Shape (N, D).
        kin: As for ``findings.suspicious_labels``.
        rate: P-value up to which a normal photo is not accepted.
    """
    odd = _odd(photos, scores, p_values, rate)
    far = _far(photos, embeddings, kin, rate)
    deep = _deep(photos, embeddings, kin)
    return [a | b | deep.get(photo, Suspicion()) for photo, a, b in zip(photos, odd, far, strict=True)]


def _odd(
    photos: Sequence[Photo], scores: NDArray[np.float64], p_values: NDArray[np.float64], rate: float
) -> list[Suspicion]:
    places = np.argsort(np.argsort(-scores, kind="stable"))  # 0: the highest score
    found = []
    for photo, p, place in zip(photos, p_values.tolist(), places.tolist(), strict=True):
        if photo.is_anomalous is True and p >= AS_NORMAL:
            label = f"labelled {as_text(photo.label)}" if photo.label else "counted as anomalous"
            found.append(Suspicion(0.9 * p, f"It is {label}, and {p:.0%} of the normal photos look odder."))
        elif photo.is_anomalous is not True and p <= rate:
            share = f"{1 - p:.0%}" if p >= 0.005 else "nearly all"
            value = max(0.0, 1 - p - 1e-9 * place)
            found.append(Suspicion(value, f"It counts as normal, and looks odder than {share} of the normal photos."))
        else:
            found.append(Suspicion())
    return found


def _far(
    photos: Sequence[Photo], embeddings: NDArray[np.float32], kin: Sequence[NDArray[np.int64]], rate: float
) -> list[Suspicion]:
    """Photos that count as normal, and lie far from the nearest few of those by mean cosine distance."""
    found = [Suspicion()] * len(photos)
    bank = np.array([place for place, photo in enumerate(photos) if photo.is_anomalous is not True], dtype=np.int64)
    if len(bank) < 2:
        return found
    distances = np.zeros(len(bank), dtype=np.float64)
    for part, _, closeness in nearest_photos(embeddings[bank], [of[bank] for of in kin]):
        is_known = np.isfinite(closeness)
        nearby = np.where(is_known, closeness, 0).sum(axis=1) / np.maximum(is_known.sum(axis=1), 1)
        distances[part] = np.where(is_known.any(axis=1), 1 - nearby, 0)  # none to compare with says nothing
    middle = np.median(distances)
    spread = _OF_NORMAL * np.median(np.abs(distances - middle))
    for place, distance in zip(bank.tolist(), distances.tolist(), strict=True):
        p = (distances >= distance).mean()
        if distance > middle + FAR * spread and p <= rate:
            share = f"{1 - p:.0%}" if p >= 0.005 else "nearly all"
            found[place] = Suspicion(
                1 - p, f"Even the photos most like it are less so than those of {share} of the others."
            )
    return found


def _deep(
    photos: Sequence[Photo], embeddings: NDArray[np.float32], kin: Sequence[NDArray[np.int64]]
) -> Mapping[Photo, Suspicion]:
    cases = [
        case
        for finding in suspicious_labels(photos, embeddings, kin)
        for cluster in finding.clusters
        for case in cluster
    ]
    values = np.linspace(SUREST_LABEL, LEAST_LABEL, max(2, len(cases))).tolist()
    return {
        case.photo: Suspicion(value, f"It is labelled {as_text(case.photo.label)}, and {as_text(case.remark)}.")
        for case, value in zip(cases, values, strict=False)
    }
