from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inlier import folders
from inlier.errors import InlierError, ModelError

BOOK = folders.Kind("book", verb="print", format_version=4)
FILM = folders.Kind("film", verb="shoot", format_version=1)


def write(folder: Path) -> None:
    (folder / "pages.txt").write_text("Call me Ishmael.")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    folders.write_folder(tmp_path / "shelf" / "book", BOOK, {"author": "Melville"}, write)
    return tmp_path / "shelf" / "book"


def test_what_was_written_is_read(book: Path) -> None:
    header = folders.read_folder(book, BOOK)
    assert (header["kind"], header["format_version"], header["author"]) == ("inlier-book", 4, "Melville")
    assert list(header["files"]) == ["pages.txt"]
    assert header == folders.read_header(book, BOOK)
    assert [path.name for path in book.parent.iterdir()] == ["book"]


def test_each_kind_has_its_sentences(book: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"/book is no film of inlier: it holds a book\.$"):
        folders.read_header(book, FILM)
    with pytest.raises(ModelError, match=r"^The film .*/none does not exist\.$"):
        folders.read_header(tmp_path / "none", FILM)
    with pytest.raises(ModelError, match=r"/shelf is no film: it has no model\.json\.$"):
        folders.read_header(book.parent, FILM)
    newer = folders.Kind("book", verb="print", format_version=5)
    with pytest.raises(ModelError, match=r"has format version 4, and this inlier reads 5; print it again, or use the"):
        folders.read_header(book, newer)


def test_a_header_is_read_without_the_files_and_a_folder_with_them(book: Path) -> None:
    (book / "pages.txt").write_text("Call me Ahab.")
    assert folders.read_header(book, BOOK)["author"] == "Melville"
    with pytest.raises(ModelError, match=r"/book is damaged: pages\.txt is not what was written\.$"):
        folders.read_folder(book, BOOK)


def test_one_kind_does_not_replace_another(book: Path) -> None:
    sentence = r"/book holds something else than a film; choose another --out, or remove it\.$"
    with pytest.raises(InlierError, match=sentence):
        folders.write_folder(book, FILM, {}, write)
    with pytest.raises(InlierError, match=sentence):
        folders.check_target(book, FILM)
    folders.write_folder(book, BOOK, {"author": "Conrad"}, write)
    assert folders.read_folder(book, BOOK)["author"] == "Conrad"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"kind": "bert"})])
def test_a_damaged_one_may_be_replaced_and_a_foreign_one_not(book: Path, content: str) -> None:
    (book / "model.json").write_text(content)
    if content == "{":
        folders.check_target(book, BOOK)
    else:
        with pytest.raises(InlierError, match=r"holds something else than a book; "):
            folders.check_target(book, BOOK)


def test_tensors_have_memory_of_their_own_order() -> None:
    tensors = folders.plain({"a": torch.ones(2, 3, requires_grad=True).T})
    assert tensors["a"].is_contiguous() and not tensors["a"].requires_grad
