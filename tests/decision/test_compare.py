from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inlier.decision.compare import LEVEL, _resampled_aurocs, compare_aurocs, delong, holm
from inlier.decision.intervals import bootstrap, draw_resamples
from inlier.decision.metrics import image_auroc


def draw(
    rng: np.random.Generator,
    num_normal: int,
    num_anomalous: int,
    aurocs: tuple[float, ...] = (0.8, 0.8),
    *,
    size: int = 1,
    is_mixed: bool = False,
    shared: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores of models with these AUROCs on photos in groups of one size, half of whose variance is the groups'.

    Part of what makes a photo hard is hard for all models.
    """
    is_anomalous = np.arange(num_normal + num_anomalous) >= num_normal
    part = np.arange(len(is_anomalous)) // size
    if is_mixed:
        part = np.arange(len(is_anomalous)) % (len(is_anomalous) // size)

    def noise(num_rows: int) -> np.ndarray:
        of_photos = rng.normal(size=(num_rows, len(part)))
        if size == 1:
            return of_photos
        return (of_photos + rng.normal(size=(num_rows, part.max() + 1))[:, part]) / np.sqrt(2)

    shift = np.sqrt(2) * stats.norm.ppf(np.array(aurocs))[:, None]
    scores = np.sqrt(shared) * noise(1) + np.sqrt(1 - shared) * noise(len(aurocs)) + shift * is_anomalous
    return scores, is_anomalous, [""] * len(part) if size == 1 else [f"part {i}" for i in part]


def delong_slowly(scores: np.ndarray, is_anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong et al. 1988, equations 4 to 6, pair by pair: theta, and S10 / m + S01 / n."""
    num_models, m, n = len(scores), int(is_anomalous.sum()), int((~is_anomalous).sum())
    v10, v01 = np.zeros((num_models, m)), np.zeros((num_models, n))
    for r in range(num_models):
        for i, x in enumerate(scores[r, is_anomalous]):
            for j, y in enumerate(scores[r, ~is_anomalous]):
                psi = 1.0 if y < x else 0.5 if y == x else 0.0
                v10[r, i] += psi / n
                v01[r, j] += psi / m
    theta = v10.mean(axis=1)
    s10, s01 = np.zeros((2, num_models, num_models))
    for r in range(num_models):
        for s in range(num_models):
            s10[r, s] = sum((v10[r, i] - theta[r]) * (v10[s, i] - theta[s]) for i in range(m)) / (m - 1)
            s01[r, s] = sum((v01[r, j] - theta[r]) * (v01[s, j] - theta[s]) for j in range(n)) / (n - 1)
    return theta, s10 / m + s01 / n


def obuchowski_slowly(scores: np.ndarray, is_anomalous: np.ndarray, groups: list[str]) -> float:
    """Obuchowski 1997, equations 3 to 5, of one model: the variance of its AUROC over clusters."""
    normal, anomalous = scores[~is_anomalous], scores[is_anomalous]
    above = np.array([np.mean((normal < x) + 0.5 * (normal == x)) for x in anomalous])
    below = np.array([np.mean((anomalous > y) + 0.5 * (anomalous == y)) for y in normal])
    theta, m, n = above.mean(), len(above), len(below)
    names = np.array(groups)
    s10 = s01 = s11 = 0.0
    with_both = sorted(set(groups))
    of_anomalous, of_normal = set(names[is_anomalous]), set(names[~is_anomalous])
    for name in with_both:
        x_part = (above[names[is_anomalous] == name] - theta).sum()
        y_part = (below[names[~is_anomalous] == name] - theta).sum()
        s10, s01, s11 = s10 + x_part**2, s01 + y_part**2, s11 + x_part * y_part
    num_x, num_y, num_all = len(of_anomalous), len(of_normal), len(with_both)
    s10, s01 = s10 * num_x / ((num_x - 1) * m), s01 * num_y / ((num_y - 1) * n)
    return s10 / m + s01 / n + 2 * s11 * num_all / (num_all - 1) / (m * n)


@pytest.mark.parametrize("num_levels", [4, 1000])
def test_delong_agrees_with_the_equations_of_the_paper(num_levels: int) -> None:
    rng = np.random.default_rng(0)
    is_anomalous = rng.random(40) < 0.4
    scores = rng.integers(num_levels, size=(3, 40)) + is_anomalous * np.array([[1.0], [2.0], [0.0]])
    aurocs, covariance = delong(scores, is_anomalous, [""] * 40)
    theta, expected = delong_slowly(scores, is_anomalous)
    assert aurocs == pytest.approx(theta, abs=1e-12)
    assert covariance == pytest.approx(expected, abs=1e-12)


def test_delong_of_three_photos_worked_out_by_hand() -> None:
    # Normal 1, 3 and anomalous 2, 4: the placements are 1/2, 1 of the anomalous and 1, 1/2 of the normal photos, so
    # that both variances are 1/8 and that of the AUROC 1/16 + 1/16.
    aurocs, covariance = delong(np.array([[1.0, 3.0, 2.0, 4.0]]), np.array([False, False, True, True]), [""] * 4)
    assert (aurocs.tolist(), covariance.tolist()) == ([0.75], [[pytest.approx(0.125)]])


@pytest.mark.parametrize("is_mixed", [False, True])
def test_the_variance_of_groups_of_one_size_is_obuchowskis(is_mixed: bool) -> None:
    scores, is_anomalous, groups = draw(np.random.default_rng(1), 40, 40, size=4, is_mixed=is_mixed)
    _, covariance = delong(scores, is_anomalous, groups)
    for row, variance in zip(scores, np.diag(covariance), strict=True):
        assert variance == pytest.approx(obuchowski_slowly(row, is_anomalous, groups), rel=1e-9)


def test_the_variance_of_other_groups_is_that_of_leaving_each_out() -> None:
    scores, is_anomalous, _ = draw(np.random.default_rng(2), 30, 20)
    groups = [f"{flag} {min(i % 25, 6)}" for i, flag in enumerate(is_anomalous)]
    aurocs, covariance = delong(scores, is_anomalous, groups)
    names = np.array(groups)
    for row, auroc, variance in zip(scores, aurocs, np.diag(covariance), strict=True):
        expected = 0.0
        for flag in (False, True):
            labels = np.unique(names[is_anomalous == flag])
            without = [image_auroc(row[names != name], is_anomalous[names != name]) for name in labels]
            expected += (len(labels) - 1) / len(labels) * sum((value - auroc) ** 2 for value in without)
        assert variance == pytest.approx(expected, rel=1e-9)


def test_one_group_of_a_label_tells_nothing_of_how_it_varies() -> None:
    scores, is_anomalous, _ = draw(np.random.default_rng(3), 20, 10)
    aurocs, covariance = delong(scores, is_anomalous, ["part" if flag else "" for flag in is_anomalous])
    assert aurocs.tolist() == [image_auroc(row, is_anomalous) for row in scores]
    assert np.isnan(covariance).all()


def test_holms_correction_worked_out_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1: 0.04, 0.06, then never less.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]


def test_many_photos_give_delongs_test() -> None:
    scores, is_anomalous, groups = draw(np.random.default_rng(4), 700, 500, (0.80, 0.83))
    _, (found,) = compare_aurocs(scores, is_anomalous, groups)
    theta, covariance = delong_slowly(scores, is_anomalous)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    expected = 2 * stats.norm.sf(abs(theta[1] - theta[0]) / error)
    assert (found.ahead, found.behind) == (1, 0)
    assert found.gain.value == pytest.approx(theta[1] - theta[0])
    assert found.delong_p == pytest.approx(expected, rel=1e-9)
    assert found.p_value == found.p_holm == pytest.approx(expected, rel=0.1)
    assert found.bootstrap_p == pytest.approx(expected, abs=0.02)
    assert found.gain.low == pytest.approx(found.gain.value - 1.962 * error, rel=0.01)
    assert found.gain.high == pytest.approx(found.gain.value + 1.96 * error, rel=0.05)
    assert found.resampled.low == pytest.approx(found.gain.low, abs=0.2 * error)
    assert found.resampled.high == pytest.approx(found.gain.high, abs=0.2 * error)


def test_each_auroc_has_the_interval_it_has_alone() -> None:
    scores, is_anomalous, groups = draw(np.random.default_rng(5), 30, 20, (0.7, 0.8, 0.9))
    singles, differences = compare_aurocs(scores, is_anomalous, groups, seed=3)
    assert singles == [bootstrap(image_auroc, row, is_anomalous, groups, seed=3) for row in scores]
    assert {frozenset((of.ahead, of.behind)) for of in differences} == {frozenset(p) for p in ((0, 1), (0, 2), (1, 2))}
    assert [of.p_holm for of in differences] == holm([of.p_value for of in differences])


def test_resamples_are_drawn_once_for_all_models() -> None:
    scores, is_anomalous, groups = draw(np.random.default_rng(14), 12, 12, (0.7, 0.9), size=3)
    scores = np.round(scores)
    resampled = _resampled_aurocs(scores, is_anomalous, groups, 300, 5)
    order = np.lexsort((*scores, groups, is_anomalous))
    names = np.array(groups)[order]
    for row, times in zip(resampled, draw_resamples(is_anomalous[order], names, 300, 5), strict=True):
        drawn = order[np.repeat(np.arange(24), times)]
        assert row == pytest.approx([image_auroc(of_model[drawn], is_anomalous[drawn]) for of_model in scores])


def test_a_model_does_not_differ_from_itself() -> None:
    scores, is_anomalous, groups = draw(np.random.default_rng(6), 20, 20, (0.8,))
    _, (found,) = compare_aurocs(np.tile(scores, (2, 1)), is_anomalous, groups)
    assert found.is_same and not found.is_real
    assert (found.gain.low, found.gain.value, found.gain.high) == (0, 0, 0)
    assert found.p_value == found.p_holm == found.delong_p == found.bootstrap_p == 1


@pytest.mark.parametrize(("num_normal", "num_anomalous"), [(1, 30), (30, 1), (5, 5), (40, 60)])
def test_two_perfect_models_are_equal_as_far_as_the_rarer_photos_can_tell(num_normal: int, num_anomalous: int) -> None:
    is_anomalous = np.arange(num_normal + num_anomalous) >= num_normal
    scores = np.stack([np.arange(float(len(is_anomalous))), 2.0 * is_anomalous])
    _, (found,) = compare_aurocs(scores, is_anomalous, [""] * len(is_anomalous))
    assert not found.is_same and not found.is_real
    expected = 1 - 0.025 ** (1 / min(num_normal, num_anomalous))
    assert (found.gain.low, found.gain.high) == pytest.approx((-expected, expected))
    assert found.p_value == 1


@pytest.mark.parametrize(("num_photos", "is_real"), [(1, False), (5, False), (6, True), (50, True)])
def test_a_model_that_tells_nothing_apart_is_worse_if_there_are_photos_to_say_so(
    num_photos: int, is_real: bool
) -> None:
    # Every photo gains the same, so nothing varies; six heads in a row are the first that a sign test believes.
    is_anomalous = np.arange(2 * num_photos) >= num_photos
    scores = np.stack([np.zeros(2 * num_photos), 1.0 * is_anomalous])
    _, (found,) = compare_aurocs(scores, is_anomalous, [""] * len(is_anomalous))
    assert found.gain.value == 0.5
    assert found.is_real == is_real == (found.gain.low > 0)


def test_one_anomalous_photo_or_one_group_decides_nothing() -> None:
    scores, is_anomalous, _ = draw(np.random.default_rng(7), 60, 30, (0.5, 0.999), shared=0.0)
    in_one_part = ["part" if flag else "" for flag in is_anomalous]
    chosen = np.arange(61)
    for few in ((scores[:, chosen], is_anomalous[chosen], [""] * 61), (scores, is_anomalous, in_one_part)):
        _, (found,) = compare_aurocs(*few)
        assert found.p_value == 1
        assert found.gain.low <= 0 and found.gain.high > 0.9
    _, (found,) = compare_aurocs(scores, is_anomalous, [""] * 90)
    assert found.is_real


def test_a_group_with_most_of_the_photos_is_not_its_own_measure() -> None:
    rng = np.random.default_rng(8)
    is_anomalous = np.arange(300) >= 150
    main = is_anomalous & (np.arange(300) < 290)
    scores = rng.normal(size=(2, 300)) + np.stack([1.5 * is_anomalous, 1.5 * is_anomalous + 0.7 * main])
    _, (alone,) = compare_aurocs(scores, is_anomalous, [""] * 300)
    _, (found,) = compare_aurocs(scores, is_anomalous, ["main" if flag else "" for flag in main])
    assert alone.is_real and not found.is_real


def test_photos_of_one_part_count_once() -> None:
    scores, is_anomalous, _ = draw(np.random.default_rng(9), 60, 40, (0.8, 0.85))
    _, (alone,) = compare_aurocs(scores, is_anomalous, [""] * 100)
    thrice = np.tile(scores, 3), np.tile(is_anomalous, 3)
    _, (grouped,) = compare_aurocs(*thrice, [str(i) for i in range(100)] * 3)
    _, (pretended,) = compare_aurocs(*thrice, [""] * 300)
    assert grouped.gain.value == pytest.approx(alone.gain.value)
    assert grouped.p_value == pytest.approx(alone.p_value, rel=0.02)
    assert pretended.p_value < 0.3 * alone.p_value
    assert grouped.delong_p == pretended.delong_p


def test_few_disagreements_agree_with_mcnemars_exact_test() -> None:
    # Of 40 anomalous photos the second model finds k that the first ranks below all normal ones.
    is_anomalous = np.arange(80) >= 40
    for k in (1, 2, 3, 4, 6, 7, 9, 12):  # at 5, exactly 0.0625, it is just below 0.05
        scores = np.stack([np.where(np.arange(80) >= 80 - k, -1.0, is_anomalous), 1.0 * is_anomalous])
        _, (found,) = compare_aurocs(scores, is_anomalous, [""] * 80)
        assert found.is_real == (2 * 0.5**k <= 0.05), k


def test_a_perfect_model_may_be_ahead_by_all_that_the_other_may_lack() -> None:
    # Its own interval ends at 1, and it does not vary with the other: MOVER leaves the other's lower end alone.
    is_anomalous = np.arange(100) >= 60
    scores = np.stack([np.arange(100.0), np.where(np.arange(100) % 15 < 10, np.arange(100.0), 30.5)])
    (_, behind), (found,) = compare_aurocs(scores, is_anomalous, [""] * 100)
    assert (found.ahead, found.gain.value) == (0, pytest.approx(1 - behind.value))
    assert found.gain.high == pytest.approx(1 - behind.low)
    assert found.gain.high - found.gain.value > 1.05 * (found.gain.value - found.gain.low)


def test_the_interval_excludes_zero_where_the_test_says_so() -> None:
    rng = np.random.default_rng(10)
    num_real = 0
    for trial in range(60):
        size = (1, 5)[trial % 2]
        aurocs = (0.8, float(rng.uniform(0.8, 0.95)))
        _, (found,) = compare_aurocs(*draw(rng, 40, 30, aurocs, size=size), num_resamples=20)
        assert (found.gain.low > 0) == found.is_real
        num_real += found.is_real
    assert 5 < num_real < 55


def test_same_seed_same_result_in_any_photo_order() -> None:
    rng = np.random.default_rng(11)
    scores, is_anomalous, groups = draw(rng, 40, 40, (0.7, 0.8, 0.8), size=4, is_mixed=True)
    groups = [group if i % 3 else "" for i, group in enumerate(groups)]
    order = rng.permutation(80)
    first = compare_aurocs(scores, is_anomalous, groups, num_resamples=200)
    mixed = compare_aurocs(scores[:, order], is_anomalous[order], [groups[i] for i in order], num_resamples=200)
    assert first[0] == mixed[0]
    for one, other in zip(first[1], mixed[1], strict=True):
        assert (one.ahead, one.behind, one.resampled) == (other.ahead, other.behind, other.resampled)
        assert one.p_value == pytest.approx(other.p_value)
    assert first != compare_aurocs(scores, is_anomalous, groups, num_resamples=200, seed=1)


@settings(deadline=None, max_examples=60)
@given(
    normal=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
    anomalous=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
    size=st.integers(1, 4),
)
def test_whatever_the_scores_all_is_in_range(
    normal: list[tuple[int, int]], anomalous: list[tuple[int, int]], size: int
) -> None:
    scores = np.array(normal + anomalous, dtype=np.float64).T
    is_anomalous = np.arange(scores.shape[1]) >= len(normal)
    groups = [str(i // size) if i % 3 else "" for i in range(scores.shape[1])]
    _, (found,) = compare_aurocs(scores, is_anomalous, groups, num_resamples=20)
    assert -1 <= found.gain.low <= found.gain.value <= found.gain.high <= 1
    assert 0 <= found.gain.value
    assert all(0 <= p <= 1 for p in (found.p_value, found.p_holm, found.delong_p, found.bootstrap_p))
    assert found.is_real == (found.gain.low > 0)


def test_arrays_that_do_not_fit_are_refused() -> None:
    scores, flags, groups = np.zeros((2, 4)), np.arange(4) >= 2, [""] * 4
    shapes = r"scores and is_anomalous of delong must have shapes \(K, N\) and \(N,\), got \(2, 4\) and \(3,\)\."
    with pytest.raises(ValueError, match=shapes):
        delong(scores, flags[:3], groups)
    with pytest.raises(ValueError, match=r"is_anomalous of delong must be bool, got int64\."):
        delong(scores, np.arange(4), groups)
    with pytest.raises(ValueError, match=r"groups of delong must be one for each of 4 photos, got 3\."):
        delong(scores, flags, groups[:3])
    with pytest.raises(ValueError, match=r"scores of compare_aurocs must be finite, got 2 of 8 that are not\."):
        compare_aurocs(np.where(np.arange(4) == 1, np.nan, scores), flags, groups)
    with pytest.raises(ValueError, match=r"delong needs at least one normal and one anomalous photo, got 0 and 4\."):
        delong(scores, flags | True, groups)
    with pytest.raises(ValueError, match=r"scores of compare_aurocs must be of at least 2 models, got 1\."):
        compare_aurocs(scores[:1], flags, groups)
    with pytest.raises(ValueError, match=r"num_resamples of bootstrap must be at least 1, got 0\."):
        compare_aurocs(scores, flags, groups, num_resamples=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "auroc", "size", "is_mixed", "most"),
    [
        (60, 60, 0.8, 1, False, 0.07),
        (50, 5, 0.8, 1, False, 0.07),
        (5, 5, 0.9, 1, False, 0.05),
        (40, 40, 0.98, 1, False, 0.05),
        (60, 60, 0.8, 5, False, 0.07),
        (60, 60, 0.8, 5, True, 0.07),
        (20, 20, 0.8, 5, False, 0.07),
    ],
)
def test_equal_models_are_rarely_called_different(
    num_normal: int, num_anomalous: int, auroc: float, size: int, is_mixed: bool, most: float
) -> None:
    rng = np.random.default_rng(12)
    num_trials = 600
    num_real = {"grouped": 0, "published": 0}
    for _ in range(num_trials):
        photos = draw(rng, num_normal, num_anomalous, (auroc, auroc), size=size, is_mixed=is_mixed)
        _, (found,) = compare_aurocs(*photos, num_resamples=1)
        num_real["grouped"] += found.is_real
        num_real["published"] += found.delong_p <= 1 - LEVEL
    assert num_real["grouped"] / num_trials <= most
    if (size, num_normal, is_mixed) == (5, 60, False):
        assert num_real["grouped"] / num_trials >= 0.02
        assert num_real["published"] / num_trials > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("aurocs", [(0.8, 0.95), (0.9, 0.99)])
def test_intervals_hold_the_true_gain_however_near_perfect(aurocs: tuple[float, float]) -> None:
    rng = np.random.default_rng(13)
    num_trials = 300
    num_held = 0
    for _ in range(num_trials):
        _, (found,) = compare_aurocs(*draw(rng, 60, 25, aurocs), num_resamples=100)
        truth = (aurocs[1] - aurocs[0]) * (1 if found.ahead == 1 else -1)
        num_held += found.gain.low <= truth <= found.gain.high
    assert num_held / num_trials >= 0.93
