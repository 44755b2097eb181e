from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from inlier.data.intake.journal import DECISION, KEPT, LEDGER, Journal
from inlier.data.intake.metadata import Metadata
from inlier.data.intake.photos import list_photos
from inlier.data.intake.preparing import Prepared
from inlier.data.intake.quality import Quality
from inlier.data.intake.settings import Settings
from inlier.data.intake.sources import Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as opened:
        yield opened


def source(name: str, **facts: Any) -> Source:
    return Source(**{"name": name, "path": Path("given") / name, "size": 10, "modified": 5, **facts})


def prepared(place: int, **facts: Any) -> Prepared:
    sha256 = f"{place:064x}"
    path = f"photos/{sha256[:2]}/{place:032x}.jpg"
    values = {"sha256": sha256, "path": path, "width": 40, "height": 30, "hashes": bytes(32), "thumbnail": bytes(4096)}
    return Prepared(**{**values, **facts})


def known(name: str, **facts: Any) -> dict[str, Any]:
    """A row of the ledger for a source that was kept."""
    row = {**dict.fromkeys(LEDGER, ""), "size": 10, "modified": 5, "is_photo": 1, "outcome": "kept", "similarity": None}
    return {**row, "source": name, **facts}


def new_names(journal: Journal) -> list[str]:
    query = "SELECT name FROM new JOIN sources USING (position) ORDER BY position"
    return [name for (name,) in journal.database.execute(query)]


def pending_names(journal: Journal) -> list[str]:
    return [of.name for of in journal.pending()]


def ledger(journal: Journal, *columns: str) -> list[tuple[Any, ...]]:
    return journal.database.execute(f"SELECT {', '.join(columns)} FROM ledger ORDER BY rowid").fetchall()


def test_facts_are_kept_and_replaced(path: Path, journal: Journal) -> None:
    assert journal.fact("settings") is None
    journal.remember("settings", "{}")
    journal.remember("settings", '{"seed": 1}')
    journal.close()
    with closing(Journal(path)) as again:
        assert again.fact("settings") == '{"seed": 1}'


def test_results_are_kept_between_openings_and_all_else_is_found_anew(path: Path, journal: Journal) -> None:
    journal.add_ledger([known("old.jpg")])
    journal.add_kept([("0" * 64, *[""] * (len(KEPT) - 1))])
    journal.add_sources([source("a.jpg"), source("b.jpg")])
    journal.put([(source("a.jpg"), prepared(1))])
    journal.decide([(1, 1, "kept", "", None, "", "train", "", "")])
    tables = ("facts", "results", "sources", "new", "ledger", "kept", "decisions")
    journal.remember("settings", "{}")
    assert [journal.count(table) for table in tables] == [1, 1, 2, 2, 1, 1, 1]
    journal.close()
    with closing(Journal(path)) as again:
        assert [again.count(table) for table in tables] == [1, 1, 0, 0, 0, 0, 0]
        again.add_sources([source("a.jpg"), source("b.jpg")])
        assert pending_names(again) == ["b.jpg"]
        assert new_names(again) == ["a.jpg", "b.jpg"]


def test_a_killed_run_keeps_what_was_put(path: Path) -> None:
    """Here the connection is not closed: all that was put must be in the file already."""
    left = Journal(path)
    left.put([(source("a.jpg"), prepared(1)), (source("b.jpg"), prepared(2))])
    with closing(Journal(path)) as again:
        assert again.count("results") == 2
    left.close()


def test_sources_come_back_as_they_were(journal: Journal) -> None:
    given = [
        source("a.jpg"),
        source("b.jpg", label="rust", is_anomalous=True, split="dev", group="part 1", mask="masks/b.png"),
        source("c.zip/x.jpg", member="x.jpg", is_anomalous=False, is_photo=False, size=2**40),
        source("d.jpg", path=Path(os.fsdecode(b"given/\xff.jpg")), mask=os.fsdecode(b"m\xfe.png")),
    ]
    journal.add_sources(given)
    assert list(journal.pending()) == given
    assert journal.num_pending() == 4


def test_a_time_before_1970_is_a_time(journal: Journal) -> None:
    given = source("a.jpg", modified=-5)
    journal.add_sources([given])
    (back,) = journal.pending()
    assert 0 <= back.modified < 2**63
    journal.put([(back, prepared(1))])
    assert pending_names(journal) == []


def test_refused_sources_are_new_but_not_pending(journal: Journal) -> None:
    journal.add_sources([source("a.jpg", error="a link"), source("b.jpg")])
    assert new_names(journal) == ["a.jpg", "b.jpg"]
    assert pending_names(journal) == ["b.jpg"]
    assert journal.num_pending() == 1


def test_results_may_be_put_while_pending_sources_are_read(journal: Journal) -> None:
    names = [f"{number}.jpg" for number in range(600)]
    journal.add_sources(map(source, names))
    done: list[str] = []
    results: list[tuple[Source, Prepared]] = []
    for number, of in enumerate(journal.pending()):
        done.append(of.name)
        results.append((of, prepared(number)))
        if len(results) == 60:
            journal.put(results)
            results.clear()
    assert done == names
    assert journal.num_pending() == 0


@pytest.mark.parametrize("changed", ({"size": 11}, {"modified": 6}, {"mask": "mask.png"}, {"roi": "roi.png"}))
def test_a_result_of_another_state_of_the_file_does_not_count(journal: Journal, changed: dict[str, Any]) -> None:
    journal.put([(source("a.jpg"), prepared(1))])
    journal.add_sources([source("a.jpg", **changed)])
    assert pending_names(journal) == ["a.jpg"]


def test_a_source_that_could_not_be_prepared_is_not_tried_again_in_this_run(journal: Journal) -> None:
    journal.add_sources([source("a.jpg")])
    journal.put([(source("a.jpg"), Prepared(error="the file is empty"))])
    assert pending_names(journal) == []


def test_results_are_put_all_or_none(journal: Journal) -> None:
    broken = prepared(2, width={})
    with pytest.raises(Exception, match="type 'dict' is not supported"):
        journal.put([(source("a.jpg"), prepared(1)), (source("b.jpg"), broken)])
    assert journal.count("results") == 0
    journal.put([(source("a.jpg"), prepared(1))])
    assert journal.count("results WHERE width = ?", "40") == 1


def test_all_that_was_measured_is_kept(journal: Journal) -> None:
    result = prepared(
        7,
        mask="masks/a.png",
        mask_error="m",
        roi="rois/a.png",
        roi_error="r",
        source_width=400,
        source_height=300,
        metadata=Metadata("2024-03-05T10:11:12", "Apple iPhone 13"),
        quality=Quality(0.1, 0.2, 0.3, 0.4, 0.5),
        hashes=bytes(range(32)),
        number="12",
    )
    journal.put([(source("a.jpg", mask="m.png", roi="r.png"), result)])
    (row,) = journal.database.execute("SELECT * FROM results").fetchall()
    stored = (result.sha256, result.path, "masks/a.png", "m", "rois/a.png", "r", 40, 30, 400, 300)
    expected = ("a.jpg", 10, 5, b"m.png", b"r.png", "", *stored)
    measured = ("2024-03-05T10:11:12", "Apple iPhone 13", 0.1, 0.2, 0.3, 0.4, 0.5, bytes(range(32)), bytes(4096), "12")
    assert row == (*expected, *measured)


@pytest.mark.parametrize(
    ("given", "row", "is_new"),
    (
        ({}, {}, False),
        ({"size": 11}, {}, True),
        ({"modified": 6}, {}, True),
        ({"name": "b.jpg"}, {}, True),
        ({}, {"outcome": "rejected", "reason": "truncated: the file ends before the picture does"}, False),
        ({}, {"outcome": "rejected", "reason": "no permission to read the file"}, True),
        ({}, {"outcome": "rejected", "reason": "the file cannot be read: Input/output error"}, True),
        ({}, {"outcome": "rejected", "reason": "the folder cannot be listed: Permission denied"}, True),
        ({}, {"reason": "its mask cannot be read: the file does not exist"}, False),
        ({"error": "a link"}, {"outcome": "rejected", "reason": "a link"}, False),
        ({"error": "a link"}, {"outcome": "rejected", "reason": "a pipe"}, True),
        ({"error": "a link"}, {}, True),
        ({"error": "no permission"}, {"outcome": "rejected", "reason": "no permission"}, False),
        ({}, {"outcome": "rejected", "reason": "not a picture"}, False),
    ),
)
def test_what_is_new(journal: Journal, given: dict[str, Any], row: dict[str, Any], is_new: bool) -> None:
    journal.add_ledger([known("a.jpg", **row)])
    journal.add_sources([source(**{"name": "a.jpg", **given})])
    assert bool(new_names(journal)) == is_new


def test_empty_cells_of_the_ledger_are_text_where_they_should_be(journal: Journal) -> None:
    journal.add_ledger([{**dict.fromkeys(LEDGER), "source": "a.jpg", "size": 10, "modified": 5}])
    assert ledger(journal, "reason", "label", "similarity") == [("", "", None)]
    journal.add_sources([source("a.jpg")])
    assert new_names(journal) == []


def test_rows_are_counted(journal: Journal) -> None:
    journal.add_sources([source("a.jpg", label="rust"), source("b.jpg"), source("c.jpg", label="rust")])
    assert journal.count("sources") == 3
    assert journal.count("sources WHERE label = ? AND name > ?", "rust", "b") == 1


def test_decisions_replace_those_of_before(journal: Journal) -> None:
    journal.decide([(1, 1, "kept", "", None, "", "train", "", ""), (2, 1, "duplicate", "same", 0.9, "", "", "", "")])
    journal.decide([(1, 1, "dropped", "", None, "dropped: dark", "", "", "dark")])
    rows = journal.database.execute(f"SELECT {', '.join(DECISION)} FROM decisions").fetchall()
    assert rows == [(1, 1, "dropped", "", None, "dropped: dark", "", "", "dark")]


def settled(journal: Journal, *decisions: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    list_photos(journal, Settings())
    journal.decide(decisions)
    journal.settle()
    return ledger(journal, "source", "outcome", "kind", "similarity", "kept_source", "reason")


KEEP = ("kept", "", None, "", "train", "", "")


def test_every_new_source_is_settled(journal: Journal) -> None:
    files = [source(f"{name}.jpg", label=name) for name in "abcde"]
    journal.add_sources([*files, source("f.jpg", error="a link")])
    results = [prepared(1), prepared(2), prepared(3), prepared(1), Prepared(error="the file is empty")]
    journal.put(list(zip(files, results, strict=True)))
    dropped = (3, 3, "dropped", "", None, "dropped: dark", "", "", "dark")
    rows = settled(journal, (1, 1, *KEEP), (2, 1, "duplicate", "same", 0.75, "", "", "", ""), dropped)
    assert rows == [
        ("a.jpg", "kept", "", None, "a.jpg", ""),
        ("b.jpg", "duplicate", "same", 0.75, "a.jpg", ""),
        ("c.jpg", "dropped", "", None, "c.jpg", "dropped: dark"),
        ("d.jpg", "duplicate", "bytes", 1.0, "a.jpg", ""),
        ("e.jpg", "rejected", "", None, "", "the file is empty"),
        ("f.jpg", "rejected", "", None, "", "a link"),
    ]
    assert ledger(journal, "label", "kept_label", "sha256", "path")[1] == (
        "b", "a", prepared(2).sha256, prepared(1).path,
    )  # fmt: skip
    assert ledger(journal, "size", "modified", "is_photo")[5] == (10, 5, 1)


def test_bytes_of_a_duplicate_are_a_duplicate_of_the_same_photo(journal: Journal) -> None:
    files = [source(f"{name}.jpg") for name in "abc"]
    journal.add_sources(files)
    journal.put(list(zip(files, [prepared(1), prepared(2), prepared(2)], strict=True)))
    rows = settled(journal, (1, 1, *KEEP), (2, 1, "duplicate", "near", 0.5, "", "", "", ""))
    assert rows[1:] == [
        ("b.jpg", "duplicate", "near", 0.5, "a.jpg", ""),
        ("c.jpg", "duplicate", "near", 0.5, "a.jpg", ""),
    ]


def test_known_sources_stay_as_they_were(journal: Journal) -> None:
    photo = prepared(1)
    journal.add_ledger([known("a.jpg", sha256=photo.sha256), known("gone.jpg", outcome="rejected", reason="damaged")])
    journal.add_kept([(photo.sha256, photo.path, "a.jpg", "", "", "train", "", "", "", "0" * 16)])
    journal.add_sources([source("a.jpg"), source("b.jpg")])
    assert new_names(journal) == ["b.jpg"]
    journal.put([(source("b.jpg"), photo)])
    assert settled(journal, (1, 1, *KEEP)) == [
        ("a.jpg", "kept", "", None, "", ""),
        ("gone.jpg", "rejected", "", None, "", "damaged"),
        ("b.jpg", "duplicate", "bytes", 1.0, "a.jpg", ""),
    ]
    assert ledger(journal, "path")[2] == (photo.path,)


def test_a_touched_file_with_the_bytes_of_before_is_still_kept(journal: Journal) -> None:
    photo = prepared(1)
    journal.add_ledger([known("a.jpg", sha256=photo.sha256)])
    journal.add_kept([(photo.sha256, photo.path, "a.jpg", "", "", "train", "", "", "", "0" * 16)])
    touched = source("a.jpg", modified=6)
    journal.add_sources([touched])
    journal.put([(touched, photo)])
    assert settled(journal, (1, 1, *KEEP)) == [("a.jpg", "kept", "", None, "a.jpg", "")]
    assert ledger(journal, "modified") == [(6,)]


def test_a_photo_that_lost_its_mask_is_kept_with_the_reason(journal: Journal) -> None:
    given = source("a.jpg", mask="mask.png")
    journal.add_sources([given])
    journal.put([(given, prepared(1, mask_error="the file is empty"))])
    rows = settled(journal, (1, 1, *KEEP))
    assert rows == [("a.jpg", "kept", "", None, "a.jpg", "its mask cannot be read: the file is empty")]
