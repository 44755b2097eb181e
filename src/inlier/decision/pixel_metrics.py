"""How well anomaly maps tell defect pixels from normal ones, over all photos at once.

Each defect pixel adds its own area to a curve: it is missed until the threshold falls to its value, and
found from then on. The mean of these areas is the pixel AUROC; weighted so that every defect region counts
alike, and cut at a false-positive rate, it is the AUPRO. Both are therefore exact, over all thresholds, from
one sort of the normal pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int_)


@dataclass(frozen=True, eq=False, slots=True)
class PixelScores:
    """The map values of one photo, normal and defect pixels apart.

    Attributes:
        normal: Shape (n,), float32, ascending: values of the normal pixels, or an even selection of them.
        defect: Shape (d,), float32: values of the defect pixels, all of them.
        region_size: Shape (d,), int64: for each defect pixel, how many pixels its region has.
    """

    normal: NDArray[np.float32]
    defect: NDArray[np.float32]
    region_size: NDArray[np.int64]

    @property
    def region_share(self) -> NDArray[np.float64]:
        """Shape (d,): the share of its region that each defect pixel is; sums to the number of regions."""
        return 1 / self.region_size


def split_pixels(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> PixelScores:
    """Takes a photo's map apart by its mask; regions are defect pixels joined by a side or a corner.

    Args:
        anomaly_map: Shape (h, w), finite, higher is more anomalous.
        mask: Shape (h, w), bool, true on the defect; nowhere true for a normal photo.

    Raises:
        ValueError: If map and mask do not fit each other, or a value is not finite.
    """
    if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape:
        raise ValueError(
            f"anomaly_map and mask of split_pixels must have one shape (h, w), "
            f"got {anomaly_map.shape} and {mask.shape}."
        )
    if mask.dtype != np.bool_:
        raise ValueError(f"mask of split_pixels must be bool, got {mask.dtype}.")
    if not np.isfinite(anomaly_map).all():
        num_bad = np.count_nonzero(~np.isfinite(anomaly_map))
        raise ValueError(
            f"anomaly_map of split_pixels must be finite, got {num_bad} of {anomaly_map.size} that are not."
        )
    regions, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    region = regions[mask]
    return PixelScores(
        normal=np.sort(anomaly_map[~mask].astype(np.float32)),
        defect=anomaly_map[mask].astype(np.float32),
        region_size=np.bincount(region)[region],
    )


def collect_pixels(
    photos: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]], *, max_normal_pixels: int = 50_000_000
) -> list[PixelScores]:
    """Takes maps and masks apart one by one, and keeps memory bounded whatever their number.

    All pixels are kept, and the metrics exact, up to `max_normal_pixels` (4 bytes each, twice that while a
    metric is computed); each time the normal pixels pass it, every photo gives up every second of its sorted
    normal values. What is left traces each photo's distribution to within a rank, so thinning maps of
    224 x 224 pixels to an eighth moves a false-positive rate by less than 2e-4.

    Args:
        photos: Anomaly map and mask of each photo, as for `split_pixels`.
        max_normal_pixels: Most normal pixels to hold.

    Raises:
        ValueError: If `max_normal_pixels` is not positive, or as in `split_pixels`.
    """
    if max_normal_pixels < 1:
        raise ValueError(f"max_normal_pixels of collect_pixels must be at least 1, got {max_normal_pixels}.")
    collected: list[PixelScores] = []
    stride, num_pixels = 1, 0
    for anomaly_map, mask in photos:
        pixels = split_pixels(anomaly_map, mask)
        collected.append(_thinned(pixels, stride))
        num_pixels += len(collected[-1].normal)
        while num_pixels > max(max_normal_pixels, len(collected)):  # no photo gives up its last one
            collected = [_thinned(pixels, 2) for pixels in collected]
            stride, num_pixels = 2 * stride, sum(len(pixels.normal) for pixels in collected)
    return collected


def pixel_auroc(photos: Sequence[PixelScores]) -> float:
    """Area under the ROC curve over the pixels of all photos: one large defect outweighs many small ones.

    Returns:
        In [0, 1]; 0.5 is chance.

    Raises:
        ValueError: If there is no defect pixel, or no normal one.
    """
    _check("pixel_auroc", photos)
    above, reached = _false_positive_rates(photos)
    return float(area_found(above, reached, limit=1.0).mean())


def aupro(photos: Sequence[PixelScores], *, max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to `max_fpr`: every defect region weighs the same.

    The mean share of each region's pixels above a threshold, against the share of normal pixels above it,
    integrated over false-positive rates in [0, `max_fpr`] and divided by `max_fpr` (Bergmann et al., IJCV
    2021, section 6.1.2). Trapezoids over all thresholds; the last is cut where it crosses `max_fpr`.

    Args:
        photos: From `collect_pixels`.
        max_fpr: Where the integral ends, in (0, 1].

    Returns:
        In [0, 1]; chance is `max_fpr` / 2.

    Raises:
        ValueError: If there is no defect pixel or no normal one, or `max_fpr` is out of range.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr of aupro must be in (0, 1], got {max_fpr:g}.")
    _check("aupro", photos)
    above, reached = _false_positive_rates(photos)
    share = np.concatenate([pixels.region_share for pixels in photos])
    return float(np.average(area_found(above, reached, limit=max_fpr), weights=share) / max_fpr)


def area_found(above: NDArray[np.float64], reached: NDArray[np.float64], *, limit: float) -> NDArray[np.float64]:
    """The area that a defect pixel adds under its curve on [0, `limit`].

    The pixel is found with certainty once the false-positive rate is at least `reached`, not at all up to
    `above`; the two differ where normal pixels share its value, and the curve rises in a straight line.

    Args:
        above: Share of normal pixels with a value greater than the pixel's, any shape, in [0, 1].
        reached: Share with at least the pixel's value, same shape.
        limit: False-positive rate at which the curve is cut, in (0, 1].

    Returns:
        Same shape, in [0, `limit`].
    """
    rise = np.minimum(reached, limit) - np.minimum(above, limit)
    found = np.divide(rise, reached - above, out=np.zeros_like(rise), where=reached > above)
    area: NDArray[np.float64] = limit - np.minimum(reached, limit) + found * rise / 2
    return area


def _false_positive_rates(
    photos: Sequence[PixelScores],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each defect pixel, the share of normal pixels above its value and the share that reach it."""
    normal = np.concatenate([pixels.normal for pixels in photos])
    normal.sort()
    defect = np.concatenate([pixels.defect for pixels in photos])
    above = 1 - np.searchsorted(normal, defect, side="right") / len(normal)
    reached = 1 - np.searchsorted(normal, defect, side="left") / len(normal)
    return above, reached


def _thinned(pixels: PixelScores, stride: int) -> PixelScores:
    return replace(pixels, normal=pixels.normal[::stride].copy()) if stride > 1 else pixels


def _check(owner: str, photos: Sequence[PixelScores]) -> None:
    num_normal = sum(len(pixels.normal) for pixels in photos)
    num_defect = sum(len(pixels.defect) for pixels in photos)
    if not num_normal or not num_defect:
        raise ValueError(f"{owner} needs at least one normal and one defect pixel, got {num_normal} and {num_defect}.")
