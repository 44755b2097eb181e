"""How far a metric can be trusted, given the photos it was measured on.

A bootstrap tells how much the metric varies: normal and anomalous photos are resampled apart, so that every
resample has both, and by group, because photos of one part do not vary independently. The interval is that of
a coin that varies as much (Korn and Graubard, Survey Methodology 1998). The usual percentiles of the
resamples cannot leave the range of what was seen, and miss the true value too often just where detectors are
good and photos few (the slow test of this file measures both).

A bootstrap shows no more variety than the photos have. With one anomalous photo, or photos perfectly
separated, nothing varies; the coin is then tossed only as often as there are independent photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit  # type: ignore[import-untyped]

from inlier.decision.metrics import Flags, Folds, Scores, within_folds
from inlier.decision.pixel_metrics import PixelScores, area_found, aupro, pixel_auroc

MIN_GROUPS = 10
"""With fewer independent groups of normal or of anomalous photos, the bootstrap alone is not believed."""

_NUM_BINS = 1000
_CHUNK = 256
_NO_VARIANCE = 1e-18


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric's value and the range in which its true value plausibly lies; low <= value <= high."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The three numbers by name, as `metrics.json` keeps them."""
        return asdict(self)


def bootstrap(
    metric: Callable[[Scores, Flags], float],
    scores: Scores,
    is_anomalous: Flags,
    groups: Sequence[str],
    *,
    folds: Folds | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """An image metric and its interval, from resamples stratified by label and drawn by group.

    A photo without a group is its own. A group with both normal and anomalous photos counts as one group of
    each kind, drawn independently: what the two have in common mostly cancels in a ranking metric, so
    ignoring it errs towards width. Photo order does not matter.

    Photos of cross-validation compare only within their fold (`metrics.within_folds`). Groups are still drawn from
    all folds and take their fold along, for within a fold there may be but one; the interval is for the mean of the
    K detectors fitted (the target of LeDell et al., Electronic Journal of Statistics 2015). What detectors fitted on
    wholly other photos would do it cannot say: folds learn from each other's photos, and no estimate of that is
    without bias (Bengio and Grandvalet, JMLR 2004).

    Args:
        metric: From scores and flags to a number in [0, 1]; both classes are always present.
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        groups: The group of each photo, N of them; empty where it has none.
        folds: Shape (N,), the fold of each photo, at least one fold with both labels; None: all compare.
        num_resamples: How many resamples.
        level: Share of intervals that should hold the true value, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: If there is not one group for each score, an option is out of range, or the metric refuses
            the photos.
    """
    _check_options("bootstrap", num_resamples, level)
    _check_groups("bootstrap", groups, len(scores))
    folds = np.zeros(len(scores), dtype=np.int64) if folds is None else folds
    names = np.asarray(groups, dtype=np.str_)
    order = np.lexsort((scores, names, folds, is_anomalous))
    scores, is_anomalous, names, folds = scores[order], is_anomalous[order], names[order], folds[order]
    is_folded = bool(len(folds)) and folds.min() < folds.max()

    def measure(photos: NDArray[np.int64]) -> float:
        if is_folded:
            return within_folds(metric, scores[photos], is_anomalous[photos], folds[photos])
        return metric(scores[photos], is_anomalous[photos])

    photos = np.arange(len(scores))
    value = measure(photos)
    resampled = np.empty(num_resamples)
    for i, times in enumerate(draw_resamples(is_anomalous, names, num_resamples, seed)):
        resampled[i] = measure(np.repeat(photos, times))
    num_groups = _num_groups_of_folds(
        (
            float(np.count_nonzero(of & is_anomalous) * np.count_nonzero(of & ~is_anomalous)),
            min(num_effective_groups(names[of & flag]) for flag in (is_anomalous, ~is_anomalous)),
        )
        for of in (folds == fold for fold in np.unique(folds))
    )
    return _interval(value, resampled[np.isfinite(resampled)], num_groups, level)


def mean_interval(
    values: NDArray[np.float64], groups: Sequence[str], *, lowest: float = 0.0, level: float = 0.95
) -> Interval:
    """The mean of values, one a photo, and its interval if photos of a group vary together.

    The interval is that of a coin that varies as much as the mean does, which the groups' sums tell. Without variance,
    the coin is tossed once for each group.

    Args:
        values: Shape (N,), N >= 1, in [`lowest`, 1].
        groups: The group of each photo, N of them; empty where it has none.
        lowest: The smallest value there can be; the largest is 1.
        level: Share of intervals that should hold the true mean, in (0, 1).

    Raises:
        ValueError: If there is not one group for each value.
    """
    _check_groups("mean_interval", groups, len(values))
    shares = (values - lowest) / (1 - lowest)
    names = np.asarray(groups, dtype=np.str_)
    sums = np.bincount(group_index(names), weights=shares - shares.mean())
    mean, num_groups = float(shares.mean()), len(sums)
    variance = float((sums**2).sum()) / len(shares) ** 2 * num_groups / max(num_groups - 1, 1)
    has_variance = num_groups > 1 and variance > _NO_VARIANCE
    num_tosses = mean * (1 - mean) / variance if has_variance else num_effective_groups(names)
    coin = _of_coin(mean, num_tosses, level)
    return Interval(*(lowest + (1 - lowest) * share for share in (coin.value, coin.low, coin.high)))


def pixel_intervals(
    photos: Sequence[PixelScores],
    groups: Sequence[str],
    *,
    folds: Folds | None = None,
    max_fpr: float = 0.3,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, Interval]:
    """Pixel AUROC and AUPRO with their intervals, photos with and without defects resampled apart, by group.

    The values are exact. Resamples, which only serve to see the variation, add up histograms of the photos
    over 1,000 quantiles of the normal pixels, where the defect pixels of a bin tie with its normal ones.

    Args:
        photos: From `pixel_metrics.collect_pixels`.
        groups: The group of each photo, as many; empty where it has none.
        folds: Shape (N,), the fold of each photo, as for `bootstrap`: pixels compare within it; None: all do.
        max_fpr: Where the integral of AUPRO ends, in (0, 1].
        num_resamples: How many resamples.
        level: Share of intervals that should hold the true value, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: If there is not one group for each photo, an option is out of range, or there is no defect
            pixel or no normal one.
    """
    _check_options("pixel_intervals", num_resamples, level)
    _check_groups("pixel_intervals", groups, len(photos))
    folds = np.zeros(len(photos), dtype=np.int64) if folds is None else folds
    of_folds = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    values = _pixel_metrics(photos, of_folds, max_fpr)
    histograms = _histograms(photos)
    names = np.asarray(groups, dtype=np.str_)
    has_defect = np.array([len(pixels.defect) > 0 for pixels in photos])
    times = np.stack(list(draw_resamples(has_defect, names, num_resamples, seed))).astype(np.float64)
    chunks = np.array_split(times, -(-len(times) // _CHUNK))
    resampled = np.concatenate([_binned_metrics(histograms, chunk, max_fpr, of_folds) for chunk in chunks])
    # Normal pixels come from every photo, defect pixels only from some.
    num_groups = _num_groups_of_folds(
        (
            _num_pairs([photos[row] for row in rows.tolist()])[0],
            min(num_effective_groups(names[rows]), num_effective_groups(names[rows[has_defect[rows]]])),
        )
        for rows in of_folds
    )
    of_auroc, of_aupro = (
        _interval(value, column[np.isfinite(column)], num_groups, level)
        for value, column in zip(values, resampled.T, strict=True)
    )
    return of_auroc, of_aupro


def _pixel_metrics(
    photos: Sequence[PixelScores], of_folds: Sequence[NDArray[np.intp]], max_fpr: float
) -> tuple[float, float]:
    """Exact pixel AUROC and AUPRO: their means over folds, weighted by pairs of a normal pixel and one to be found."""
    if len(of_folds) == 1:
        return pixel_auroc(photos), aupro(photos, max_fpr=max_fpr)
    values, weights = [], []
    for fold in ([photos[row] for row in rows.tolist()] for rows in of_folds):
        if all(pairs := _num_pairs(fold)):
            values.append((pixel_auroc(fold), aupro(fold, max_fpr=max_fpr)))
            weights.append(pairs)
    auroc, overlap = np.average(values, axis=0, weights=np.array(weights, dtype=np.float64))
    return float(auroc), float(overlap)


def _num_pairs(photos: Sequence[PixelScores]) -> tuple[float, float]:
    """Pairs of a normal pixel with a defect pixel, and with a defect region."""
    num_normal = sum(len(pixels.normal) for pixels in photos)
    num_defect = sum(len(pixels.defect) for pixels in photos)
    return num_normal * num_defect, num_normal * sum(float(pixels.region_share.sum()) for pixels in photos)


def draw_resamples(
    flags: Flags, groups: NDArray[np.str_], num_resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """How many times each photo is in a resample, shape (N,), one array for each resample.

    Photos of each flag are drawn apart, and by group; a photo whose group is empty is its own.
    """
    rng = np.random.default_rng(seed)
    strata = [(np.flatnonzero(flag), group_index(groups[flag])) for flag in (~flags, flags) if flag.any()]
    times = np.empty(len(flags), dtype=np.int64)
    for _ in range(num_resamples):
        for photos, group in strata:
            num_groups = int(group.max()) + 1
            drawn = rng.integers(num_groups, size=num_groups)
            times[photos] = np.bincount(drawn, minlength=num_groups)[group]
        yield times.copy()


def group_index(groups: NDArray[np.str_]) -> NDArray[np.int64]:
    """Each photo's group as a number from 0; a photo without one has its own."""
    index = np.arange(len(groups))
    _, index[groups != ""] = np.unique(groups[groups != ""], return_inverse=True)
    index[groups == ""] += len(groups)
    return np.unique(index, return_inverse=True)[1]


def num_effective_groups(groups: NDArray[np.str_]) -> float:
    """How many groups of one size are worth as much: (sum of sizes)^2 / sum of squares (Kish 1965)."""
    sizes = np.bincount(group_index(groups))
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(groups) else 0.0


def _num_groups_of_folds(folds: Iterable[tuple[float, float]]) -> float:
    """How many groups in one fold would vary as little as the mean over folds, from weight and groups of each.

    The variance of the mean is the sum of squared weights, each over the groups of its fold. Folds of equal weight
    add up their groups.
    """
    behind = [(weight, num_groups) for weight, num_groups in folds if weight]
    return sum(weight for weight, _ in behind) ** 2 / sum(weight**2 / groups for weight, groups in behind)


def _interval(value: float, resampled: NDArray[np.float64], num_groups: float, level: float) -> Interval:
    """The interval of a coin that varies as the resamples do, or, if these are not to be believed, of groups.

    Of all distributions on [0, 1] with a given mean the coin varies most, so it has at least one toss. And
    whatever the scores look like, an AUROC varies no more than the share of heads in as many tosses as the
    rarer label has independent photos: A (1 - A) / min(m, n) (van Dantzig 1951; Birnbaum and Klose 1957;
    used by Cortes and Mohri, NeurIPS 2004). We take that bound for the other metrics too, all shares in
    [0, 1]. A perfect result of one photo thus gives [0.025, 1], of twenty [0.83, 1].
    """
    mean, variance = float(resampled.mean()), float(resampled.var())
    num_tosses = mean * (1 - mean) / variance if variance > _NO_VARIANCE else inf
    if num_groups < MIN_GROUPS or num_tosses == inf:
        num_tosses = min(num_tosses, num_groups)
    else:
        num_tosses *= _worth_of_variance(num_groups, level)
    return _of_coin(value, num_tosses, level)


def _worth_of_variance(num_groups: float, level: float) -> float:
    """What a variance over so few groups is worth, in (0, 1): how much fewer tosses it stands for than it says.

    Groups drawn with replacement vary by (G - 1) / G too little; and a variance that is itself estimated, with G - 1
    degrees of freedom, asks for Student's quantile in place of the normal one (Korn and Graubard, 1998, section 2).
    """
    tail, freedom = (1 - level) / 2, num_groups - 1
    return freedom / num_groups * float(ndtri(tail) / stdtrit(freedom, tail)) ** 2


def _of_coin(value: float, num_tosses: float, level: float) -> Interval:
    """The interval of a share of heads (Clopper and Pearson, Biometrika 1934), of which there may be a fraction."""
    heads, tails, tail = value * num_tosses, (1 - value) * num_tosses, (1 - level) / 2
    return Interval(
        value=value,
        low=float(betaincinv(heads, tails + 1, tail)) if heads > 0 else 0.0,
        high=float(betaincinv(heads + 1, tails, 1 - tail)) if tails > 0 else 1.0,
    )


def _histograms(photos: Sequence[PixelScores]) -> NDArray[np.float64]:
    """Normal pixels, defect pixels and defect regions of each photo over common bins, shape (3, N, bins).

    A region counts in each bin by the share of its pixels there. Bins ascend; the edges are quantiles of the
    normal pixels, and the first and last bin have no outer edge.
    """
    stride = 1 + sum(len(pixels.normal) for pixels in photos) // (1000 * _NUM_BINS)
    sample = np.sort(np.concatenate([pixels.normal[::stride] for pixels in photos]))
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, _NUM_BINS), method="nearest"))
    histograms = np.empty((3, len(photos), len(edges) + 1))
    for i, pixels in enumerate(photos):
        histograms[0, i] = np.diff(np.searchsorted(pixels.normal, edges), prepend=0, append=len(pixels.normal))
        bins = np.searchsorted(edges, pixels.defect, side="right")
        histograms[1, i] = np.bincount(bins, minlength=len(edges) + 1)
        histograms[2, i] = np.bincount(bins, weights=pixels.region_share, minlength=len(edges) + 1)
    return histograms


def _binned_metrics(
    histograms: NDArray[np.float64],
    times: NDArray[np.float64],
    max_fpr: float,
    of_folds: Sequence[NDArray[np.intp]],
) -> NDArray[np.float64]:
    """Pixel AUROC and AUPRO of resamples that hold each photo `times` (R, N) times, shape (R, 2).

    NaN where no fold has both normal and defect pixels: masks may cover whole photos, and folds hold few.
    """
    sums, num_pairs = np.zeros((2, len(times), 2))
    for rows in of_folds:
        normal, defect, region = times[:, rows] @ histograms[:, rows]  # (R, bins) each
        num_reached = np.cumsum(normal[:, ::-1], axis=1)[:, ::-1]
        num_normal = num_reached[:, :1]
        share = 1 / np.maximum(num_normal, 1)  # where there is none, its weight is 0
        above, reached = (num_reached - normal) * share, num_reached * share
        of_pixels = (area_found(above, reached, limit=1.0) * defect).sum(axis=1)
        of_regions = (area_found(above, reached, limit=max_fpr) * region).sum(axis=1) / max_fpr
        # Both sum over what is to be found: already the mean times its number.
        sums += num_normal * np.stack([of_pixels, of_regions], axis=1)
        num_pairs += num_normal * np.stack([defect.sum(axis=1), region.sum(axis=1)], axis=1)
    return np.divide(sums, num_pairs, out=np.full_like(sums, np.nan), where=num_pairs > 0)


def _check_options(owner: str, num_resamples: int, level: float) -> None:
    if num_resamples < 1:
        raise ValueError(f"num_resamples of {owner} must be at least 1, got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level of {owner} must be in (0, 1), got {level:g}.")


def _check_groups(owner: str, groups: Sequence[str], num_photos: int) -> None:
    if len(groups) != num_photos:
        raise ValueError(f"groups of {owner} must be one for each of {num_photos} photos, got {len(groups)}.")
