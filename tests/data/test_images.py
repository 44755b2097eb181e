from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from inlier.data.images import decode, open_image, read_image, read_mask
from inlier.errors import ImageReadError

# Four quarters, red, green, blue and white: no two of the eight orientations look alike.
QUARTERS = np.zeros((32, 48, 3), dtype=np.uint8)
QUARTERS[:16, :24, 0] = QUARTERS[:16, 24:, 1] = QUARTERS[16:, :24, 2] = QUARTERS[16:, 24:] = 255


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, picture: NDArray[np.generic] | Image.Image, **options: object) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if path.suffix == ".heic":
        pillow_heif.from_pillow(image).save(path, **options)
    else:
        image.save(path, **options)  # type: ignore[arg-type]
    return path


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp", ".jpg", ".heic", ".avif"])
def test_format(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"spaces and Ümlaut{suffix}", QUARTERS, **({"lossless": True} if "webp" in suffix else {}))
    image = read_image(path)
    assert (image.shape, image.dtype, image.flags.writeable) == ((32, 48, 3), np.uint8, True)
    is_lossy = suffix in (".jpg", ".heic", ".avif")
    assert image[4::8, 4::8].astype(int) == pytest.approx(QUARTERS[4::8, 4::8], abs=10 if is_lossy else 0)


def test_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", QUARTERS)
    assert (read_image(path.rename(tmp_path / "photo.jpg")) == QUARTERS).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".heic", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = Image.fromarray(QUARTERS)
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    image = read_image(save(tmp_path / f"photo{suffix}", QUARTERS, exif=exif.tobytes()))
    assert image.shape == expected.shape
    assert image[4::8, 4::8].astype(int) == pytest.approx(expected[4::8, 4::8], abs=10)


def test_orientation_after_reduction(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = save(tmp_path / "photo.jpg", QUARTERS.repeat(8, axis=0).repeat(8, axis=1), exif=exif)
    assert read_image(path, min_side=32).shape == (48, 32, 3)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12",
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|EXIF data):UserWarning")
def test_broken_exif_does_not_cost_the_photo(tmp_path: Path, suffix: str, block: bytes) -> None:
    assert read_image(save(tmp_path / f"photo{suffix}", QUARTERS, exif=block)).shape == (32, 48, 3)


def test_orientation_of_no_meaning_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 99
    assert read_image(save(tmp_path / "photo.jpg", QUARTERS, exif=exif)).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("height", "width", "min_side", "expected"),
    [
        (64, 96, None, (64, 96)),
        (64, 96, 65, (64, 96)),  # never enlarged
        (64, 96, 64, (64, 96)),
        (64, 96, 33, (64, 96)),
        (64, 96, 32, (32, 48)),
        (67, 96, 32, (34, 48)),  # rounded up
        (96, 64, 17, (48, 32)),
        (640, 960, 20, (20, 30)),  # 32 times: more than a JPEG decoder alone can do
        (20, 900, 16, (20, 900)),  # a panorama keeps its short side
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_reduction(
    tmp_path: Path, suffix: str, height: int, width: int, min_side: int | None, expected: tuple[int, int]
) -> None:
    path = save(tmp_path / f"photo{suffix}", np.full((height, width, 3), 90, dtype=np.uint8))
    image = read_image(path, min_side=min_side)
    assert image.shape == (*expected, 3)
    assert image.astype(int) == pytest.approx(90, abs=1)


def test_jpeg_decoder_reduces_and_stays_close_to_the_full_picture(tmp_path: Path) -> None:
    photo = Image.fromarray(noise(60, 80) // 4 + 96).resize((4000, 3000), Image.Resampling.BICUBIC)
    path = save(tmp_path / "photo.jpg", photo, quality=90)
    reduced = read_image(path, min_side=224)
    assert reduced.shape == (375, 500, 3)
    with Image.open(path) as drafted:
        drafted.draft(None, (500, 375))
        assert (reduced == np.asarray(drafted)).all()
    resized = [
        np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR), dtype=float)
        for image in (reduced, read_image(path))
    ]
    assert np.abs(resized[0] - resized[1]).mean() < 0.5


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("L", ".jpg"), ("CMYK", ".jpg"), ("LA", ".png"), ("RGBA", ".png"), ("1", ".png"), ("P", ".png")),
        *(("I;16", ".png"), ("P", ".gif"), ("RGBA", ".webp"), ("YCbCr", ".tif"), ("LAB", ".tif")),
        *(("CMYK", ".tif"), ("I;16", ".tif"), ("I;16B", ".tif"), ("I", ".tif"), ("F", ".tif")),
    ],
)
def test_white_is_white_in_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    white = {"CMYK": (0, 0, 0, 0), "YCbCr": (255, 128, 128), "LAB": (255, 128, 128), "P": 0}.get(mode, "white")
    image = Image.new(mode, (20, 20), 65535 if mode[0] == "I" else 1.0 if mode == "F" else white)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([255, 255, 255])
    pixels = read_image(save(tmp_path / f"photo{suffix}", image))
    assert pixels.shape == (20, 20, 3)
    assert pixels.astype(int) == pytest.approx(255, abs=2)


def test_grey_of_sixteen_bits_is_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(16, axis=0)
    for suffix in (".png", ".tif"):
        pixels = read_image(save(tmp_path / f"ramp{suffix}", ramp))
        assert (pixels[0, :, 0] == np.arange(256)).all()


def test_adobe_jpeg_in_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (32, 32), (255, 0, 0, 0))  # cyan; Pillow writes it inverted, as Adobe does
    path = save(tmp_path / "photo.jpg", ink, quality=95)
    assert b"Adobe" in path.read_bytes()
    assert read_image(path)[16, 16].astype(int) == pytest.approx((0, 255, 255), abs=6)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_first_frame(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    path = save(tmp_path / f"film{suffix}", first, save_all=True, append_images=[second])
    assert read_image(path)[0, 0].astype(int) == pytest.approx((255, 0, 0), abs=2)


def test_first_picture_of_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "pair.jpg"
    Image.new("RGB", (20, 20), "red").save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert read_image(path, min_side=16)[0, 0].astype(int) == pytest.approx((255, 0, 0), abs=2)


def png_without_pixels(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, b"IDAT")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PNG = encode(Image.fromarray(noise(40, 40)), "PNG")
JPEG = encode(Image.fromarray(noise(40, 40)), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "^the file is empty$"),
        (
            b"not a picture",
            r"^not a picture in a known format \(JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF\)$",
        ),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            "^not a picture in a known format",
        ),  # Image.open would run Ghostscript
        (b"\0\0\0\x18ftypisom" + bytes(100), "^not a picture in a known format"),  # a film
        (b"\0\0\0\x18ftypheic" + bytes(100), "^damaged: "),
        (JPEG[: len(JPEG) // 2], "^truncated: the file ends before the picture does$"),
        (PNG[: len(PNG) // 2], "^truncated: the file ends before the picture does$"),
        (PNG[:100] + bytes(200) + PNG[300:], "^damaged: "),
        (b"\xff\xd8\xff" + bytes(100), "^damaged: "),
        (encode(Image.new("RGB", (1, 1)), "PNG"), "^is 1 x 1 px; at least 16 px a side are needed$"),
        (encode(Image.new("RGB", (15, 400)), "JPEG"), "^is 15 x 400 px; at least 16 px a side are needed$"),
        (png_without_pixels(20_000, 10_000), "^is 20000 x 10000 px; at most 178956970 px in all are read$"),
    ],
)
def test_unreadable_content(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=reason):
        read_image(path)
    with pytest.raises(ImageReadError, match=reason):
        read_mask(path, size=(8, 8))


def test_unreadable_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling.jpg").symlink_to("gone")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in {
        tmp_path / "gone.jpg": "^the file does not exist$",
        tmp_path / "dangling.jpg": "^a link to a file that does not exist$",
        tmp_path / "itself.jpg": "^the file cannot be opened: Too many levels of symbolic links$",
        tmp_path / ("x" * 300): "^the file cannot be opened: File name too long$",
        tmp_path / "nul\0.jpg": "^the file cannot be opened: .*embedded null ",
        tmp_path: "^a folder, not a file$",
        tmp_path / "pipe.jpg": r"^not a regular file \(a pipe, a socket or a device\)$",
        Path(os.devnull): r"^not a regular file",
    }.items():
        with pytest.raises(ImageReadError, match=reason):
            read_image(path)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "photo.png", QUARTERS)
    monkeypatch.setattr(Path, "open", denied)  # the tests may run as a user whom no permission stops
    with pytest.raises(ImageReadError, match=r"^no permission to read the file$"):
        read_image(path)


def test_min_side_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"min_side of read_image must be at least 1, got 0\."):
        read_image(tmp_path / "photo.jpg", min_side=0)


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".jpg"), ("L", ".png"), ("1", ".tif")])
def test_large_picture_without_warning(tmp_path: Path, mode: str, suffix: str) -> None:
    path = save(tmp_path / f"large{suffix}", Image.new(mode, (12_000, 9_000), 255))
    filters = warnings.filters[:]
    image = read_image(path, min_side=224)
    assert image.shape == (282, 375, 3)
    assert (image == 255).all()
    assert warnings.filters == filters


def test_mask_colours(tmp_path: Path) -> None:
    values = np.zeros((16, 20), dtype=np.uint8)
    values[3, 5] = values[10, 7] = 1
    expected = values > 0
    size = (16, 20)
    rgb = np.zeros((16, 20, 3), dtype=np.uint8)
    rgb[..., 2] = values
    rgba = np.dstack([rgb, np.full_like(values, 255)])
    drawn = np.dstack([np.full_like(rgb, 255), values * 255])  # white, but transparent where there is no defect
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0])
    masks = [values, expected, values.astype(np.uint16), values.astype(np.float32), rgb, rgba, drawn, palette]
    for number, picture in enumerate(masks):
        mask = read_mask(save(tmp_path / f"{number}.tif", picture), size=size)
        assert mask.dtype == np.bool_
        assert (mask == expected).all(), number


def test_mask_loses_no_defect_when_reduced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        height, width, wanted_height, wanted_width = rng.integers(16, 70, 4)
        values = rng.random((height, width)) < 0.01
        mask = read_mask(save(tmp_path / f"{number}.png", values), size=(wanted_height, wanted_width))
        expected = np.zeros((wanted_height, wanted_width), dtype=bool)
        for row, column in np.ndindex(expected.shape):
            top, bottom = row * height // wanted_height, (row + 1) * height // wanted_height
            left, right = column * width // wanted_width, (column + 1) * width // wanted_width
            expected[row, column] = values[top : max(bottom, top + 1), left : max(right, left + 1)].any()
        assert (mask == expected).all()
        assert mask.any() == values.any()


FILES = (
    JPEG,
    PNG,
    encode(Image.fromarray(QUARTERS), "JPEG", progressive=True),
    *(encode(Image.fromarray(QUARTERS), kind) for kind in ("WEBP", "TIFF", "GIF", "BMP", "AVIF")),
    *(encode(Image.fromarray(QUARTERS).quantize(8), kind) for kind in ("PNG", "TIFF")),
    encode(Image.fromarray(QUARTERS), "TIFF", compression="tiff_lzw"),
)


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_bytes_give_a_picture_or_a_reason(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    hostile = bytearray(content)
    change = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(change, max_size=8)):
        hostile[position] = value
    if data.draw(st.booleans()):
        del hostile[data.draw(st.integers(0, len(hostile))) :]
    path = tmp_path / "hostile"
    path.write_bytes(hostile)
    for read in (lambda: read_image(path, min_side=16), lambda: read_mask(path, size=(20, 30))):
        try:
            assert read().ndim in (2, 3)
        except ImageReadError as error:
            assert str(error)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_longest_side_is_fitted_and_small_photos_stay(tmp_path: Path, suffix: str) -> None:
    wide, small = tmp_path / f"wide.{suffix}", tmp_path / f"small.{suffix}"
    Image.new("RGB", (901, 300), "red").save(wide)
    Image.new("RGB", (60, 40), "red").save(small)
    sizes = []
    for path in (wide, small):
        with open_image(path) as file:
            sizes.append(decode(file, longest_side=100).size)
    assert sizes == [(100, 33), (60, 40)]


def test_a_photo_is_read_from_an_open_file_which_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), (1, 2, 3)).save(path)
    with path.open("rb") as stream:
        with open_image(stream) as file:
            assert np.asarray(decode(file))[0, 0].tolist() == [1, 2, 3]
        assert not stream.closed
    with pytest.raises(ImageReadError, match="not a picture in a known format"), open_image(io.BytesIO(b"text")):
        pass
