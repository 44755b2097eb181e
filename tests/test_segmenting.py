from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import read_mask
from inlier.data.manifest import Manifest, Photo
from inlier.errors import InlierError
from inlier.segmenting import write_regions


def bright(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A segmenter that takes what is bright for the part."""
    found: NDArray[np.bool_] = pixels.mean(axis=2) > 128
    return found


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    """A photo with a part, one without, and one that cannot be read."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dark, all of it.png")
    pixels[5:15, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "part.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return Manifest(
        (
            Photo(tmp_path / "part.png", "train", "good", False, group="ship"),
            Photo(tmp_path / "dark, all of it.png", "test", "crack", True, mask=tmp_path / "crack.png"),
            Photo(tmp_path / "broken.png", "test"),
        )
    )


def test_masks_and_a_manifest_are_written(data: Manifest, tmp_path: Path) -> None:
    masked = write_regions(data, bright, tmp_path / "regions")
    first, *others = masked.photos
    assert first.roi == tmp_path / "regions" / "000000.png" and [photo.roi for photo in others] == [None, None]
    found = read_mask(first.roi, size=(20, 30))
    assert found[5:15, 10:20].all() and found.sum() == 100
    assert [replace(photo, roi=None) for photo in masked.photos] == list(data.photos)
    assert Manifest.read(tmp_path / "regions") == masked


def test_masks_of_another_shape_are_refused(data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^A segmenter must give masks of shape \(20, 30\), got \(3, 3\)\.$"):
        write_regions(data, lambda pixels: np.ones((3, 3), dtype=bool), tmp_path / "regions")


def test_a_place_that_cannot_be_written_to_is_told(data: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InlierError, match=r"^Nothing can be written to \S+file: "):
        write_regions(data, bright, tmp_path / "file")
