from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from inlier.decision.agreement import cohen_kappa, fleiss_kappa

# 14 raters sort 10 subjects into 5 categories: the table with which Fleiss' kappa is commonly explained, after
# Fleiss, Psychological Bulletin 1971; P = 0.378, E = 0.213, kappa = 0.210
TABLE = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)


def test_fleiss_kappa_of_the_worked_example() -> None:
    found = fleiss_kappa(TABLE)
    assert found is not None
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert found.low < found.value < found.high < 0.6
    assert fleiss_kappa(TABLE[::-1]) == found  # photos have no order
    assert fleiss_kappa(TABLE) == found  # nor does chance


def test_fleiss_kappa_by_hand_where_not_all_have_rated() -> None:
    # P: of the pairs on each photo 1 of 1, 1 of 3, 0 of 1 agree; E: of 7 choices 4 and 3
    ratings = np.array([[2, 0], [1, 2], [1, 1], [1, 0]])  # the last one has one rating, and does not count
    agreed, by_chance = (1 + 1 / 3 + 0) / 3, (4 / 7) ** 2 + (3 / 7) ** 2
    found = fleiss_kappa(ratings)
    assert found is not None
    assert found.value == pytest.approx((agreed - by_chance) / (1 - by_chance))


@pytest.mark.parametrize("seed", range(5))
def test_cohen_kappa_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(3, size=60)
    second = np.where(rng.random(60) < 0.6, first, rng.integers(3, size=60))
    found = cohen_kappa(first, second)
    assert found is not None
    assert found.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.low < found.value < found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(
        200
    ):  # both right with probability 0.8 on an even question: kappa is 0.8^2 + 0.2^2 = 0.68 -> 0.36
        truth = rng.integers(2, size=120)
        first, second = (np.where(rng.random(120) < 0.8, truth, 1 - truth) for _ in range(2))
        found = cohen_kappa(first, second, num_resamples=400, seed=seed)
        assert found is not None
        covered += found.low <= 0.36 <= found.high
    assert 180 <= covered <= 199


def test_full_agreement_is_as_sure_as_photos_are_many() -> None:
    few, many = (cohen_kappa(np.arange(n) % 2, np.arange(n) % 2) for n in (6, 600))
    assert few is not None and many is not None
    assert (few.value, few.high) == (many.value, many.high) == (1.0, 1.0)
    assert few.low == pytest.approx((0.025 ** (1 / 6) - 0.5) / 0.5)
    assert few.low < 0.2 < 0.98 < many.low


def test_what_is_not_defined_is_none_and_what_is_wrong_is_refused() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert cohen_kappa(nothing, nothing) is None
    assert cohen_kappa(np.ones(5, dtype=np.int64), np.ones(5, dtype=np.int64)) is None
    assert fleiss_kappa(np.array([[1, 0], [0, 1]])) is None
    assert fleiss_kappa(np.array([[3, 0], [2, 0]])) is None
    with pytest.raises(ValueError, match=r"must have one shape \(N,\), got \(2,\), \(3,\)"):
        cohen_kappa(np.arange(2), np.arange(3))
    with pytest.raises(ValueError, match="must be at least 0"):
        cohen_kappa(np.array([-1, 0]), np.array([0, 0]))
    with pytest.raises(ValueError, match=r"must have shape \(N, C\) and be at least 0"):
        fleiss_kappa(np.array([[-1, 3]]))
