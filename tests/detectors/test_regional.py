from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inlier.detectors.baselines import Baseline
from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Detector
from inlier.detectors.regional import Regional
from inlier.detectors.subspace import PatchSubspace, PhotoSubspace
from inlier.errors import ConfigError, ModelError, NotFittedError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.regions import REGION

DETECTORS: dict[str, Callable[[], Detector]] = {
    "patchcore": lambda: PatchCore(layers=(2, 3), coreset_ratio=1.0, map_size=28),
    "patchcore-max": lambda: PatchCore(layers=(2,), pooling="max", is_reweighted=True, map_size=28),
    "subspace": lambda: PatchSubspace(layers=(2, 3), map_size=28),
    "photo-neighbors": lambda: PhotoNeighbors(layers=(2, 3)),
    "photo-subspace": lambda: PhotoSubspace(layers=(2,)),
    "baseline": lambda: Baseline(layers=(2, 3)),
    "combined": lambda: Combined([PatchCore(layers=(2,), map_size=28), PhotoNeighbors(layers=(3,))]),
}
every_detector = pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)


class LeftHalf:
    """Finds the left half of every photo."""

    layers = (2,)

    def __call__(self, maps: Mapping[int, Tensor]) -> Tensor:
        region = torch.zeros(len(maps[2]), 1, 14, 14)
        region[:, :, :, :7] = 1
        return region


def photos(number: int, *, seed: int) -> dict[int, Tensor]:
    """A part in the middle of a background, both uneven."""
    generator = torch.Generator().manual_seed(seed)
    maps = 0.4 * torch.randn(number, 8, 14, 14, generator=generator)
    maps[:, 1] += 5
    maps[:, :2, 3:11, 3:11] += torch.tensor([5.0, -5.0])[:, None, None]
    return {2: maps, 3: torch.nn.functional.avg_pool2d(maps, 2)}


@pytest.fixture(scope="module")
def features() -> Iterator[FeatureSet]:
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(photos(8, seed=0), groups=list("abcdefgh"))
        yield cache.features()


def odd_at(maps: dict[int, Tensor], rows: slice, columns: slice) -> dict[int, Tensor]:
    changed = maps[2].clone()
    changed[:, 5, rows, columns] += 8
    return {2: changed, 3: torch.nn.functional.avg_pool2d(changed, 2)}


@every_detector
def test_what_lies_outside_neither_teaches_nor_counts(build: Callable[[], Detector], features: FeatureSet) -> None:
    left = LeftHalf()
    detector = build().fit(replace(features, region=left))
    maps = photos(3, seed=1)
    other = odd_at(maps, slice(0, 14), slice(10, 14))  # beyond the reach of neighbourhoods
    within = odd_at(maps, slice(4, 9), slice(1, 4))
    plain, outside, inside = (detector.predict({**of, REGION: left(of)}) for of in (maps, other, within))
    assert torch.allclose(outside.score, plain.score, atol=1e-4)
    assert (inside.score > plain.score + 1e-3).all()
    if plain.anomaly_map is not None:
        assert not plain.anomaly_map[:, :, 14:].any() and plain.anomaly_map[:, :, :14].all()
    for reason in (reason for reasons in inside.evidence or () for reason in reasons):
        assert reason.box == (0, 0, 1, 1) or reason.box[0] < 0.5


def test_the_bank_holds_no_patch_from_outside(features: FeatureSet) -> None:
    bank = PatchCore(layers=(2,), coreset_ratio=1.0).fit(replace(features, region=LeftHalf()))
    assert len(bank.memory_bank_) == 8 * 14 * 7
    assert (bank.bank_places_ % 14 < 7).all() and bank.seen_ is not None and bank.seen_.tolist() == [8, 196]


@every_detector
def test_a_region_of_all_is_as_good_as_none(build: Callable[[], Detector], features: FeatureSet) -> None:
    maps = photos(2, seed=2)
    detector = build().fit(features)
    whole = detector.predict({**maps, REGION: torch.ones(2, 1, 14, 14)})
    plain = detector.predict(maps)
    assert torch.allclose(whole.score, plain.score, atol=1e-4)
    assert plain.anomaly_map is None or torch.allclose(whole.anomaly_map, plain.anomaly_map, atol=1e-5)


@every_detector
def test_only_damage_of_the_part_is_seen(build: Callable[[], Detector], features: FeatureSet) -> None:
    detector = Regional(build()).fit(features)
    maps = photos(4, seed=3)
    damaged, cluttered = odd_at(maps, slice(5, 8), slice(5, 8)), odd_at(maps, slice(0, 1), slice(0, 14))
    plain = detector.predict(maps)
    assert plain.region is not None and plain.region.shape == (4, 14, 14)
    assert plain.region[:, 3:11, 3:11].all() and not plain.region[:, 0].any()
    rise, clutter = (detector.predict(of).score - plain.score for of in (damaged, cluttered))
    assert (rise > 1e-3).all() and (clutter < 0.5 * rise).all()  # a neighbourhood of patches reaches outside


def test_a_photo_without_a_part_is_scored_whole_and_says_so(features: FeatureSet) -> None:
    detector = Regional(PatchCore(layers=(2,))).fit(features)
    empty = photos(2, seed=4)
    empty[2][0] = empty[2][0, :, :1, :1]  # background all over
    prediction = detector.predict(empty)
    assert prediction.region is not None and prediction.region.flatten(1).any(dim=1).tolist() == [False, True]
    whole = detector.detector.predict({2: empty[2][:1]})
    assert torch.allclose(prediction.score[:1], whole.score, atol=1e-5)


def test_photos_without_a_part_are_not_learned_and_evidence_keeps_its_numbers() -> None:
    maps = photos(6, seed=5)
    maps[2][[0, 3]] = maps[2][[0, 3], :, :1, :1]
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append({2: maps[2]}, groups=list("abcdef"))
        detector = Regional(PatchCore(layers=(2,), coreset_ratio=1.0)).fit(cache.features())
        assert detector.kept_.tolist() == [1, 2, 4, 5]
        evidence = detector.predict(cache.read([5])).evidence
    assert evidence is not None and {reason.reference for reason in evidence[0]} == {5}


@every_detector
def test_what_was_learned_comes_back(build: Callable[[], Detector], features: FeatureSet) -> None:
    detector, maps = Regional(build()), photos(3, seed=6)
    with pytest.raises(NotFittedError):
        detector.predict(maps)
    state = detector.fit(features).state_dict()
    again = Regional(build()).load_state_dict(state)
    assert torch.equal(again.predict(maps).score, detector.predict(maps).score)
    del state["foreground.mean"]
    with pytest.raises(ModelError, match=r"^The saved Regional lacks foreground\.mean; "):
        again.load_state_dict(state)


def test_photos_of_background_alone_teach_nothing() -> None:
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append({2: torch.ones(3, 8, 14, 14)}, groups=list("abc"))
        with pytest.raises(
            ConfigError, match=r"^No part stands out .* in any of the photos to learn from; .*--regions none\.$"
        ):
            Regional(PatchCore(layers=(2,))).fit(cache.features())
