from __future__ import annotations

import doctest
from fractions import Fraction
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlier.decision import calibration
from inlier.decision.calibration import Calibration, num_needed

RATES = st.fractions(Fraction(1, 400), Fraction(399, 400), max_denominator=400)


def _decide(normal: Calibration, scores: np.ndarray, rate: float) -> list[str]:
    return normal.decide(scores, false_alarm_rate=rate, uncertain_rate=0.999)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(calibration).failed == 0
    assert doctest.testmod(calibration).attempted == 3


def test_p_values_by_hand() -> None:
    normal = Calibration(np.array([3.0, 1.0, 2.0, 2.0]))
    p_values = normal.p_values(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0], dtype=np.float32))
    assert p_values.tolist() == [5 / 5, 5 / 5, 4 / 5, 4 / 5, 2 / 5, 1 / 5]


def test_verdicts_by_hand() -> None:
    normal = Calibration(np.arange(9.0))  # p is 0.1 above 8, 0.2 above 7 ...
    verdicts = normal.decide(np.array([8.5, 8.0, 7.0, 6.0, -1.0]), false_alarm_rate=0.1, uncertain_rate=0.3)
    assert verdicts == ["reject", "uncertain", "uncertain", "accept", "accept"]


def test_a_photo_of_which_too_little_was_seen_is_uncertain_at_best() -> None:
    doubts = np.array([True, True, False, True, False])
    verdicts = Calibration(np.arange(9.0)).decide(
        np.array([8.5, 8.0, 7.0, 6.0, -1.0]), false_alarm_rate=0.1, uncertain_rate=0.3, is_doubtful=doubts
    )
    assert verdicts == ["reject", "uncertain", "uncertain", "uncertain", "accept"]


def test_arrays_are_sorted_and_groups_follow_their_scores() -> None:
    normal = Calibration(np.array([3.0, 1.0, 2.0]), groups=np.array(["c", "a", ""]), map_maxima=np.array([0.5, 0.1]))
    assert normal.normal_scores.tolist() == [1.0, 2.0, 3.0]
    assert normal.groups.tolist() == ["a", "", "c"]
    assert normal.map_maxima.tolist() == [0.1, 0.5]
    assert Calibration(np.array([1.0, 2.0])).groups.tolist() == ["", ""]


def test_nineteen_photos_suffice_for_one_in_twenty() -> None:
    above = np.array([100.0])
    assert _decide(Calibration(np.arange(19.0)), above, 0.05) == ["reject"]
    assert _decide(Calibration(np.arange(18.0)), above, 0.05) == ["uncertain"]


@settings(deadline=None)
@given(num_photos=st.integers(1, 400), rate=RATES)
def test_decisions_and_thresholds_agree_with_exact_fractions(num_photos: int, rate: Fraction) -> None:
    normal = Calibration(np.arange(float(num_photos)))
    scores = np.arange(num_photos + 1.0)
    exact = [Fraction(1 + num_photos - i, 1 + num_photos) <= rate for i in range(num_photos + 1)]
    assert [verdict == "reject" for verdict in _decide(normal, scores, float(rate))] == exact
    assert (scores > normal.threshold(float(rate))).tolist() == exact


@settings(deadline=None)
@given(rate=RATES)
def test_the_number_needed_is_the_smallest_that_allows_a_rejection(rate: Fraction) -> None:
    exact = next(n for n in range(1, 1000) if Fraction(1, n + 1) <= rate)
    assert num_needed(float(rate)) == exact
    assert Calibration(np.zeros(exact)).threshold(float(rate)) == 0.0


def test_the_threshold_is_infinite_where_nothing_can_be_rejected() -> None:
    assert Calibration(np.arange(18.0)).threshold(0.05) == inf
    assert Calibration(np.arange(19.0)).threshold(0.05) == 18.0
    assert Calibration(np.arange(39.0)).threshold(0.05) == 37.0


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    rate=st.floats(0.01, 0.99),
)
def test_scores_above_the_threshold_are_those_rejected(scores: list[int], rate: float) -> None:
    normal = Calibration(np.array(scores, dtype=np.float64))
    asked = np.arange(-4.0, 5.0, 0.5)
    rejected = [verdict == "reject" for verdict in _decide(normal, asked, rate)]
    assert rejected == (asked > normal.threshold(rate)).tolist()


def test_p_values_fall_as_scores_rise() -> None:
    rng = np.random.default_rng(0)
    normal = Calibration(rng.normal(size=50).round(1))
    p_values = normal.p_values(np.sort(rng.normal(size=200)))
    assert np.all(np.diff(p_values) <= 0)
    assert p_values.min() >= 1 / 51
    assert p_values.max() <= 1


@pytest.mark.parametrize("num_decimals", [1, 8])
@pytest.mark.parametrize("num_photos", [1, 7, 19, 60])
def test_p_values_of_normal_photos_are_valid(num_photos: int, num_decimals: int) -> None:
    rng = np.random.default_rng(num_photos)
    num_trials = 20_000
    draws = rng.normal(size=(num_trials, num_photos + 1)).round(num_decimals)  # one decimal: heavy ties
    p_values = np.array([Calibration(row[1:]).p_values(row[:1])[0] for row in draws])
    for rate in (0.05, 0.1, 0.2, 0.5, 0.9):
        sampling_error = 3 * np.sqrt(rate * (1 - rate) / num_trials)
        assert np.mean(p_values <= rate) <= rate + sampling_error
        if num_decimals == 8:  # without ties, no rate goes to waste
            assert np.mean(p_values <= rate) >= rate - 1 / (num_photos + 1) - sampling_error


def test_a_photo_scored_again_ties_with_itself_in_either_precision() -> None:
    exact = np.random.default_rng(0).normal(size=500)
    again = exact.astype(np.float32)
    assert np.any(again.astype(np.float64) > exact)
    by_rank = np.arange(501, 1, -1) / 501
    for stored in (exact, again.astype(np.float64)):
        normal = Calibration(stored)
        assert np.array_equal(normal.p_values(np.sort(again)), by_rank)
        assert np.array_equal(normal.p_values(np.sort(exact)), by_rank)
        rejected = [verdict == "reject" for verdict in _decide(normal, again, 0.1)]
        assert rejected == (again > normal.threshold(0.1)).tolist()


def test_the_sentence_of_a_shortage() -> None:
    assert Calibration(np.arange(15.0)).shortage(0.05) == (
        "With 15 calibration photos no photo can be rejected at a false-alarm rate of 0.05; at least 19 are "
        "needed. Add normal photos, or raise --false-alarm-rate to 0.0625 or more."
    )
    assert "With 1 calibration photo no photo" in str(Calibration(np.zeros(1)).shortage(0.05))
    assert Calibration(np.arange(19.0)).shortage(0.05) is None


@pytest.mark.parametrize("num_photos", [*range(1, 60), 999, 12345])
def test_the_rate_that_a_shortage_suggests_is_enough(num_photos: int) -> None:
    normal = Calibration(np.arange(float(num_photos)))
    sentence = normal.shortage(1e-6)
    assert sentence is not None
    suggested = float(sentence.split("--false-alarm-rate to ")[1].split()[0])
    assert normal.shortage(suggested) is None
    assert suggested <= 1.02 / (num_photos + 1)


def test_heat_scale_by_hand() -> None:
    normal = Calibration(np.zeros(1), map_maxima=np.arange(101.0))
    assert normal.heat_scale() == (80.0, 80.0 + 3 * (95.0 - 50.0))


def test_at_most_one_normal_photo_in_five_shows_heat() -> None:
    for num_photos in range(1, 60):
        maxima = np.random.default_rng(num_photos).gamma(2, size=num_photos)
        low, _ = Calibration(np.zeros(1), map_maxima=maxima).heat_scale()
        assert np.count_nonzero(maxima > low) <= num_photos / 5


@pytest.mark.parametrize(
    ("maxima", "scale"),
    [
        ([2.0], (2.0, 2.3)),
        ([-2.0, -2.0], (-2.0, -1.7)),
        ([1.0, 1.0 + 1e-12, 1.0], (1.0, 1.15)),
        ([0.0, 0.0], (0.0, 3.0)),
    ],
)
def test_the_heat_scale_rises_where_maxima_are_equal(maxima: list[float], scale: tuple[float, float]) -> None:
    normal = Calibration(np.zeros(1), map_maxima=np.array(maxima))
    assert normal.heat_scale() == pytest.approx(scale)


def test_without_calibration_photos_nothing_is_rejected_and_it_says_so() -> None:
    nothing = Calibration(np.empty(0))
    scores = np.array([-1e9, 0.0, 1e9])
    assert nothing.p_values(scores).tolist() == [1.0, 1.0, 1.0]
    assert nothing.decide(scores, false_alarm_rate=0.5, uncertain_rate=0.9) == ["accept"] * 3
    assert nothing.threshold(0.5) == np.inf
    note = nothing.shortage(0.05)
    assert note is not None and note.startswith("Nothing was left to calibrate on, so every photo has the p-value 1")
    assert note.endswith("At a false-alarm rate of 0.05 at least 19 normal photos are needed.")


def test_scores_that_cannot_calibrate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normal_scores of Calibration must have shape \(N,\), got \(2, 2\)\."):
        Calibration(np.zeros((2, 2)))
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        with pytest.raises(ValueError, match=r"normal_scores of .* finite as float32, got 1 of 2 that are not\."):
            Calibration(np.array([1.0, bad]))
    with pytest.raises(ValueError, match=r"map_maxima of Calibration must be finite as float32, got 1 of 1"):
        Calibration(np.zeros(1), map_maxima=np.array([np.nan]))
    with pytest.raises(ValueError, match=r"groups of Calibration must be one for each of 2 scores, got 1\."):
        Calibration(np.zeros(2), groups=np.array(["a"]))


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores of Calibration\.p_values must be numbers, got NaN in 1 of 2\."):
        Calibration(np.zeros(1)).p_values(np.array([0.0, np.nan]))


def test_a_score_beyond_float32_is_still_ranked() -> None:
    assert Calibration(np.zeros(1)).p_values(np.array([1e300, -1e300])).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_rates_out_of_range_are_refused(rate: float) -> None:
    normal, scores = Calibration(np.zeros(1)), np.zeros(1)
    with pytest.raises(ValueError, match=r"^false_alarm_rate must be in \(0, 1\), got "):
        normal.decide(scores, false_alarm_rate=rate, uncertain_rate=0.5)
    with pytest.raises(ValueError, match=r"^uncertain_rate must be in \(0, 1\), got "):
        normal.decide(scores, false_alarm_rate=0.5, uncertain_rate=rate)
    for function in (normal.threshold, normal.shortage, num_needed):
        with pytest.raises(ValueError, match=r"^rate must be in \(0, 1\), got "):
            function(rate)


def test_an_uncertain_rate_below_the_false_alarm_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uncertain_rate must be at least the false_alarm_rate, 0\.2, got 0\.1\."):
        Calibration(np.zeros(1)).decide(np.zeros(1), false_alarm_rate=0.2, uncertain_rate=0.1)


def test_a_heat_scale_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heat_scale needs map maxima, got none; .* has no anomaly map\."):
        Calibration(np.zeros(1)).heat_scale()
