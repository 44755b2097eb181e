from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsClassifier

from inlier.features import separation
from inlier.features.separation import effective_rank, separate


def clusters(num_photos: int = 90, *, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Three labels that overlap."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(3, size=num_photos)
    return (rng.normal(size=(3, 6))[numbers] + rng.normal(size=(num_photos, 6))).astype(np.float32), [
        "abc"[number] for number in numbers
    ]


def slowly(embeddings, labels, groups, num_neighbors):
    """Votes and silhouettes as the docstring says them, a photo at a time."""
    found = {}
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if labels[j] and j != i and (groups[j] != groups[i] or not groups[i])]
        known = {labels[j] for j in others}
        if not label or label not in known or len(known) < 2:
            continue
        far = {j: float(np.linalg.norm(embeddings[i].astype(float) - embeddings[j].astype(float))) for j in others}
        votes = [labels[j] for j in sorted(others, key=far.__getitem__)[:num_neighbors]]
        winner = max(votes, key=Counter(votes).__getitem__)  # the first among equals, which is the nearest
        mean = {of: np.mean([far[j] for j in others if labels[j] == of]) for of in known}
        a, b = mean[label], min(mean[of] for of in known - {label})
        found[i] = winner == label, (b - a) / max(a, b)
    return found


def test_photos_of_their_own_are_measured_as_scikit_learn_does(monkeypatch):
    embeddings, labels = clusters()
    found = separate(embeddings, labels, [""] * 90, num_neighbors=1)
    assert found.photos.tolist() == list(range(90))
    np.testing.assert_allclose(found.silhouettes, silhouette_samples(embeddings.astype(float), labels), atol=1e-12)
    left_out = [
        KNeighborsClassifier(1).fit(np.delete(embeddings, i, 0), np.delete(labels, i)).predict(embeddings[i : i + 1])[0]
        for i in range(90)
    ]
    assert found.is_found.tolist() == [guess == label for guess, label in zip(left_out, labels, strict=True)]
    monkeypatch.setattr(separation, "_CHUNK_BYTES", 5000)
    chunked = separate(embeddings, labels, [""] * 90, num_neighbors=1)
    np.testing.assert_allclose(chunked.silhouettes, found.silhouettes, atol=1e-12)
    np.testing.assert_array_equal(chunked.is_found, found.is_found)


@pytest.mark.parametrize("num_neighbors", [1, 4, 5, 200])
def test_photos_of_a_group_do_not_judge_one_another(num_neighbors):
    embeddings, labels = clusters()
    rng = np.random.default_rng(1)
    groups = [f"visit {rng.integers(12)}" if rng.random() < 0.7 else "" for _ in labels]
    labels = [label if rng.random() < 0.9 else "" for label in labels]
    found = separate(embeddings, labels, groups, num_neighbors=num_neighbors)
    expected = slowly(embeddings, labels, groups, num_neighbors)
    assert found.photos.tolist() == list(expected)
    assert found.is_found.tolist() == [is_found for is_found, _ in expected.values()]
    np.testing.assert_allclose(found.silhouettes, [silhouette for _, silhouette in expected.values()], atol=1e-9)


def test_copies_flatter_nobody():
    rng = np.random.default_rng(0)
    embeddings = np.repeat(rng.normal(size=(40, 5)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.choice(["a", "b"], 40), 2).tolist()
    assert separate(embeddings, labels, [""] * 80, num_neighbors=1).is_found.all()
    groups = np.repeat([f"part {i}" for i in range(40)], 2).tolist()
    assert 0.2 < separate(embeddings, labels, groups, num_neighbors=1).is_found.mean() < 0.8


def test_who_cannot_be_judged_is_left_out():
    embeddings = np.arange(6, dtype=np.float32)[:, None]
    one_label = separate(embeddings, ["a"] * 6, [""] * 6)
    assert one_label.photos.tolist() == one_label.silhouettes.tolist() == one_label.is_found.tolist() == []
    no_label = separate(embeddings, [""] * 6, [""] * 6)
    assert no_label.photos.tolist() == []
    # "b" is known from one group only, so nobody could say it of its own photos; it still speaks against others.
    found = separate(embeddings, ["a", "a", "b", "b", "a", "a"], ["1", "2", "3", "3", "4", "5"], num_neighbors=1)
    assert found.photos.tolist() == [0, 1, 4, 5]


def test_photos_all_alike_lie_on_the_border():
    found = separate(np.ones((4, 3), dtype=np.float32), ["a", "a", "b", "b"], [""] * 4)
    assert found.silhouettes.tolist() == [0, 0, 0, 0]


def test_the_effective_rank_is_that_of_the_paper():
    embeddings = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    singular = np.linalg.svd(embeddings.astype(float), compute_uv=False)
    assert effective_rank(embeddings) == pytest.approx(np.exp(entropy(singular / singular.sum())), rel=1e-5)
    assert effective_rank(np.eye(5, dtype=np.float32)) == pytest.approx(5, abs=1e-4)
    assert effective_rank(np.outer(np.arange(1, 9), np.ones(4)).astype(np.float32)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.zeros((3, 4), dtype=np.float32)) == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"labels and groups of separate must be one for each of 3 .* got 2 and 3\."):
        separate(np.ones((3, 2), dtype=np.float32), ["a", "b"], [""] * 3)
    with pytest.raises(ValueError, match=r"num_neighbors of separate must be at least 1, got 0\."):
        separate(np.ones((3, 2), dtype=np.float32), ["a", "b", "a"], [""] * 3, num_neighbors=0)
