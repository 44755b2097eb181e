from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from inlier.decision.pixel_metrics import (
    PixelScores,
    area_found,
    aupro,
    collect_pixels,
    pixel_auroc,
    split_pixels,
)

Maps = list[tuple[np.ndarray, np.ndarray]]


def _maps(seed: int, num_decimals: int = 7, num_photos: int = 6, size: int = 16) -> Maps:
    rng = np.random.default_rng(seed)
    maps = []
    for i in range(num_photos):
        mask = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.5) > (0.2 if i % 3 else 9)
        anomaly_map = (rng.gamma(2, size=(size, size)) + rng.uniform(0, 2) * mask).round(num_decimals)
        maps.append((anomaly_map.astype(np.float32), mask))
    return maps


def _slow_aupro(maps: Maps, max_fpr: float) -> float:
    """Bergmann et al. 2021, section 6.1.2, as written: one threshold after the other, region by region."""
    regions = []
    for anomaly_map, mask in maps:
        labelled, num_regions = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labelled == region] for region in range(1, num_regions + 1)]
    normal = np.concatenate([anomaly_map[~mask] for anomaly_map, mask in maps])
    every = np.concatenate([anomaly_map.ravel() for anomaly_map, _ in maps])
    points = [(0.0, 0.0)]
    for threshold in np.unique(every)[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def test_metrics_by_hand() -> None:
    anomaly_map = np.array([[9, 5, 3, 1], [0, 0, 0, 4], [0, 0, 0, 2]], dtype=np.float32)
    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=bool)
    photos = [split_pixels(anomaly_map, mask)]
    # Nine normal pixels: 5 lies above the defect pixels 4 and 2, 3 above the 2 as well.
    assert pixel_auroc(photos) == pytest.approx((9 + 8 + 7) / 27)
    # Two regions: {9} found at once, {4, 2} by halves at 1/9 and 2/9.
    assert aupro(photos, max_fpr=1.0) == pytest.approx((1 + (8 / 9 + 7 / 9) / 2) / 2)
    assert aupro(photos, max_fpr=2 / 9) == pytest.approx((1 + (1 / 2 + 0) / 2) / 2)


def test_tied_pixels_rise_in_a_straight_line_by_hand() -> None:
    anomaly_map = np.array([[2, 1, 1, 0]], dtype=np.float32)
    photos = [split_pixels(anomaly_map, np.array([[False, True, False, False]]))]
    # One of three normal pixels above, one tied: the curve runs from (1/3, 0) to (2/3, 1).
    assert aupro(photos, max_fpr=1.0) == pytest.approx(1 / 2)
    assert aupro(photos, max_fpr=1 / 2) == pytest.approx((1 / 6 * 1 / 2 / 2) / (1 / 2))
    assert aupro(photos, max_fpr=1 / 3) == 0.0


@pytest.mark.parametrize("num_decimals", [0, 1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_pixel_auroc_agrees_with_scikit_learn(seed: int, num_decimals: int) -> None:
    maps = _maps(seed, num_decimals)
    expected = roc_auc_score(
        np.concatenate([mask.ravel() for _, mask in maps]),
        np.concatenate([anomaly_map.ravel() for anomaly_map, _ in maps]),
    )
    assert pixel_auroc(collect_pixels(maps)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("max_fpr", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("num_decimals", [0, 1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_aupro_agrees_with_a_slow_transcription(seed: int, num_decimals: int, max_fpr: float) -> None:
    maps = _maps(seed, num_decimals)
    assert aupro(collect_pixels(maps), max_fpr=max_fpr) == pytest.approx(_slow_aupro(maps, max_fpr), abs=1e-9)


def test_regions_join_at_corners_and_not_across_photos() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=bool)
    pixels = split_pixels(np.arange(8, dtype=np.float32).reshape(2, 4), mask)
    assert pixels.defect.tolist() == [0, 3, 5, 7]
    assert pixels.region_size.tolist() == [2, 2, 2, 2]
    assert pixels.region_share.sum() == pytest.approx(2)
    assert pixels.normal.tolist() == [1, 2, 4, 6]


def test_a_perfect_map_scores_exactly_one() -> None:
    photos = collect_pixels((mask.astype(np.float32), mask) for _, mask in _maps(0))
    assert pixel_auroc(photos) == 1.0
    assert aupro(photos) == pytest.approx(1.0, abs=1e-12)


def test_photo_order_changes_nothing() -> None:
    photos = collect_pixels(_maps(3))
    assert pixel_auroc(photos[::-1]) == pytest.approx(pixel_auroc(photos), abs=1e-12)
    assert aupro(photos[::-1]) == pytest.approx(aupro(photos), abs=1e-12)


def test_area_found_is_the_area_under_a_clipped_ramp() -> None:
    above, reached = np.array([0.0, 0.1, 0.2, 0.2, 0.5, 0.0]), np.array([0.0, 0.1, 0.4, 0.25, 0.6, 1.0])
    grid = (np.arange(300_000) + 0.5) / 1_000_000  # midpoints on [0, 0.3]
    for a, b, area in zip(above, reached, area_found(above, reached, limit=0.3), strict=True):
        ramp = np.clip((grid - a) / (b - a), 0, 1) if b > a else (grid > a).astype(np.float64)
        assert area == pytest.approx(ramp.sum() / 1_000_000, abs=1e-6)


def test_memory_is_bounded_and_metrics_hardly_move() -> None:
    maps = _maps(5, num_photos=24, size=96)

    def one_by_one() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from maps

    exact, thinned = collect_pixels(maps), collect_pixels(one_by_one(), max_normal_pixels=40_000)
    num_normal = sum(len(pixels.normal) for pixels in exact)
    num_kept = sum(len(pixels.normal) for pixels in thinned)
    assert num_normal > 100_000
    assert 20_000 <= num_kept <= 40_000
    strides = {round(len(e.normal) / len(t.normal)) for e, t in zip(exact, thinned, strict=True)}
    assert len(strides) == 1  # every photo gives up the same share
    assert all(pixels.normal.base is None for pixels in thinned)  # a view would keep the whole photo
    assert pixel_auroc(thinned) == pytest.approx(pixel_auroc(exact), abs=1e-3)
    assert aupro(thinned) == pytest.approx(aupro(exact), abs=2e-3)
    assert [len(t.defect) for t in thinned] == [len(e.defect) for e in exact]


def test_no_photo_gives_up_its_last_normal_pixel() -> None:
    photos = collect_pixels(_maps(0), max_normal_pixels=1)
    assert [len(pixels.normal) for pixels in photos] == [1] * 6


def test_maps_that_cannot_be_measured_are_refused() -> None:
    values, mask = np.zeros((2, 3), dtype=np.float32), np.zeros((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"must have one shape \(h, w\), got \(2, 3\) and \(3, 2\)\."):
        split_pixels(values, mask.T)
    with pytest.raises(ValueError, match=r"must have one shape \(h, w\), got \(6,\) and \(6,\)\."):
        split_pixels(values.ravel(), mask.ravel())
    with pytest.raises(ValueError, match=r"mask of split_pixels must be bool, got uint8\."):
        split_pixels(values, mask.astype(np.uint8))
    with pytest.raises(ValueError, match=r"anomaly_map of split_pixels must be finite, got 6 of 6 that are not"):
        split_pixels(values + np.inf, mask)
    with pytest.raises(ValueError, match=r"max_normal_pixels of collect_pixels must be at least 1, got 0\."):
        collect_pixels([], max_normal_pixels=0)


@pytest.mark.parametrize("metric", [pixel_auroc, aupro])
def test_a_missing_class_is_refused(metric: object) -> None:
    assert callable(metric)
    values = np.zeros((2, 3), dtype=np.float32)
    for mask, counts in ((np.ones((2, 3), dtype=bool), "0 and 6"), (np.zeros((2, 3), dtype=bool), "6 and 0")):
        photos: list[PixelScores] = [split_pixels(values, mask)]
        with pytest.raises(ValueError, match=f"needs at least one normal and one defect pixel, got {counts}"):
            metric(photos)


@pytest.mark.parametrize("max_fpr", [0.0, 1.1, float("nan")])
def test_an_impossible_limit_is_refused(max_fpr: float) -> None:
    with pytest.raises(ValueError, match=r"max_fpr of aupro must be in \(0, 1\], got "):
        aupro(collect_pixels(_maps(0)), max_fpr=max_fpr)
