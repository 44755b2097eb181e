"""Whether the difference between models, measured on the same photos, is real.

DeLong's test compares AUROCs of correlated scores. It takes photos to be independent and many: photos of one part are
not, and a few are not many. So the test that decides here sums what photos tell by group, and takes its quantile from
Student's distribution with as many degrees of freedom as the groups on which the models differ are worth. Of equal
models it then calls no more than about one pair in twenty different, be the photos grouped, few, or nearly all told
apart; `benchmarks/coverage.py` measures it. DeLong's test as published and a paired bootstrap stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import inf, sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from inlier.decision.intervals import Interval, bootstrap, draw_resamples, group_index, num_effective_groups
from inlier.decision.metrics import Flags, Scores, image_auroc

LEVEL = 0.95
"""Of all intervals; a difference is called real where its corrected p-value is at most one less this."""

_NO_VARIANCE = 1e-18
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model is ahead of another, and how sure that is.

    Attributes:
        ahead: Number of the model with the higher AUROC; of equals the one given first.
        behind: Number of the other.
        gain: AUROC of the one ahead less that of the other, in [0, 1], its ends in [-1, 1].
        p_value: Of the test that decides, for this pair alone.
        p_holm: The same, corrected for all pairs compared.
        delong_p: Of DeLong's test as published, which takes photos to be independent.
        resampled: The gain, and the quantiles of it over resamples.
        bootstrap_p: Twice the share of resamples in which the gain is gone, or in which it is not.
        is_same: Whether the two score every photo alike.
    """

    ahead: int
    behind: int
    gain: Interval
    p_value: float
    p_holm: float
    delong_p: float
    resampled: Interval
    bootstrap_p: float
    is_same: bool

    @property
    def is_real(self) -> bool:
        """Whether the difference is called real."""
        return self.p_holm <= 1 - LEVEL + 1e-12


def compare_aurocs(
    scores: Scores, is_anomalous: Flags, groups: Sequence[str], *, num_resamples: int = 2000, seed: int = 0
) -> tuple[list[Interval], list[Difference]]:
    """The AUROC of each model and the difference of each pair, with 95 % intervals; photo order does not matter.

    Args:
        scores: Of each model in a row, shape (K, N), finite, higher is more anomalous.
        is_anomalous: Shape (N,), bool.
        groups: The group of each photo, N of them; empty where it has none.
        num_resamples: How many resamples.
        seed: Seed of the resampling.

    Returns:
        K intervals, and K (K - 1) / 2 differences.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, one class is missing, or an option is out of
            range.
    """
    _check("compare_aurocs", scores, is_anomalous, groups)
    if len(scores) < 2:
        raise ValueError(f"scores of compare_aurocs must be of at least 2 models, got {len(scores)}.")
    singles = [
        bootstrap(image_auroc, row, is_anomalous, groups, num_resamples=num_resamples, seed=seed) for row in scores
    ]
    of_groups, of_photos = (_influences(scores, is_anomalous, names) for names in (groups, [""] * len(groups)))
    resampled = _resampled_aurocs(scores, is_anomalous, groups, num_resamples, seed)
    counts = _Counts.of(is_anomalous, groups)
    pairs = [(a, b) if singles[a].value >= singles[b].value else (b, a) for a, b in combinations(range(len(scores)), 2)]
    tests = [_test(singles[a], singles[b], of_groups[..., a], of_groups[..., b], counts) for a, b in pairs]
    corrected = holm([p_value for _, p_value in tests])
    differences = []
    for (a, b), (gain, p_value), p_holm in zip(pairs, tests, corrected, strict=True):
        gained = resampled[:, a] - resampled[:, b]
        is_same = np.array_equal(scores[a], scores[b])
        differences.append(
            Difference(
                ahead=a,
                behind=b,
                gain=Interval(0.0, 0.0, 0.0) if is_same else gain,
                p_value=p_value,
                p_holm=p_holm,
                delong_p=_normal_p(gain.value, of_photos[..., a] - of_photos[..., b]),
                resampled=_quantiles(gain.value, gained),
                bootstrap_p=_share_beyond_zero(gained),
                is_same=is_same,
            )
        )
    return singles, differences


def delong(
    scores: Scores, is_anomalous: Flags, groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROCs of models that scored the same photos, and the covariance of these AUROCs.

    DeLong, DeLong and Clarke-Pearson (Biometrics 1988), with the midranks of Sun and Xu (IEEE Signal Processing
    Letters 2014). Where photos share groups, what they tell is summed by group first, over both labels (Obuchowski,
    Biometrics 1997). Two departures: a group's part is that of the jackknife, which leaves the group out, since one
    with most of the photos would else be its own mean and seem not to vary; and where a group has both labels, the
    factors of the two are multiplied by their geometric mean instead of a third one, so that no variance is negative.
    Neither changes anything for photos without groups; the first nothing for groups of one size.

    Args:
        scores: Of each model in a row, shape (K, N), finite, higher is more anomalous.
        is_anomalous: Shape (N,), bool.
        groups: The group of each photo, N of them; empty where it has none.

    Returns:
        AUROCs, shape (K,), and their covariance, shape (K, K): NaN where a label has but one group, as nothing tells
        then how it varies.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, or one class is missing.
    """
    _check("delong", scores, is_anomalous, groups)
    influence = _influences(scores, is_anomalous, groups).sum(axis=0)  # (G, K)
    aurocs = np.array([image_auroc(row, is_anomalous) for row in scores])
    covariance: NDArray[np.float64] = influence.T @ influence
    return aurocs, covariance


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that one false finding among all is as rare as one says of each.

    The smallest is multiplied by their number, the next by one less, and so on, and none is below one before it
    (Holm, Scandinavian Journal of Statistics 1979). It needs no independence; pairs that share a model have none.
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def _influences(scores: Scores, is_anomalous: Flags, groups: Sequence[str]) -> NDArray[np.float64]:
    """What each group adds to the error of each AUROC, through its anomalous and its normal photos, shape (2, G, K).

    The covariance of the AUROCs is the sum over groups of the products of both together.
    """
    group = group_index(np.asarray(groups, dtype=np.str_))
    found = np.zeros((2, int(group.max()) + 1, len(scores)))
    for of_label, placement, flags in zip(
        found, _placements(scores, is_anomalous), (is_anomalous, ~is_anomalous), strict=True
    ):
        sizes = np.bincount(group[flags], minlength=len(of_label))
        rows = np.flatnonzero(sizes)
        if len(rows) == 1:
            of_label[rows] = np.nan
            continue
        sums = np.zeros_like(of_label)
        np.add.at(sums, group[flags], placement.T - placement.mean(axis=1))
        # Leaving out a group with a share w of the photos moves the mean by w / (1 - w) times its own distance.
        of_label[rows] = sums[rows] / (sizes.sum() - sizes[rows])[:, None] * sqrt(1 - 1 / len(rows))
    return found


def _placements(scores: Scores, is_anomalous: Flags) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of the other label that each anomalous, and each normal photo is on the right side of.

    The structural components V10 and V01 of DeLong et al., shape (K, m) and (K, n).
    """
    anomalous, normal = scores[:, is_anomalous], scores[:, ~is_anomalous]
    num_anomalous, num_normal = anomalous.shape[1], normal.shape[1]
    ranks = rankdata(np.concatenate([anomalous, normal], axis=1), axis=1)
    above = (ranks[:, :num_anomalous] - rankdata(anomalous, axis=1)) / num_normal
    below = 1 - (ranks[:, num_anomalous:] - rankdata(normal, axis=1)) / num_anomalous
    return above, below


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many groups the anomalous and the normal photos come from, and what those of the rarer label are worth."""

    anomalous: int
    normal: int
    independent: float

    @classmethod
    def of(cls, is_anomalous: Flags, groups: Sequence[str]) -> Self:
        names = np.asarray(groups, dtype=np.str_)
        labels = names[is_anomalous], names[~is_anomalous]
        anomalous, normal = (int(group_index(label).max()) + 1 for label in labels)
        return cls(anomalous, normal, min(num_effective_groups(label) for label in labels))


def _test(
    ahead: Interval,
    behind: Interval,
    of_ahead: NDArray[np.float64],
    of_behind: NDArray[np.float64],
    counts: _Counts,
) -> tuple[Interval, float]:
    """The gain of one model on another from their influences, shape (2, G), and its p-value.

    The end of the interval towards zero, which decides, is Student's: it excludes 0 where p < 1 - LEVEL. The other end
    goes at least as far as the intervals of the two AUROCs say together (MOVER, Zou and Donner, Statistics in Medicine
    2008): a model nearly perfect on a few photos shows too little of its errors, and Student's interval alone would put
    the gain too low too often.
    """
    value, tail = ahead.value - behind.value, (1 - LEVEL) / 2
    error, freedom = _standard_error(of_ahead - of_behind, counts)
    p_value, reach = _unvarying(value, counts.independent)
    if error > 0:
        p_value, reach = float(2 * stdtr(freedom, -value / error)), float(stdtrit(freedom, 1 - tail)) * error
    correlation = _correlation(of_ahead.sum(axis=0), of_behind.sum(axis=0))

    def joint(a: float, b: float) -> float:
        return sqrt(max(0.0, a**2 + b**2 - 2 * correlation * a * b))

    up = max(reach, joint(ahead.high - ahead.value, behind.value - behind.low))
    down = reach if value > 0 else max(reach, joint(ahead.value - ahead.low, behind.high - behind.value))
    return Interval(value, low=max(-1.0, value - down), high=min(1.0, value + up)), p_value


def _standard_error(influence: NDArray[np.float64], counts: _Counts) -> tuple[float, float]:
    """Of a difference from what each group adds to its error, shape (2, G), and the degrees of freedom of that.

    A variance from n values is worth 2 n / (kurtosis - 1) degrees of freedom, n for normal ones; one less, for their
    mean. Where the models differ on k groups alone that is about 2 k - 1, and the test agrees well with McNemar's exact
    one. It is no more than Welch and Satterthwaite's for two labels (Biometrics Bulletin 1946), and no less than 1.

    Returns:
        0 and 1 where nothing varies, or nothing tells how.
    """
    of_groups = influence.sum(axis=0)
    variance = float((of_groups**2).sum())
    if not variance > _NO_VARIANCE:  # or NaN
        return 0.0, 1.0
    rarity = float((of_groups**4).sum()) / variance**2 - 1 / len(of_groups)
    of_kurtosis = 2 / rarity - 1 if rarity > 1e-9 else inf
    of_labels = (influence**2).sum(axis=1)
    degrees = np.array([counts.anomalous - 1, counts.normal - 1])
    of_welch = float(of_labels.sum() ** 2 / (of_labels**2 / degrees).sum())
    return sqrt(variance), max(1.0, min(of_kurtosis, of_welch))


def _unvarying(value: float, num_independent: float) -> tuple[float, float]:
    """The p-value of a gain that does not vary, or whose variation nothing shows, and how far its interval reaches.

    It reaches as far as the share of heads does of a coin never seen to fall otherwise (see `intervals`), in as many
    tosses as the rarer label has independent photos. Of so many the sign test has to see a difference, too.
    """
    reach = 1 - ((1 - LEVEL) / 2) ** (1 / num_independent)
    of_signs, of_coin = 2 ** (1 - num_independent), 2 * (1 - value) ** num_independent
    return min(1.0, max(of_signs, of_coin)), reach if of_signs <= 1 - LEVEL else max(reach, value)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two AUROCs; 0 where one does not vary, or nothing tells how."""
    scale = sqrt(float((a**2).sum() * (b**2).sum()))
    return float(a @ b) / scale if scale > _NO_VARIANCE else 0.0


def _normal_p(value: float, influence: NDArray[np.float64]) -> float:
    """DeLong's p-value of a difference from what each photo adds to its error, shape (2, N); 1 where it has none."""
    variance = float((influence.sum(axis=0) ** 2).sum())
    return float(2 * ndtr(-abs(value) / sqrt(variance))) if variance > _NO_VARIANCE else 1.0


def _resampled_aurocs(
    scores: Scores, is_anomalous: Flags, groups: Sequence[str], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """The AUROCs in resamples that all models share, shape (R, K)."""
    names = np.asarray(groups, dtype=np.str_)
    order = np.lexsort((*scores, names, is_anomalous))
    scores, is_anomalous, names = scores[:, order], is_anomalous[order], names[order]
    draws = draw_resamples(is_anomalous, names, num_resamples, seed)
    ranked = [np.argsort(of_model) for of_model in scores]
    starts = [
        np.flatnonzero(np.diff(of_model[rank], prepend=-np.inf)) for of_model, rank in zip(scores, ranked, strict=True)
    ]
    found = np.empty((num_resamples, len(scores)))
    for first in range(0, num_resamples, _CHUNK):
        times = np.stack(list(islice(draws, _CHUNK)))  # (R, N)
        for place, (rank, start) in enumerate(zip(ranked, starts, strict=True)):
            normal = np.add.reduceat((times * ~is_anomalous)[:, rank], start, axis=1)  # (R, distinct scores)
            anomalous = np.add.reduceat((times * is_anomalous)[:, rank], start, axis=1)
            num_below = np.cumsum(normal, axis=1) - normal / 2  # a tie counts half
            num_pairs = normal.sum(axis=1) * anomalous.sum(axis=1)
            found[first : first + _CHUNK, place] = (anomalous * num_below).sum(axis=1) / num_pairs
    return found


def _quantiles(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _share_beyond_zero(resampled: NDArray[np.float64]) -> float:
    """Twice the share of resamples on the rarer side of 0, the value itself counted as one of them."""
    rarer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(resampled)))


def _check(owner: str, scores: Scores, is_anomalous: Flags, groups: Sequence[str]) -> None:
    if scores.ndim != 2 or scores.shape[1:] != is_anomalous.shape:
        raise ValueError(
            f"scores and is_anomalous of {owner} must have shapes (K, N) and (N,), "
            f"got {scores.shape} and {is_anomalous.shape}."
        )
    if is_anomalous.dtype != np.bool_:
        raise ValueError(f"is_anomalous of {owner} must be bool, got {is_anomalous.dtype}.")
    if len(groups) != len(is_anomalous):
        raise ValueError(f"groups of {owner} must be one for each of {len(is_anomalous)} photos, got {len(groups)}.")
    if not np.isfinite(scores).all():
        num_bad = np.count_nonzero(~np.isfinite(scores))
        raise ValueError(f"scores of {owner} must be finite, got {num_bad} of {scores.size} that are not.")
    num_anomalous = np.count_nonzero(is_anomalous)
    if not 0 < num_anomalous < len(is_anomalous):
        raise ValueError(
            f"{owner} needs at least one normal and one anomalous photo, "
            f"got {len(is_anomalous) - num_anomalous} and {num_anomalous}."
        )
