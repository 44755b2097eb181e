from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from inlier.detectors import grabcut as module
from inlier.detectors.foreground import Foreground
from inlier.detectors.grabcut import GrabCut
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.regional import Regional
from inlier.errors import MissingExtraError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.regions import PICTURE, REGION, to_picture

SIDE, CELLS = 112, 14


def disc(middle: tuple[float, float], radius: float) -> Tensor:
    """Pixels of a disc, shape (SIDE, SIDE), bool."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return (rows + 0.5 - middle[0]).square() + (columns + 0.5 - middle[1]).square() < radius**2


def maps_of(is_part: Tensor, *, seed: int, is_seen: bool = True) -> dict[int, Tensor]:
    """A photo of a reddish part on a greenish ground, and features that tell them apart cell by cell."""
    generator = torch.Generator().manual_seed(seed)
    red, green = torch.tensor([170.0, 60, 50])[:, None, None], torch.tensor([60.0, 120, 70])[:, None, None]
    picture = torch.where(is_part, red, green) + 12 * torch.randn(3, SIDE, SIDE, generator=generator)
    share = torch.nn.functional.avg_pool2d(is_part[None, None].float(), SIDE // CELLS)[0] * is_seen
    features = 0.3 * torch.randn(8, CELLS, CELLS, generator=generator)
    features[:1] += 5 * share
    features[1:2] += 5 * (1 - share)
    return {2: features[None], PICTURE: picture.clamp(0, 255).round()[None]}


PARTS = [disc((50 + 2 * n, 60 - n), 26 + n % 3) for n in range(6)]


@pytest.fixture(scope="module")
def features() -> Iterator[FeatureSet]:
    with FeatureCache(dtype=torch.bfloat16) as cache:
        for number, is_part in enumerate(PARTS):
            cache.append(maps_of(is_part, seed=number), groups=[str(number)])
        yield cache.features()


@pytest.fixture(scope="module")
def cut(features: FeatureSet) -> GrabCut:
    return GrabCut.learn(features, layers=(2,))


def overlap(region: Tensor, is_part: Tensor) -> float:
    found = torch.nn.functional.interpolate(region, size=(SIDE, SIDE))[0, 0] > 0
    return float((found & is_part).sum() / (found | is_part).sum())


def test_the_outline_is_the_parts_own_with_half_a_cell_around_it(features: FeatureSet, cut: GrabCut) -> None:
    is_part = disc((58, 52), 24)
    maps = maps_of(is_part, seed=50)
    region = cut(maps)
    assert region.shape == (1, 1, SIDE, SIDE) and set(region.unique().tolist()) == {0.0, 1.0}
    found, margin = region[0, 0] > 0, SIDE // CELLS // 2
    assert found[is_part].all() and not found[~disc((58, 52), 24 + 2 * margin)].any()
    assert overlap(region, disc((58, 52), 24 + margin)) > 0.9
    assert overlap(region, is_part) > overlap(Foreground.learn(features, layers=(2,))(maps), is_part) + 0.1


def test_damage_within_the_part_and_at_its_edge_stays_in_view(cut: GrabCut) -> None:
    is_part = disc((58, 52), 26)
    maps = maps_of(is_part, seed=51)
    stain = disc((58, 52), 6)
    maps[PICTURE][0][:, stain] = torch.tensor([60.0, 120.0, 70.0])[:, None]
    found = cut(maps)[0, 0] > 0
    assert found[stain].all() and found[58, 52 + 26 + 2]  # a chip of two pixels shows ground, and is looked at


def test_where_no_part_stands_out_none_is_cut_out(cut: GrabCut) -> None:
    maps = [maps_of(disc((56, 56), 25), seed=52, is_seen=of) for of in (False, True)]
    both = {key: torch.cat([of[key] for of in maps]) for key in maps[0]}
    assert cut(both).flatten(1).any(dim=1).tolist() == [False, True]


def test_a_photo_of_one_colour_is_no_error(cut: GrabCut) -> None:
    maps = maps_of(disc((56, 56), 25), seed=53)
    assert cut(maps | {PICTURE: torch.full((1, 3, SIDE, SIDE), 90.0)}).shape == (1, 1, SIDE, SIDE)


def test_a_photo_has_the_same_region_alone_and_among_others(features: FeatureSet, cut: GrabCut) -> None:
    together = cut(features.read())
    alone = torch.cat([cut(features.select([place]).read()) for place in reversed(range(6))]).flip(0)
    assert torch.equal(together, alone)


def test_what_was_cut_out_is_remembered(features: FeatureSet, cut: GrabCut, monkeypatch: pytest.MonkeyPatch) -> None:
    remembering, fresh = cut.remembering(), cut(features.read())
    assert torch.equal(remembering(features.read()), fresh) and cut.known is None
    monkeypatch.setattr(module, "_grab", lambda *of: pytest.fail("was cut out before"))
    assert torch.equal(remembering(features.read()), fresh)


def test_what_was_learned_comes_back(features: FeatureSet, cut: GrabCut) -> None:
    again = GrabCut.from_state(cut.state_dict())
    assert again.low < again.foreground.threshold < again.high
    assert torch.equal(again(features.read()), cut(features.read()))


def test_a_detector_learns_and_scores_what_was_cut_out(features: FeatureSet) -> None:
    detector = Regional(PatchCore(layers=(2,), coreset_ratio=1.0), kind="grabcut").fit(features)
    assert isinstance(detector.foreground_, GrabCut) and detector.foreground_.known is None
    assert len(detector.kept_) == 6
    prediction = detector.predict(maps_of(disc((58, 52), 24), seed=54))
    assert prediction.region is not None and prediction.region.shape == (1, SIDE, SIDE)
    again = Regional(PatchCore(layers=(2,), coreset_ratio=1.0), kind="grabcut").load_state_dict(detector.state_dict())
    assert torch.equal(again.predict(features.read()).score, detector.predict(features.read()).score)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inlier\[regions\]'$"):
        Regional(PatchCore(layers=(2,)), kind="grabcut")
    Regional(PatchCore(layers=(2,)), kind="foreground")


def test_pictures_are_small_and_of_whole_numbers() -> None:
    colours = torch.from_numpy(np.random.default_rng(0).integers(256, size=(2, 3, 224, 224), dtype=np.uint8))
    small = to_picture(colours)
    assert small.shape == (2, 3, 112, 112) and torch.equal(small, small.bfloat16().float().round())
    assert abs(float(small.mean() - colours.float().mean())) < 0.1
    assert torch.equal(to_picture(colours[..., :64, :64]), colours[..., :64, :64].float())
    assert REGION != PICTURE < 1
