from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from inlier.data.intake import dataset
from inlier.data.intake.dataset import (
    MANIFEST,
    WORK,
    finish,
    read_about,
    read_kept,
    read_ledger,
    roll_forward,
    write_next,
)
from inlier.data.intake.journal import KEPT, LEDGER, Journal
from inlier.data.intake.metadata import Metadata
from inlier.data.intake.photos import list_photos
from inlier.data.intake.preparing import Prepared
from inlier.data.intake.quality import Quality
from inlier.data.intake.settings import Settings
from inlier.data.intake.sources import Source
from inlier.errors import InlierError

ABOUT = {"settings": {"seed": 0}, "counts": {"photos": 2}}
TABLES = ("manifest.parquet", "manifest.csv", "rejected.csv", "duplicates.csv", "sources.parquet", "dataset.json")
KEEP = ("kept", "", None, "", "train", "", "")
DUPLICATE = ("duplicate", "same", 0.75, "", "", "", "")
Journals = Callable[[], Journal]


def source(name: str, **facts: Any) -> Source:
    return Source(**{"name": name, "path": Path("given") / name, "size": 10, "modified": 5, **facts})


def stored_name(number: int) -> str:
    """A name whose two halves and whose beginning differ from photo to photo."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


def prepared(number: int, **facts: Any) -> Prepared:
    name = stored_name(number)
    values = {"sha256": 2 * name, "path": f"photos/{name[:2]}/{name}.jpg", "width": 40, "height": 30}
    values |= {"source_width": 400, "source_height": 300, "metadata": Metadata("2024-03-05T10:11:12", "Apple")}
    quality = Quality(0.5, 0.25, 0.125, 0.0625, 0.75)
    hashes = number.to_bytes(8, "little") + bytes(24)
    return Prepared(**{**values, "quality": quality, "hashes": hashes, "thumbnail": bytes(4096), **facts})


def store(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def files_below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / WORK).mkdir()
    return tmp_path


@pytest.fixture
def open_journal(directory: Path) -> Iterator[Journals]:
    opened: list[Journal] = []

    def open_journal() -> Journal:
        (directory / WORK).mkdir(exist_ok=True)
        opened.append(Journal(directory / WORK / "journal.sqlite"))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal.close()


def decide(journal: Journal, results: list[tuple[Source, Prepared]], *decisions: tuple[Any, ...]) -> None:
    journal.add_sources(of for of, _ in results)
    journal.put([(of, result) for of, result in results if not of.error])
    list_photos(journal, Settings())
    journal.decide(decisions)
    journal.settle()


def write_two(journal: Journal, directory: Path) -> None:
    """Next tables with two photos, one of which has a mask, a duplicate and two rejected files."""
    mask = f"masks/00/{stored_name(8)}.png"
    results = [
        (source("roll/b.jpg", label="rust", is_anomalous=True), prepared(1, mask=mask)),
        (source("roll/a.jpg", label='"good", mostly'), prepared(2, metadata=Metadata("", ""))),
        (source("roll/copy.jpg", label="rust"), prepared(3)),
        (source("roll/c.jpg"), Prepared(error="the file is empty")),
        (source("roll/notes\n1.txt", error="not a picture", is_photo=False), Prepared()),
    ]
    first = (1, 1, "kept", "", None, "", "train", "near:0", "dark tiny")
    decide(journal, results, first, (2, 2, *KEEP[:4], "test", "", ""), (3, 1, *DUPLICATE))
    write_next(journal, directory, ABOUT)
    store(directory, mask, *(prepared(number).path for number in (1, 2, 3)))


def place_two(open_journal: Journals, directory: Path) -> None:
    with closing(open_journal()) as journal:
        write_two(journal, directory)
    assert roll_forward(directory)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_without_a_data_set_nothing_is_known(directory: Path) -> None:
    assert read_about(directory) is None


def test_nothing_is_put_in_place_before_all_is_there(open_journal: Journals, directory: Path) -> None:
    assert not roll_forward(directory)
    with closing(open_journal()) as journal:
        write_two(journal, directory)
    assert not any((directory / name).exists() for name in TABLES)
    (directory / WORK / "next" / "complete").unlink()
    assert not roll_forward(directory)
    assert not any((directory / name).exists() for name in TABLES)


def test_manifest(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    table = parquet.read_table(directory / "manifest.parquet")
    assert dict(zip(table.column_names, table.schema.types, strict=True)) == MANIFEST
    first, second = table.to_pylist()
    assert first == {
        "path": prepared(1).path,
        "source": "roll/b.jpg",
        "sha256": prepared(1).sha256,
        "width": 40,
        "height": 30,
        "taken_at": "2024-03-05T10:11:12",
        "camera": "Apple",
        "label": "rust",
        "anomalous": "1",
        "group": "near:0",
        "split": "train",
        "mask": f"masks/00/{stored_name(8)}.png",
        "roi": None,
        "source_width": 400,
        "source_height": 300,
        "sharpness": 0.5,
        "brightness": 0.25,
        "contrast": 0.125,
        "dark_share": 0.0625,
        "bright_share": 0.75,
        "flags": "dark tiny",
        "phash": "0000000000000001",
    }
    assert (second["source"], second["split"], second["label"]) == ("roll/a.jpg", "test", '"good", mostly')
    empty = ("taken_at", "camera", "anomalous", "group", "mask", "flags")
    assert [second[name] for name in empty] == [None] * 6
    shown = rows_of(directory / "manifest.csv")
    for row, expected in zip(shown, (first, second), strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in expected.items()}


def test_rejected_and_duplicates(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    assert rows_of(directory / "rejected.csv") == [
        {"source": "roll/c.jpg", "reason": "the file is empty"},
        {"source": "roll/notes\n1.txt", "reason": "not a picture"},
    ]
    assert rows_of(directory / "duplicates.csv") == [
        {
            "source": "roll/copy.jpg",
            "path": prepared(1).path,
            "kept_source": "roll/b.jpg",
            "kind": "same",
            "similarity": "0.75",
            "label": "rust",
            "kept_label": "rust",
        }
    ]


def test_what_was_written_is_read_back(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    assert read_about(directory) == ABOUT == json.loads((directory / "dataset.json").read_text())
    first, second = read_kept(directory)
    assert dict(zip(KEPT, first, strict=True)) == {
        "sha256": prepared(1).sha256,
        "path": prepared(1).path,
        "source": "roll/b.jpg",
        "label": "rust",
        "anomalous": "1",
        "split": "train",
        "part": "near:0",
        "camera": "Apple",
        "taken_at": "2024-03-05T10:11:12",
        "phash": "0000000000000001",
    }
    assert second[4:] == ("", "test", "", "", "", "0000000000000002")
    rows = list(read_ledger(directory))
    assert [tuple(row) for row in rows] == [tuple(LEDGER)] * 5
    outcomes = ["kept", "kept", "duplicate", "rejected", "rejected"]
    assert [row["outcome"] for row in rows] == outcomes
    assert [row["is_photo"] for row in rows] == [1, 1, 1, 1, 0]
    assert [row["similarity"] for row in rows] == [None, None, 0.75, None, None]
    assert (rows[2]["source"], rows[2]["size"], rows[2]["modified"]) == ("roll/copy.jpg", 10, 5)


def recall(journal: Journal, directory: Path) -> None:
    journal.add_ledger(read_ledger(directory))
    journal.add_kept(read_kept(directory))


def test_a_later_run_adds_rows_and_changes_only_groups(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    before = parquet.read_table(directory / "manifest.parquet").to_pylist()
    kept = ((1, 1, *KEEP[:5], "near:0", ""), (2, 2, *KEEP[:4], "test", "near:2", ""), (3, 3, *KEEP))
    with closing(open_journal()) as journal:
        recall(journal, directory)
        decide(journal, [(source("later.jpg"), prepared(4))], *kept)
        write_next(journal, directory, ABOUT)
    roll_forward(directory)
    after = parquet.read_table(directory / "manifest.parquet").to_pylist()
    assert after[:2] == [before[0], {**before[1], "group": "near:2"}]
    assert [row["source"] for row in after[2:]] == ["later.jpg"]
    shown = rows_of(directory / "manifest.csv")
    assert [row["flags"] for row in shown] == ["dark tiny", "", ""]
    assert [row["source"] for row in read_ledger(directory)][4:] == ["roll/notes\n1.txt", "later.jpg"]
    assert len(rows_of(directory / "rejected.csv")) == 2


def test_the_same_decisions_give_the_same_bytes(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    before = {name: (directory / name).read_bytes() for name in TABLES}
    for name in TABLES:
        (directory / name).unlink()
    place_two(open_journal, directory)
    assert {name: (directory / name).read_bytes() for name in TABLES} == before


@pytest.mark.parametrize("num_done", range(len(TABLES) + 1))
def test_tables_of_a_run_that_was_cut_are_put_in_place(
    open_journal: Journals, directory: Path, monkeypatch: pytest.MonkeyPatch, num_done: int
) -> None:
    """A cut after so many tables; after all of them, it is before the first file is removed."""
    for name in TABLES:
        (directory / name).write_text("of before")
    with closing(open_journal()) as journal:
        (directory / "manifest.parquet").unlink()
        write_two(journal, directory)
    expected = {name: (directory / WORK / "next" / name).read_bytes() for name in TABLES}

    class Cut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise Cut

    done = 0
    replace = os.replace

    def replace_some(one: Path, other: Path) -> None:
        nonlocal done
        if done == num_done:
            raise Cut
        done += 1
        replace(one, other)

    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(os, "replace", replace_some)
        patched.setattr(dataset, "finish", cut)
        roll_forward(directory)
    assert roll_forward(directory)
    assert {name: (directory / name).read_bytes() for name in TABLES} == expected
    assert not (directory / WORK).exists()
    assert not roll_forward(directory)


def test_a_cut_while_the_work_is_removed_is_mended(open_journal: Journals, directory: Path) -> None:
    place_two(open_journal, directory)
    expected = {name: (directory / name).read_bytes() for name in TABLES}
    (directory / WORK / "next").mkdir(parents=True)
    (directory / WORK / "next" / "complete").touch()
    assert roll_forward(directory)
    assert {name: (directory / name).read_bytes() for name in TABLES} == expected
    assert not (directory / WORK).exists()


def test_tables_that_a_cut_run_left_half_written_are_written_anew(open_journal: Journals, directory: Path) -> None:
    store(directory / WORK / "next", "manifest.parquet", "left over")
    with closing(open_journal()) as journal:
        write_two(journal, directory)
    assert set(os.listdir(directory / WORK / "next")) == {*TABLES, "complete"}


def test_only_stored_files_that_the_manifest_does_not_name_are_removed(open_journal: Journals, directory: Path) -> None:
    left = [f"photos/ab/{stored_name(50)}.jpg", f"photos/00/{stored_name(51)}.jpg", f"masks/ab/{stored_name(52)}.png"]
    foreign = [
        "photos/ab.txt",
        "photos/00/holiday.jpg",
        f"photos/00/{stored_name(50)}.jpeg",
        f"photos/00/{stored_name(50)[1:]}.jpg",
        f"photos/00/x{stored_name(50)}.jpg",
        f"photos/00/{stored_name(50).upper()}.jpg",
        f"photos/00/deeper/{stored_name(50)}.jpg",
        f"photos/{stored_name(50)}.jpg",
        f"other/00/{stored_name(50)}.jpg",
        "masks/ab/notes.txt",
    ]
    store(directory, *left, *foreign)
    place_two(open_journal, directory)
    named = {prepared(1).path, prepared(2).path, f"masks/00/{stored_name(8)}.png"}
    assert files_below(directory) == {*TABLES, *foreign, *named}
    assert not (directory / "photos" / "ab").exists()


def test_without_a_manifest_no_photo_is_removed(open_journal: Journals, directory: Path) -> None:
    store(directory, prepared(1).path)
    finish(directory)
    assert files_below(directory) == {prepared(1).path}
    assert not (directory / WORK).exists()


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"settings": 3}', '{"settings": {"seed": 0}', "\udcff"))
def test_a_damaged_dataset_json(directory: Path, text: str) -> None:
    (directory / "dataset.json").write_bytes(os.fsencode(text))
    sentence = f"{directory}/dataset.json cannot be read; it is damaged, or not of inlier ingest."
    with pytest.raises(InlierError, match=f"^{re.escape(sentence)}$"):
        read_about(directory)


@pytest.mark.parametrize("damage", ("gone", "empty", "cut", "foreign"))
@pytest.mark.parametrize(("name", "read"), (("manifest", read_kept), ("sources", read_ledger)))
def test_a_damaged_table(
    open_journal: Journals, directory: Path, name: str, read: Callable[[Path], Iterator[Any]], damage: str
) -> None:
    place_two(open_journal, directory)
    path = directory / f"{name}.parquet"
    if damage == "foreign":
        parquet.write_table(parquet.read_table(path).drop_columns(["sha256"]), path)
    else:
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    sentence = f"{path} cannot be read; it is damaged, or not of inlier ingest."
    with pytest.raises(InlierError, match=f"^{re.escape(sentence)}$"):
        list(read(directory))


def test_many_rows_are_written_in_parts(open_journal: Journals, directory: Path) -> None:
    number = 25_000
    results = [(source(f"{place}.jpg"), prepared(place, thumbnail=b"")) for place in range(number)]
    with closing(open_journal()) as journal:
        decide(journal, results, *((place + 1, place + 1, *KEEP) for place in range(number)))
        write_next(journal, directory, ABOUT)
    roll_forward(directory)
    for name in ("manifest", "sources"):
        with parquet.ParquetFile(directory / f"{name}.parquet") as file:
            parts = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
        assert parts == [10_000, 10_000, 5_000]
    assert [row[2] for row in read_kept(directory)] == [f"{place}.jpg" for place in range(number)]
    with (directory / "manifest.csv").open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == number + 1


def test_no_photos_are_tables_without_rows(open_journal: Journals, directory: Path) -> None:
    with closing(open_journal()) as journal:
        decide(journal, [(source("a.jpg"), Prepared(error="the file is empty"))])
        write_next(journal, directory, ABOUT)
    roll_forward(directory)
    table = parquet.read_table(directory / "manifest.parquet")
    assert (table.num_rows, dict(zip(table.column_names, table.schema.types, strict=True))) == (0, MANIFEST)
    assert list(read_kept(directory)) == []
    assert (directory / "manifest.csv").read_text() == ",".join(MANIFEST) + "\n"
