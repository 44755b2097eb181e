from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.data import loader
from inlier.data.images import read_image
from inlier.data.loader import Batch, load_batches, map_batches
from inlier.data.manifest import Photo
from inlier.data.transforms import Transform

TRANSFORM = Transform(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    """Ten photos of rising brightness; number 3 is missing, 4 and 5 are no pictures."""
    for number in range(10):
        Image.new("RGB", (40 + number, 30), (20 * number,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").write_text("text")
    (tmp_path / "5.png").write_text("")
    return [Photo(tmp_path / f"{number}.png", "train") for number in range(10)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_batches_cover_the_photos_in_order(photos: list[Photo], workers: int, ahead: int) -> None:
    batches = list(load_batches(photos, TRANSFORM, batch_size=4, workers=workers, ahead=ahead))
    assert [[int(photo.path.stem) for photo in batch.photos] for batch in batches] == [
        [0, 1, 2],
        [6, 7],
        [8, 9],
    ]
    assert [[(photo.path.stem, reason[:8]) for photo, reason in batch.unreadable] for batch in batches] == [
        [("3", "the file")],
        [("4", "not a pi"), ("5", "the file")],
        [],
    ]
    for batch in batches:
        for photo, image, pixels in zip(batch.photos, batch.images, batch.pixels, strict=True):
            assert (pixels == read_image(photo.path, min_side=16)).all()
            assert torch.equal(image, TRANSFORM.to_tensor(pixels))


def test_a_batch_may_be_empty(photos: list[Photo]) -> None:
    (batch,) = load_batches(photos[3:6], TRANSFORM)
    assert batch.images.shape == (0, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    assert (batch.photos, batch.pixels, len(batch.unreadable)) == ((), (), 3)
    assert list(load_batches([], TRANSFORM)) == []


def test_decoding_stays_ahead_but_not_far(photos: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []

    def counted(path: Path, *, min_side: int | None) -> np.ndarray:
        started.append(path)
        return read_image(path, min_side=min_side)

    monkeypatch.setattr(loader, "read_image", counted)
    batches = load_batches(photos * 10, TRANSFORM, batch_size=2, workers=2, ahead=3)
    assert started == []
    for taken in (2, 4, 6):
        next(batches)
        deadline = time.monotonic() + 10
        while len(started) < taken + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(started) == taken + 3
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    assert len(started) == 9


def test_threads_end_with_the_photos(photos: list[Photo]) -> None:
    list(load_batches(photos, TRANSFORM, workers=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.fixture
def three_threads(set_num_threads: Callable[[int], None]) -> None:
    set_num_threads(3)


def names_in(batch: Batch) -> tuple[list[str], list[str]]:
    return [photo.path.stem for photo in batch.photos], [photo.path.stem for photo, _ in batch.unreadable]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_worked_on_in_order(photos: list[Photo], workers: int, is_parallel: bool) -> None:
    given = map_batches(names_in, photos, TRANSFORM, batch_size=4, workers=workers, is_parallel=is_parallel)
    assert list(given) == [(["0", "1", "2"], ["3"]), (["6", "7"], ["4", "5"]), (["8", "9"], [])]
    assert list(map_batches(names_in, [], TRANSFORM, workers=workers, is_parallel=is_parallel)) == []


@pytest.mark.usefixtures("three_threads")
def test_lanes_share_the_threads_and_work_beside_each_other(photos: list[Photo]) -> None:
    all_at_work = threading.Barrier(3)

    def work(batch: Batch) -> tuple[int, str]:
        all_at_work.wait(10)
        return torch.get_num_threads(), threading.current_thread().name

    given = list(map_batches(work, photos * 3, TRANSFORM, batch_size=5, is_parallel=True))
    assert {number for number, _ in given} == {1} and len({name for _, name in given}) == 3
    assert torch.get_num_threads() == 3
    of_new_thread: list[int] = []
    thread = threading.Thread(target=lambda: of_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert of_new_thread == [3]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("is_parallel", [False, True])
def test_lanes_end_when_nobody_asks_on_and_with_a_bug(photos: list[Photo], is_parallel: bool) -> None:
    seen: list[str] = []

    def work(batch: Batch) -> None:
        own = [photo.path.stem for photo in batch.photos]
        seen.extend(own)
        if "6" in own:  # not in ``seen``: a later batch may be through before the first
            raise KeyError("bug")

    results = map_batches(work, photos * 50, TRANSFORM, batch_size=3, is_parallel=is_parallel)
    next(results)
    with pytest.raises(KeyError, match="bug"):
        list(results)
    early = map_batches(names_in, photos * 50, TRANSFORM, batch_size=3, is_parallel=is_parallel)
    next(early)
    early.close()
    assert len(seen) < 100
    assert not [of for of in threading.enumerate() if of.name.startswith(("lane", "decode"))]


def test_bugs_are_not_unreadable_photos(photos: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, *, min_side: int | None) -> np.ndarray:
        raise KeyError("bug")

    monkeypatch.setattr(loader, "read_image", broken)
    with pytest.raises(KeyError, match="bug"):
        next(load_batches(photos, TRANSFORM))


@pytest.mark.parametrize(("name", "value", "least"), [("batch_size", 0, 1), ("workers", -1, 0), ("ahead", 0, 1)])
def test_wrong_arguments_are_refused_at_once(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} of load_batches must be at least {least}, got {value}\."):
        load_batches([], TRANSFORM, **{name: value})
