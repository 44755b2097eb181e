from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inlier.databases import as_url
from inlier.errors import ConfigError, MissingExtraError
from inlier.service.records import Record, Row, iso_time
from inlier.service.refusals import Refusal

ROW = Row(
    inspection="a" * 32,
    step="condition",
    at=1_800_000_000.5,
    caller="app",
    photo="grün.jpg",
    digest="d" * 64,
    kept=None,
    model="parts",
    identity="123456789abc",
    num_calibration=99,
    false_alarm_rate=0.05,
    score=-12.5,
    p_value=0.25,
    verdict="accept",
)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'record.db'}"
    try:
        return str(request.getfixturevalue("postgres"))
    except pytest.FixtureLookupError:
        pytest.skip("the fixture for PostgreSQL is not shared with these tests")


@pytest.fixture
def record(url: str) -> Iterator[Record]:
    record = Record(url)
    yield record
    record.close()


def test_what_is_written_is_read_back(record: Record, url: str) -> None:
    unreadable = replace(ROW, inspection="b" * 32, score=None, p_value=None, verdict="unreadable", error="empty")
    record.write([replace(ROW, step="filter", model="filter"), ROW, unreadable])
    record.close()
    again = Record(url)  # what was there stays
    assert [row.step for row in again.find(ROW.inspection)] == ["filter", "condition"]
    assert again.find(ROW.inspection)[1] == ROW
    assert again.find("b" * 32) == [unreadable] and again.find("c" * 32) == []
    assert again.of_model("parts", ROW.identity) == [(ROW.at, 0.25, "accept")]
    assert set(again.models()) == {(name, ROW.identity, 99, 0.05, 1) for name in ("parts", "filter")}
    numbers, rows = zip(*again.latest(2), strict=True)
    assert rows == (unreadable, ROW) and numbers[0] > numbers[1]
    assert [row for _, row in again.latest(9, before=numbers[1])] == [replace(ROW, step="filter", model="filter")]
    assert again.is_reachable()
    again.close()


def test_a_transaction_is_whole_or_absent(record: Record) -> None:
    with pytest.raises(Refusal, match="cannot be recorded") as refused:
        record.write([ROW, replace(ROW, verdict=None)])  # type: ignore[arg-type]
    assert refused.value.status_code == 503
    assert record.latest(9) == []


def test_a_record_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.db"
    Record(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE service_record SET format_version = 99")
    with pytest.raises(ConfigError, match="written by another version of inlier"):
        Record(f"sqlite:///{path}")
    (tmp_path / "text").write_text("no database at all, but a text that is long enough" * 9, encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        Record(f"sqlite:///{tmp_path / 'text'}")
    with pytest.raises(ConfigError, match="cannot be used: unable to open database file"):
        Record(f"sqlite:///{tmp_path / 'absent' / 'record.db'}")
    with pytest.raises(ConfigError, match="cannot be used"):
        Record("no url")


def test_passwords_are_not_shown() -> None:
    with pytest.raises((ConfigError, MissingExtraError)) as refused:
        Record("postgresql+psycopg://ann:hunter2@127.0.0.1:1/verdicts")
    assert "hunter2" not in str(refused.value) and "ann:***@127.0.0.1" in str(refused.value)


def test_a_file_or_a_url_names_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_url("verdicts.db") == f"sqlite:///{tmp_path / 'verdicts.db'}"
    assert as_url("postgresql://h/n") == as_url("postgres://h/n") == "postgresql+psycopg://h/n"
    assert as_url("mysql+pymysql://h/n") == "mysql+pymysql://h/n"
    assert iso_time(1_800_000_000.5) == "2027-01-15T08:00:00.500Z"
