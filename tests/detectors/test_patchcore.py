from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from inlier.detectors import patchcore as module
from inlier.detectors.anomaly_map import smooth_map
from inlier.detectors.coreset import CoresetStream, greedy_coreset
from inlier.detectors.patchcore import NUM_EVIDENCE, PatchCore
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.patches import embed_patches

MakeFeatures = Callable[..., FeatureSet]

AS_PUBLISHED: dict[str, Any] = {"distance": "euclidean", "pooling": "max", "is_reweighted": True}


def _maps(num_photos: int, *, seed: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        2: torch.rand(num_photos, 4, 6, 6, generator=generator),
        3: torch.rand(num_photos, 6, 3, 3, generator=generator),
    }


def _patches(maps: dict[int, Tensor], *, is_cosine: bool = False) -> Tensor:
    return embed_patches([maps[2], maps[3]], patch_size=3, is_cosine=is_cosine).flatten(1, 2)  # (B, h*w, D)


def _slow_score(patches: Tensor, bank: Tensor, num_neighbors: int) -> float:
    """Eq. 6 and 7 of Roth et al. (3.1 to 3.3 of the thesis), word by word; patches (h*w, D) of one photo."""
    m_test, m_star, s_star = patches[0], bank[0], -1.0
    for patch in patches:
        nearest = min(bank, key=lambda row: float((patch - row).norm()))
        if (distance := float((patch - nearest).norm())) > s_star:
            m_test, m_star, s_star = patch, nearest, distance
    around = sorted(bank, key=lambda row: float((m_star - row).norm()))[:num_neighbors]
    total = sum(math.exp(float((m_test - row).norm())) for row in around)
    return (1 - math.exp(s_star) / total) * s_star


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize("num_neighbors", [2, 5, 1000])
def test_the_score_as_published_agrees_with_a_slow_transcription(
    num_neighbors: int, make_features: MakeFeatures
) -> None:
    train, test = _maps(4, seed=1), _maps(3, seed=2)
    detector = PatchCore(layers=(2, 3), coreset_ratio=0.3, num_neighbors=num_neighbors, **AS_PUBLISHED)
    score = detector.fit(make_features(train)).predict(test).score
    rows = _patches(train).flatten(0, 1)
    bank = rows[greedy_coreset(rows, math.ceil(0.3 * len(rows))).indices]
    for value, patches in zip(score.tolist(), _patches(test), strict=True):
        assert value == pytest.approx(_slow_score(patches, bank, num_neighbors), rel=1e-4)


@pytest.mark.parametrize(("num_neighbors", "coreset_ratio"), [(1, 1.0), (9, 1e-9)])
def test_a_neighbourhood_of_one_row_does_not_re_weight(
    num_neighbors: int, coreset_ratio: float, make_features: MakeFeatures
) -> None:
    train, test = make_features(_maps(4, seed=1)), _maps(3, seed=2)
    options: dict[str, Any] = {"layers": (2, 3), "coreset_ratio": coreset_ratio, "num_neighbors": num_neighbors}
    score = PatchCore(**options, **AS_PUBLISHED).fit(train).predict(test).score
    plain = PatchCore(**options, distance="euclidean", pooling="max").fit(train).predict(test).score
    assert torch.equal(score, plain)
    assert (score > 0).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("pooling", ["max", "mean", "top"])
def test_the_score_pools_the_distances_to_the_nearest_rows(
    distance: Any, pooling: Any, make_features: MakeFeatures
) -> None:
    train, test = _maps(4, seed=1), _maps(3, seed=2)
    detector = PatchCore(
        layers=(2, 3), distance=distance, pooling=pooling, top_ratio=0.25, coreset_ratio=1.0, map_size=12, sigma=1.0
    )
    prediction = detector.fit(make_features(train)).predict(test)
    is_cosine = distance == "cosine"
    bank = _patches(train, is_cosine=is_cosine).flatten(0, 1).double()
    distances = torch.cdist(_patches(test, is_cosine=is_cosine).double(), bank).amin(dim=2)  # (B, h*w)
    worst = distances.sort(dim=1, descending=True).values
    expected = {"max": worst[:, 0], "mean": distances.mean(dim=1), "top": worst[:, :9].mean(dim=1)}[pooling]
    assert torch.allclose(prediction.score.double(), expected, rtol=1e-4)
    assert prediction.anomaly_map is not None
    expected_map = smooth_map(distances.float().view(3, 6, 6), size=12, sigma=1.0)
    assert torch.allclose(prediction.anomaly_map, expected_map, rtol=1e-3)


@pytest.mark.parametrize(("coreset_ratio", "max_bank_rows", "num_rows"), [(0.1, 99, 15), (0.1, 7, 7), (1.0, 999, 144)])
def test_the_bank_has_as_many_rows_as_asked_for(
    coreset_ratio: float, max_bank_rows: int, num_rows: int, make_features: MakeFeatures
) -> None:
    detector = PatchCore(layers=(2, 3), coreset_ratio=coreset_ratio, max_bank_rows=max_bank_rows)
    detector.fit(make_features(_maps(4, seed=1)))  # 4 photos of 36 patches
    assert detector.memory_bank_.shape == (num_rows, 10)


def test_every_row_of_the_bank_knows_whence_it_came(make_features: MakeFeatures) -> None:
    train = _maps(40, seed=1)  # more than one batch
    detector = PatchCore(layers=(2, 3)).fit(make_features(train))
    patches = _patches(train, is_cosine=True)
    for row, place in zip(detector.memory_bank_, detector.bank_places_.tolist(), strict=True):
        assert torch.allclose(row, patches[place // 36, place % 36], atol=1e-6)


def test_a_small_memory_budget_reduces_patches_as_they_come(make_features: MakeFeatures) -> None:
    train = _maps(200, seed=1)
    budget = 3 * 4 * 10 * 3000  # room for 3000 of 7200 patches, three copies of 4 bytes and width 10
    options: dict[str, Any] = {"layers": (2, 3), "coreset_ratio": 0.1, "distance": "euclidean"}
    features = make_features(train)
    tight = PatchCore(**options, memory_budget_bytes=budget).fit(features)
    roomy = PatchCore(**options).fit(features)
    assert len(tight.memory_bank_) == len(roomy.memory_bank_) == 720
    assert not torch.equal(tight.bank_places_, roomy.bank_places_)
    patches = _patches(train)
    assert torch.allclose(tight.memory_bank_, patches.flatten(0, 1)[tight.bank_places_], atol=1e-6)
    radii = [float(torch.cdist(patches.flatten(0, 1), one.memory_bank_).amin(dim=1).max()) for one in (tight, roomy)]
    assert radii[0] <= 2 * radii[1]


@pytest.mark.parametrize("memory_budget_bytes", [0, 3 * 4 * 10 * 50])
def test_the_budget_goes_before_the_size_of_the_bank(memory_budget_bytes: int, make_features: MakeFeatures) -> None:
    detector = PatchCore(layers=(2, 3), coreset_ratio=1.0, memory_budget_bytes=memory_budget_bytes)
    detector.fit(make_features(_maps(40, seed=1)))
    assert 1 <= len(detector.memory_bank_) <= 25 + 8 * 36  # what is kept, and the last batch


def test_the_worst_patch_is_the_first_evidence(make_features: MakeFeatures) -> None:
    train, test = _maps(5, seed=1), _maps(5, seed=1)
    test[2][4, :, 1, 4] *= torch.tensor([9.0, 1.0, 1.0, 1.0])
    detector = PatchCore(layers=(2,), patch_size=1, coreset_ratio=1.0).fit(make_features(train))
    evidence = detector.predict(test).evidence
    assert evidence is not None
    first = evidence[4][0]
    assert first.box == pytest.approx((4 / 6, 1 / 6, 5 / 6, 2 / 6))
    patches = embed_patches([train[2]], patch_size=1, is_cosine=True).flatten(1, 2)  # (B, h*w, D)
    odd = embed_patches([test[2]], patch_size=1, is_cosine=True)[4, 1, 4]
    distances = (patches - odd).norm(dim=2)
    photo, cell = divmod(int(distances.argmin()), 36)
    assert (first.reference, first.distance) == (photo, pytest.approx(float(distances.min()), rel=1e-4))
    row, column = divmod(cell, 6)
    assert first.reference_box == pytest.approx((column / 6, row / 6, (column + 1) / 6, (row + 1) / 6))
    assert all(reason.distance == pytest.approx(0, abs=1e-3) for reason in evidence[4][1:])
    for place, reasons in enumerate(evidence[:4]):
        assert reasons[0].reference == place  # each of these photos was learned


def test_a_box_is_the_neighbourhood_as_far_as_it_lies_in_the_photo(make_features: MakeFeatures) -> None:
    test = _maps(1, seed=1)
    test[2][0, 0, 0, 0] = 99.0
    detector = PatchCore(layers=(2,), patch_size=3).fit(make_features(_maps(5, seed=1)))
    evidence = detector.predict(test).evidence
    assert evidence is not None
    left, top, right, bottom = evidence[0][0].box
    assert (left, top) == (0.0, 0.0)
    assert (right, bottom) in [pytest.approx((edge / 6, other / 6)) for edge in (2, 3) for other in (2, 3)]


def test_evidence_is_of_places_apart_from_each_other(make_features: MakeFeatures) -> None:
    detector = PatchCore(layers=(2, 3)).fit(make_features(_maps(5, seed=1)))
    for reasons in detector.predict(_maps(4, seed=2)).evidence or ():
        assert 1 < len(reasons) <= NUM_EVIDENCE
        distances = [reason.distance for reason in reasons]
        assert distances == sorted(distances, reverse=True)
        centres = [((r.box[0] + r.box[2]) * 3, (r.box[1] + r.box[3]) * 3) for r in reasons]
        for place, one in enumerate(centres):
            assert all(max(abs(one[0] - other[0]), abs(one[1] - other[1])) > 1 for other in centres[:place])


def test_a_single_cell_has_one_reason(make_features: MakeFeatures) -> None:
    maps = {4: torch.rand(3, 5, 1, 1)}
    evidence = PatchCore(layers=(4,)).fit(make_features(maps)).predict(maps).evidence
    assert evidence is not None
    assert [len(reasons) for reasons in evidence] == [1, 1, 1]
    assert evidence[0][0].box == (0.0, 0.0, 1.0, 1.0)


def test_the_cosine_distance_does_not_see_exposure(make_features: MakeFeatures) -> None:
    test = _maps(3, seed=2)
    darker = {layer: features * 0.5 for layer, features in test.items()}
    fitted = PatchCore(layers=(2, 3)).fit(make_features(_maps(4, seed=1)))
    assert torch.allclose(fitted.predict(test).score, fitted.predict(darker).score, rtol=1e-4)
    published = PatchCore(layers=(2, 3), **AS_PUBLISHED).fit(make_features(_maps(4, seed=1)))
    assert not torch.allclose(published.predict(test).score, published.predict(darker).score, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ()}, r"^layers of PatchCore must be different whole numbers from 1 on, got \[\]\.$"),
        ({"patch_size": 2}, r"^patch_size of PatchCore must be an odd number from 1 on, got 2\.$"),
        ({"patch_size": -1}, r"^patch_size of PatchCore must be an odd number from 1 on, got -1\.$"),
        ({"distance": "dot"}, r"^distance of PatchCore must be one of cosine, euclidean, got 'dot'\.$"),
        ({"pooling": "sum"}, r"^pooling of PatchCore must be one of max, mean, top, got 'sum'\.$"),
        ({"coreset_ratio": 1.5}, r"^coreset_ratio of PatchCore must be in \(0, 1\], got 1\.5\.$"),
        ({"coreset_ratio": math.nan}, r"^coreset_ratio of PatchCore must be in \(0, 1\], got nan\.$"),
        ({"top_ratio": 0.0}, r"^top_ratio of PatchCore must be in \(0, 1\], got 0\.0\.$"),
        ({"max_bank_rows": 0}, r"^max_bank_rows of PatchCore must be at least 1, got 0\.$"),
        ({"num_neighbors": 0}, r"^num_neighbors of PatchCore must be at least 1, got 0\.$"),
        ({"map_size": 0}, r"^map_size of PatchCore must be at least 1, got 0\.$"),
        ({"is_reweighted": True}, r"^is_reweighted of PatchCore goes with pooling 'max' only, got 'top'\.$"),
        ({"sigma": -0.5}, r"^sigma of PatchCore must be at least 0, got -0\.5\.$"),
        ({"sigma": math.nan}, r"^sigma of PatchCore must be at least 0, got nan\.$"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PatchCore(**options)


@pytest.mark.parametrize("part_bytes", [1, 3 * 4 * 10 * 36])
def test_photos_embedded_in_smaller_parts_give_the_same(
    part_bytes: int, make_features: MakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = make_features(_maps(40, seed=1)), _maps(5, seed=2)
    whole = PatchCore(layers=(2, 3), **AS_PUBLISHED).fit(train)
    expected = whole.predict(test)
    monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    parts = PatchCore(layers=(2, 3), **AS_PUBLISHED).fit(train)
    assert torch.equal(parts.memory_bank_, whole.memory_bank_)
    assert torch.equal(parts.bank_places_, whole.bank_places_)
    prediction = parts.predict(test)
    assert torch.allclose(prediction.score, expected.score, rtol=1e-6)
    assert prediction.anomaly_map is not None and expected.anomaly_map is not None
    assert torch.allclose(prediction.anomaly_map, expected.anomaly_map, rtol=1e-6)
    assert [[reason.reference for reason in reasons] for reasons in prediction.evidence or ()] == [
        [reason.reference for reason in reasons] for reasons in expected.evidence or ()
    ]


def test_the_budget_holds_for_stream_and_batch_together(
    make_features: MakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Watched(CoresetStream):
        def append(self, rows: Tensor, tags: Tensor) -> None:
            held.append(len(rows) + sum(len(part) for part in self._rows))
            super().append(rows, tags)

    monkeypatch.setattr(module, "CoresetStream", Watched)
    budget = 400_000
    PatchCore(layers=(2, 3), memory_budget_bytes=budget).fit(make_features(_maps(200, seed=1)))
    maps_bytes = 4 * (4 * 36 + 6 * 9)
    assert 0.5 * budget < max(held) * 2 * 4 * 10 + 20 * maps_bytes <= budget  # joined while the parts are still there
    assert len(held) > 200 / 32  # and the batch was made smaller


def test_a_grid_of_few_cells_is_that_of_the_averaged_maps() -> None:
    maps = {1: torch.rand(6, 4, 12, 16), 2: torch.rand(6, 5, 6, 8)}
    averaged = {layer: torch.nn.functional.adaptive_avg_pool2d(of, (4, 6)) for layer, of in maps.items()}
    settings = {"layers": (1, 2), "coreset_ratio": 1.0}
    with FeatureCache(dtype=torch.float32) as cache, FeatureCache(dtype=torch.float32) as other:
        cache.append(maps, groups=list("abcdef"))
        other.append(averaged, groups=list("abcdef"))
        coarse = PatchCore(**settings, max_cells=27).fit(cache.features())  # 4.5 x 6, rounded down
        expected = PatchCore(**settings).fit(other.features())
    assert torch.equal(coarse.memory_bank_, expected.memory_bank_)
    assert torch.equal(coarse.predict(maps).score, expected.predict(averaged).score)
    assert coarse.cells_and_depth({1: (4, 12, 16), 2: (5, 6, 8)}) == (4 * 6, 9)
    fine = PatchCore(**settings, max_cells=12 * 16)
    assert fine.cells_and_depth({1: (4, 12, 16), 2: (5, 6, 8)}) == (12 * 16, 9)


def test_a_narrow_bank_is_narrow() -> None:
    maps = {1: torch.rand(6, 6, 8, 8)}
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(maps, groups=list("abcdef"))
        detector = PatchCore(layers=(1,), embedding_width=2).fit(cache.features())
    assert detector.memory_bank_.shape[1] == 2 and detector.predict(maps).score.shape == (6,)


@pytest.mark.parametrize("name", ["embedding_width", "max_cells"])
def test_negative_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of PatchCore must be at least 0, got -1"):
        PatchCore(**{name: -1})
