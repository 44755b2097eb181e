"""The page's JPEG decoder, in Chromium, beside Pillow: the very same pixels, whatever the file and the reduction."""

from __future__ import annotations

import base64
import io
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inlier.data.images import read_image
from inlier.data.synthetic import draw_component
from inlier.errors import ImageReadError

pytestmark = pytest.mark.browser

READ = """async ([given, size]) => {
    const {readPhoto} = await import('./photo.js');
    const bytes = Uint8Array.from(atob(given), (letter) => letter.charCodeAt(0));
    try {
        const photo = await readPhoto(new File([bytes], 'photo.jpg', {type: 'image/jpeg'}), size);
        const text = photo.rgb.reduce((so, of) => so + String.fromCharCode(of), '');
        return [photo.width, photo.height, btoa(text)];
    } catch (error) {
        return error.message;
    }
}"""

Read = Callable[[Path, int], "NDArray[np.uint8] | str"]


@pytest.fixture(scope="module")
def read(
    browser: Any,
    served: Callable[[Path], AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Read]:
    """What the page reads from a photo, for a network of so many pixels a side: the pixels, or why it cannot."""
    folder = tmp_path_factory.mktemp("scripts") / "web"
    with as_file(files("inlier.exporting").joinpath("web")) as assets:
        shutil.copytree(assets, folder)
    (folder / "index.html").write_text("<!doctype html>")
    with served(folder) as address:
        page = browser.new_page()
        page.goto(address)

        def read(path: Path, size: int) -> NDArray[np.uint8] | str:
            found = page.evaluate(READ, [base64.b64encode(path.read_bytes()).decode(), size])
            if isinstance(found, str):
                return found
            width, height, text = found
            return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(height, width, 3)

        yield read
        page.close()


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """A photo with an odd number of pixels on either side, and strong colours in its noise."""
    drawn = draw_component("piston-crown", seed=7, size=(273, 333)).image
    noise = np.random.default_rng(0).integers(-50, 51, size=drawn.shape)
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


WAYS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4, coarse": {"subsampling": "4:4:4", "quality": 15},
    "4:4:4, fine": {"subsampling": "4:4:4", "quality": 98},
    "4:2:0, progressive": {"subsampling": "4:2:0", "progressive": True},
    "4:2:2, progressive": {"subsampling": "4:2:2", "progressive": True, "quality": 50},
    "codes of its own": {"optimize": True},
    "restarts": {"restart_marker_blocks": 7},
    "restarts, progressive": {"restart_marker_rows": 1, "progressive": True},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("name", WAYS)
def test_every_reduction_gives_pillows_pixels(read: Read, pixels: NDArray[np.uint8], tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, **WAYS[name])
    for size in (200, 100, 60, 30, 16):  # whole, 1/2, 1/4, 1/8, and 1/8 halved again
        _check_same(read(path, size), read_image(path, min_side=size))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printed_photos(read: Read, pixels: NDArray[np.uint8], tmp_path: Path, mode: str) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).convert(mode).save(path)
    for size in (200, 100, 30):
        _check_same(read(path, size), read_image(path, min_side=size))


@pytest.mark.parametrize("sampling", ["411", "440"])
def test_rarer_samplings(read: Read, pixels: NDArray[np.uint8], tmp_path: Path, sampling: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "photo.jpg"
    cv2.imwrite(
        str(path),
        pixels,
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")],
    )
    for size in (200, 100, 60, 30):
        _check_same(read(path, size), read_image(path, min_side=size))


@pytest.mark.parametrize("orientation", range(1, 10))
def test_photos_are_put_upright(read: Read, pixels: NDArray[np.uint8], tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    for size in (200, 100, 16):  # the last is reduced after decoding, with cut blocks at its ends
        _check_same(read(path, size), read_image(path, min_side=size))


@pytest.mark.parametrize("size", [(16, 17), (33, 18), (48, 129)])
def test_small_photos(read: Read, pixels: NDArray[np.uint8], tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels[: size[0], : size[1]]).save(path)
    for side in (16, 8, 4, 2):
        _check_same(read(path, side), read_image(path, min_side=side))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_profile_is_applied_to_the_reduced_pixels(
    read: Read, pixels: NDArray[np.uint8], tmp_path: Path, mode: str
) -> None:
    """Within two levels: the browser and Pillow's library round in their own ways."""
    path = tmp_path / "photo.jpg"
    image = Image.fromarray(pixels).convert(mode)
    image.save(path, icc_profile=_profile(mode))
    found, wanted = read(path, 100), read_image(path, min_side=100)
    assert isinstance(found, np.ndarray)
    assert np.abs(found.astype(int) - wanted).max() <= 2
    image.save(path)
    assert np.abs(read_image(path, min_side=100).astype(int) - wanted).max() > 20  # it changes the colours


@pytest.mark.parametrize("is_progressive", [False, True])
def test_a_photo_that_is_cut_short_is_refused_as_in_python(
    read: Read, pixels: NDArray[np.uint8], tmp_path: Path, is_progressive: bool
) -> None:
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "JPEG", progressive=is_progressive)
    path = tmp_path / "photo.jpg"
    for missing in (2, 40, whole.tell() // 2):
        path.write_bytes(whole.getvalue()[:-missing])
        with pytest.raises(ImageReadError, match=r"^truncated: "):
            read_image(path, min_side=100)
        assert isinstance(read(path, 100), str)


def test_a_damaged_photo_is_refused(read: Read, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "JPEG")
    content = whole.getvalue()
    path = tmp_path / "photo.jpg"
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 400 :])
    assert read(path, 100) == "The file is damaged."


def test_inks_of_a_profile_are_refused(read: Read, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).convert("CMYK").save(path, icc_profile=_profile("RGB"))
    assert read(path, 100) == "This page cannot read a JPEG of such colours."


def _check_same(found: NDArray[np.uint8] | str, wanted: NDArray[np.uint8]) -> None:
    assert isinstance(found, np.ndarray), found
    assert found.shape == wanted.shape
    assert np.array_equal(found, wanted), np.abs(found.astype(int) - wanted).max()


def _profile(mode: str) -> bytes:
    """Of colours like sRGB's, but for red and blue, which change places; of grey, lighter (ICC.1:2022)."""
    if mode == "RGB":
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        renamed = srgb.replace(b"s\0R\0G\0B", b"s\0w\0a\0p")
        return renamed.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv" + struct.pack(">IIHH", 0, 1, 358, 0)  # to the power of 1.4
    places = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    size = 156 + len(white) + len(curve)
    start = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header = (start + date + b"acsp").ljust(68, b"\0") + white[8:]
    return header.ljust(128, b"\0") + places + white + curve
