"""From scores to verdicts: conformal p-values against the scores of normal photos that were not fitted on.

Verdicts rest on ranks, so the unit and the distribution of a score do not matter. Scores are compared as
float32, the precision in which detectors give them and files keep them: a photo scored again ties with
itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from itertools import count
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.records import Decision

_NUM_SPREADS = 3.0
_LEAST_SPREAD = 0.05


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """The scores of held-out normal photos, and what follows from them for a new photo.

    On normal photos that are exchangeable with the calibration photos, at most the asked share is rejected,
    for any number of photos and any detector (Vovk et al., *Algorithmic Learning in a Random World*, 2005;
    Bates et al., Annals of Statistics 2023, arXiv:2104.08279). The arrays may be given in any order.

    Attributes:
        normal_scores: Shape (N,), float64, finite; kept ascending. Without any, every p-value is 1.
        groups: Shape (N,), str, the group of each of these photos, empty where it has none. An array without
            entries says that no photo has one.
        map_maxima: Shape (M,), float64, finite; kept ascending: the largest value in the anomaly map of each
            calibration photo. Without entries where the detector has no map.

    Raises:
        ValueError: If a value is not finite, or there is not one group for each score.

    Example:
        >>> calibration = Calibration(np.arange(1.0, 20.0))
        >>> calibration.p_values(np.array([19.5, 19.0, 3.0])).tolist()
        [0.05, 0.1, 0.9]
        >>> calibration.decide(np.array([19.5, 19.0, 3.0]), false_alarm_rate=0.05, uncertain_rate=0.2)
        ['reject', 'uncertain', 'accept']
    """

    normal_scores: NDArray[np.float64]
    groups: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    map_maxima: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        scores = _checked("normal_scores", self.normal_scores)
        groups = self.groups if len(self.groups) else np.full(len(scores), "")
        if groups.shape != scores.shape:
            raise ValueError(f"groups of Calibration must be one for each of {len(scores)} scores, got {len(groups)}.")
        order = np.argsort(scores, kind="stable")
        object.__setattr__(self, "normal_scores", scores[order])
        object.__setattr__(self, "groups", groups[order])
        object.__setattr__(self, "map_maxima", np.sort(_checked("map_maxima", self.map_maxima)))

    def p_values(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Conformal p-value of each score: the share of calibration photos at least this anomalous.

        (1 + #{calibration >= score}) / (N + 1), so that on exchangeable normal photos P(p <= a) <= a for
        every a (Vovk et al. 2005; Bates et al., Annals of Statistics 2023, eq. 2).

        Args:
            scores: Raw detector scores, shape (B,), higher is more anomalous; no NaN.

        Returns:
            Shape (B,), in [1 / (N + 1), 1].

        Raises:
            ValueError: If a score is NaN.
        """
        num_nan = np.count_nonzero(np.isnan(scores))
        if num_nan:
            raise ValueError(f"scores of Calibration.p_values must be numbers, got NaN in {num_nan} of {len(scores)}.")
        num_below = np.searchsorted(_single(self.normal_scores), _single(scores), side="left")
        # One division, as in every comparison with a rate here: IEEE division and the parsing of a decimal
        # both round correctly, so that 1/20 <= 0.05 holds exactly as it does for the fractions.
        return (1 + len(self.normal_scores) - num_below) / (1 + len(self.normal_scores))

    def decide(
        self,
        scores: NDArray[np.floating[Any]],
        *,
        false_alarm_rate: float,
        uncertain_rate: float,
        is_doubtful: NDArray[np.bool_] | None = None,
    ) -> list[Decision]:
        """The verdict on each score: reject where p <= `false_alarm_rate`, uncertain up to `uncertain_rate`.

        Every verdict of the package is decided here, with what keeps a photo from being accepted.

        Args:
            scores: Raw detector scores, shape (B,), higher is more anomalous; no NaN.
            false_alarm_rate: Largest share of normal photos to reject, in (0, 1).
            uncertain_rate: Largest share of normal photos not to accept, in [`false_alarm_rate`, 1).
            is_doubtful: Of which photos too little was seen to accept them, shape (B,): they are uncertain at best;
                None: of none.

        Raises:
            ValueError: If a rate is out of range or a score is NaN.
        """
        _check_rate("false_alarm_rate", false_alarm_rate)
        _check_rate("uncertain_rate", uncertain_rate)
        if uncertain_rate < false_alarm_rate:
            raise ValueError(
                f"uncertain_rate must be at least the false_alarm_rate, {false_alarm_rate:g}, got {uncertain_rate:g}."
            )
        p_values = self.p_values(scores)
        doubts = np.zeros(len(p_values), dtype=np.bool_) if is_doubtful is None else is_doubtful
        return [
            "reject" if p <= false_alarm_rate else "uncertain" if p <= uncertain_rate or doubt else "accept"
            for p, doubt in zip(p_values.tolist(), doubts.tolist(), strict=True)
        ]

    def threshold(self, rate: float) -> float:
        """The score above which p <= `rate`: exactly the scores greater than it (as float32) are rejected.

        Infinite where the calibration photos are too few to reject anything.

        Raises:
            ValueError: If the rate is not in (0, 1).
        """
        _check_rate("rate", rate)
        num_photos = len(self.normal_scores)
        attainable = np.arange(1, num_photos + 1) / (1 + num_photos)  # p-values, smallest first
        num_rejected = int(np.count_nonzero(attainable <= rate))
        return float(_single(self.normal_scores)[-num_rejected]) if num_rejected else inf

    def shortage(self, rate: float) -> str | None:
        """The sentence for a calibration set too small to reject any photo at this rate; None if it suffices.

        Raises:
            ValueError: If the rate is not in (0, 1).
        """
        num_photos = len(self.normal_scores)
        needed = num_needed(rate)
        if num_photos >= needed:
            return None
        if not num_photos:
            return (
                "Nothing was left to calibrate on, so every photo has the p-value 1 and is accepted: scores put "
                f"photos in order, and promise nothing. At a false-alarm rate of {rate:g} at least {needed} normal "
                "photos are needed."
            )
        enough = Context(prec=3, rounding=ROUND_CEILING).divide(Decimal(1), Decimal(num_photos + 1))
        return (
            f"With {num_photos} calibration photo{'s' * (num_photos > 1)} no photo can be rejected at a "
            f"false-alarm rate of {rate:g}; at least {needed} are needed. "
            f"Add normal photos, or raise --false-alarm-rate to {enough} or more."
        )

    def heat_scale(self) -> tuple[float, float]:
        """The map values at which the colour of a heatmap starts and at which it is full, for every photo.

        It starts at the 0.8-quantile of the calibration photos' maxima, so that four of five normal photos
        show no colour at all, and is full three spreads higher, a spread being the way from their median to
        their 0.95-quantile. Where the photos are too few or too equal to show one, a spread counts as at
        least 5 % of the starting value.

        Returns:
            Low and high, low < high.

        Raises:
            ValueError: If the calibration has no map maxima.
        """
        if not len(self.map_maxima):
            raise ValueError("Calibration.heat_scale needs map maxima, got none; the detector has no anomaly map.")
        low = float(np.quantile(self.map_maxima, 0.8, method="higher"))
        median, extreme = np.quantile(self.map_maxima, [0.5, 0.95]).tolist()
        spread = max(extreme - median, _LEAST_SPREAD * abs(low)) or 1.0
        return low, low + _NUM_SPREADS * spread


def num_needed(rate: float) -> int:
    """The smallest number of calibration photos with which a photo can be rejected: 1 / (n + 1) <= `rate`.

    Raises:
        ValueError: If the rate is not in (0, 1).
    """
    _check_rate("rate", rate)
    return next(n for n in count(max(1, int(1 / rate) - 1)) if 1 / (n + 1) <= rate)


def _single(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _checked(name: str, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    if values.ndim != 1:
        raise ValueError(f"{name} of Calibration must have shape (N,), got {values.shape}.")
    num_bad = np.count_nonzero(~np.isfinite(_single(values)))
    if num_bad:
        raise ValueError(
            f"{name} of Calibration must be finite as float32, got {num_bad} of {len(values)} that are not."
        )
    return values.astype(np.float64)


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"{name} must be in (0, 1), got {rate:g}.")
