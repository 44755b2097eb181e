from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier.decision.heatmap import heat_overlay
from inlier.errors import ConfigError
from inlier.service.kept import Heat, HeatCache, PhotoFolder, suffix_of


def heat(value: int = 0) -> Heat:
    """Of 1000 bytes of pixels, and 24 of the map."""
    pixels = np.full((10, 100 // 3 + 1, 3), value, dtype=np.uint8)
    return Heat(pixels, np.arange(6, dtype=np.float32).reshape(2, 3), (1.0, 5.0), "ann")


def test_the_oldest_goes_first_and_the_size_is_bounded() -> None:
    size = heat().pixels.nbytes + heat().anomaly_map.nbytes
    cache = HeatCache(max_bytes=3 * size)
    for number in range(10):
        cache.put(str(number), heat(number))
    assert len(cache) == 3
    assert cache.get("6") is None
    found = cache.get("7")
    assert found is not None and found.pixels.max() == 7
    HeatCache(max_bytes=size - 1).put("x", heat())  # too large by itself: kept nowhere, and nothing breaks


def test_the_picture_is_the_photo_under_its_map() -> None:
    of = heat(90)
    drawn = np.asarray(Image.open(io.BytesIO(of.png())))
    np.testing.assert_array_equal(drawn, heat_overlay(of.pixels, of.anomaly_map, scale=of.scale))


def test_a_photo_is_kept_once_under_its_digest(tmp_path: Path) -> None:
    folder = PhotoFolder(tmp_path / "photos")
    content = b"\xff\xd8\xff photo"
    digest = hashlib.sha256(content).hexdigest()
    names = [folder.keep(digest, content) for _ in range(2)]
    assert names == [f"{digest[:2]}/{digest}.jpg"] * 2
    (path,) = (path for path in (tmp_path / "photos").rglob("*") if path.is_file())
    assert path.read_bytes() == content and path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "photos").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="No photos can be kept in"):
        PhotoFolder(tmp_path / "file")


def test_suffixes_come_from_the_content() -> None:
    assert suffix_of(b"RIFF1234WEBPxx") == ".webp" and suffix_of(b"\0\0\0\x18ftypheic") == ".heic"
    assert suffix_of(b"\x89PNG\r\n") == ".png" and suffix_of(b"../../x") == ".bin"
