from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from inlier.data.images import read_image, read_mask
from inlier.data.intake import preparing
from inlier.data.intake.hashing import perceptual_hashes
from inlier.data.intake.metadata import Metadata
from inlier.data.intake.preparing import Prepared, Preparer
from inlier.data.intake.quality import measure_quality
from inlier.data.intake.similarity import thumbnail
from inlier.data.intake.sources import Source
from inlier.data.synthetic import draw_component
from inlier.errors import InlierError


def upright() -> NDArray[np.uint8]:
    """Shape (300, 200, 3): a piston in portrait format."""
    return draw_component("piston-crown", seed=0, size=(300, 200)).image


def exif_of(**main: Any) -> Image.Exif:
    exif = Image.Exif()
    exif.update({Base.Make: "Apple", Base.Model: "iPhone 13", Base.Software: "secret"})
    exif.update({int(Base[name]): value for name, value in main.items()})
    exif[IFD.Exif] = {int(Base.DateTimeOriginal): "2024:03:05 10:11:12", int(Base.MakerNote): b"secret"}
    exif[IFD.GPSInfo] = {
        int(GPS.GPSLatitudeRef): "N",
        int(GPS.GPSLatitude): (IFDRational(55), IFDRational(39), IFDRational(34)),
    }
    return exif


def sideways(path: Path) -> Path:
    """A JPEG as a phone writes it that is held upright: lying, and the orientation says so."""
    lying = np.ascontiguousarray(np.rot90(upright()))
    Image.fromarray(lying).save(path, "JPEG", quality=95, exif=exif_of(Orientation=6))
    return path


def preparer(directory: Path, *, longest_side: int = 150, keep_gps: bool = False) -> Preparer:
    scratch = directory / ".ingest" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return Preparer(directory, scratch, longest_side, keep_gps)


def source_of(path: Path, **facts: Any) -> Source:
    return Source(name=path.name, path=path, **facts)


def files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    return sideways(tmp_path / "IMG_1.jpg")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


def test_a_photo_is_stored_upright_and_small_under_its_digest(phone: Path, data: Path) -> None:
    before = phone.read_bytes()
    result = preparer(data)(source_of(phone))
    sha256 = hashlib.sha256(before).hexdigest()
    assert (result.error, result.sha256) == ("", sha256)
    assert result.path == f"photos/{sha256[:2]}/{sha256[:32]}.jpg"
    assert (result.width, result.height) == (100, 150)
    assert (result.source_width, result.source_height) == (200, 300)
    assert (result.mask, result.mask_error) == ("", "")
    assert files_below(data) == [result.path]
    assert phone.read_bytes() == before
    with Image.open(data / result.path) as stored:
        assert (stored.format, stored.size, stored.mode) == ("JPEG", (100, 150), "RGB")
        pixels = np.asarray(stored)
    expected = np.asarray(Image.fromarray(upright()).resize((100, 150), Image.Resampling.LANCZOS))
    assert np.abs(pixels.astype(np.float64) - expected).mean() < 4
    assert np.abs(np.rot90(pixels, 2).astype(np.float64) - expected).mean() > 20


def test_a_stored_photo_says_when_and_by_what_but_not_where(phone: Path, data: Path) -> None:
    result = preparer(data)(source_of(phone))
    assert result.metadata == Metadata("2024-03-05T10:11:12", "Apple iPhone 13")
    content = (data / result.path).read_bytes()
    assert b"secret" not in content and b"secret" in phone.read_bytes()
    with Image.open(data / result.path) as stored:
        exif = stored.getexif()
        assert dict(exif.get_ifd(IFD.GPSInfo)) == {}
        assert int(Base.Orientation) not in exif
        assert exif[Base.Model] == "iPhone 13"
        assert exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] == "2024:03:05 10:11:12"


def test_a_stored_photo_says_where_if_asked(phone: Path, data: Path) -> None:
    result = preparer(data, keep_gps=True)(source_of(phone))
    with Image.open(data / result.path) as stored:
        assert stored.getexif().get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (55.0, 39.0, 34.0)
    assert b"secret" not in (data / result.path).read_bytes()


def test_what_is_measured_is_that_of_the_stored_size(phone: Path, data: Path) -> None:
    result = preparer(data, longest_side=300)(source_of(phone))
    pixels = read_image(phone)
    assert pixels.shape == (300, 200, 3)
    assert result.quality == measure_quality(pixels)
    small = thumbnail(pixels)
    assert result.thumbnail == small.tobytes()
    assert np.frombuffer(result.hashes, dtype="<u8").tolist() == perceptual_hashes(small).tolist()


@pytest.mark.parametrize(("size", "stored"), (((40, 30), (40, 30)), ((60, 400), (22, 150)), ((600, 300), (150, 75))))
def test_a_photo_keeps_its_shape_and_is_never_enlarged(
    tmp_path: Path, data: Path, size: tuple[int, int], stored: tuple[int, int]
) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", size, (90, 60, 30)).save(path)
    result = preparer(data)(source_of(path))
    assert (result.width, result.height) == stored
    assert (result.source_width, result.source_height) == size
    with Image.open(data / result.path) as photo:
        assert photo.size == stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_source_sizes_are_upright(tmp_path: Path, data: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (300, 200)).save(path, exif=exif_of(Orientation=orientation))
    result = preparer(data)(source_of(path))
    assert (result.source_width, result.source_height) == ((200, 300) if orientation >= 5 else (300, 200))
    assert (result.width, result.height) == ((100, 150) if orientation >= 5 else (150, 100))


def test_the_same_source_gives_the_same_bytes(phone: Path, data: Path, tmp_path: Path) -> None:
    prepare = preparer(data)
    result = prepare(source_of(phone))
    content = (data / result.path).read_bytes()
    (data / result.path).write_bytes(b"torn")
    assert prepare(source_of(phone)) == result
    assert (data / result.path).read_bytes() == content
    elsewhere = tmp_path / "elsewhere"
    copy = tmp_path / "copy.jpeg"
    copy.write_bytes(phone.read_bytes())
    assert preparer(elsewhere)(source_of(copy)) == result
    assert (elsewhere / result.path).read_bytes() == content


def test_large_photos_are_decoded_in_turns_to_the_same_bytes(
    phone: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = preparer(data)(source_of(phone))
    content = (data / result.path).read_bytes()
    monkeypatch.setattr(preparing, "_LARGE_PIXELS", 1000)
    assert preparer(data)(source_of(phone)) == result
    assert (data / result.path).read_bytes() == content


def mask_of(path: Path, pixels: NDArray[Any]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_mask_is_stored_at_the_size_of_the_photo(phone: Path, data: Path, tmp_path: Path) -> None:
    pixels = np.zeros((300, 200), dtype=np.uint8)
    pixels[120:180, 40:80] = 1
    pixels[7, 9] = 200  # one pixel, which must not be lost
    mask = mask_of(tmp_path / "mask.png", pixels)
    result = preparer(data)(source_of(phone, mask=mask))
    mask_sha256 = hashlib.sha256(Path(mask).read_bytes()).hexdigest()
    assert result.mask == f"masks/{result.sha256[:2]}/{result.sha256[:16]}{mask_sha256[:16]}.png"
    assert result.mask_error == ""
    assert files_below(data) == sorted([result.mask, result.path])
    with Image.open(data / result.mask) as stored:
        assert (stored.format, stored.mode, stored.size) == ("PNG", "L", (result.width, result.height))
        values = np.asarray(stored)
    assert set(np.unique(values)) == {0, 255}
    expected = np.zeros((150, 100), dtype=bool)
    expected[60:90, 20:40] = expected[3, 4] = True
    np.testing.assert_array_equal(values == 255, expected)
    np.testing.assert_array_equal(read_mask(data / result.mask, size=(150, 100)), expected)


def test_two_masks_of_one_photo_do_not_overwrite_each_other(phone: Path, data: Path, tmp_path: Path) -> None:
    pixels = np.zeros((300, 200), dtype=np.uint8)
    masks = [mask_of(tmp_path / f"{number}.png", pixels + np.uint8(number)) for number in range(2)]
    results = [preparer(data)(source_of(phone, mask=mask)) for mask in masks]
    assert results[0].path == results[1].path
    assert results[0].mask != results[1].mask
    assert len(files_below(data)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    (
        (b"", "the file is empty"),
        (b"no mask", "not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF)"),
        (None, "the file does not exist"),
    ),
)
def test_a_mask_that_cannot_be_read_does_not_cost_the_photo(
    phone: Path, data: Path, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    mask = tmp_path / "mask.png"
    if content is not None:
        mask.write_bytes(content)
    result = preparer(data)(source_of(phone, mask=str(mask)))
    assert (result.error, result.mask, result.mask_error) == ("", "", reason)
    assert files_below(data) == [result.path]


@pytest.mark.parametrize(
    ("content", "reason"),
    (
        (b"", "the file is empty"),
        (b"notes", "not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF)"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "damaged"),
        (None, "the file does not exist"),
    ),
)
def test_a_source_that_is_no_photo_is_a_reason(data: Path, tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    result = preparer(data)(source_of(path))
    assert result.error == reason or (reason == "damaged" and result.error.startswith("damaged: "))
    assert result == Prepared(error=result.error)
    assert files_below(data) == []


def test_a_truncated_photo_is_a_reason(phone: Path, data: Path) -> None:
    phone.write_bytes(phone.read_bytes()[:5000])
    assert preparer(data)(source_of(phone)) == Prepared(error="truncated: the file ends before the picture does")
    assert files_below(data) == []


def test_a_source_that_is_refused_is_not_opened(phone: Path, data: Path) -> None:
    assert preparer(data)(source_of(phone, error="a link")) == Prepared(error="a link")


def test_a_drive_that_went_away_is_a_reason(phone: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(source: Source) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "open_source", gone)
        result = preparer(data)(source_of(phone))
    assert result == Prepared(error="the file cannot be read: Input/output error")
    monkeypatch.setattr(preparing, "open_mask", gone)
    result = preparer(data)(source_of(phone, mask="mask.png"))
    assert (result.error, result.mask, result.mask_error) == ("", "", "the file cannot be read: Input/output error")


@pytest.mark.filterwarnings("ignore:.*Corrupt EXIF:UserWarning")
def test_broken_exif_does_not_cost_the_photo(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 64)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    result = preparer(data)(source_of(path))
    assert (result.error, result.metadata) == ("", Metadata("", ""))


@pytest.mark.parametrize("blocked", ("photos", "masks"))
def test_what_cannot_be_written_ends_the_run(phone: Path, data: Path, tmp_path: Path, blocked: str) -> None:
    (data / blocked).touch()
    mask = mask_of(tmp_path / "mask.png", np.zeros((300, 200), dtype=np.uint8))
    sentence = (
        rf"{blocked}/[0-9a-f]{{2}}/[0-9a-f]{{32}}\.(jpg|png) cannot be written: (File exists|Not a directory)\. "
        r"What was done is kept: given again, ingest goes on\.$"
    )
    with pytest.raises(InlierError, match=sentence):
        preparer(data)(source_of(phone, mask=mask))


def test_a_disk_that_is_full_ends_the_run_and_leaves_no_part(
    phone: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InlierError, match=r"\.jpg cannot be written: No space left on device\. What was done is kept"):
        preparer(data)(source_of(phone))
    assert not (data / "photos").exists() or not files_below(data / "photos")


def test_no_file_that_is_not_whole_is_left(phone: Path, data: Path) -> None:
    prepare = preparer(data)
    prepare(source_of(phone))
    assert os.listdir(prepare.scratch) == []
