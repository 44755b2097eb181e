"""EXIF -> when and by which camera a photo was taken, and the little of it that a stored photo keeps.

The block is hostile: any field may have any type, length and content. A field that is not what the standard
(CIPA DC-008) says is treated as missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from numbers import Real
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from inlier.data.images import UNDECODABLE

MAX_CAMERA_LENGTH = 100
"""Characters of a camera's name."""

_MAX_LENGTH = 200
_YEARS = range(1826, 2100)  # the first photo; and a clock that is further ahead was never set
_LARGEST = 2**32 - 1

_TIMES = (
    (Base.DateTimeOriginal, Base.SubsecTimeOriginal, Base.OffsetTimeOriginal),
    (Base.DateTimeDigitized, Base.SubsecTimeDigitized, Base.OffsetTimeDigitized),
    (Base.DateTime, Base.SubsecTime, Base.OffsetTime),
)
"""Date, fraction of the second and offset from UTC; the first whose date is possible tells when."""

_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)", re.ASCII)
_SUBSECOND = re.compile(r"\d{1,9}", re.ASCII)
_OFFSET = re.compile(r"[+-](0\d|1[0-4]):[0-5]\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a photo says about how it was taken.

    Attributes:
        taken_at: The camera's clock in ISO 8601, such as "2024-03-05T10:11:12", with the fraction of the
            second and the offset from UTC where the photo has them ("2024-03-05T10:11:12.250+02:00");
            "" if unknown.
        camera: Make and model, such as "Apple iPhone 13", printable, at most 100 characters; "" if unknown.
    """

    taken_at: str
    camera: str


def read_metadata(exif: Image.Exif) -> Metadata:
    """When and by which camera a photo was taken, whatever the block holds.

    The time is the first possible one of DateTimeOriginal, DateTimeDigitized and DateTime.

    Args:
        exif: As Pillow gives it. Pillow reads parts of it late: to be asked for while the file is open.
    """
    fields = _read_fields(exif)
    return Metadata(_taken_at(fields), _camera(fields))


def kept_exif(exif: Image.Exif, *, keep_gps: bool) -> bytes:
    """A new block for the stored photo: camera, lens, times and exposure.

    It never holds an orientation, for the stored photo is upright, nor a thumbnail, which may show what was
    cut off, nor maker's notes, comments, names and serial numbers. The same fields give the same bytes.

    Args:
        exif: As Pillow gives it. Pillow reads parts of it late: to be asked for while the file is open.
        keep_gps: Also keep where the photo was taken.

    Returns:
        What ``Image.save`` takes as ``exif``; b"" if nothing is kept.
    """
    fields = _read_fields(exif)
    kept = Image.Exif()
    kept.update(_keep(fields, _KEPT))
    if details := _keep(fields, _KEPT_DETAILS):
        kept[IFD.Exif] = details
    if keep_gps and (place := _keep(_read_part(exif, IFD.GPSInfo), _KEPT_GPS)):
        kept[IFD.GPSInfo] = place
    return kept.tobytes() if len(kept) else b""


def _read_fields(exif: Image.Exif) -> dict[int, Any]:
    """The fields of interest of the main part, and those of the part with the details, which go first."""
    fields: dict[int, Any] = {}
    for tag in (*_KEPT, *_KEPT_DETAILS):
        try:
            fields[tag] = exif[tag]
        except UNDECODABLE:  # missing, or not to be decoded
            continue
    return fields | _read_part(exif, IFD.Exif)


def _read_part(exif: Image.Exif, part: IFD) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(part))
    except UNDECODABLE:
        return {}


def _keep(fields: Mapping[int, Any], kept: Mapping[int, Callable[[Any], Any]]) -> dict[int, Any]:
    """The fields that are kept and are what they should be, ready to be written."""
    cleaned = ((tag, clean(fields[tag])) for tag, clean in kept.items() if tag in fields)
    return {int(tag): value for tag, value in cleaned if value not in (None, "", b"")}


def _taken_at(fields: Mapping[int, Any]) -> str:
    for date_tag, subsecond_tag, offset_tag in _TIMES:
        date = _date(fields.get(date_tag))
        if date is not None:
            subsecond, offset = _matching(_SUBSECOND)(fields.get(subsecond_tag)), _offset(fields.get(offset_tag))
            return f"{date.isoformat()}{'.' if subsecond else ''}{subsecond}{offset}"
    return ""


def _camera(fields: Mapping[int, Any]) -> str:
    """Make and model; the model alone where it begins like the make ("NIKON CORPORATION", "NIKON D750")."""
    make, model = _text(fields.get(Base.Make)), _text(fields.get(Base.Model))
    first_words = [re.split(r"[\W_]+", name.casefold(), maxsplit=1)[0] for name in (make, model)]
    camera = model if first_words[0] == first_words[1] and model else f"{make} {model}"
    return camera.strip()[:MAX_CAMERA_LENGTH].rstrip()


def _text(value: Any) -> str:
    """One line of printable characters; "" if it is no text, or too long to be a name."""
    if not isinstance(value, str) or len(value) > _MAX_LENGTH:
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())


def _ascii(value: Any) -> str:
    """Text as the standard has it: Pillow would write other letters as question marks too."""
    return _text(value).encode("ascii", "replace").decode("ascii")


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    """What keeps a text of this pattern alone."""

    def match(value: Any) -> str:
        text = _text(value)
        return text if pattern.fullmatch(text) else ""

    return match


def _offset(value: Any) -> str:
    text = _text(value)
    return "+00:00" if text == "Z" else _matching(_OFFSET)(text)


def _date(value: Any) -> datetime | None:
    match = _DATE.fullmatch(_text(value))
    try:
        date = datetime(*map(int, match.groups())) if match else None  # type: ignore[arg-type]
    except ValueError:  # month 13
        return None
    return date if date and date.year in _YEARS else None


def _date_text(value: Any) -> str:
    date = _date(value)
    return f"{date:%Y:%m:%d %H:%M:%S}" if date else ""


def _count(value: Any) -> int | None:
    """A whole number of 16 bits; the first of several, which is how some cameras write the ISO speed."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return int(value) if isinstance(value, int) and 0 <= value < 2**16 else None


def _ratio(value: Any) -> IFDRational | None:
    """A finite number >= 0 that two numbers of 32 bits can express."""
    if not isinstance(value, Real):
        return None
    try:
        if isinstance(value, IFDRational):
            top, bottom = int(value.numerator), int(value.denominator)
        else:
            top, bottom = Fraction(float(value)).limit_denominator(1_000_000).as_integer_ratio()
    except (ValueError, ArithmeticError):  # not a number, or endless
        return None
    return IFDRational(top, bottom) if 0 <= top <= _LARGEST and 0 < bottom <= _LARGEST else None


def _three_ratios(value: Any) -> tuple[IFDRational, ...] | None:
    """Degrees, minutes and seconds, or hours, minutes and seconds."""
    ratios = tuple(ratio for ratio in map(_ratio, value if isinstance(value, tuple) else ()) if ratio is not None)
    return ratios if len(ratios) == 3 == len(value) else None


def _few_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) and len(value) <= 4 else b""


_KEPT: dict[int, Callable[[Any], Any]] = {Base.Make: _ascii, Base.Model: _ascii, Base.DateTime: _date_text}
"""Tags of the main part, and what makes of each field what is written."""

_KEPT_DETAILS: dict[int, Callable[[Any], Any]] = {
    Base.ExposureTime: _ratio,
    Base.FNumber: _ratio,
    Base.ISOSpeedRatings: _count,
    Base.DateTimeOriginal: _date_text,
    Base.DateTimeDigitized: _date_text,
    Base.OffsetTime: _offset,
    Base.OffsetTimeOriginal: _offset,
    Base.OffsetTimeDigitized: _offset,
    Base.Flash: _count,
    Base.FocalLength: _ratio,
    Base.SubsecTime: _matching(_SUBSECOND),
    Base.SubsecTimeOriginal: _matching(_SUBSECOND),
    Base.SubsecTimeDigitized: _matching(_SUBSECOND),
    Base.LensModel: _ascii,
}
"""The same of the part with the details."""

_KEPT_GPS: dict[int, Callable[[Any], Any]] = {
    GPS.GPSVersionID: _few_bytes,
    GPS.GPSLatitudeRef: _ascii,
    GPS.GPSLatitude: _three_ratios,
    GPS.GPSLongitudeRef: _ascii,
    GPS.GPSLongitude: _three_ratios,
    GPS.GPSAltitudeRef: _few_bytes,
    GPS.GPSAltitude: _ratio,
    GPS.GPSTimeStamp: _three_ratios,
    GPS.GPSImgDirectionRef: _ascii,
    GPS.GPSImgDirection: _ratio,
    GPS.GPSDateStamp: _ascii,
}
"""The same of the part about the place."""
