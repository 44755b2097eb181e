"""Inspects photos into a folder: verdicts, heatmaps and a report, going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from inlier.data.manifest import Photo
from inlier.decision.heatmap import crop, encode, heat_overlay
from inlier.decision.report import Card, EvidenceView, write_report
from inlier.errors import InlierError
from inlier.model import Model, package_versions
from inlier.outputs import as_text, check_folder, write_whole
from inlier.records import Evidence, Verdict
from inlier.workflow import Inspection, Progress, inspect_photos, no_progress

HEATMAPS = ("flagged", "all", "none")

PART_SIZE = 64
"""Photos whose outcomes are written together, and what an interrupted run loses at most; a multiple of a batch."""

MAX_CARDS = 5000
"""Photos that the report shows, worst first; all have their rows in the tables."""

_VERDICT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("score", pa.float32()),
        ("p_value", pa.float32()),
        ("verdict", pa.string()),
        ("component", pa.string()),
        ("component_probability", pa.float32()),
        ("error", pa.string()),
    ]
)
_REASON = pa.struct([("crop", pa.binary()), ("reference", pa.int64()), ("reference_crop", pa.binary()),
                     ("distance", pa.float64())])  # fmt: skip
_PART_SCHEMA = pa.schema(
    [*_VERDICT_SCHEMA, ("photo", pa.binary()), ("heatmap", pa.binary()), ("evidence", pa.list_(_REASON))]
)

_FLAGGED = ("reject", "uncertain")
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


def inspect_to_folder(
    model: Model,
    photos: Sequence[Photo],
    directory: Path,
    *,
    heatmaps: str = "flagged",
    workers: int = 2,
    progress: Progress = no_progress,
) -> Inspected:
    """Writes ``verdicts.parquet``, ``verdicts.csv``, ``heatmaps/`` and ``report.html``.

    Outcomes are kept in parts as they come. The same call after an interruption goes on behind the last whole part
    and ends with the same files; after a finished run it scores nothing.

    Args:
        model: Fitted.
        photos: Which photos; each has its row, in this order.
        directory: Made if need be.
        heatmaps: Of which photos a heatmap is written.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        InlierError: There are no photos, or the folder holds the results of another inspection.
    """
    if heatmaps not in HEATMAPS:
        raise InlierError(f"heatmaps must be one of {', '.join(HEATMAPS)}, got {heatmaps!r}.")
    if not photos:
        raise InlierError("There are no photos to inspect.")
    request = _request(model, photos, heatmaps)
    check_folder(directory, marker=_RECORD, content="an inspection")
    num_scored = 0
    try:
        counts = _finished_counts(directory, request)
        if counts is None:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / _RECORD, json.dumps({"request": request, "counts": None}))
            (directory / _WORK).mkdir(exist_ok=True)
            num_scored = _score(model, photos, directory, heatmaps, workers, progress("Inspecting", len(photos)))
            counts = _finish(model, directory, -(-len(photos) // PART_SIZE), request)
        shutil.rmtree(directory / _WORK, ignore_errors=True)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error
    return Inspected(directory, counts, num_scored, model.notes)


def _request(model: Model, photos: Sequence[Photo], heatmaps: str) -> str:
    """What is asked: the same model, photos (by path, size and time of change) and options give the same digits."""
    digest = hashlib.sha256(json.dumps([model.identity, model.config["decide"], heatmaps]).encode())
    for photo in photos:
        try:
            status = os.stat(photo.path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{as_text(photo.path)}\0{state}\0".encode())
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
    model: Model, photos: Sequence[Photo], directory: Path, heatmaps: str, workers: int, advance: Callable[[int], None]
) -> int:
    """Inspects the photos of missing parts in one stream, so that decoding runs ahead across the parts' borders.

    A part is a whole number of batches, so that a photo is scored in the same company in every run.
    """
    parts = [photos[start : start + PART_SIZE] for start in range(0, len(photos), PART_SIZE)]
    missing = [number for number in range(len(parts)) if not _part(directory, number).exists()]
    wanted = [photo for number in missing for photo in parts[number]]
    advance(len(photos) - len(wanted))
    inspections = inspect_photos(model, wanted, workers=workers)
    for number in missing:
        rows = []
        for place, inspection in enumerate(islice(inspections, len(parts[number]))):
            rows.append(_row(model, inspection))
            if _wants_heatmap(model, inspection, heatmaps):
                _write_heatmap(model, inspection, directory / "heatmaps", number * PART_SIZE + place)
            advance(1)
        partial = directory / _WORK / "part.partial"
        pq.write_table(pa.Table.from_pylist(rows, schema=_PART_SCHEMA), partial)
        os.replace(partial, _part(directory, number))
    return len(wanted)


def _row(model: Model, inspection: Inspection) -> dict[str, Any]:
    """A photo's verdict, and the pictures that its card in the report needs: more for those that are flagged."""
    row = asdict(inspection.verdict) | {"photo": None, "heatmap": None, "evidence": []}
    if inspection.pixels is None:
        return row
    if inspection.verdict.verdict not in _FLAGGED:
        return row | {"photo": encode(inspection.pixels, longest_side=360, quality=70)}
    row["photo"] = encode(inspection.pixels, longest_side=512, quality=75)
    if inspection.anomaly_map is not None and len(model.calibration.map_maxima):
        overlay = heat_overlay(inspection.pixels, inspection.anomaly_map, scale=model.calibration.heat_scale())
        row["heatmap"] = encode(overlay, longest_side=512, quality=75)
    row["evidence"] = [_reason(model, inspection, reason) for reason in inspection.evidence]
    return row


def _reason(model: Model, inspection: Inspection, reason: Evidence) -> dict[str, Any]:
    assert inspection.pixels is not None  # evidence is of readable photos
    is_whole = reason.box == (0.0, 0.0, 1.0, 1.0)
    cut = None if is_whole else encode(crop(inspection.pixels, reason.box, size=160), longest_side=160, quality=75)
    return {
        "crop": cut,
        "reference": reason.reference,
        "reference_crop": model.references.crop(reason.reference, reason.reference_box),
        "distance": reason.distance,
    }


def _wants_heatmap(model: Model, inspection: Inspection, heatmaps: str) -> bool:
    has_scale = len(model.calibration.map_maxima) > 0
    if inspection.anomaly_map is None or heatmaps == "none" or not has_scale:
        return False
    return heatmaps == "all" or inspection.verdict.verdict in _FLAGGED


def _write_heatmap(model: Model, inspection: Inspection, folder: Path, number: int) -> None:
    assert inspection.pixels is not None and inspection.anomaly_map is not None  # _wants_heatmap
    folder.mkdir(exist_ok=True)
    overlay = heat_overlay(inspection.pixels, inspection.anomaly_map, scale=model.calibration.heat_scale())
    stem = re.sub(r"[^\w.-]+", "_", Path(inspection.verdict.path).stem)[:60]
    (folder / f"{number:06d}-{stem}.webp").write_bytes(encode(overlay, longest_side=1024, quality=85))


def _finish(model: Model, directory: Path, num_parts: int, request: str) -> dict[str, int]:
    """Joins the parts into tables and the report; returns the number of photos of each verdict."""
    work = directory / _WORK
    parts = [_part(directory, number) for number in range(num_parts)]
    verdicts = pa.concat_tables([pq.read_table(part, columns=_VERDICT_SCHEMA.names) for part in parts])
    pq.write_table(verdicts, work / "verdicts.parquet")
    pacsv.write_csv(verdicts, work / "verdicts.csv")
    counts = dict(Counter(verdicts["verdict"].to_pylist()))
    decide = model.config["decide"]
    notes = model.notes
    if len(verdicts) > MAX_CARDS:
        notes += (f"The page shows the {MAX_CARDS} worst of {len(verdicts)} photos; verdicts.csv has them all.",)
    write_report(
        work / "report.html",
        _cards(model, parts, _worst_first(verdicts)[:MAX_CARDS]),
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
            "inlier": package_versions()["inlier"],
        },
        notes=notes,
    )
    for name in _RESULTS:
        os.replace(work / name, directory / name)
    record = {"request": request, "model": model.identity, "counts": counts, "facts": model.facts, "decide": decide}
    write_whole(directory / _RECORD, json.dumps(record, indent=2) + "\n")
    return counts


def _worst_first(verdicts: pa.Table) -> list[int]:
    """Rows by falling score, unreadable ones last, equals in the order given."""
    scores = verdicts["score"].to_pylist()
    return sorted(range(len(scores)), key=lambda row: (scores[row] is None, -(scores[row] or 0.0), row))


def _cards(model: Model, parts: Sequence[Path], order: Sequence[int]) -> Iterator[Card]:
    """Cards in this order; a part is read when a card of it is due, and few are kept."""
    opened: dict[int, pa.Table] = {}
    for row in order:
        number, place = divmod(row, PART_SIZE)
        if number not in opened:
            if len(opened) >= 16:
                del opened[next(iter(opened))]
            opened[number] = pq.read_table(parts[number])
        values = opened[number].slice(place, 1).to_pylist()[0]
        verdict = Verdict(**{name: values[name] for name in _VERDICT_SCHEMA.names})
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
        yield Card(verdict, values["photo"], values["heatmap"], evidence)


def _part(directory: Path, number: int) -> Path:
    return directory / _WORK / f"part-{number:06d}.parquet"


def _short_name(path: str) -> str:
    """A photo's name with its folder, which says enough of where it is from."""
    return "/".join(Path(path).parts[-2:])
