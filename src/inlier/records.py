"""What is passed upwards: a detector's opinion (``Prediction``), a photo's outcome (``Verdict``, ``Inspection``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Decision = Literal["accept", "uncertain", "reject", "unreadable"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the photo's width and height, each in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason for a score: a place in the photo, and the normal place most like it.

    Attributes:
        box: The place in the photo; the whole photo for a detector that sees only whole photos.
        reference: Which normal photo holds the most similar place: its index in the order of ``fit``.
        reference_box: The place in that normal photo.
        distance: How far apart the two are in the detector's feature space, >= 0.
    """

    box: Box
    reference: int
    reference_box: Box
    distance: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A detector's opinion of a batch of photos; no decision.

    Attributes:
        score: Shape (B,), float32, higher is more anomalous.
        anomaly_map: Shape (B, h, w), float32, same direction; None where a method has no place.
        evidence: For each of the B photos the reasons, strongest first; None where a method has none.
        region: Which cells the score is of, shape (B, h, w), bool, all False where none were found and the score is the
            whole photo's; None where it always is.
    """

    score: Tensor
    anomaly_map: Tensor | None
    evidence: tuple[tuple[Evidence, ...], ...] | None = None
    region: Tensor | None = None

    @property
    def lacks_region(self) -> Tensor:
        """Of which photos a region was looked for in vain: shape (B,), bool."""
        if self.region is None:
            return self.score.new_zeros(len(self.score)).bool()
        return ~self.region.flatten(1).any(dim=1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One photo's outcome, as command line, service and Parquet show it.

    Attributes:
        path: The photo's path, as given.
        score: Raw anomaly score, higher is more anomalous; None if the photo is unreadable.
        p_value: Share of calibration photos at least this anomalous, in (0, 1]; None if unreadable.
        verdict: The decision.
        component: Most similar labelled class, where training labels exist.
        component_probability: Probability of that class, in [0, 1].
        error: Why the photo could not be read, or that its region was not found; else None.
    """

    path: str
    score: float | None
    p_value: float | None
    verdict: Decision
    component: str | None = None
    component_probability: float | None = None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Inspection:
    """A photo's verdict with what explains it; there is nothing to explain if it is unreadable.

    Attributes:
        verdict: Its outcome.
        pixels: The photo, shape (H, W, 3), uint8.
        anomaly_map: Shape (h, w); None where the detector has no place.
        evidence: The reasons, strongest first.
        region: Which cells the score is of, shape (h, w); None where it is of the whole photo.
    """

    verdict: Verdict
    pixels: NDArray[np.uint8] | None = None
    anomaly_map: NDArray[np.float32] | None = None
    evidence: tuple[Evidence, ...] = ()
    region: NDArray[np.bool_] | None = None
