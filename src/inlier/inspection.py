"""Inspects photos into a folder: verdicts, heatmaps and a report, going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from inlier.data.layouts import find_photos
from inlier.data.manifest import Photo, read_photos
from inlier.data.remote import RemotePath, locate, state_of
from inlier.data.tables import TABLE_SUFFIXES
from inlier.data.text.reading import check_reader
from inlier.decision.report import Card, EvidenceView, write_report
from inlier.errors import InlierError
from inlier.inscriptions import TEXT_USES
from inlier.outputs import as_text, check_folder, write_whole
from inlier.parts import (
    VERDICT_SCHEMA,
    Independent,
    Judge,
    Part,
    Piece,
    inspect_pieces,
    portable_inspector,
    verdict_schema,
)
from inlier.records import Verdict
from inlier.scale import HERE, Workers, map_items

if TYPE_CHECKING:
    from inlier.workflow import Progress

HEATMAPS = ("flagged", "all", "none")

PART_SIZE = 64
"""Photos whose outcomes are written together, and what an interrupted run loses at most; a multiple of a batch."""

MAX_CARDS = 5000
"""Photos that the report shows, worst first; all have their rows in the tables."""

_WORK = ".inspection"
_RECORD = "inspection.json"
_RESULTS = ("verdicts.parquet", "verdicts.csv", "report.html")


@dataclass(frozen=True)
class Inspected:
    """What an inspection wrote.

    Attributes:
        directory: The folder.
        counts: Photos of each verdict.
        num_scored: Photos scored by this run, and not by one before it.
        notes: Sentences that a reader must not miss.
    """

    directory: Path
    counts: dict[str, int]
    num_scored: int
    notes: tuple[str, ...]

    def verdicts(self) -> list[tuple[str, str]]:
        """Path and verdict of every photo, in the order given."""
        table = pq.read_table(self.directory / "verdicts.parquet", columns=["path", "verdict"])
        return list(zip(table["path"].to_pylist(), table["verdict"].to_pylist(), strict=True))


def photos_named(paths: Sequence[Path]) -> list[Photo]:
    """The photos that a user means: those of a folder, those that a table lists with their regions, or a file.

    Args:
        paths: As for ``find_photos``; a ``.csv`` or ``.parquet`` file is read as a manifest, whose paths count from
            where it lies.

    Raises:
        ManifestError: A folder cannot be listed, or a table cannot be read.
    """
    found: list[Photo] = []
    for is_table, group in groupby(paths, _is_table):
        named = [*group]
        if is_table:
            found += [Photo(photo.path, "test", roi=photo.roi) for path in named for photo in read_photos(path)]
        else:
            found += [Photo(path, "test") for path in find_photos(named)]
    return found


def _is_table(path: Path) -> bool:
    is_there = isinstance(locate(path), RemotePath) or os.path.isfile(path)
    return is_there and path.suffix.lower() in TABLE_SUFFIXES


def inspect_to_folder(
    model: Judge,
    photos: Sequence[Photo],
    directory: Path,
    *,
    heatmaps: str = "flagged",
    text: str = "none",
    workers: int = 2,
    on: Workers = HERE,
    progress: Progress | None = None,
) -> Inspected:
    """Writes ``verdicts.parquet``, ``verdicts.csv``, ``heatmaps/`` and ``report.html``.

    Outcomes are kept in parts as they come. The same call after an interruption goes on behind the last whole part
    and ends with the same files, by however many workers it is done; after a finished run it scores nothing.

    Args:
        model: Fitted.
        photos: Which photos; each has its row, in this order.
        directory: Made if need be.
        heatmaps: Of which photos a heatmap is written.
        text: What is done with writing in photos: ``none``; ``read`` adds columns to the tables; ``ignore`` leaves it
            out of score and heatmap, too. See ``inscriptions.text_fields``.
        workers: Threads that decode, of each process.
        on: Where photos are inspected; what comes of it is written by this process.
        progress: Told how far it is; None: nobody is.

    Raises:
        InlierError: There are no photos, the folder holds the results of another inspection, or workers cannot do it.
        MissingExtraError: What reads writing is not installed.
    """
    if heatmaps not in HEATMAPS:
        raise InlierError(f"heatmaps must be one of {', '.join(HEATMAPS)}, got {heatmaps!r}.")
    if text not in TEXT_USES:
        raise InlierError(f"text must be one of {', '.join(TEXT_USES)}, got {text!r}.")
    if not photos:
        raise InlierError("There are no photos to inspect.")
    if isinstance(model, Independent) and (text != "none" or not on.is_here):
        raise InlierError(
            "An exported model neither reads writing nor works in several processes; give the folder of the model."
        )
    if text != "none":
        check_reader()
    request = _request(model, photos, heatmaps, text)
    check_folder(directory, marker=_RECORD, content="an inspection")
    num_scored = 0
    try:
        counts = _finished_counts(directory, request)
        if counts is None:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / _RECORD, json.dumps({"request": request, "counts": None}))
            (directory / _WORK).mkdir(exist_ok=True)
            advance = progress("Inspecting", len(photos)) if progress else lambda steps: None
            num_scored = _score(model, photos, directory, heatmaps, text, workers, on, advance)
            counts = _finish(model, directory, -(-len(photos) // PART_SIZE), text, request)
        shutil.rmtree(directory / _WORK, ignore_errors=True)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error
    return Inspected(directory, counts, num_scored, model.notes)


def _request(model: Judge, photos: Sequence[Photo], heatmaps: str, text: str) -> str:
    """What is asked: the same model, photos (by path, size and time of change) and options give the same digits."""
    options = [heatmaps] if text == "none" else [heatmaps, text]
    digest = hashlib.sha256(json.dumps([model.identity, model.config["decide"], *options]).encode())
    for photo in photos:
        digest.update(f"{as_text(str(photo.path))}\0{state_of(photo.path)}\0".encode())
        if photo.roi is not None:
            digest.update(f"{as_text(str(photo.roi))}\0{state_of(photo.roi)}\0roi\0".encode())
    return digest.hexdigest()


def _finished_counts(directory: Path, request: str) -> dict[str, int] | None:
    """Photos of each verdict if this very inspection is finished; None if it is not, or not begun."""
    try:
        record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("request") != request:
        raise InlierError(
            f"{as_text(directory)} holds an inspection of other photos, with another model or other options; "
            "choose another --out, or remove it."
        )
    counts: dict[str, int] | None = record["counts"]
    return counts if all((directory / name).exists() for name in _RESULTS) else None


def _score(
    model: Judge,
    photos: Sequence[Photo],
    directory: Path,
    heatmaps: str,
    text: str,
    workers: int,
    on: Workers,
    advance: Callable[[int], None],
) -> int:
    """Inspects the photos of missing parts, and keeps each part as it comes."""
    missing = [number for number in range(-(-len(photos) // PART_SIZE)) if not _part(directory, number).exists()]
    pieces = [_piece(photos, number) for number in missing]
    num_missing = sum(len(piece.photos) for piece in pieces)
    advance(len(photos) - num_missing)
    with ExitStack() as stack:
        if on.is_here:
            parts = inspect_pieces(model, pieces, heatmaps=heatmaps, workers=workers, text=text, advance=advance)
        else:
            from inlier.model import Model

            assert isinstance(model, Model)  # others work here only
            make = stack.enter_context(portable_inspector(model, on, heatmaps=heatmaps, workers=workers, text=text))
            parts = map_items(make, pieces, on=on, in_order=False)
        for part in stack.enter_context(closing(parts)):
            _check_seen(part)
            _keep(part, directory)
            advance(0 if on.is_here else len(part.table))
    return num_missing


def _piece(photos: Sequence[Photo], number: int) -> Piece:
    first = number * PART_SIZE
    return Piece(number, first, photos[first : first + PART_SIZE])


def _check_seen(part: Part) -> None:
    """Raises InlierError if a worker did not find a photo that is there: it would be taken for one that is not."""
    for path in part.absent:
        if os.path.exists(path):
            raise InlierError(
                f"{as_text(path)} is there, but not for the worker that was to inspect it: all nodes must find the "
                "photos under the same paths, as on a shared drive."
            )


def _keep(part: Part, directory: Path) -> None:
    """Writes a part: its heatmaps first, so that none is missing where its table is there."""
    for name, content in part.heatmaps:
        (directory / "heatmaps").mkdir(exist_ok=True)
        (directory / "heatmaps" / name).write_bytes(content)
    partial_file = directory / _WORK / "part.partial"
    pq.write_table(part.table, partial_file)
    os.replace(partial_file, _part(directory, part.number))


def _finish(model: Judge, directory: Path, num_parts: int, text: str, request: str) -> dict[str, int]:
    """Joins the parts into tables and the report; returns the number of photos of each verdict."""
    work = directory / _WORK
    parts = [_part(directory, number) for number in range(num_parts)]
    verdicts = pa.concat_tables([pq.read_table(part, columns=verdict_schema(text).names) for part in parts])
    pq.write_table(verdicts, work / "verdicts.parquet")
    pacsv.write_csv(verdicts, work / "verdicts.csv")
    counts = {of["values"]: of["counts"] for of in verdicts["verdict"].value_counts().to_pylist()}
    decide = model.config["decide"]
    notes = model.notes
    if len(verdicts) > MAX_CARDS:
        notes += (f"The page shows the {MAX_CARDS} worst of {len(verdicts)} photos; verdicts.csv has them all.",)
    write_report(
        work / "report.html",
        _cards(model, parts, _worst_first(verdicts)),
        title="Inspection",
        counts=counts,
        num_calibration=len(model.calibration.normal_scores),
        **decide,
        heat_scale=model.calibration.heat_scale() if len(model.calibration.map_maxima) else None,
        facts={
            "model": model.identity,
            "detector": model.config["fit"]["detector"],
            "backbone": model.config["backbone"]["name"],
            "normal photos": str(model.facts.get("num_fitted", "unknown")),
            "calibration": str(model.facts.get("calibration", "unknown")),
            "inlier": version("inlier"),
        },
        notes=notes,
    )
    for name in _RESULTS:
        os.replace(work / name, directory / name)
    record = {"request": request, "model": model.identity, "counts": counts, "facts": model.facts, "decide": decide}
    write_whole(directory / _RECORD, json.dumps(record, indent=2) + "\n")
    return counts


def _worst_first(verdicts: pa.Table) -> list[int]:
    """Rows that the report shows: by falling score, unreadable ones last, equals in the order given."""
    scores = verdicts["score"].to_numpy()  # null becomes NaN, which is sorted to the end
    order: list[int] = np.argsort(-scores, kind="stable")[:MAX_CARDS].tolist()
    return order


def _cards(model: Judge, parts: Sequence[Path], order: Sequence[int]) -> Iterator[Card]:
    """Cards in this order; a part is read when a card of it is due, and few are kept."""
    opened: dict[int, pa.Table] = {}
    for row in order:
        number, place = divmod(row, PART_SIZE)
        if number not in opened:
            if len(opened) >= 16:
                del opened[next(iter(opened))]
            opened[number] = pq.read_table(parts[number])
        values = opened[number].slice(place, 1).to_pylist()[0]
        verdict = Verdict(**{name: values[name] for name in VERDICT_SCHEMA.names})
        evidence = tuple(
            EvidenceView(
                reason["crop"],
                reason["reference_crop"],
                reason["distance"],
                _short_name(model.references.names[reason["reference"]]),
            )
            for reason in values["evidence"]
            if reason["reference_crop"]
        )
        yield Card(verdict, values["photo"], values["heatmap"], evidence, tuple(values["remarks"]))


def _part(directory: Path, number: int) -> Path:
    return directory / _WORK / f"part-{number:06d}.parquet"


def _short_name(path: str) -> str:
    """A photo's name with its folder, which says enough of where it is from."""
    return "/".join(Path(path).parts[-2:])
