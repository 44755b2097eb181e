from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from inlier.decision.calibration import Calibration
from inlier.decision.drift import ALARM, Watch, expected_counts, gaps, reject_share, uniformity


def p_values(seed: int, *, num_calibration: int, num_photos: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Of normal scores, moved by a shift, against a calibration set of their own."""
    random = np.random.default_rng(seed)
    calibration = Calibration(random.normal(size=num_calibration))
    return calibration.p_values(random.normal(size=num_photos) + shift)


def test_gaps_are_counted_from_the_most_anomalous_one() -> None:
    calibration = Calibration(np.array([1.0, 2.0, 3.0]))
    assert gaps(calibration.p_values(np.array([9.0, 2.5, 1.5, 0.0])), 3).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"\[1 / \(n \+ 1\), 1\] with n = 3"):
        gaps(np.array([0.1]), 3)


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson() -> None:
    values = np.array([0.01] * 3 + [0.5] * 37)
    share = reject_share(values, 99, rate=0.05)
    exact = stats.binomtest(3, 40).proportion_ci(0.95, method="exact")
    assert (share.value, share.nominal) == (0.075, 0.05)
    np.testing.assert_allclose((share.low, share.high), (exact.low, exact.high), rtol=1e-9)
    # 5 of 100 gaps mean reject.
    np.testing.assert_allclose(share.p_value, stats.betabinom(40, 5, 95).sf(2), rtol=1e-9)
    assert reject_share(np.ones(4), 99, rate=0.05).low == 0.0
    assert reject_share(np.full(4, 0.01), 99, rate=0.05).high == 1.0
    with pytest.raises(ValueError, match="at least one"):
        reject_share(np.empty(0), 99, rate=0.05)


def test_with_too_few_calibration_photos_nothing_is_promised_and_nothing_alarms() -> None:
    share = reject_share(np.array([0.25, 1.0]), 3, rate=0.05)
    assert (share.value, share.nominal, share.p_value) == (0.0, 0.0, 1.0)


def test_the_tests_of_the_latest_photos_keep_their_level_with_few_calibration_photos() -> None:
    """A binomial test, and one against uniform p-values, would reject most of these: the set is all the same."""
    num_seeds, level = 400, 0.05
    of_share, of_uniformity, naive = 0, 0, 0
    for seed in range(num_seeds):
        values = p_values(seed, num_calibration=60, num_photos=1500)
        of_share += reject_share(values, 60, rate=0.05).p_value <= level
        of_uniformity += uniformity(values, 60)[1] <= level
        naive += stats.kstest(values - 0.5 / 61, "uniform").pvalue <= level
    most = stats.binom(num_seeds, level).ppf(0.999)
    assert of_share <= most and of_uniformity <= most
    assert naive > 0.5 * num_seeds


def test_the_distance_is_that_of_two_samples() -> None:
    random = np.random.default_rng(3)
    calibration, scores = random.normal(size=80), random.normal(0.4, size=300)
    distance, chance = uniformity(Calibration(calibration).p_values(scores), 80)
    expected = stats.ks_2samp(scores, calibration.astype(np.float32))
    np.testing.assert_allclose(distance, expected.statistic, atol=1e-6)
    assert expected.pvalue <= chance < 0.05  # on the careful side
    with pytest.raises(ValueError, match="one calibration photo"):
        uniformity(np.array([1.0]), 0)


def test_a_shift_is_seen_by_the_tests() -> None:
    values = p_values(0, num_calibration=100, num_photos=200, shift=1.0)
    assert reject_share(values, 100, rate=0.05).p_value < 1e-4
    assert uniformity(values, 100)[1] < 1e-6


def test_expected_counts_hold_nearly_all_bins() -> None:
    inside = []
    for seed in range(60):
        values = p_values(seed, num_calibration=99, num_photos=300)
        counts = np.histogram(gaps(values, 99) // 10, np.arange(11))[0]
        inside += [
            low <= k <= high for k, (_, low, high) in zip(counts, expected_counts(300, 99, num_bins=10), strict=True)
        ]
    assert 0.92 <= np.mean(inside) <= 0.99
    assert expected_counts(300, 99, num_bins=10)[0][0] == pytest.approx(30)
    assert sum(mean for mean, _, _ in expected_counts(7, 26, num_bins=10)) == pytest.approx(7)


def test_the_watch_bets_as_the_paper_says() -> None:
    """The simple jumper in plain loops, on the p-values of Pólya's urn, against the class."""
    values = p_values(1, num_calibration=9, num_photos=50, shift=0.5)
    watch, random = Watch(9, seed=4), np.random.default_rng(4)
    balls = [1] * 10
    capital = {rate: {-1: 1 / 15, 0: 1 / 15, 1: 1 / 15} for rate in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
    for value in values:
        gap = round(value * 10) - 1
        p = (sum(balls[:gap]) + random.random() * balls[gap]) / sum(balls)
        balls[gap] += 1
        for rate, of in capital.items():
            total = sum(of.values())
            for side in of:
                of[side] = ((1 - rate) * of[side] + rate * total / 3) * (1 + side * (p - 0.5))
        watch.see(float(value))
        assert watch.evidence == pytest.approx(math.log10(sum(sum(of.values()) for of in capital.values())))
    assert watch.num_photos == 50


def test_the_watch_stays_quiet_while_nothing_changes() -> None:
    """Of 300 services that look at 600 photos each, no more than the bound allows ever see 20; one per mille, 1000."""
    highest = []
    for seed in range(300):
        watch = Watch(30, seed=seed)
        watch.see_all(p_values(seed, num_calibration=30, num_photos=600).tolist())
        highest.append(watch.highest)
    assert np.mean(np.array(highest) >= math.log10(20)) <= 0.05
    assert sum(value >= math.log10(ALARM) for value in highest) <= 2
    assert np.mean(highest) > 0  # some luck is normal


def test_the_watch_alarms_on_a_shift_and_remembers_when() -> None:
    delays = []
    for seed in range(20):
        before = p_values(seed, num_calibration=100, num_photos=300)
        random = np.random.default_rng(seed)
        calibration = Calibration(random.normal(size=100))
        watch = Watch(100, seed=seed)
        watch.see_all(before.tolist())
        assert watch.alarm_at is None
        watch.see_all(calibration.p_values(random.normal(1.5, size=200)).tolist())
        assert watch.alarm_at is not None
        delays.append(watch.alarm_at - 300)
        watch.see_all(before.tolist())
        assert watch.alarm_at == delays[-1] + 300
    assert 5 < np.median(delays) < 80


def test_the_same_photos_give_the_same_evidence_and_capital_never_overflows() -> None:
    values = p_values(5, num_calibration=20, num_photos=40).tolist()
    assert Watch(20).see_all(values) == Watch(20).see_all(values)
    extreme = Watch(1000)
    evidence = extreme.see_all([1 / 1001] * 3000)
    assert all(later > earlier for earlier, later in pairwise(evidence[:100]))
    assert np.isfinite(evidence).all() and evidence[-1] > 100
