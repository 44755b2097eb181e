from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from inlier.errors import MissingExtraError
from inlier.features.arrangement import NUM_STEPS, arrange, check_extra, fitting_perplexity, turn_onto


def clusters(num_photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Four far clusters in twenty dimensions."""
    rng = np.random.default_rng(0)
    numbers = np.arange(num_photos) % 4
    return (8 * rng.normal(size=(4, 20))[numbers] + rng.normal(size=(num_photos, 20))).astype(np.float32), numbers


def test_clusters_stay_together():
    embeddings, numbers = clusters(120)
    places = arrange(embeddings, perplexity=10, seed=0)
    assert places.shape == (120, 2)
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-9)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * 120)
    assert (numbers[distances.argmin(axis=1)] == numbers).all()


def test_the_same_seed_gives_the_same_map_and_the_steps_are_told():
    embeddings, _ = clusters(60)
    told: list[int] = []
    first = arrange(embeddings, perplexity=30, seed=3, advance=told.append)
    np.testing.assert_array_equal(first, arrange(embeddings, perplexity=30, seed=3))
    assert sum(told) == NUM_STEPS and len(told) > 10


@pytest.mark.parametrize("num_photos", [1, 2, 3, 6, 7, 8, 20])
def test_few_photos_are_arranged_too(num_photos):
    told: list[int] = []
    places = arrange(clusters(num_photos)[0], perplexity=30, seed=0, advance=told.append)
    assert places.shape == (num_photos, 2) and np.isfinite(places).all()
    assert sum(told) == NUM_STEPS
    assert len(np.unique(places.round(6), axis=0)) == num_photos


def test_very_few_lie_by_their_principal_components():
    embeddings, _ = clusters(6)
    expected = PCA(2).fit_transform(embeddings.astype(float))
    np.testing.assert_allclose(np.abs(arrange(embeddings, perplexity=30, seed=0)), np.abs(expected), atol=1e-6)


def test_photos_that_are_all_alike_are_no_trouble():
    alike = np.ones((40, 5), dtype=np.float32)
    assert np.isfinite(arrange(alike, perplexity=30, seed=0)).all()
    assert np.isfinite(arrange(alike[:3], perplexity=30, seed=0)).all()
    assert np.isfinite(arrange(np.ones((3, 1), dtype=np.float32), perplexity=30, seed=0)).all()


def test_the_perplexity_is_what_the_photos_allow():
    assert fitting_perplexity(30, 1000) == 30
    assert fitting_perplexity(30, 7) == 2
    with pytest.raises(ValueError, match=r"perplexity of arrange must be greater than 0, got 0\."):
        arrange(clusters(20)[0], perplexity=0, seed=0)


def test_a_map_is_turned_and_mirrored_onto_another():
    places = np.random.default_rng(0).normal(size=(30, 2))
    turn = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]]) @ np.diag([1, -1])
    np.testing.assert_allclose(turn_onto(places @ turn, places), places, atol=1e-12)
    np.testing.assert_allclose(turn_onto(3 * places @ turn, places), 3 * places, atol=1e-12)  # its size stays


def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(MissingExtraError, match=r"openTSNE, .* install it with: pip install 'inlier\[map\]'$"):
        check_extra()
