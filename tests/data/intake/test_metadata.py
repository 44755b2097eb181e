from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from inlier.data.intake.metadata import Metadata, kept_exif, read_metadata

PLACE = {
    GPS.GPSVersionID: b"\x02\x03\x00\x00",
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (IFDRational(55), IFDRational(39), IFDRational(341234, 10007)),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (IFDRational(12), IFDRational(35), IFDRational(561234, 10009)),
    GPS.GPSAltitudeRef: b"\x00",
    GPS.GPSAltitude: IFDRational(123, 10),
    GPS.GPSDateStamp: "2024:03:05",
}
DETAILS = {
    Base.ExposureTime: IFDRational(1, 120),
    Base.FNumber: IFDRational(16, 10),
    Base.ISOSpeedRatings: 400,
    Base.DateTimeOriginal: "2024:03:05 10:11:12",
    Base.DateTimeDigitized: "2024:03:05 10:11:13",
    Base.OffsetTimeOriginal: "+02:00",
    Base.SubsecTimeOriginal: "250",
    Base.Flash: 16,
    Base.FocalLength: IFDRational(51, 10),
    Base.LensModel: "iPhone 13 back camera 5.1mm f/1.6",
}
MAIN = {Base.Make: "Apple", Base.Model: "iPhone 13", Base.DateTime: "2024:06:01 00:00:00"}
SECRETS = {
    Base.ImageDescription: "secret",
    Base.Orientation: 6,
    Base.Software: "secret",
    Base.Artist: "secret",
    Base.Copyright: "secret",
    Base.HostComputer: "secret",
}
SECRET_DETAILS = {
    Base.MakerNote: b"secret",
    Base.UserComment: b"ASCII\0\0\0secret",
    Base.CameraOwnerName: "secret",
    Base.BodySerialNumber: "secret",
    Base.LensSerialNumber: "secret",
    Base.ImageUniqueID: "secret",
}


def exif_of(
    main: dict[Any, Any] | None = None, details: dict[Any, Any] | None = None, place: dict[Any, Any] | None = None
) -> Image.Exif:
    """A block as Pillow reads it from bytes."""
    written = Image.Exif()
    written.update({int(tag): value for tag, value in (main or {}).items()})
    for part, fields in ((IFD.Exif, details), (IFD.GPSInfo, place)):
        if fields:
            written[part] = {int(tag): value for tag, value in fields.items()}
    exif = Image.Exif()
    exif.load(written.tobytes())
    return exif


def stored(exif: Image.Exif, *, keep_gps: bool = False) -> tuple[Image.Exif, bytes]:
    """The block of a JPEG that was saved with what is kept, and the file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=kept_exif(exif, keep_gps=keep_gps))
    with Image.open(io.BytesIO(file.getvalue())) as photo:
        read = photo.getexif()
        read.get_ifd(IFD.Exif)
        read.get_ifd(IFD.GPSInfo)
    return read, file.getvalue()


def taken_at(**fields: Any) -> str:
    main = {Base[name]: value for name, value in fields.items() if name == "DateTime"}
    details = {Base[name]: value for name, value in fields.items() if name != "DateTime"}
    return read_metadata(exif_of(main, details)).taken_at


def camera(make: Any, model: Any) -> str:
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = make, model
    return read_metadata(exif).camera


def test_a_phones_photo() -> None:
    assert read_metadata(exif_of(MAIN, DETAILS)) == Metadata("2024-03-05T10:11:12.250+02:00", "Apple iPhone 13")
    assert read_metadata(Image.Exif()) == Metadata("", "")


def test_the_first_possible_date_counts_with_its_own_fraction_and_offset() -> None:
    dates = {
        "DateTimeOriginal": "2024:03:05 10:11:12",
        "DateTimeDigitized": "2023:03:05 10:11:12",
        "DateTime": "2022:03:05 10:11:12",
        "SubsecTimeDigitized": "7",
        "OffsetTimeDigitized": "-03:30",
        "OffsetTime": "Z",
    }
    assert taken_at(**dates) == "2024-03-05T10:11:12"
    assert taken_at(**dates | {"DateTimeOriginal": "0000:00:00 00:00:00"}) == "2023-03-05T10:11:12.7-03:30"
    del dates["DateTimeOriginal"], dates["DateTimeDigitized"]
    assert taken_at(**dates) == "2022-03-05T10:11:12+00:00"


@pytest.mark.parametrize(
    "text", ["2024-03-05 10:11:12", "2024/03/05 10:11:12", "2024:03:05T10:11:12", "2024:03:05 10:11:12 "]
)
def test_other_spellings_of_a_date(text: str) -> None:
    assert taken_at(DateTimeOriginal=text) == "2024-03-05T10:11:12"


@pytest.mark.parametrize(
    "value",
    [
        "0000:00:00 00:00:00",
        "    :  :     :  :  ",
        "0001:01:01 00:00:00",
        "1800:01:01 00:00:00",
        "2100:01:01 00:00:00",
        "2024:13:05 10:11:12",
        "2023:02:29 10:11:12",
        "2024:03:05 24:00:00",
        "2024:03:05",
        "2024:03:05 10:11:12 and more",
        "٢٠٢٤:03:05 10:11:12",
        "x" * 60_000,
        20240305,
        IFDRational(1, 0),
        b"\xff\xfe",
        (1, 2, 3),
    ],
)
def test_an_impossible_date_is_unknown(value: Any) -> None:
    exif = exif_of(details={Base.DateTimeOriginal: value})
    assert read_metadata(exif).taken_at == ""
    assert kept_exif(exif, keep_gps=True) == b""


def test_an_impossible_fraction_or_offset_is_left_out() -> None:
    for wrong in ("", "-5", "1e3", "1234567890", 250):
        assert taken_at(DateTimeOriginal="2024:03:05 10:11:12", SubsecTimeOriginal=wrong) == "2024-03-05T10:11:12"
    for wrong in ("+15:00", "+02:60", "02:00", "+2", "   :  ", 2):
        assert taken_at(DateTimeOriginal="2024:03:05 10:11:12", OffsetTimeOriginal=wrong) == "2024-03-05T10:11:12"


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Apple", "iPhone 13", "Apple iPhone 13"),
        ("Canon", "Canon EOS 80D", "Canon EOS 80D"),
        ("NIKON CORPORATION", "NIKON D750", "NIKON D750"),
        ("HUAWEI", "Huawei P30", "Huawei P30"),
        ("LG Electronics", "LG-H870", "LG-H870"),
        ("LG Electronics", "LGE 5", "LG Electronics LGE 5"),
        ("samsung", "", "samsung"),
        ("", "SM-G991B", "SM-G991B"),
        ("  Sony\0\0", "\tILCE-7M3\n\x1b[31m", "Sony ILCE-7M3 [31m"),
        ("a" * 90, "b" * 90, "a" * 90 + " " + "b" * 9),
        ("a" * 201, "b", "b"),
        (7, "b", "b"),
        (b"\0\1", IFDRational(1, 0), ""),
    ],
)
def test_cameras(make: Any, model: Any, expected: str) -> None:
    assert camera(make, model) == expected


def test_what_would_garble_a_terminal_is_no_part_of_a_name() -> None:
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "A\u202ecme\u200b", "X\ud800 é"
    assert read_metadata(exif).camera == "A cme X é"
    read, _ = stored(exif)
    assert (read[Base.Make], read[Base.Model]) == ("A cme", "X ?")


def test_what_is_kept_is_read_back_and_nothing_else() -> None:
    exif = exif_of(MAIN | SECRETS, DETAILS | SECRET_DETAILS, PLACE)
    read, content = stored(exif)
    assert dict(read) == {int(tag): value for tag, value in MAIN.items()} | {int(IFD.Exif): read[IFD.Exif]}
    assert read.get_ifd(IFD.Exif) == {int(tag): value for tag, value in DETAILS.items()}
    assert b"secret" not in content
    assert read_metadata(read) == read_metadata(exif)


def encodings(place: dict[Any, Any]) -> Iterator[bytes]:
    """How a file may hold the seconds of the coordinates, and their marks."""
    for tag in (GPS.GPSLatitude, GPS.GPSLongitude):
        seconds = place[tag][2]
        for order in "<>":
            yield struct.pack(order + "LL", seconds.numerator, seconds.denominator)
            yield struct.pack(order + "L", seconds.numerator)
    yield b"2024:03:05\0"


def test_the_place_is_gone_unless_asked_for() -> None:
    exif = exif_of(MAIN, {}, PLACE)
    read, content = stored(exif)
    assert IFD.GPSInfo not in read
    assert not read.get_ifd(IFD.GPSInfo)
    assert not any(encoding in content for encoding in encodings(PLACE))
    read, content = stored(exif, keep_gps=True)
    assert read.get_ifd(IFD.GPSInfo) == {int(tag): value for tag, value in PLACE.items()}
    assert any(encoding in content for encoding in encodings(PLACE))  # else the search above would find nothing


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "JPEG"])
def test_every_format_takes_it(format_: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format_, exif=kept_exif(exif_of(MAIN, DETAILS), keep_gps=False))
    with Image.open(file) as photo:
        assert read_metadata(photo.getexif()) == read_metadata(exif_of(MAIN, DETAILS))


def test_the_thumbnail_is_not_kept() -> None:
    small = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(small, "JPEG")
    main = exif_of(MAIN).tobytes()
    # The main part ends in the place of the next part, zero: there it is put, behind everything.
    (count,) = struct.unpack(">H", main[14:16])
    link = 16 + 12 * count
    thumbnail = struct.pack(">HHHLLHHLLL", 2, 0x0201, 4, 1, len(main) + 24, 0x0202, 4, 1, len(small.getvalue()), 0)
    exif = Image.Exif()
    exif.load(main[:link] + struct.pack(">L", len(main) - 6) + main[link + 4 :] + thumbnail + small.getvalue())
    assert exif.get_ifd(IFD.IFD1)[0x0202] == len(small.getvalue())
    read, content = stored(exif)
    assert read[Base.Make] == "Apple"
    assert not read.get_ifd(IFD.IFD1)
    assert content.count(b"\xff\xd8\xff") == 1


def test_equal_fields_give_equal_bytes() -> None:
    kept = kept_exif(exif_of(MAIN | SECRETS, DETAILS, PLACE), keep_gps=True)
    turned = (dict(reversed(fields.items())) for fields in (MAIN, DETAILS, PLACE))
    assert kept == kept_exif(exif_of(*turned), keep_gps=True)
    again = Image.Exif()
    again.load(kept)
    assert kept_exif(again, keep_gps=True) == kept
    little = Image.Exif()
    little.endian = "<"
    little.update(MAIN)
    assert kept_exif(little, keep_gps=False) == kept_exif(exif_of(MAIN), keep_gps=False)


def test_nothing_to_keep_is_no_block() -> None:
    assert kept_exif(exif_of(SECRETS, SECRET_DETAILS, PLACE), keep_gps=False) == b""
    assert kept_exif(Image.Exif(), keep_gps=True) == b""


@pytest.mark.parametrize(
    "value",
    [
        IFDRational(1, 0), IFDRational(0, 0), IFDRational(-1, 2), float("nan"), float("inf"), 1e300, 10**400, -1,
        2**40, "1/120", b"\0", (1, 2), None, [IFDRational(1)], {"a": 1}, Fraction(2**70, 2**69 + 1),
        "x" * 201, b"x" * 5,
    ],
)  # fmt: skip
def test_a_field_that_is_not_what_it_should_be_is_left_out(value: Any) -> None:
    exif = Image.Exif()
    exif[Base.Model] = "X"
    details = {tag: value for tag in DETAILS} | {Base.Flash: 16}
    exif.get_ifd(IFD.Exif).update({int(tag): of for tag, of in details.items() if tag != Base.LensModel})
    exif.get_ifd(IFD.GPSInfo).update({int(tag): value for tag in PLACE if not isinstance(PLACE[tag], str)})
    read, _ = stored(exif, keep_gps=True)
    assert read[Base.Model] == "X"
    kept = read.get_ifd(IFD.Exif)
    assert kept.pop(Base.Flash) == 16
    assert all(float(of) in (0.0, 1.0, 2.0) or of == 1 for of in kept.values())
    assert kept == {} or value in ((1, 2), Fraction(2**70, 2**69 + 1))


def test_floats_are_written_as_fractions_and_the_first_iso_speed_counts() -> None:
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif).update({int(Base.ExposureTime): 0.0125, int(Base.ISOSpeedRatings): (200, 0)})
    read, _ = stored(exif)
    assert read.get_ifd(IFD.Exif) == {int(Base.ExposureTime): IFDRational(1, 80), int(Base.ISOSpeedRatings): 200}


@pytest.mark.parametrize("is_strict", [False, True])
def test_random_damage_raises_nothing(is_strict: bool) -> None:
    rng = random.Random(0)
    whole = exif_of(MAIN | SECRETS, DETAILS | SECRET_DETAILS, PLACE).tobytes()
    num_read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error" if is_strict else "ignore")
        for _ in range(1500):
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 2, 5, 20])):
                damaged[rng.randrange(14, len(damaged))] = rng.choice([0, 1, 0xFF, rng.randrange(256)])
            exif = Image.Exif()
            try:
                exif.load(bytes(damaged[: rng.choice([len(damaged), rng.randrange(20, len(damaged))])]))
            except (Warning, OSError, SyntaxError):
                continue
            found = read_metadata(exif)
            assert found.camera.isprintable() and len(found.camera) <= 100
            block = kept_exif(exif, keep_gps=True)
            again = Image.Exif()
            again.load(block)
            assert kept_exif(again, keep_gps=True) == block
            num_read += found.camera != ""
    assert num_read > 200
