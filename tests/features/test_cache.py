from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inlier.features import cache as module
from inlier.features.cache import BATCH_SIZE, FeatureCache


def _maps(num_photos: int, seed: int = 0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        3: torch.randn(num_photos, 4, 3, 5, generator=generator),
        1: torch.randn(num_photos, 2, 6, 10, generator=generator),
    }


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 1)


def test_features_come_back_as_they_were_put_in() -> None:
    first, second = _maps(3, seed=1), _maps(2, seed=2)
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(first, groups=["a", "a", "b"])
        cache.append(second, groups=["c", "b"])
        features = cache.features()
        (batch,) = features.batches()
        assert len(features) == 5
        assert features.groups == ["a", "a", "b", "c", "b"]
        assert set(batch) == {1, 3}
        for layer in (1, 3):
            assert torch.equal(batch[layer], torch.cat([first[layer], second[layer]]))


def test_narrow_numbers_are_kept_as_they_are() -> None:
    maps = {layer: features.bfloat16().float() for layer, features in _maps(3).items()}
    with FeatureCache(dtype=torch.bfloat16) as cache:
        cache.append(maps, groups=list("abc"))
        (batch,) = cache.features().batches()
    assert all(batch[layer].dtype == torch.float32 and torch.equal(batch[layer], maps[layer]) for layer in (1, 3))


def test_batches_are_full_but_the_last_and_can_be_gone_through_again() -> None:
    maps = _maps(2 * BATCH_SIZE + 3)
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(maps, groups=[""] * (2 * BATCH_SIZE + 3))
        features = cache.features()
        for _ in range(2):
            batches = list(features.batches())
            assert [len(batch[1]) for batch in batches] == [BATCH_SIZE, BATCH_SIZE, 3]
            assert torch.equal(torch.cat([batch[3] for batch in batches]), maps[3])


def test_a_selection_keeps_its_order_and_can_be_selected_from() -> None:
    maps = _maps(6)
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(maps, groups=list("abcdef"))
        some = cache.features().select([4, 0, 3])
        assert (len(some), some.groups) == (3, ["e", "a", "d"])
        fewer = some.select([2, 0])
        assert fewer.groups == ["d", "e"]
        (batch,) = fewer.batches()
        assert torch.equal(batch[1], maps[1][[3, 4]])


def test_no_photos_are_no_batches() -> None:
    with FeatureCache(dtype=torch.float32) as cache:
        assert not cache.features()
        assert list(cache.features().batches()) == []


def test_maps_in_any_memory_layout_are_kept() -> None:
    maps = {1: torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)}
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(maps, groups=["", ""])
        (batch,) = cache.features().batches()
    assert torch.equal(batch[1], maps[1])


def test_the_folder_is_where_it_was_asked_for_and_goes_when_the_context_is_left(tmp_path: Path) -> None:
    with FeatureCache(dtype=torch.bfloat16, directory=tmp_path) as cache:
        cache.append(_maps(2), groups=["", ""])
        (folder,) = tmp_path.iterdir()
        assert (folder / "layer-3").stat().st_size == 2 * 4 * 3 * 5 * 2  # photos, C, h, w, bytes
    assert not list(tmp_path.iterdir())


def test_the_folder_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FeatureCache(dtype=torch.float32, directory=tmp_path) as cache:
        cache.append(_maps(2), groups=["", ""])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_lost_features_are_not_made_up(tmp_path: Path) -> None:
    with FeatureCache(dtype=torch.float32, directory=tmp_path) as cache:
        cache.append({2: torch.ones(3, 1, 2, 2)}, groups=list("abc"))
        (file,) = tmp_path.glob("*/layer-2")
        with file.open("r+b") as opened:
            opened.truncate(2 * 16 + 5)
        assert cache.read([1])[2].tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
        with pytest.raises(OSError, match=r"^The feature cache lost photo 2 of layer 2\.$"):
            cache.read([0, 2])
