"""Manifest files, CSV or Parquet -> rows of text, one dictionary a photo.

A row maps the column names of ``COLUMNS`` to text; "" stands for a missing cell, and other columns are
dropped. Both formats come out alike, so that what a cell may say is checked in one place, ``manifest.py``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import BinaryIO

from inlier.data.remote import Location, RemotePath
from inlier.errors import ManifestError

COLUMNS = ("path", "split", "label", "anomalous", "group", "mask", "roi")
TABLE_SUFFIXES = (".parquet", ".csv")

MAX_FETCHED_BYTES = 1 << 30
"""Size above which a remote manifest is refused: some ten million photos."""

_VERBATIM = ("path", "mask", "roi")  # a file name may begin or end with a space


def read_table(table: Location) -> list[dict[str, str]]:
    """Rows of a manifest file, in its order.

    Args:
        table: A ``.parquet`` file, or a ``.csv`` file in UTF-8 with a header.

    Raises:
        ManifestError: The file is neither, cannot be read, has no column ``path`` (or a known column twice),
            or has rows longer than its header.
    """
    if table.suffix.lower() not in TABLE_SUFFIXES:
        raise ManifestError(f"{table} must be a folder of photos, or a manifest (.csv or .parquet).")
    rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table)
    return [{column: text if column in _VERBATIM else text.strip() for column, text in row.items()} for row in rows]


def first_five(offenders: Sequence[str]) -> str:
    """The first five offenders, and their number if there are more: "a, b, c, d, e, … (12 in all)"."""
    shown = ", ".join(offenders[:5])
    return shown if len(offenders) <= 5 else f"{shown}, … ({len(offenders)} in all)"


def _read_csv(table: Location) -> list[dict[str, str]]:
    try:
        with io.TextIOWrapper(_open(table), encoding="utf-8-sig", newline="") as file:
            header, *lines = [cells for cells in csv.reader(file, strict=True) if cells] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{table} cannot be read as a CSV table in UTF-8: {error}.") from error
    names = [name.strip() for name in header]
    _check_header(table, names)
    # An unquoted comma in a file name shifts every cell after it: refuse rather than misread.
    overlong = [f"row {number}" for number, cells in enumerate(lines, 1) if any(cells[len(names) :])]
    if overlong:
        raise ManifestError(f"{table} has rows with more cells than its header: {first_five(overlong)}.")
    return [{column: cell for column, cell in zip(names, cells, strict=False) if column in COLUMNS} for cells in lines]


def _read_parquet(table: Location) -> list[dict[str, str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with _open(table) as stream, parquet.ParquetFile(stream) as file:
            names = file.schema_arrow.names
            rows = file.read(columns=[name for name in names if name in COLUMNS]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ManifestError(f"{table} cannot be read as a Parquet table: {error}.") from error
    _check_header(table, names)
    return [{column: _text(value) for column, value in row.items()} for row in rows]


def _open(table: Location) -> BinaryIO:
    if isinstance(table, RemotePath):
        return io.BytesIO(table.read_bytes(max_bytes=MAX_FETCHED_BYTES))
    return table.open("rb")


def _check_header(table: Location, names: Sequence[str]) -> None:
    if "path" not in names:
        found = ", ".join(names) or "none"
        raise ManifestError(f"{table} needs a column named path; its columns: {found}.")
    repeated = [name for name in COLUMNS if names.count(name) > 1]
    if repeated:
        raise ManifestError(f"{table} has more than one column named {' and '.join(repeated)}.")


def _text(value: object) -> str:
    """A Parquet value as a CSV cell would hold it: flags as 0 and 1, 1.0 as 1, null and NaN as ""."""
    if value is None or value != value:  # NaN is what pandas makes of a missing cell
        return ""
    is_whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if is_whole else str(value)  # type: ignore[call-overload]
