"""Features to fit detectors on, as if a backbone had made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from inlier.features.cache import FeatureCache, FeatureSet

MakeFeatures = Callable[..., FeatureSet]


@pytest.fixture
def make_features() -> Iterator[MakeFeatures]:
    """Makes a FeatureSet of maps; each photo is a group of its own unless groups are given."""
    with ExitStack() as stack:

        def make(
            maps: dict[int, Tensor], groups: Sequence[str] | None = None, labels: Sequence[str] | None = None
        ) -> FeatureSet:
            num_photos = len(next(iter(maps.values())))
            cache = stack.enter_context(FeatureCache(dtype=torch.float32))
            cache.append(maps, groups=groups or [f"{place:03d}" for place in range(num_photos)], labels=labels)
            return cache.features()

        yield make
