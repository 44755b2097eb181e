from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from inlier.errors import InlierError
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache
from inlier.features.records import Records
from inlier.features.store import FeatureStore, features_key, identify_backbone

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

MAPS = {1: torch.randn(5, 2, 4, 4).bfloat16().float(), 3: torch.randn(5, 3, 2, 2).bfloat16().float()}
NUM_BYTES = 2 * 5 * (2 * 16 + 3 * 4)


def _fill(records: Records) -> tuple[Any, Sequence[bytes]]:
    records.append(MAPS)
    return {"unreadable": [2]}, [b"one", b"", b"three"]


def _refuse(records: Records) -> tuple[Any, Sequence[bytes]]:
    raise AssertionError("it is there already")


def test_what_was_kept_is_found_again_and_is_the_same(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    store.open("a", _fill, dtype=torch.bfloat16).close()
    again = FeatureStore(tmp_path / "features")
    stored = again.open("a", _refuse, dtype=torch.bfloat16)
    assert (store.num_filled, store.num_found, again.num_filled, again.num_found) == (1, 0, 0, 1)
    assert stored.notes == {"unreadable": [2]} and stored.extras() == [b"one", b"", b"three"]
    assert stored.dtype == torch.bfloat16 and stored.num_bytes == NUM_BYTES
    with FeatureCache(dtype=torch.bfloat16) as cache:
        cache.link(stored, groups=list("abcde"), labels=list("vwxyz"))
        features = cache.features()
        read = features.select([4, 0]).read()
        assert features.groups == list("abcde") and features.labels == list("vwxyz")
        assert all(torch.equal(read[layer], MAPS[layer][[4, 0]]) for layer in MAPS)
        assert set(features.with_layers((3,)).read()) == {3}


def test_photos_of_a_store_and_of_the_cache_itself_are_read_side_by_side(tmp_path: Path) -> None:
    own = {layer: features + 1 for layer, features in MAPS.items()}
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(own, groups=[""] * 5)
        cache.link(FeatureStore(tmp_path).open("a", _fill, dtype=torch.float32), groups=[""] * 5)
        cache.append(own, groups=[""] * 5)
        read = cache.features().select([1, 6, 11, 3]).read()
        assert cache.shapes == {1: (2, 4, 4), 3: (3, 2, 2)}
    expected = torch.stack([own[1][1], MAPS[1][1], own[1][1], own[1][3]])
    assert torch.equal(read[1], expected)


def test_an_interrupted_entry_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(records: Records) -> tuple[Any, Sequence[bytes]]:
        records.append(MAPS)
        raise KeyboardInterrupt

    store = FeatureStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.open("a", interrupted, dtype=torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    store.open("a", _fill, dtype=torch.float32).close()


@pytest.mark.parametrize("file", ["layer-1", "records.json", "notes.json"])
def test_a_damaged_entry_is_computed_anew(tmp_path: Path, file: str) -> None:
    store = FeatureStore(tmp_path)
    store.open("a", _fill, dtype=torch.float32).close()
    (tmp_path / "a" / file).write_bytes((tmp_path / "a" / file).read_bytes()[:-3])
    stored = store.open("a", _fill, dtype=torch.float32)
    assert store.num_filled == 2 and torch.equal(stored.read(1, range(5)), MAPS[1])
    stored.close()


def test_the_budget_is_kept_by_what_was_used_longest_ago_and_is_not_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget_bytes=0)
    size = sum(file.stat().st_size for file in _entry(FeatureStore(tmp_path / "one"), "x").iterdir())
    store = FeatureStore(tmp_path / "many", budget_bytes=2 * size)
    for key, used in (("a", 10), ("b", 20), ("c", 30)):
        os.utime(_entry(store, key), (used, used))
    assert _keys(store) == {"b", "c"}
    reading = store.open("b", _refuse, dtype=torch.bfloat16)
    os.utime(store.directory / "b", (5, 5))
    _entry(store, "d")
    assert _keys(store) == {"b", "d"}
    store.budget_bytes = 0
    store.make_room()
    assert _keys(store) == {"b"} and torch.equal(reading.read(3, [1]).float(), MAPS[3][[1]])
    reading.close()
    store.make_room()
    assert _keys(store) == set()


def test_the_same_entry_can_be_opened_twice_at_once(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    first, second = (store.open("a", _fill, dtype=torch.float32) for _ in range(2))
    first.close()
    assert torch.equal(second.read(1, [0]), MAPS[1][[0]])
    second.close()


def test_of_several_processes_one_computes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ask, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("filled-*"))) == 1


def _ask(folder: Path, number: int) -> None:
    def fill(records: Records) -> tuple[Any, Sequence[bytes]]:
        (folder / f"filled-{number}").touch()
        records.append({1: torch.zeros(2, 1, 1, 1)})
        return None, []

    stored = FeatureStore(folder / "store").open("a", fill, dtype=torch.float32)
    assert len(stored) == 2
    os._exit(0)


def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InlierError, match="Features cannot be kept in "):
        FeatureStore(tmp_path / "file" / "store").open("a", _fill, dtype=torch.float32)


def test_keys_tell_all_that_features_depend_on() -> None:
    torch.manual_seed(0)
    first = Backbone("resnet10t", layers=(1, 2), is_pretrained=False)
    other = Backbone("resnet10t", layers=(1, 2), is_pretrained=False)
    same = first.select((1, 2))
    assert identify_backbone(first) == identify_backbone(same)
    keys = {
        features_key(first, size=64, digests=["a", "b"]),
        features_key(other, size=64, digests=["a", "b"]),
        features_key(first.select((1,)), size=64, digests=["a", "b"]),
        features_key(first.select((1, 2), precision="bfloat16"), size=64, digests=["a", "b"]),
        features_key(first, size=96, digests=["a", "b"]),
        features_key(first, size=64, digests=["b", "a"]),
        features_key(first, size=64, digests=["a", "b"], views=["darker"]),
    }
    assert len(keys) == 7
    assert features_key(same, size=64, digests=["a", "b"]) in keys


def _entry(store: FeatureStore, key: str) -> Path:
    store.open(key, _fill, dtype=torch.bfloat16).close()
    return store.directory / key


def _keys(store: FeatureStore) -> set[str]:
    return {path.name for path in store.directory.iterdir() if path.is_dir()}


def test_notes_are_plain(tmp_path: Path) -> None:
    assert json.loads((_entry(FeatureStore(tmp_path), "a") / "notes.json").read_text()) == {"unreadable": [2]}
