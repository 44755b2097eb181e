from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inlier.decision.intervals import (
    MIN_GROUPS,
    Interval,
    _binned_metrics,
    _histograms,
    bootstrap,
    mean_interval,
    pixel_intervals,
)
from inlier.decision.metrics import image_ap, image_auroc, tpr_at_fpr
from inlier.decision.pixel_metrics import PixelScores, aupro, collect_pixels, pixel_auroc


def _photos(
    rng: np.random.Generator, num_normal: int, num_anomalous: int, auroc: float
) -> tuple[np.ndarray, np.ndarray]:
    is_anomalous = np.arange(num_normal + num_anomalous) >= num_normal
    shift = np.sqrt(2) * stats.norm.ppf(auroc)
    return rng.normal(size=len(is_anomalous)) + shift * is_anomalous, is_anomalous


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def _maps(num_photos: int, *, num_defective: int) -> list[PixelScores]:
    """Photos of which the first few have a large defect, found alike, and a small one, found now and then."""
    rng = np.random.default_rng(num_photos)
    maps = []
    for i in range(num_photos):
        large, small = np.zeros((2, 16, 16), dtype=bool)
        large[1:10, 1:10] = small[12:14, 12:14] = i < num_defective
        anomaly_map = rng.gamma(2, size=(16, 16)) + rng.normal() / 4 + 2 * large + rng.uniform(0, 4) * small
        maps.append((anomaly_map.astype(np.float32), large | small))
    return collect_pixels(maps)


def test_an_interval_in_json() -> None:
    assert Interval(0.9, low=0.8, high=0.95).to_json() == {"value": 0.9, "low": 0.8, "high": 0.95}


def test_the_width_agrees_with_delongs_variance() -> None:
    # DeLong et al., Biometrics 1988: from the share of the other class that each photo beats.
    scores, is_anomalous = _photos(np.random.default_rng(0), 400, 300, auroc=0.8)
    wins = scores[is_anomalous][:, None] > scores[~is_anomalous]
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 400)
    interval = bootstrap(image_auroc, scores, is_anomalous, [""] * 700)
    assert interval.value == wins.mean()
    assert _width(interval) == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_few_groups_are_worth_what_students_quantile_says() -> None:
    # 20 groups of one value each: the variance of their mean with n - 1, and the quantile with 19 degrees of freedom.
    rng = np.random.default_rng(3)
    share = rng.uniform(0.3, 0.9, size=20)
    scores = np.concatenate([np.zeros(1000), np.where(np.tile(np.arange(50), 20) < np.repeat(50 * share, 50), 1, -1)])
    groups = [*map(str, range(1000)), *np.repeat([f"part {i}" for i in range(20)], 50).tolist()]
    interval = bootstrap(tpr_at_fpr, scores, np.arange(2000) >= 1000, groups, num_resamples=4000)
    error = np.ceil(50 * share).std(ddof=1) / 50 / np.sqrt(20)
    assert _width(interval) == pytest.approx(2 * stats.t.ppf(0.975, 19) * error, rel=0.05)


def test_a_share_of_independent_photos_agrees_with_clopper_and_pearson() -> None:
    # All normal photos at 0: the true-positive rate at no false alarm is the share of scores above it.
    scores = np.concatenate([np.zeros(50), np.ones(300), -np.ones(100)])
    interval = bootstrap(tpr_at_fpr, scores, np.arange(450) >= 50, [""] * 450)
    expected = stats.binomtest(300, 400).proportion_ci(0.95, method="exact")
    assert interval.value == 0.75
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.parametrize(("num_normal", "num_anomalous"), [(1, 49), (49, 1), (1, 1), (3, 3), (20, 63), (50, 50)])
@pytest.mark.parametrize("metric", [image_auroc, image_ap, tpr_at_fpr])
def test_a_perfect_result_is_as_uncertain_as_its_rarer_photos(
    metric: object, num_normal: int, num_anomalous: int
) -> None:
    assert callable(metric)
    num_photos = num_normal + num_anomalous
    interval = bootstrap(metric, np.arange(float(num_photos)), np.arange(num_photos) >= num_normal, [""] * num_photos)
    # Never a failure in n tosses: low is where that happens with probability 0.025.
    assert interval.low == pytest.approx(0.025 ** (1 / min(num_normal, num_anomalous)))
    assert interval.value == interval.high == 1.0


def test_a_perfectly_wrong_result_is_as_uncertain() -> None:
    interval = bootstrap(image_auroc, -np.arange(10.0), np.arange(10) >= 5, [""] * 10)
    assert (interval.value, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 5))


def test_one_anomalous_photo_says_next_to_nothing() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(1), 200, 1, auroc=0.7)
    assert _width(bootstrap(image_auroc, scores, is_anomalous, [""] * 201)) > 0.9


def test_few_groups_are_few_however_many_their_photos() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(2), 200, 200, auroc=0.8)
    of_all = bootstrap(image_auroc, scores, is_anomalous, [""] * 400)
    for num_groups in (1, 3, MIN_GROUPS - 1):
        groups = [f"part {i % num_groups}" if flag else "" for i, flag in enumerate(is_anomalous)]
        interval = bootstrap(image_auroc, scores, is_anomalous, groups)
        exact = stats.beta(0.8 * num_groups, 0.2 * num_groups + 1).ppf(0.025)
        assert interval.low == pytest.approx(exact, abs=0.05)
        assert _width(interval) > 3 * _width(of_all)
    # One part with most of the photos and eleven with one each are hardly more than one.
    groups = ["main"] * 389 + [str(i) for i in range(11)]
    assert _width(bootstrap(image_auroc, scores, is_anomalous, groups)) > 0.8


def test_photos_without_a_group_stand_beside_those_with_one() -> None:
    groups = ["part"] * 5 + [""] * 4 + [""] * 50
    interval = bootstrap(image_auroc, -np.arange(59.0), np.arange(59) < 9, groups)
    assert interval.low == pytest.approx(0.025 ** ((5**2 + 4) / 9**2))  # Kish: worth 81 / 29 groups


def test_few_groups_do_not_hide_what_varies_more_than_a_coin() -> None:
    # Which photos are flagged hangs on the two normal ones: far more uncertain than one share of nine.
    scores, is_anomalous = np.concatenate([[0.0, 10.0], np.arange(1.0, 10.0)]), np.arange(11) >= 2
    assert bootstrap(tpr_at_fpr, scores, is_anomalous, ["a", "b"] + [""] * 9).high > 0.9


def test_photos_of_one_part_count_once() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(3), 60, 40, auroc=0.85)
    alone = bootstrap(image_auroc, scores, is_anomalous, [""] * 100)
    thrice = (image_auroc, np.tile(scores, 3), np.tile(is_anomalous, 3))
    grouped = bootstrap(*thrice, [str(i) for i in range(100)] * 3)
    pretended = bootstrap(*thrice, [""] * 300)
    assert grouped.value == pretended.value == alone.value
    assert _width(grouped) == pytest.approx(_width(alone), rel=0.1)
    assert _width(pretended) == pytest.approx(_width(alone) / np.sqrt(3), rel=0.1)


def test_a_group_of_both_labels_is_one_group_of_each() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(4), 60, 60, auroc=0.8)
    both = [f"{i % 20:02d}" for i in range(120)]
    apart = [f"{group} {flag}" for group, flag in zip(both, is_anomalous, strict=True)]
    assert bootstrap(image_auroc, scores, is_anomalous, both) == bootstrap(image_auroc, scores, is_anomalous, apart)


def test_same_seed_same_interval_in_any_photo_order() -> None:
    rng = np.random.default_rng(5)
    scores, is_anomalous = _photos(rng, 40, 30, auroc=0.8)
    groups = np.array([f"part {i}" if i % 3 else "" for i in rng.integers(0, 30, size=70)])
    intervals = [
        bootstrap(image_ap, scores[order], is_anomalous[order], groups[order].tolist(), seed=seed)
        for seed, order in ((0, np.arange(70)), (0, rng.permutation(70)), (1, np.arange(70)))
    ]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]
    assert _width(intervals[0]) == pytest.approx(_width(intervals[2]), rel=0.1)


@settings(deadline=None, max_examples=60)
@given(
    normal=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    anomalous=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    level=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_an_interval_lies_in_range_around_its_value(normal: list[int], anomalous: list[int], level: float) -> None:
    scores = np.array(normal + anomalous, dtype=np.float32)
    is_anomalous = np.arange(len(scores)) >= len(normal)
    for metric in (image_auroc, image_ap, tpr_at_fpr):
        interval = bootstrap(metric, scores, is_anomalous, [""] * len(scores), num_resamples=50, level=level)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_a_higher_level_is_wider() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(6), 50, 50, auroc=0.8)
    widths = [
        _width(bootstrap(image_auroc, scores, is_anomalous, [""] * 100, level=level, num_resamples=200))
        for level in (0.5, 0.9, 0.95, 0.99)
    ]
    assert widths == sorted(set(widths))


def test_one_fold_is_no_fold() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(7), 30, 20, auroc=0.8)
    for metric in (image_auroc, image_ap, tpr_at_fpr):
        alone = bootstrap(metric, scores, is_anomalous, [""] * 50, num_resamples=100)
        assert bootstrap(metric, scores, is_anomalous, [""] * 50, folds=np.full(50, 3), num_resamples=100) == alone


def test_the_scale_of_a_fold_changes_nothing() -> None:
    scores, is_anomalous = _photos(np.random.default_rng(8), 50, 50, auroc=0.8)
    folds = np.arange(100) % 5
    interval = bootstrap(image_auroc, scores, is_anomalous, [""] * 100, folds=folds, num_resamples=300)
    shifted = bootstrap(image_auroc, scores + 100 * folds, is_anomalous, [""] * 100, folds=folds, num_resamples=300)
    assert shifted == interval
    wins = [
        one > other
        for one, of_one in zip(scores[is_anomalous], folds[is_anomalous], strict=True)
        for other, of_other in zip(scores[~is_anomalous], folds[~is_anomalous], strict=True)
        if of_one == of_other
    ]
    assert interval.value == pytest.approx(np.mean(wins))
    assert _width(interval) == pytest.approx(
        _width(bootstrap(image_auroc, scores, is_anomalous, [""] * 100, num_resamples=300)), rel=0.25
    )


@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "num_folds", "num_independent"),
    [
        (2, 2, 2, 2),  # two detectors, each of one photo
        (2, 49, 2, 2),
        (4, 99, 4, 4),  # the thesis's ring-condition, all of it
        (4, 2, 2, 2),  # its test split's anomalous photos
        (20, 1, 5, 1),
    ],
)
def test_folds_of_few_photos_are_as_uncertain_as_these(
    num_normal: int, num_anomalous: int, num_folds: int, num_independent: int
) -> None:
    num_photos = num_normal + num_anomalous
    is_anomalous = np.arange(num_photos) >= num_normal
    folds = np.concatenate([np.arange(num_normal) % num_folds, np.arange(num_anomalous) % num_folds])
    for scores, is_right in ((np.arange(num_photos), True), (-np.arange(num_photos), False)):
        interval = bootstrap(image_auroc, scores.astype(float), is_anomalous, [""] * num_photos, folds=folds)
        unsure = 0.025 ** (1 / num_independent)  # as many tosses without a failure
        expected = (unsure, 1.0) if is_right else (0.0, 1 - unsure)
        assert (interval.low, interval.high) == pytest.approx(expected, abs=0.005)


def test_lopsided_folds_are_worth_what_their_rarer_photos_are() -> None:
    # One normal photo among 20 anomalous ones, and one anomalous among 20 normal ones: two photos decide.
    is_anomalous = np.array([False] + [True] * 21 + [False] * 20)
    folds = np.repeat([0, 1], 21)
    scores = is_anomalous.astype(float)
    assert bootstrap(image_auroc, scores, is_anomalous, [""] * 42, folds=folds).low == pytest.approx(0.025 ** (1 / 2))


def test_pixels_compare_only_within_their_fold() -> None:
    maps = _maps(24, num_defective=12)
    folds = np.arange(24) % 3
    shifted = [
        PixelScores(of.normal + 50 * fold, of.defect + 50 * fold, of.region_size)
        for of, fold in zip(maps, folds.astype(np.float32), strict=True)
    ]
    found = pixel_intervals(shifted, [""] * 24, folds=folds, num_resamples=300)
    parts = [[of for of, its in zip(maps, folds, strict=True) if its == fold] for fold in range(3)]
    sizes = [(sum(len(of.normal) for of in part), sum(len(of.defect) for of in part)) for part in parts]
    weights = [num_normal * num_defect for num_normal, num_defect in sizes]
    expected = np.average([pixel_auroc(part) for part in parts], weights=weights)
    assert found[0].value == pytest.approx(expected, abs=1e-4)  # float32 rounds what is shifted
    together = pixel_intervals(maps, [""] * 24, num_resamples=300)
    for of_folds, of_all in zip(found, together, strict=True):
        assert of_folds.value == pytest.approx(of_all.value, abs=0.05)
        assert _width(of_folds) == pytest.approx(_width(of_all), rel=0.3)


def test_a_fold_without_defects_counts_for_nothing() -> None:
    maps = _maps(9, num_defective=4)
    folds = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2])
    with_it = pixel_intervals(maps, [""] * 9, folds=folds, num_resamples=50)
    without = pixel_intervals(maps[:8], [""] * 8, folds=folds[:8], num_resamples=50)
    assert [of.value for of in with_it] == [of.value for of in without]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "num_folds", "auroc"),
    [(60, 40, 5, 0.8), (20, 20, 5, 0.9), (5, 30, 5, 0.8), (40, 6, 4, 0.7), (4, 20, 4, 0.6)],
)
def test_intervals_of_folds_hold_the_mean_auroc_as_often_as_they_say(
    num_normal: int, num_anomalous: int, num_folds: int, auroc: float
) -> None:
    rng = np.random.default_rng(10)
    folds = np.concatenate([np.arange(num_normal) % num_folds, np.arange(num_anomalous) % num_folds])
    num_trials, num_held = 300, 0
    for seed in range(num_trials):
        scores, is_anomalous = _photos(rng, num_normal, num_anomalous, auroc)
        scores += rng.normal(size=num_folds)[folds] * 3  # each fold's detector has a scale of its own
        interval = bootstrap(
            image_auroc, scores, is_anomalous, [""] * len(scores), folds=folds, num_resamples=100, seed=seed
        )
        num_held += interval.low <= auroc <= interval.high
    assert num_held / num_trials >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "auroc", "least", "most"),
    [
        (60, 60, 0.8, 0.93, 0.98),
        (20, 20, 0.8, 0.93, 0.99),
        (20, 20, 0.95, 0.93, 0.99),
        (50, 5, 0.8, 0.95, 1.0),
        (1, 50, 0.8, 0.95, 1.0),
        (2, 2, 0.6, 0.95, 1.0),
    ],
)
def test_intervals_hold_the_true_auroc_as_often_as_they_say(
    num_normal: int, num_anomalous: int, auroc: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(7)
    num_trials = 600
    num_held = 0
    for seed in range(num_trials):
        photos = _photos(rng, num_normal, num_anomalous, auroc)
        interval = bootstrap(image_auroc, *photos, [""] * (num_normal + num_anomalous), num_resamples=300, seed=seed)
        num_held += interval.low <= auroc <= interval.high
    assert least <= num_held / num_trials <= most


@pytest.mark.slow
def test_percentiles_would_hold_it_too_rarely() -> None:
    rng = np.random.default_rng(8)
    num_trials, num_resamples = 600, 300
    num_held = 0
    for _ in range(num_trials):
        scores, is_anomalous = _photos(rng, 20, 20, auroc=0.95)
        wins = scores[is_anomalous][:, None] > scores[~is_anomalous]
        times = rng.multinomial(20, np.full(20, 1 / 20), size=(2, num_resamples))
        resampled = np.einsum("ri,ij,rj->r", times[0], wins, times[1]) / 400
        low, high = np.quantile(resampled, [0.025, 0.975])
        num_held += low <= 0.95 <= high
    assert num_held / num_trials < 0.91


@pytest.mark.slow
def test_intervals_of_grouped_photos_hold_the_true_auroc() -> None:
    rng = np.random.default_rng(9)
    num_trials, num_groups, size = 400, 20, 4
    part = np.repeat(np.arange(2 * num_groups), size)
    is_anomalous = part >= num_groups
    num_held = {"grouped": 0, "alone": 0}
    for seed in range(num_trials):
        scores = rng.normal(size=2 * num_groups)[part] + rng.normal(size=len(part)) + 2.0 * is_anomalous
        for kind, groups in (("grouped", part.astype(str).tolist()), ("alone", [""] * len(part))):
            interval = bootstrap(image_auroc, scores, is_anomalous, groups, num_resamples=300, seed=seed)
            num_held[kind] += interval.low <= stats.norm.cdf(1.0) <= interval.high  # 2 / sqrt(2 + 2)
    assert 0.92 <= num_held["grouped"] / num_trials <= 0.98
    assert num_held["alone"] / num_trials < 0.85


@pytest.mark.parametrize("num_defective", [20, 40])
def test_pixel_intervals_agree_with_exact_metrics_of_drawn_photos(num_defective: int) -> None:
    photos = _maps(40, num_defective=num_defective)
    found = pixel_intervals(photos, [""] * 40)
    rng = np.random.default_rng(0)
    strata = [stratum for stratum in np.split(np.arange(40), [num_defective]) if len(stratum)]
    samples = [[photos[i] for stratum in strata for i in rng.choice(stratum, len(stratum))] for _ in range(1000)]
    for interval, metric in zip(found, (pixel_auroc, aupro), strict=True):
        values = np.array([metric(sample) for sample in samples])
        num_tosses = values.mean() * (1 - values.mean()) / values.var()
        expected = stats.beta([interval.value * num_tosses], [(1 - interval.value) * num_tosses + 1]).ppf(0.025)
        assert interval.value == metric(photos)
        assert interval.low == pytest.approx(expected[0], abs=0.1 * _width(interval))
        assert interval.low < interval.value < interval.high


def test_pixels_of_one_part_count_once() -> None:
    photos = _maps(40, num_defective=20)
    alone = pixel_intervals(photos, [""] * 40)
    grouped = pixel_intervals(photos * 3, [str(i) for i in range(40)] * 3)
    for one, three in zip(alone, grouped, strict=True):
        assert three.value == pytest.approx(one.value)
        assert _width(three) == pytest.approx(_width(one), rel=0.1)


@pytest.mark.parametrize("num_photos", [1, 2, 40])
def test_one_defective_photo_says_next_to_nothing(num_photos: int) -> None:
    of_auroc, of_aupro = pixel_intervals(_maps(num_photos, num_defective=1), [""] * num_photos)
    assert _width(of_auroc) > 0.8
    assert _width(of_aupro) > 0.8


def test_normal_photos_of_one_part_say_little_about_normal_pixels() -> None:
    for interval in pixel_intervals(_maps(40, num_defective=12), [""] * 12 + ["one part"] * 28):
        assert _width(interval) > 0.5


def test_histograms_with_a_bin_for_each_value_are_exact() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 9, size=(12, 12)).astype(np.float32) for _ in range(4)]
    photos = collect_pixels((anomaly_map, rng.random((12, 12)) < 0.3) for anomaly_map in maps)
    times = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0]])
    binned = _binned_metrics(_histograms(photos), times, 0.3, [np.arange(4)])
    for row, drawn in zip(binned, (photos, [photos[i] for i in (0, 0, 2, 3)]), strict=True):
        assert row == pytest.approx([pixel_auroc(drawn), aupro(drawn)], abs=1e-9)


def test_pixel_intervals_repeat_with_the_seed() -> None:
    photos = _maps(20, num_defective=10)
    assert pixel_intervals(photos, [""] * 20, seed=3) == pixel_intervals(photos, [""] * 20, seed=3)
    assert pixel_intervals(photos, [""] * 20, seed=3) != pixel_intervals(photos, [""] * 20, seed=4)


def test_masks_that_cover_whole_photos_leave_intervals_defined() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(4, 4)).astype(np.float32) for _ in range(3)]
    photos = collect_pixels(
        (anomaly_map, np.arange(16).reshape(4, 4) >= 8 * (i == 0)) for i, anomaly_map in enumerate(maps)
    )
    for interval in pixel_intervals(photos, [""] * 3, num_resamples=200):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_options_out_of_range_are_refused() -> None:
    scores, is_anomalous, groups = np.arange(4.0), np.arange(4) >= 2, [""] * 4
    photos = _maps(4, num_defective=2)
    with pytest.raises(ValueError, match=r"num_resamples of bootstrap must be at least 1, got 0\."):
        bootstrap(image_auroc, scores, is_anomalous, groups, num_resamples=0)
    with pytest.raises(ValueError, match=r"level of bootstrap must be in \(0, 1\), got 95\."):
        bootstrap(image_auroc, scores, is_anomalous, groups, level=95)
    with pytest.raises(ValueError, match=r"groups of bootstrap must be one for each of 4 photos, got 3\."):
        bootstrap(image_auroc, scores, is_anomalous, groups[:3])
    with pytest.raises(ValueError, match=r"image_auroc needs at least one normal and one anomalous photo"):
        bootstrap(image_auroc, scores, is_anomalous | True, groups)
    with pytest.raises(ValueError, match=r"num_resamples of pixel_intervals must be at least 1, got 0\."):
        pixel_intervals(photos, groups, num_resamples=0)
    with pytest.raises(ValueError, match=r"level of pixel_intervals must be in \(0, 1\), got 0\."):
        pixel_intervals(photos, groups, level=0)
    with pytest.raises(ValueError, match=r"groups of pixel_intervals must be one for each of 4 photos, got 3\."):
        pixel_intervals(photos, groups[:3])
    with pytest.raises(ValueError, match=r"max_fpr of aupro must be in \(0, 1\], got 2\."):
        pixel_intervals(photos, groups, max_fpr=2)


def test_the_interval_of_a_mean_of_photos_of_their_own_is_that_of_a_coin() -> None:
    values = np.array([1.0] * 30 + [0.0] * 10)
    found = astuple(mean_interval(values, [str(i) for i in range(40)]))
    heads, tosses = 0.75 * 39, 39  # the variance of a mean with n - 1 is that of n - 1 tosses
    expected = stats.beta.ppf(0.025, heads, tosses - heads + 1), stats.beta.ppf(0.975, heads + 1, tosses - heads)
    assert found == pytest.approx((0.75, *expected))
    wider = astuple(mean_interval(2 * values - 1, [""] * 40, lowest=-1.0))
    assert wider == pytest.approx((0.5, *(2 * end - 1 for end in expected)))


def test_the_interval_of_a_mean_counts_groups_and_not_photos() -> None:
    one = mean_interval(np.array([1.0] * 6 + [0.0] * 2), [str(i) for i in range(8)])
    many = mean_interval(np.repeat([1.0] * 6 + [0.0] * 2, 50), np.repeat([str(i) for i in range(8)], 50).tolist())
    assert astuple(many) == pytest.approx(astuple(one))
    alone = mean_interval(np.ones(500), ["the only visit"] * 500)
    assert (alone.low, alone.high) == pytest.approx((0.025, 1.0))
    with pytest.raises(ValueError, match=r"groups of mean_interval must be one for each of 2 photos, got 1\."):
        mean_interval(np.ones(2), [""])


@pytest.mark.slow
def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([str(i) for i in range(60)], 5).tolist()
    held = 0
    for _ in range(1000):
        chance = rng.beta(4, 1, size=60)  # 0.8 on average, differing from group to group
        found = mean_interval((rng.random(300) < np.repeat(chance, 5)).astype(float), groups)
        held += found.low <= 0.8 <= found.high
    assert 0.93 <= held / 1000 <= 0.98
