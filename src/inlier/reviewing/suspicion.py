"""How much the label of a photo looks wrong, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inlier.data.manifest import Photo
from inlier.findings import suspicious_labels
from inlier.outputs import as_text

SUREST_LABEL, LEAST_LABEL = 0.95, 0.8
"""Suspicion of the surest and of the last photo that lies deep among those of another label."""

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
    more suspicious, equals by score. Photos that count as anomalous and whose p-value is at least one half. And photos
    that lie deep among those of another label, as ``inlier doctor`` finds them.

    Args:
        photos: N photos, as the data have them.
        scores: Shape (N,), by detectors that have not seen them.
        p_values: Shape (N,), of these scores.
        embeddings: Shape (N, D).
        kin: As for ``findings.suspicious_labels``.
        rate: P-value up to which a normal photo is not accepted.
    """
    found = _odd(photos, scores, p_values, rate)
    deep = _deep(photos, embeddings, kin)
    return [of | deep.get(photo, Suspicion()) for photo, of in zip(photos, found, strict=True)]


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
