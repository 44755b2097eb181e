"""The data set on disk: its tables, written whole beside the old ones and then put in their place.

``manifest.parquet`` and ``.csv`` hold a row for every photo, ``rejected.csv`` and ``duplicates.csv`` what there is no
photo of and why, ``sources.parquet`` every file that was ever given, ``dataset.json`` the settings. A run that is
killed while they are put in place is finished by the next.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from inlier.data.intake.journal import KEPT, LEDGER, Journal
from inlier.data.intake.preparing import MASKS, PHOTOS, ROIS
from inlier.errors import InlierError

WORK = ".ingest"
"""Folder in the data set where a run that is under way keeps its journal and files that are not whole."""

MANIFEST = {
    "path": pyarrow.string(),
    "source": pyarrow.string(),
    "sha256": pyarrow.string(),
    "width": pyarrow.int32(),
    "height": pyarrow.int32(),
    "taken_at": pyarrow.string(),
    "camera": pyarrow.string(),
    "label": pyarrow.string(),
    "anomalous": pyarrow.string(),
    "group": pyarrow.string(),
    "split": pyarrow.string(),
    "mask": pyarrow.string(),
    "roi": pyarrow.string(),
    "source_width": pyarrow.int32(),
    "source_height": pyarrow.int32(),
    "sharpness": pyarrow.float32(),
    "brightness": pyarrow.float32(),
    "contrast": pyarrow.float32(),
    "dark_share": pyarrow.float32(),
    "bright_share": pyarrow.float32(),
    "flags": pyarrow.string(),
    "phash": pyarrow.string(),
}
"""Columns of the manifest."""

_LATER = ("roi",)
"""Columns that manifests of earlier versions lack."""

_LEDGER_TYPES = {"TEXT": pyarrow.string(), "INTEGER": pyarrow.int64(), "REAL": pyarrow.float32()}
_REJECTED = ("source", "reason")
_DUPLICATES = ("source", "path", "kept_source", "kind", "similarity", "label", "kept_label")
_NEXT, _COMPLETE, _ABOUT = "next", "complete", "dataset.json"
_TABLES = ("manifest.parquet", "manifest.csv", "rejected.csv", "duplicates.csv", "sources.parquet", _ABOUT)
_ROWS = 10_000
"""Rows that are held at a time, and a row group of a Parquet table."""

_STORED = re.compile(r"[0-9a-f]{32}\.(jpg|png)")


def read_about(directory: Path) -> dict[str, Any] | None:
    """What ``dataset.json`` says; None where there is no data set yet.

    Raises:
        InlierError: The file is damaged.
    """
    try:
        about = json.loads((directory / _ABOUT).read_text(encoding="utf-8"))
        return {"settings": dict(about["settings"]), **about}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InlierError(f"{directory / _ABOUT} cannot be read; it is damaged, or not of inlier ingest.") from error


def read_ledger(directory: Path) -> Iterator[dict[str, Any]]:
    """What earlier runs left of every source, by the columns of ``LEDGER``."""
    yield from _read(directory / "sources.parquet", tuple(LEDGER))


def read_kept(directory: Path) -> Iterator[tuple[str, ...]]:
    """The photos that the data set holds, in order, by the columns of ``KEPT``."""
    names = {"part": "group"}
    for row in _read(directory / "manifest.parquet", tuple(names.get(name, name) for name in KEPT)):
        yield tuple("" if value is None else str(value) for value in row.values())


def write_next(journal: Journal, directory: Path, about: Mapping[str, Any]) -> None:
    """Writes all tables beside the old ones; they count from when they are all there.

    Args:
        journal: With what was decided, and the ledger brought up to date.
        directory: The data set.
        about: What ``dataset.json`` says.
    """
    following = directory / WORK / _NEXT
    shutil.rmtree(following, ignore_errors=True)
    following.mkdir(parents=True)
    _write_tables(following, "manifest", MANIFEST, _manifest_rows(journal, directory), as_csv=True)
    types = {name: _LEDGER_TYPES[kind] for name, kind in LEDGER.items()}
    _write_tables(following, "sources", types, _ledger_rows(journal, tuple(LEDGER), ""), as_csv=False)
    for name, columns, which in (
        ("rejected", _REJECTED, "WHERE reason != ''"),
        ("duplicates", _DUPLICATES, "WHERE outcome = 'duplicate'"),
    ):
        _write_csv(following / f"{name}.csv", columns, _ledger_rows(journal, columns, which))
    (following / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (following / _COMPLETE).touch()


def roll_forward(directory: Path) -> bool:
    """Puts tables in place that are all there, and says whether they were; may be cut short and called again."""
    following = directory / WORK / _NEXT
    if not (following / _COMPLETE).exists():
        return False
    for name in _TABLES:
        if (following / name).exists():
            os.replace(following / name, directory / name)
    finish(directory)
    return True


def finish(directory: Path) -> None:
    """Removes stored files that the manifest does not name, and then what a run under way needs."""
    if (directory / "manifest.parquet").exists():
        _sweep(directory)
    shutil.rmtree(directory / WORK)


def _sweep(directory: Path) -> None:
    for folder, column in ((PHOTOS, "path"), (MASKS, "mask"), (ROIS, "roi")):
        rows = _read(directory / "manifest.parquet", (column,))
        named = np.sort(np.fromiter((_key(row[column]) for row in rows if row[column]), dtype=np.uint64))
        for below in _folders(directory / folder):
            names = os.listdir(below)
            unnamed = [name for name in names if _STORED.fullmatch(name) and not _is_in(_key(name), named)]
            for name in unnamed:
                (below / name).unlink()
            if unnamed and len(unnamed) == len(names):
                below.rmdir()


def _folders(directory: Path) -> list[Path]:
    return (
        sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
        if directory.is_dir()
        else []
    )


def _key(name: str) -> int:
    """64 bits of the 128 in a stored file's name."""
    digits = name.rpartition("/")[2][:32]
    return int(digits[:16], 16) ^ int(digits[16:], 16)


def _is_in(key: int, keys: NDArray[np.uint64]) -> bool:
    place = int(np.searchsorted(keys, np.uint64(key)))
    return place < len(keys) and int(keys[place]) == key


def _manifest_rows(journal: Journal, directory: Path) -> Iterator[Sequence[Any]]:
    """The rows of before, with groups as they are now, and those of new photos."""
    known = _read(directory / "manifest.parquet", tuple(MANIFEST)) if (directory / "manifest.parquet").exists() else ()
    groups = journal.database.execute("SELECT part FROM decisions ORDER BY photo")
    for row, (group,) in zip(known, groups, strict=False):
        yield tuple({**row, "group": group}.values())
    query = """
        SELECT photos.path, source, photos.sha256, width, height, results.taken_at, results.camera, label, anomalous,
            decisions.part, decisions.split, mask, photos.roi, source_width, source_height, sharpness, brightness,
            contrast, dark_share, bright_share, flags, hashes
        FROM decisions JOIN photos ON photo = place JOIN results ON results.rowid = result
        WHERE outcome = 'kept' ORDER BY place
    """
    for *cells, hashes in journal.database.execute(query):
        yield *cells, f"{int.from_bytes(hashes[:8], 'little'):016x}"


def _ledger_rows(journal: Journal, columns: Sequence[str], which: str) -> Iterator[Sequence[Any]]:
    yield from journal.database.execute(f"SELECT {', '.join(columns)} FROM ledger {which} ORDER BY rowid")


def _read(table: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet table, a part of it at a time.

    Raises:
        InlierError: It cannot be read.
    """
    try:
        with parquet.ParquetFile(table) as file:
            for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    yield {name: row.get(name) if name in _LATER else row[name] for name in columns}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise InlierError(f"{table} cannot be read; it is damaged, or not of inlier ingest.") from error


def _write_tables(
    directory: Path, name: str, types: Mapping[str, Any], rows: Iterable[Sequence[Any]], *, as_csv: bool
) -> None:
    """Writes a table as Parquet, and as CSV if asked to, a part at a time; empty text is null there."""
    schema = pyarrow.schema(list(types.items()))
    with ExitStack() as stack:
        writer = stack.enter_context(parquet.ParquetWriter(directory / f"{name}.parquet", schema))
        table = None
        if as_csv:
            file = stack.enter_context((directory / f"{name}.csv").open("w", encoding="utf-8", newline=""))
            table = csv.writer(file, lineterminator="\n")
            table.writerow(types)
        pending = iter(rows)
        while part := list(islice(pending, _ROWS)):
            columns = [[None if cell == "" else cell for cell in column] for column in zip(*part, strict=True)]
            arrays = [pyarrow.array(cells, kind) for cells, kind in zip(columns, types.values(), strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), row_group_size=_ROWS)
            if table:
                table.writerows([_cell(cell) for cell in row] for row in part)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_cell(cell) for cell in row] for row in rows)


def _cell(value: Any) -> Any:
    """A value as CSV shows it; numbers as from the Parquet table, where they are read again."""
    return f"{float(np.float32(value)):.6g}" if isinstance(value, float) else value
