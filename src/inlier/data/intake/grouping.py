"""Which photos belong together: by folder, camera, day, burst, number, or what a pattern finds in their names."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from inlier.data.tables import first_five

BURST_SECONDS = 10.0
"""Seconds between two photos of a burst at most, unless the user says otherwise."""

MAX_LENGTH = 200
"""Characters of a group's name."""

MAX_DIGITS = 3
"""Digits that a number which groups photos has at most: more is a serial number, a date, or a stock photo's."""

Kind = Literal["none", "folder", "camera", "day", "burst", "digits", "regex"]

_KINDS: tuple[Kind, ...] = ("none", "folder", "camera", "day", "burst", "digits")


@dataclass(frozen=True, slots=True)
class GroupBy:
    """What photos are grouped by.

    Attributes:
        kind: One of the seven.
        seconds: For ``burst``: how far apart two successive photos of one are at most.
        pattern: For ``regex``: what is looked for in a photo's name.
    """

    kind: Kind
    seconds: float = BURST_SECONDS
    pattern: re.Pattern[str] | None = None


def parse_group_by(text: str) -> GroupBy:
    """What a user means by none, folder, camera, day, burst, burst:SECONDS, digits or regex:PATTERN.

    Raises:
        ValueError: It is none of these, the seconds are no positive number, or the pattern is broken.
    """
    name, colon, argument = text.partition(":")
    if name == "regex" and argument:
        return GroupBy("regex", pattern=_compile(argument))
    if name == "burst" and colon:
        return GroupBy("burst", seconds=_seconds(argument))
    for kind in _KINDS:
        if text == kind:
            return GroupBy(kind)
    raise ValueError(
        f"group_by must be none, folder, camera, day, burst, burst:SECONDS, digits or regex:PATTERN, got {text}."
    )


def group_keys(
    group_by: GroupBy,
    names: Sequence[str],
    folders: Sequence[str],
    cameras: Sequence[str],
    times: Sequence[str],
    *,
    numbers: Sequence[str] = (),
) -> list[str]:
    """The group of each of N photos; "" where a photo stands alone.

    A group is named by what its photos share ("folder:ship/deck", "camera:Apple iPhone 13", "day:2024-03-05"),
    a burst by its camera and its first photo ("burst:Apple iPhone 13 2024-03-05T10:11:12"). A photo of which
    that is not known, or in whose name the pattern finds nothing, stands alone. A long name is cut, and told
    from others by the start of its SHA-256.

    A burst is a chain of photos of one camera, each within so many seconds of the one before; photos of unknown
    cameras chain with each other. A number, as of a cylinder, is a part's name within one folder only ("digits:ship
    3"), for every ship has a cylinder 3. All photos of a data set must be given at once, for a new one may join two
    bursts. Times are the camera's clock: an offset from UTC is passed over, as a photo that went through another
    program has often lost it.

    Args:
        group_by: What to group by.
        names: For ``regex``. The pattern's first named group is the key, else its first group, else all it
            finds.
        folders: For ``folder`` and ``digits``; "" if a photo lies in none.
        cameras: For ``camera`` and ``burst``; "" if unknown.
        times: For ``day`` and ``burst``, as in ``Metadata.taken_at``; "" if unknown.
        numbers: For ``digits``; "" if a photo shows none, or several.

    Raises:
        ValueError: A time that is needed is not in ISO 8601.
    """
    match group_by.kind:
        case "folder":
            keys = list(folders)
        case "camera":
            keys = list(cameras)
        case "day":
            keys = [time and f"{clock:%Y-%m-%d}" for time, clock in zip(times, _clocks(times), strict=True)]
        case "burst":
            keys = _bursts(cameras, times, timedelta(seconds=group_by.seconds))
        case "digits":
            shown = zip(folders, numbers, strict=True)
            keys = [number and f"{folder} {number}".lstrip() for folder, number in shown]
        case "regex" if group_by.pattern is not None:
            keys = [_find(group_by.pattern, name) for name in names]
        case _:
            keys = [""] * len(names)
    return [_shorten(f"{group_by.kind}:{key}") if key else "" for key in keys]


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern of group_by must be a regular expression, got {pattern}: {error}.") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise ValueError(f"seconds of group_by burst must be in (0, 86400], a day, got {text}.")
    return seconds


def _clocks(times: Sequence[str]) -> list[datetime]:
    """What the clock of each photo's camera showed; the first of all times where it is unknown."""
    clocks, offenders = [], []
    for time in times:
        try:
            clocks.append(datetime.fromisoformat(time).replace(tzinfo=None) if time else datetime.min)
        except ValueError:
            offenders.append(time)
    if offenders:
        raise ValueError(f"times of group_keys must be in ISO 8601 or empty, got {first_five(offenders)}.")
    return clocks


def _bursts(cameras: Sequence[str], times: Sequence[str], most: timedelta) -> list[str]:
    keys = [""] * len(times)
    for burst in _chains(cameras, times, most):
        key = f"{cameras[burst[0]]} {times[burst[0]]}".lstrip()
        for index in burst:
            keys[index] = key
    return keys


def _chains(cameras: Sequence[str], times: Sequence[str], most: timedelta) -> Iterator[list[int]]:
    """The photos of each burst, the first photo first."""
    clocks = _clocks(times)
    known = (index for index, time in enumerate(times) if time)
    chain: list[int] = []
    for index in sorted(known, key=lambda index: (cameras[index], clocks[index], times[index])):
        before = chain[-1] if chain else index
        if cameras[index] != cameras[before] or clocks[index] - clocks[before] > most:
            yield chain
            chain = []
        chain.append(index)
    if chain:
        yield chain


def _find(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    if match is None:
        return ""
    return match[min(pattern.groupindex.values(), default=min(1, pattern.groups))] or ""


def _shorten(key: str) -> str:
    if len(key) <= MAX_LENGTH:
        return key
    # Names of files may hold bytes that are no text, which Python keeps as lone surrogates.
    return f"{key[: MAX_LENGTH - 9]}-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:8]}"
