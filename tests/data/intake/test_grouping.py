from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Sequence

import pytest

from inlier.data.intake.grouping import GroupBy, group_keys, parse_group_by

NOON = "2024-03-05T12:00:"


def keys(
    text: str,
    *,
    names: Sequence[str] = (),
    folders: Sequence[str] = (),
    cameras: Sequence[str] = (),
    times: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> list[str]:
    num_photos = max(map(len, (names, folders, cameras, times, numbers)))
    *columns, shown = (column or [""] * num_photos for column in (names, folders, cameras, times, numbers))
    return group_keys(parse_group_by(text), *columns, numbers=shown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", GroupBy("none")),
        ("folder", GroupBy("folder")),
        ("camera", GroupBy("camera")),
        ("day", GroupBy("day")),
        ("burst", GroupBy("burst", seconds=10)),
        ("digits", GroupBy("digits")),
        ("burst:2.5", GroupBy("burst", seconds=2.5)),
        ("regex:ship:(.)", GroupBy("regex", pattern=re.compile("ship:(.)"))),
    ],
)
def test_every_way_to_group(text: str, expected: GroupBy) -> None:
    assert parse_group_by(text) == expected


@pytest.mark.parametrize("text", ["", "week", "Folder", "folder:2", "regex", "regex:", "none:"])
def test_other_ways_are_refused(text: str) -> None:
    kinds = "none, folder, camera, day, burst, burst:SECONDS, digits or regex:PATTERN"
    sentence = rf"^group_by must be {kinds}, got {re.escape(text)}\.$"
    with pytest.raises(ValueError, match=sentence):
        parse_group_by(text)


def test_a_number_names_a_part_within_its_folder_only() -> None:
    folders = ["ship", "ship", "ship", "other", "", "ship"]
    found = keys("digits", folders=folders, numbers=["3", "12", "3", "3", "3", ""])
    assert found == ["digits:ship 3", "digits:ship 12", "digits:ship 3", "digits:other 3", "digits:3", ""]


@pytest.mark.parametrize("seconds", ["", "0", "-1", "nan", "inf", "1e9", "ten"])
def test_seconds_that_make_no_sense_are_refused(seconds: str) -> None:
    sentence = rf"^seconds of group_by burst must be in \(0, 86400\], a day, got {seconds}\.$"
    with pytest.raises(ValueError, match=sentence):
        parse_group_by(f"burst:{seconds}")


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(?P<1>a)"])
def test_a_broken_pattern_is_refused(pattern: str) -> None:
    sentence = rf"^pattern of group_by must be a regular expression, got {re.escape(pattern)}: .+\.$"
    with pytest.raises(ValueError, match=sentence):
        parse_group_by(f"regex:{pattern}")


def test_folders_cameras_and_days() -> None:
    assert keys("none", names=["a", "b"]) == ["", ""]
    assert keys("folder", folders=["ship/deck", "", "ship"]) == ["folder:ship/deck", "", "folder:ship"]
    assert keys("camera", cameras=["Apple iPhone 13", ""]) == ["camera:Apple iPhone 13", ""]
    times = ["2024-03-05T23:59:59.999+02:00", "2024-03-06T00:00:00", "", "2024-03-05T00:00:00"]
    assert keys("day", times=times) == ["day:2024-03-05", "day:2024-03-06", "", "day:2024-03-05"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"IMO\d+", ["regex:IMO12", "regex:IMO345", ""]),
        (r"IMO(\d+)(.)", ["regex:12", "regex:345", ""]),
        (r"(.)IMO(?P<ship>\d+)_(?P<part>\w)", ["regex:12", "", ""]),
        (r"IMO\d(\d\d)?(_)?", ["", "regex:45", ""]),
        (r"", ["", "", ""]),
    ],
)
def test_the_first_named_group_is_the_key_else_the_first_else_all_of_the_match(
    pattern: str, expected: list[str]
) -> None:
    names = ["x/IMO12_p.jpg", "IMO345-1.jpg", "y/1.jpg"]
    if pattern:
        assert keys(f"regex:{pattern}", names=names) == expected
    else:
        assert group_keys(GroupBy("regex", pattern=re.compile(pattern)), names, names, names, names) == expected


def test_a_burst_is_a_chain() -> None:
    seconds = ["00", "10", "20.001", "29", "40", "39"]
    first, second = f"burst:A {NOON}00", f"burst:A {NOON}20.001"
    expected = [first, first, second, second, second, second]
    assert keys("burst", cameras=["A"] * 6, times=[NOON + text for text in seconds]) == expected
    whole = keys("burst:10.5", cameras=["A"] * 6, times=[NOON + text for text in seconds])
    assert whole == [first] * 6
    alone = keys("burst:0.5", cameras=["A"] * 6, times=[NOON + text for text in seconds])
    assert len(set(alone)) == 6


def test_cameras_have_bursts_of_their_own_and_photos_without_a_time_none() -> None:
    cameras = ["A", "B", "", "A", "", "B"]
    times = [f"{NOON}0{digit}" if digit else "" for digit in (3, 2, 1, None, 5, 4)]
    assert keys("burst", cameras=cameras, times=times) == [
        f"burst:A {NOON}03",
        f"burst:B {NOON}02",
        f"burst:{NOON}01",
        "",
        f"burst:{NOON}01",
        f"burst:B {NOON}02",
    ]


def test_a_lost_offset_tears_no_burst() -> None:
    times = [f"{NOON}00.5+02:00", f"{NOON}03", f"{NOON}00.5"]
    assert keys("burst", cameras=["A"] * 3, times=times) == [f"burst:A {NOON}00.5"] * 3


def test_an_earlier_photo_names_the_burst_and_a_later_one_may_join_two() -> None:
    times = [f"{NOON}00", f"{NOON}15", f"{NOON}08"]
    assert len(set(keys("burst", cameras=["A"] * 2, times=times[:2]))) == 2
    assert set(keys("burst", cameras=["A"] * 3, times=times)) == {f"burst:A {NOON}00"}


def test_the_order_of_photos_changes_no_group_and_chains_are_as_a_slow_search_finds_them() -> None:
    rng = random.Random(0)
    photos = [(rng.choice("AB"), f"2024-03-05T12:{rng.randrange(20):02}:{rng.randrange(60):02}") for _ in range(150)]
    groups = keys("burst:5", cameras=[of for of, _ in photos], times=[at for _, at in photos])
    order = rng.sample(range(150), 150)
    shuffled = keys("burst:5", cameras=[photos[i][0] for i in order], times=[photos[i][1] for i in order])
    assert shuffled == [groups[index] for index in order]

    def seconds(time: str) -> int:
        return int(time[14:16]) * 60 + int(time[17:])

    together = {index: {index} for index in range(150)}
    for i, (camera, at) in enumerate(photos):
        for j, (other, then) in enumerate(photos):
            if camera == other and abs(seconds(at) - seconds(then)) <= 5 and together[i] is not together[j]:
                together[i] |= together[j]
                for k in together[j]:
                    together[k] = together[i]
    for i, members in together.items():
        first = min(photos[k][1] for k in members)
        assert groups[i] == f"burst:{photos[i][0]} {first}"


def test_long_names_are_cut_and_told_apart() -> None:
    long = "d/" * 150
    short, cut, other = keys("folder", folders=["x" * 193, long + "1", long + "2"])
    assert short == "folder:" + "x" * 193
    assert len(cut) == len(other) == 200 and cut != other
    digest = hashlib.sha256(f"folder:{long}1".encode()).hexdigest()
    assert cut == f"folder:{long}"[:191] + "-" + digest[:8]
    odd = keys("folder", folders=["\udcff" * 300])[0]
    assert len(odd) == 200


def test_a_time_that_is_none_is_refused() -> None:
    sentence = r"^times of group_keys must be in ISO 8601 or empty, got yesterday, 2024-13-05\.$"
    for text in ("day", "burst"):
        with pytest.raises(ValueError, match=sentence):
            keys(text, times=["2024-03-05", "yesterday", "", "2024-13-05"])
    assert keys("camera", cameras=["A"], times=["yesterday"]) == ["camera:A"]


@pytest.mark.parametrize("text", ["burst", "day", "regex:[0-9]+"])
def test_many_photos_take_seconds(text: str) -> None:
    rng = random.Random(0)
    times = [
        f"2024-03-{rng.randrange(1, 29):02}T12:{rng.randrange(60):02}:{rng.randrange(60):02}" for _ in range(50_000)
    ]
    began = time.perf_counter()
    keys(text, names=times, cameras=["A", "B"] * 25_000, times=times)
    assert time.perf_counter() - began < 5  # 0.2 on a machine that does nothing else
