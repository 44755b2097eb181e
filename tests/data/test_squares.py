from __future__ import annotations

import doctest
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier.data import squares as module
from inlier.data.images import read_image
from inlier.data.manifest import Photo
from inlier.data.squares import Squares
from inlier.data.transforms import Transform


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Twenty photos of noise; number 3 is missing, number 11 no picture."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(256, size=(40 + number, 60, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").unlink()
    (folder / "11.png").write_text("text")
    return [Photo(folder / f"{number}.png", "train") for number in range(20)]


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 1)


@pytest.mark.parametrize("workers", [0, 3])
def test_squares_are_what_a_detector_sees(photos: list[Photo], workers: int) -> None:
    told: list[int] = []
    transform = Transform(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with Squares.read(photos, side=32, workers=workers, advance=told.append) as squares:
        assert squares.photos == tuple(photo for photo in photos if photo.path.stem not in {"3", "11"})
        assert [photo.path.stem for photo, _ in squares.unreadable] == ["3", "11"]
        assert all(reason for _, reason in squares.unreadable)
        assert len(squares) == 18 and sum(told) == 20
        for place, photo in enumerate(squares.photos):
            expected = transform.to_square(read_image(photo.path, min_side=32))
            assert squares[place].dtype == np.uint8 and np.array_equal(squares[place], expected)


def test_threads_read_at_the_same_time_and_own_what_they_get(photos: list[Photo]) -> None:
    with Squares.read(photos, side=16) as squares, ThreadPoolExecutor(4) as pool:
        first = [squares[place].copy() for place in range(len(squares))]
        squares[0][:] = 0
        found = list(pool.map(squares.__getitem__, [place % len(squares) for place in range(400)]))
        assert all(np.array_equal(square, first[number % len(squares)]) for number, square in enumerate(found))


def test_the_file_leaves_no_trace_not_even_while_it_is_used(photos: list[Photo], tmp_path: Path) -> None:
    with Squares.read(photos, side=16, directory=tmp_path) as squares:
        assert list(tmp_path.iterdir()) == []  # so that a killed process leaves none
    with pytest.raises(ValueError, match="closed file"):
        squares[0]


def test_an_interruption_while_reading_stops_threads_and_closes_the_file(photos: list[Photo]) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Squares.read(photos, side=16, advance=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("place", [-1, 18])
def test_a_place_without_a_photo_is_refused(photos: list[Photo], place: int) -> None:
    with (
        Squares.read(photos, side=16) as squares,
        pytest.raises(IndexError, match=rf"^place of a square must be in \[0, 18\), got {place}\.$"),
    ):
        squares[place]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^side of Squares must be at least 1, got 0\.$"):
        Squares.read([], side=0)
    with pytest.raises(ValueError, match=r"^workers of load_batches must be at least 0, got -1\.$"):
        Squares.read([], side=8, workers=-1)


def test_no_photos_are_no_squares() -> None:
    with Squares.read([], side=8) as squares:
        assert len(squares) == 0 and list(squares.photos) == []
