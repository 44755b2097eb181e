from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.data import loader
from inlier.data.images import read_image
from inlier.data.loader import load_batches
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
