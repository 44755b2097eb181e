from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import lab2rgb

from inlier.data.modes import is_deep, to_rgb
from inlier.errors import ImageReadError


def grey(values: list[float], dtype: str) -> list[int]:
    image = Image.fromarray(np.array([values], dtype=dtype))
    assert is_deep(image)
    rgb = np.asarray(to_rgb(image))
    assert (rgb == rgb[..., :1]).all()
    return [int(value) for value in rgb[0, :, 0]]


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "int32", "float32"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),  # 8 bits in a wider container
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits
        ([0, 257, 32768, 65535], [0, 1, 128, 255]),  # 16 bits
        ([0, 4096, 4096], [0, 16, 16]),  # a dark photo of 16 bits
        ([0, 0], [0, 0]),
    ],
)
def test_depth_is_the_least_that_holds_all_values(dtype: str, values: list[float], expected: list[int]) -> None:
    assert grey(values, dtype) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0.0, 0.5, 1.0], "float32", [0, 128, 255]),
        ([0, 1, 1], "int32", [0, 1, 1]),
        ([-10.0, 0.0, 40.0], "float32", [0, 51, 255]),
        ([0, 250_000, 1_000_000], "int32", [0, 64, 255]),
        ([-5, -5], "int32", [0, 0]),
    ],
)
def test_other_ranges(values: list[float], dtype: str, expected: list[int]) -> None:
    assert grey(values, dtype) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(ImageReadError, match=r"^holds values that are no finite numbers$"):
        grey([0.0, value], "float32")


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 7, (7, 7, 7)),
        ("LA", (7, 0), (255, 255, 255)),
        ("LA", (0, 255), (0, 0, 0)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # a fifth of red on white
        ("RGBa", (51, 0, 0, 51), (255, 204, 204)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
    ],
)
def test_mode(mode: str, colour: float | tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = to_rgb(Image.new(mode, (3, 2), colour))
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert np.asarray(image)[1, 2] == pytest.approx(expected, abs=1)


def test_lab_agrees_with_scikit_image() -> None:
    lab = np.array([[(50, 0, 0), (50, 30, 20), (80, -20, 30), (40, 10, -30)]], dtype=np.float64)
    stored = np.rint(lab * (255 / 100, 1, 1)).astype(np.int16).astype(np.uint8)  # a and b are signed bytes
    image = Image.frombytes("LAB", (4, 1), stored.tobytes())
    assert np.asarray(to_rgb(image)) == pytest.approx(255 * lab2rgb(lab), abs=10)  # its white point is another


def test_palette_and_colour_key() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert np.asarray(to_rgb(palette)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    palette.info["transparency"] = b"\xff\x00"
    assert np.asarray(to_rgb(palette)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    keyed = Image.new("RGB", (1, 1), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    assert np.asarray(to_rgb(keyed)).tolist() == [[[255, 255, 255]]]


def test_rgb_is_not_copied() -> None:
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image


@pytest.fixture
def swapping() -> bytes:
    """A colour profile like that of sRGB, but for red and blue, which change places."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = srgb.replace(b"s\0R\0G\0B", b"s\0w\0a\0p")
    return renamed.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_profile_become_those_of_srgb(mode: str, swapping: bytes) -> None:
    image = Image.new("RGB", (3, 2), (204, 51, 0)).convert(mode)
    image.info["icc_profile"] = swapping
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - (0, 51, 204)).max() <= 1


def test_transparency_is_kept_when_a_profile_is_applied(swapping: bytes) -> None:
    image = Image.new("RGBA", (3, 2), (200, 30, 10, 0))
    image.info["icc_profile"] = swapping
    assert (np.asarray(to_rgb(image)) == 255).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda profile: profile[:300],  # cut short
        lambda profile: b"",
        lambda profile: profile[:16] + b"GRAY" + profile[20:],  # for another mode
        lambda profile: profile[:128] + b"\xff" * (len(profile) - 128),
        lambda profile: profile + bytes(5 << 20),  # beyond any profile's size
        lambda profile: "text",
        lambda profile: profile.replace(b"s\0w\0a\0p", b"s\0R\0G\0B"),  # by its name sRGB's
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored(change: Callable[[bytes], object], swapping: bytes) -> None:
    image = Image.new("RGB", (3, 2), (200, 30, 10))
    image.info["icc_profile"] = change(swapping)
    assert (np.asarray(to_rgb(image)) == (200, 30, 10)).all()
