"""Have the photos changed since the calibration? From p-values alone, with what a small calibration set can tell.

Under no change a new photo is as likely to fall into any of the n + 1 gaps between the n calibration scores as into any
other, but that is said before the calibration set is drawn: given the set, some gaps are wider than others, and a
steady stream tells so in the end. A test against uniform p-values would call that a change. All tests here are instead
exact, or careful, for calibration photos and new ones being exchangeable: the gaps fill like Pólya's urn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, betaln, gammaln, kolmogorov  # type: ignore[import-untyped]

ALARM = 1000.0
"""Evidence at which the alarm rings: under no change it ever gets there with a probability of at most 1 / 1000."""

JUMP_RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""How soon the jumper changes its mind, from one sudden change to one that comes and goes; the capital is shared."""

_SIDES = np.array([-1.0, 0.0, 1.0])


@dataclass(frozen=True, slots=True)
class Share:
    """A share of photos, and what it should be.

    Attributes:
        value: In [0, 1].
        low: Of the exact 95 % interval of Clopper & Pearson.
        high: Likewise.
        nominal: The share of normal photos that was promised at most.
        p_value: How likely so large a share, or a larger one, is under no change, the calibration set's size included.
    """

    value: float
    low: float
    high: float
    nominal: float
    p_value: float


def gaps(p_values: NDArray[np.float64], num_calibration: int) -> NDArray[np.int64]:
    """Into which of the n + 1 gaps photos fall, 0 the most anomalous one: p = (1 + gap) / (n + 1).

    Args:
        p_values: Shape (N,), in [1 / (n + 1), 1].
        num_calibration: n.

    Raises:
        ValueError: A p-value is out of range.
    """
    found = np.rint(p_values * (num_calibration + 1)).astype(np.int64) - 1
    if len(found) and not (found.min() >= 0 and found.max() <= num_calibration):
        raise ValueError(f"p-values must be in [1 / (n + 1), 1] with n = {num_calibration}.")
    return found


def reject_share(p_values: NDArray[np.float64], num_calibration: int, *, rate: float) -> Share:
    """The share of photos that are rejected at a rate, and whether it is more than chance and calibration explain.

    Of m photos, k are rejected with the beta-binomial probability of m draws from an urn with a balls for the gaps that
    mean "reject" and n + 1 - a for the others.

    Args:
        p_values: Shape (N,), N >= 1.
        num_calibration: n, the number of calibration photos.
        rate: The false-alarm rate, in (0, 1).

    Raises:
        ValueError: There are no photos, or a p-value is out of range.
    """
    if not len(p_values):
        raise ValueError("reject_share needs at least one p-value, got none.")
    gaps(p_values, num_calibration)
    number, rejected = len(p_values), int(np.count_nonzero(p_values <= rate))
    attainable = np.arange(1, num_calibration + 2) / (num_calibration + 1)
    a = int(np.count_nonzero(attainable <= rate))
    low = float(betaincinv(rejected, number - rejected + 1, 0.025)) if rejected else 0.0
    high = float(betaincinv(rejected + 1, number - rejected, 0.975)) if rejected < number else 1.0
    p_value = _urn_tail(rejected, number, a, num_calibration + 1 - a)
    return Share(rejected / number, low, high, a / (num_calibration + 1), p_value)


def uniformity(p_values: NDArray[np.float64], num_calibration: int) -> tuple[float, float]:
    """The largest distance between the p-values' distribution and the uniform one, and how likely it is by chance.

    It is the statistic of Kolmogorov & Smirnov for two samples, the new photos and the calibration photos, seen at the
    n gaps only; Smirnov's limit with n m / (n + m) photos is on the careful side for so few values.

    Args:
        p_values: Shape (N,), N >= 1.
        num_calibration: n, >= 1.

    Raises:
        ValueError: There are no photos, no calibration photos, or a p-value is out of range.
    """
    if not len(p_values) or num_calibration < 1:
        raise ValueError("uniformity needs at least one p-value, and one calibration photo.")
    counts = np.bincount(gaps(p_values, num_calibration), minlength=num_calibration + 1)
    ours = np.cumsum(counts)[:-1] / len(p_values)
    # Just above and just below a calibration score: it is at the edge of the gap, on either side.
    above = np.arange(1, num_calibration + 1) / num_calibration
    below = np.arange(num_calibration) / num_calibration
    distance = float(max(np.abs(ours - above).max(), np.abs(ours - below).max()))
    size = num_calibration * len(p_values) / (num_calibration + len(p_values))
    return distance, float(kolmogorov(np.sqrt(size) * max(0.0, distance - 1 / num_calibration)))


def expected_counts(num_photos: int, num_calibration: int, *, num_bins: int) -> list[tuple[float, float, float]]:
    """How many of so many photos fall into each of some equal bins of p under no change: mean, low, high (95 %).

    Args:
        num_photos: m, >= 0.
        num_calibration: n, >= 0.
        num_bins: >= 1.
    """
    edges = np.arange(1, num_calibration + 2) / (num_calibration + 1)
    bins = np.minimum(np.ceil(edges * num_bins - 1e-9).astype(int), num_bins) - 1
    width = np.bincount(bins, minlength=num_bins)
    found = []
    for a in width.tolist():
        others = num_calibration + 1 - a
        chances = np.exp(_urn_log_pmf(np.arange(num_photos + 1), num_photos, a, others))
        below = np.cumsum(chances)
        low, high = np.searchsorted(below, 0.025), np.searchsorted(below, 0.975)
        mean = num_photos * a / (num_calibration + 1)
        found.append((mean, min(float(low), num_photos), min(float(high), num_photos)))
    return found


def _urn_tail(at_least: int, number: int, a: int, b: int) -> float:
    """How likely at least so many of a number of draws are of the first colour, of a and b balls at the beginning."""
    chances = np.exp(_urn_log_pmf(np.arange(at_least, number + 1), number, a, b))
    return float(min(1.0, chances.sum()))


def _urn_log_pmf(counts: NDArray[Any], number: int, a: int, b: int) -> NDArray[np.float64]:
    """The beta-binomial distribution's logarithm; with no ball of a colour, none of it is ever drawn."""
    if a == 0 or b == 0:
        certain = 0 if a == 0 else number
        is_certain = np.asarray(counts == certain, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.log(is_certain)
    ways = gammaln(number + 1) - gammaln(counts + 1) - gammaln(number - counts + 1)
    result: NDArray[np.float64] = ways + betaln(counts + a, number - counts + b) - betaln(a, b)
    return result


class Watch:
    """Bets, photo by photo, against the photos being as those of the calibration; grows rich if they are not.

    Each photo is ranked among the calibration photos and all new ones before it, with chance deciding between equal
    ones: such p-values are independent and uniform under no change (Vovk, Gammerman & Shafer, 2005, theorem 8.2),
    whatever the size of the calibration set. The bets are the simple jumper's (Vovk et al., COPA 2021, algorithm 1: on
    p being low, or high, or nothing, with stakes 1 + e (p - 1/2)), a fifth of the capital each for several jump rates.
    The capital is a martingale that begins at 1, so it ever reaches ``ALARM`` with a probability of at most
    1 / ``ALARM`` (Ville, 1939), however often it is looked at. Of the new photos only their gap is known, so those
    within one gap count as equal.

    Attributes:
        evidence: log10 of the capital.
        highest: The largest it has been.
        num_photos: That were seen.
        alarm_at: The number of the photo at which it rang, from 1 on; None: it has not.

    Example:
        >>> watch = Watch(99)
        >>> for p in [0.01] * 40:
        ...     watch.see(p)
        >>> watch.alarm_at is not None
        True
    """

    def __init__(self, num_calibration: int, *, seed: int = 0) -> None:
        """Begins with a capital of 1.

        Args:
            num_calibration: n, the number of calibration photos.
            seed: Of what decides between equal ranks: the same photos in the same order give the same evidence.
        """
        self.num_calibration = num_calibration
        self._random = np.random.default_rng(seed)
        self._below = np.arange(num_calibration + 2, dtype=np.float64)  # balls in the gaps before each gap
        self._jumps = np.array(JUMP_RATES)[:, None]
        self._log_scale = 0.0
        self._capital = np.full((len(JUMP_RATES), 3), 1 / (3 * len(JUMP_RATES)))
        self.evidence = self.highest = 0.0
        self.num_photos = 0
        self.alarm_at: int | None = None

    def see(self, p_value: float) -> None:
        """Bets on a photo's p-value, and settles the bet.

        Raises:
            ValueError: It is not one of n + 1 possible values.
        """
        (gap,) = gaps(np.array([p_value]), self.num_calibration)
        first, last = self._below[gap], self._below[gap + 1]
        p = (first + self._random.random() * (last - first)) / self._below[-1]
        self._below[gap + 1 :] += 1
        total = self._capital.sum(axis=1, keepdims=True)
        self._capital = (1 - self._jumps) * self._capital + self._jumps * total / 3
        self._capital *= 1 + _SIDES * (p - 0.5)
        self.num_photos += 1
        capital = float(self._capital.sum())
        if not 1e-100 < capital < 1e100:
            self._capital /= capital
            self._log_scale += float(np.log10(capital))
            capital = 1.0
        self.evidence = self._log_scale + float(np.log10(capital))
        self.highest = max(self.highest, self.evidence)
        if self.alarm_at is None and self.evidence >= np.log10(ALARM):
            self.alarm_at = self.num_photos

    def see_all(self, p_values: Sequence[float]) -> list[float]:
        """The evidence after each of several photos."""
        found = []
        for p_value in p_values:
            self.see(p_value)
            found.append(self.evidence)
        return found
