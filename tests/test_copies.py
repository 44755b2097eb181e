from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from inlier.copies import Copies
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.features.cache import FeatureCache
from inlier.reading import normal_groups
from inlier.records import Prediction


class Spy:
    """A detector that refuses to score what it was fitted on, and finds a photo the odder the larger its number."""

    layers = (3,)
    is_trained = False

    def fit(self, features: Any) -> Self:
        self.groups = set(features.groups)
        self.numbers = [float(value) for maps in features.batches() for value in maps[3][:, 0, 0, 0]]
        assert all(number % 10 == 0 for number in self.numbers), "it learned from an altered copy"
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        numbers = maps[3][:, 0, 0, 0]
        assert not {f"part-{int(number) // 10 // 2:03d}" for number in numbers} & self.groups
        return Prediction(numbers, None)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        return self


def test_photos_and_copies_are_scored_by_what_saw_neither_nor_their_group() -> None:
    groups = [f"part-{number // 2:03d}" for number in range(11)]
    numbers = torch.tensor([10.0 * photo + copy for photo in range(11) for copy in range(3)])
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append({3: numbers[:, None, None, None]}, groups=[group for group in groups for _ in range(3)])
        copies = Copies.of(cache.features(), seed=0)
        scores = copies.scores(Spy())
    assert scores.tolist() == numbers.view(11, 3).tolist()
    assert copies.num_folds == 3 and copies.groups == groups


class Eye:
    """A backbone that sees the photo itself."""

    def extract(self, images: Tensor) -> dict[int, Tensor]:
        return {1: images}


def test_the_name_of_a_photo_and_the_seed_decide_its_copies(data: Manifest) -> None:
    transform = Transform(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    photos = data.select("train").photos[::5][:4]  # of several groups

    def copies(kept: Sequence[Photo], seed: int) -> dict[Photo, Tensor]:
        groups = normal_groups(data)
        with FeatureCache(dtype=torch.float32) as cache:
            options: dict[str, Any] = {"seed": seed, "workers": 0, "advance": lambda steps: None}
            Copies.read(cache, Eye(), transform, kept, groups, **options)  # type: ignore[arg-type]
            assert cache.groups == [normal_groups(data)[photo] for photo in kept for _ in range(3)]
            (maps,) = cache.features().batches()
        return dict(zip(kept, maps[1].view(len(kept), 3, 3, 32, 32), strict=True))

    all_four, last = copies(photos, 0), copies(photos[2:], 0)
    assert torch.equal(all_four[photos[3]], last[photos[3]])
    assert not torch.equal(copies(photos[2:], 1)[photos[3]], last[photos[3]])
    own, patch, scar = last[photos[3]]
    assert 0.02 < (patch != own).any(dim=0).float().mean() < 0.3
    assert 0.0005 < (scar != own).any(dim=0).float().mean() < 0.03
    changed = [(of[1] != of[0]).any(dim=0) for of in all_four.values()]
    assert not any(torch.equal(changed[0], other) for other in changed[1:])
