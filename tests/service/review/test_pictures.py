"""Pictures are the right ones, of bounded size, and kept within bounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier.data.manifest import Manifest
from inlier.model import Model
from inlier.service.review import pictures as module
from inlier.service.review.pictures import Picture, Pictures


def opened(picture: Picture | None) -> Image.Image:
    assert picture is not None
    return Image.open(io.BytesIO(picture.content))


@pytest.fixture(scope="module")
def path(data: Manifest) -> str:
    return str(next(photo.path for photo in data.photos if photo.mask is not None))


def test_a_photo_is_reduced_and_never_enlarged(model: Model, path: str) -> None:
    drawn = Pictures(model)
    with Image.open(path) as photo:
        assert opened(drawn.photo(path, width=640)).size == photo.size
        assert max(opened(drawn.photo(path, width=1)).size) == min(160, max(photo.size))


def test_a_contour_goes_round_what_is_hot() -> None:
    hot = np.zeros((8, 8), np.float32)
    hot[2:6, 2:6] = 1.0
    drawn = np.asarray(Image.open(io.BytesIO(module._outlined(hot, 0.5, (80, 80)))))
    assert drawn[40, 40, 3] == 0 and drawn[2, 2, 3] == 0
    row = drawn[40, :, 3]
    lines = np.flatnonzero(row)
    assert 12 <= lines[0] <= 22 and 57 <= lines[-1] <= 67 and len(lines) == 8
    bright = drawn[40, :, 0] == module.RAMP[-2][0]
    assert bright.sum() == 4 and row[np.flatnonzero(bright)].min() == 255


def test_without_heat_there_is_no_line() -> None:
    drawn = np.asarray(Image.open(io.BytesIO(module._outlined(None, 0.0, (20, 10)))))
    assert drawn.shape == (10, 20, 4) and not drawn.any()


def test_a_place_and_its_normal_one(model: Model, path: str) -> None:
    drawn = Pictures(model)
    evidence = drawn.inspection(path).evidence
    here, normal = (drawn.reason(path, 0, is_reference=side) for side in (False, True))
    assert opened(here).format == opened(normal).format == "WEBP"
    assert normal is not None
    assert normal.content == model.references.crop(evidence[0].reference, evidence[0].reference_box)
    assert drawn.reason(path, len(evidence), is_reference=False) is None
    assert drawn.reason(path, -1, is_reference=False) is None
    assert drawn.reference(-1) is None and drawn.reference(len(model.references)) is None


def test_an_inspection_is_made_once_until_the_photo_or_the_model_changes(
    model: Model, path: str, tmp_path: Path
) -> None:
    drawn = Pictures(model)
    copy = tmp_path / "photo.png"
    with Image.open(path) as photo:
        photo.save(copy)
        first = drawn.inspection(str(copy))
        assert drawn.inspection(str(copy)) is first
        photo.transpose(Image.Transpose.ROTATE_90).save(copy)
    assert drawn.inspection(str(copy)).verdict.score != first.verdict.score
    first = drawn.inspection(path)
    drawn.replace(model)
    assert drawn.inspection(path) is not first


def test_the_least_lately_asked_for_go_first() -> None:
    kept = module._Kept(max_bytes=10)
    for name in "abc":
        kept.put(name, Picture(name.encode() * 4))
        kept.get("a")
    assert [name for name in "abc" if kept.get(name)] == ["a", "c"]
    kept.put("large", Picture(b"x" * 11))
    assert kept.get("large") is None and kept.get("a") is None
    kept.clear()
    kept.put("d", Picture(b"d" * 10))
    assert kept.get("d") is not None
