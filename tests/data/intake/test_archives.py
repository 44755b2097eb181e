from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inlier.data.intake import archives
from inlier.data.intake.archives import open_archive
from inlier.errors import ImageReadError

from .broken import encoded, member, patched, zipped


def save(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_members_are_read_in_any_order(tmp_path: Path) -> None:
    contents = {f"roll/{number}.jpg": os.urandom(1000 + number) for number in range(20)}
    archive = open_archive(save(tmp_path / "roll.zip", ("roll/", b""), *contents.items()))
    assert [m.name for m in archive.members] == list(contents)
    assert {name: archive.read(name) for name in reversed(contents)} == contents
    assert "roll/3.jpg" in archive
    assert "roll/" not in archive
    with pytest.raises(ImageReadError, match=r"^the file does not exist$"):
        archive.read("roll/20.jpg")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_the_tool_zip_can_write_is_read(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()

    class Pipe(io.RawIOBase):  # what cannot seek gets sizes after the bytes
        def writable(self) -> bool:
            return True

        def write(self, content: bytes) -> int:  # type: ignore[override]
            return buffer.write(content)

    with zipfile.ZipFile(Pipe(), "w", method) as archive:
        archive.writestr("ä/1.jpg", encoded("JPEG"))
        with archive.open("2.jpg", "w", force_zip64=True) as file:
            file.write(encoded("PNG"))
        archive.comment = b"of the harbour"
    (tmp_path / "roll.zip").write_bytes(buffer.getvalue())
    read = open_archive(tmp_path / "roll.zip")
    assert [read.read(m.name) for m in read.members] == [encoded("JPEG"), encoded("PNG")]


def test_the_list_is_read_once_and_again_when_the_archive_changes(tmp_path: Path) -> None:
    path = save(tmp_path / "roll.zip", ("1.jpg", b"one"))
    first = open_archive(path)
    assert open_archive(path) is first
    save(path, ("1.jpg", b"other"))
    assert open_archive(path).read("1.jpg") == b"other"


def test_a_forked_process_opens_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "roll.zip", ("1.jpg", b"one"))
    first = open_archive(path)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert open_archive(path) is not first


def test_an_archive_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageReadError, match=r"^the file cannot be opened: No such file or directory$"):
        open_archive(tmp_path / "gone.zip")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "roll.zip", ("1.jpg", b"one"))
    monkeypatch.setattr(archives.io, "FileIO", denied)
    with pytest.raises(ImageReadError, match=r"^no permission to read the file$"):
        open_archive(path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    deflated = member("x.jpg", compress_type=zipfile.ZIP_DEFLATED)
    lying = patched(zipped((deflated, bytes(200 << 20))), (24, "<I", 1 << 20))  # says 1 MiB, of 200
    (tmp_path / "lying.zip").write_bytes(lying)
    archive = open_archive(tmp_path / "lying.zip")
    tracemalloc.start()
    with pytest.raises(ImageReadError, match=r"^damaged: Bad CRC-32"):
        archive.read("x.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_what_deflates_well_but_stays_small_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "masks.zip", ("mask.png", bytes(1 << 20)))
    assert open_archive(path).read("mask.png") == bytes(1 << 20)


def test_a_limit_of_the_caller(tmp_path: Path) -> None:
    archive = open_archive(save(tmp_path / "roll.zip", ("manifest.csv", bytes(100))))
    assert archive.read("manifest.csv", max_bytes=100) == bytes(100)
    with pytest.raises(ImageReadError, match=r"^has 100 bytes; at most 99 are read$"):
        archive.read("manifest.csv", max_bytes=99)


def test_too_many_members_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    path = save(tmp_path / "roll.zip", *((f"{number}.jpg", b"x") for number in range(51)))
    content = bytearray(path.read_bytes())
    content[-14:-10] = b"\1\0\1\0"  # the archive claims to have one
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"^an archive of 51 members; at most 50 are read$"):
        open_archive(path)
    path = save(tmp_path / "fewer.zip", *((f"{number}.jpg", b"x") for number in range(50)))
    assert len(open_archive(path).members) == 50


def test_a_long_list_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 100_000)
    path = save(tmp_path / "roll.zip", *((f"{number:06}.jpg", b"x") for number in range(2000)))
    with pytest.raises(ImageReadError, match=r"^its list of members has 112000 bytes; at most 100000 are read$"):
        open_archive(path)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/./b//c.jpg", "a/b/c.jpg"), ("./x.jpg", "x.jpg"), ("at 12:30.jpg", "at 12:30.jpg"), ("..x.jpg", "..x.jpg")],
)
def test_odd_but_harmless_names(tmp_path: Path, name: str, shown: str) -> None:
    archive = open_archive(save(tmp_path / "roll.zip", (name, b"x")))
    assert archive.read(shown) == b"x"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("..", "leads out of it"),
        ("a/..", "leads out of it"),
        ("//server/x.jpg", "is absolute"),
        ("c:x.jpg", "is absolute"),
        (".", "it has no name in the archive"),
        ("./", "it has no name in the archive"),
        ("x" * 256, "is too long: 256 bytes"),
        ("ä" * 128, "is too long: 256 bytes"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    archive = open_archive(save(tmp_path / "roll.zip", (name, b"x"), ("good.jpg", b"y")))
    refused, good = archive.members
    assert reason in refused.error
    assert refused.is_misnamed
    assert archive.read(good.name) == b"y"
    with pytest.raises(ImageReadError, match=reason):
        archive.read(refused.name)


def test_names_are_made_unique(tmp_path: Path) -> None:
    same = zipped(("a.jpg", b"1"), ("b.jpg", b"2")).replace(b"b.jpg", b"a.jpg")
    (tmp_path / "roll.zip").write_bytes(same)
    archive = open_archive(tmp_path / "roll.zip")
    assert [m.name for m in archive.members] == ["good.jpg", "a.jpg", "a (entry 3).jpg"]
    assert archive.read("a.jpg") == b"1"


def nested_quotes() -> bytes:
    """Two entries of one and the same bytes, as the first step of Fifield's bomb."""
    content = zipped(("a.jpg", encoded("PNG")), ("b.jpg", encoded("PNG")))
    return patched(content, (42, "<I", len(encoded("JPEG")) + 38), name=b"b.jpg")


@pytest.mark.parametrize(
    "content", [nested_quotes, lambda: patched(zipped(("b.jpg", b"x")), (42, "<I", 3), name=b"b.jpg")]
)
def test_overlapping_members_are_refused(tmp_path: Path, content: Callable[[], bytes]) -> None:
    (tmp_path / "roll.zip").write_bytes(content())
    *_, last = open_archive(tmp_path / "roll.zip").members
    assert last.error == "overlaps another member"
