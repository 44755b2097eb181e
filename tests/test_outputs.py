from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from inlier.errors import InlierError
from inlier.outputs import as_text, check_folder, number_of, write_whole


def check(directory: Path) -> None:
    check_folder(directory, marker="done.json", content="a result")


def test_new_empty_and_earlier_folders_may_be_written_to(tmp_path: Path) -> None:
    check(tmp_path / "new" / "below")
    check(tmp_path)
    (tmp_path / "done.json").touch()
    (tmp_path / "other.txt").touch()
    check(tmp_path)
    assert not (tmp_path / "new").exists()


def test_what_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    sentence = "{} holds something else than a result; choose another --out, or remove it."
    with pytest.raises(InlierError, match=f"^{re.escape(sentence.format(tmp_path))}$"):
        check(tmp_path)
    with pytest.raises(InlierError, match=f"^{re.escape(sentence.format(tmp_path / 'holiday.jpg'))}$"):
        check(tmp_path / "holiday.jpg")


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InlierError, match=r"out: .*/file is no folder that may be written to\.$"):
        check(tmp_path / "file" / "deeper" / "out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InlierError, match=r"^Nothing can be written to .*/dangling: No such file or directory\.$"):
        check(tmp_path / "dangling")


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(InlierError, match=rf"{tmp_path} is no folder that may be written to\.$"):
        check(tmp_path / "out")


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xf6\xdfe"))
    sentence = r"^Nothing can be written to .*/Gr\\udcf6\\udcdfe: its path is no valid UTF-8; choose another --out\.$"
    with pytest.raises(InlierError, match=sentence):
        check(odd)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "first")
    write_whole(tmp_path / "a.json", "ölig")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "ölig"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_names_that_are_no_text_are_shown_as_escapes() -> None:
    assert as_text(Path("Kolben ü <1>\n.jpg")) == "Kolben ü <1>\n.jpg"
    assert as_text(b"K\xfc.jpg".decode("utf-8", "surrogateescape")) == r"K\udcfc.jpg"


def test_a_number_and_its_noun() -> None:
    assert [number_of(number, "photo") for number in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]
