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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # type: ignore[import-untyped]

from inlier.decision.metrics import Flags, Scores
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
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """An image metric and its interval, from resamples stratified by label and drawn by group.

    A photo without a group is its own. A group with both normal and anomalous photos counts as one group of
    each kind, drawn independently: what the two have in common mostly cancels in a ranking metric, so
    ignoring it errs towards width. Photo order does not matter.

    Args:
        metric: From scores and flags to a number in [0, 1]; both classes are always present.
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        groups: The group of each photo, N of them; empty where it has none.
        num_resamples: How many resamples.
        level: Share of intervals that should hold the true value, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ValueError: If there is not one group for each score, an option is out of range, or the metric refuses
            the photos.
    """
    _check_options("bootstrap", num_resamples, level)
    _check_groups("bootstrap", groups, len(scores))
    value = metric(scores, is_anomalous)
    names = np.asarray(groups, dtype=np.str_)
    order = np.lexsort((scores, names, is_anomalous))
    scores, is_anomalous, names = scores[order], is_anomalous[order], names[order]
    photos = np.arange(len(scores))
    resampled = np.empty(num_resamples)
    for i, times in enumerate(_draws(is_anomalous, names, num_resamples, seed)):
        drawn = np.repeat(photos, times)
        resampled[i] = metric(scores[drawn], is_anomalous[drawn])
    num_groups = min(_num_effective_groups(names[flag]) for flag in (is_anomalous, ~is_anomalous))
    return _interval(value, resampled, num_groups, level)


def pixel_intervals(
    photos: Sequence[PixelScores],
    groups: Sequence[str],
    *,
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
    values = pixel_auroc(photos), aupro(photos, max_fpr=max_fpr)
    histograms = _histograms(photos)
    names = np.asarray(groups, dtype=np.str_)
    has_defect = np.array([len(pixels.defect) > 0 for pixels in photos])
    times = np.stack(list(_draws(has_defect, names, num_resamples, seed))).astype(np.float64)
    # Where masks cover whole photos, a resample may have no normal pixel, hence no curve.
    times = times[times @ histograms[0].sum(axis=1) > 0]
    chunks = np.array_split(times, -(-len(times) // _CHUNK))
    resampled = np.concatenate([_binned_metrics(histograms, chunk, max_fpr) for chunk in chunks])
    # Normal pixels come from every photo, defect pixels only from some.
    num_groups = min(_num_effective_groups(names), _num_effective_groups(names[has_defect]))
    of_auroc, of_aupro = (
        _interval(value, column, num_groups, level) for value, column in zip(values, resampled.T, strict=True)
    )
    return of_auroc, of_aupro


def _draws(flags: Flags, groups: NDArray[np.str_], num_resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How many times each photo is in a resample, shape (N,), one array for each resample."""
    rng = np.random.default_rng(seed)
    strata = [(np.flatnonzero(flag), _group_index(groups[flag])) for flag in (~flags, flags) if flag.any()]
    times = np.empty(len(flags), dtype=np.int64)
    for _ in range(num_resamples):
        for photos, group in strata:
            num_groups = int(group.max()) + 1
            drawn = rng.integers(num_groups, size=num_groups)
            times[photos] = np.bincount(drawn, minlength=num_groups)[group]
        yield times.copy()


def _group_index(groups: NDArray[np.str_]) -> NDArray[np.int64]:
    """Each photo's group as a number from 0; a photo without one has its own."""
    index = np.arange(len(groups))
    _, index[groups != ""] = np.unique(groups[groups != ""], return_inverse=True)
    index[groups == ""] += len(groups)
    return np.unique(index, return_inverse=True)[1]


def _num_effective_groups(groups: NDArray[np.str_]) -> float:
    """How many groups of one size are worth as much: (sum of sizes)^2 / sum of squares (Kish 1965)."""
    sizes = np.bincount(_group_index(groups))
    return float(sizes.sum() ** 2 / (sizes**2).sum())


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
    # Clopper and Pearson, Biometrika 1934, with a fractional number of heads.
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


def _binned_metrics(histograms: NDArray[np.float64], times: NDArray[np.float64], max_fpr: float) -> NDArray[np.float64]:
    """Pixel AUROC and AUPRO of resamples that hold each photo `times` (R, N) times, shape (R, 2)."""
    normal, defect, region = times @ histograms  # (R, bins) each
    num_reached = np.cumsum(normal[:, ::-1], axis=1)[:, ::-1]
    num_normal = num_reached[:, :1]
    above, reached = (num_reached - normal) / num_normal, num_reached / num_normal
    auroc = (area_found(above, reached, limit=1.0) * defect).sum(axis=1) / defect.sum(axis=1)
    overlap = (area_found(above, reached, limit=max_fpr) * region).sum(axis=1) / region.sum(axis=1)
    return np.stack([auroc, overlap / max_fpr], axis=1)


def _check_options(owner: str, num_resamples: int, level: float) -> None:
    if num_resamples < 1:
        raise ValueError(f"num_resamples of {owner} must be at least 1, got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level of {owner} must be in (0, 1), got {level:g}.")


def _check_groups(owner: str, groups: Sequence[str], num_photos: int) -> None:
    if len(groups) != num_photos:
        raise ValueError(f"groups of {owner} must be one for each of {num_photos} photos, got {len(groups)}.")
