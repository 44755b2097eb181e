"""Parts of an inspection: what is kept of some photos until the report is written, made by any process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from inlier.data.manifest import Photo
from inlier.decision.heatmap import crop, encode, heat_overlay
from inlier.model import Model
from inlier.records import Evidence
from inlier.scale import Workers
from inlier.workflow import Inspection, inspect_photos

VERDICT_SCHEMA = pa.schema(
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
    [*VERDICT_SCHEMA, ("photo", pa.binary()), ("heatmap", pa.binary()), ("evidence", pa.list_(_REASON))]
)
_FLAGGED = ("reject", "uncertain")


@dataclass(frozen=True)
class Piece:
    """Photos that are inspected together.

    Attributes:
        number: Of the part.
        first: Place of its first photo among all.
        photos: Which.
    """

    number: int
    first: int
    photos: Sequence[Photo]

    def __repr__(self) -> str:
        """For sentences on errors: the photos themselves would be a page."""
        return f"photos {self.first + 1} to {self.first + len(self.photos)}, from {self.photos[0].path} on"


@dataclass(frozen=True)
class Part:
    """What became of a piece.

    Attributes:
        number: Of the part.
        table: A row for each photo: verdict, and the pictures of its card in the report.
        heatmaps: Names and contents of files.
        absent: Paths at which there was nothing for who made it.
    """

    number: int
    table: pa.Table
    heatmaps: tuple[tuple[str, bytes], ...]
    absent: tuple[Path, ...]


def inspect_pieces(
    model: Model,
    pieces: Sequence[Piece],
    *,
    heatmaps: str,
    workers: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> Generator[Part, None, None]:
    """A part for every piece, of one stream of photos, so that decoding runs ahead across the pieces' borders.

    A piece but the last is a whole number of batches, so that a photo is scored in the same company however the pieces
    are spread.

    Args:
        model: Fitted.
        pieces: At least one photo each.
        heatmaps: Of which photos heatmaps are drawn: flagged, all or none.
        workers: Threads that decode.
        advance: Told of each photo.
    """
    inspections = inspect_photos(model, [photo for piece in pieces for photo in piece.photos], workers=workers)
    for piece in pieces:
        rows, files, absent = [], [], []
        for place, inspection in enumerate(islice(inspections, len(piece.photos))):
            is_drawn = heatmaps == "all" or (heatmaps == "flagged" and inspection.verdict.verdict in _FLAGGED)
            heat = _heat(model, inspection, is_drawn)
            rows.append(_row(model, inspection, heat))
            if is_drawn and heat is not None:
                files.append((_file_name(inspection, piece.first + place), encode(heat, longest_side=1024, quality=85)))
            path = piece.photos[place].path
            if inspection.pixels is None and isinstance(path, Path) and not os.path.exists(path):
                absent.append(path)
            advance(1)
        yield Part(piece.number, pa.Table.from_pylist(rows, schema=_PART_SCHEMA), tuple(files), tuple(absent))


@contextmanager
def portable_inspector(
    model: Model, on: Workers, *, heatmaps: str, workers: int
) -> Iterator[Callable[[], Callable[[Piece], Part]]]:
    """What gives each worker its model and makes a part of a piece; for ``map_items``, within the block.

    Processes load the model from a folder that is there as long as the block. Ray's workers are sent the files
    themselves, which each node keeps once: a folder of that name elsewhere might be absent, or be another model.

    Args:
        model: Fitted.
        on: Where it goes.
        heatmaps: Of which photos heatmaps are drawn.
        workers: Threads that decode, of each process.
    """
    device = next(model.backbone.parameters()).device.type
    with TemporaryDirectory(prefix="inlier-") as parent:
        folder = Path(parent) / "model"
        model.save(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()} if on.ray else {}
        yield partial(_make_inspector, None if on.ray else folder, files, device, on.num_threads, heatmaps, workers)


def _make_inspector(
    folder: Path | None,
    files: Mapping[str, bytes],
    device: str,
    num_threads: int,
    heatmaps: str,
    workers: int,
) -> Callable[[Piece], Part]:
    """Loads a model, from its folder or from what is in it, and gives the function."""
    torch.set_num_threads(min(num_threads, torch.get_num_threads()))
    if folder is not None:
        model = Model.load(folder, device=device)
    else:
        with TemporaryDirectory(prefix="inlier-") as unpacked:
            for name, content in files.items():
                (Path(unpacked) / name).write_bytes(content)
            model = Model.load(Path(unpacked), device=device)

    def inspect(piece: Piece) -> Part:
        return next(inspect_pieces(model, [piece], heatmaps=heatmaps, workers=workers))

    return inspect


def _heat(model: Model, inspection: Inspection, is_drawn: bool) -> NDArray[np.uint8] | None:
    """The photo under its map; None where there is no map, no scale for it, or nobody who will see it."""
    is_seen = is_drawn or inspection.verdict.verdict in _FLAGGED
    if inspection.pixels is None or inspection.anomaly_map is None or not is_seen:
        return None
    if not len(model.calibration.map_maxima):
        return None
    return heat_overlay(inspection.pixels, inspection.anomaly_map, scale=model.calibration.heat_scale())


def _row(model: Model, inspection: Inspection, heat: NDArray[np.uint8] | None) -> dict[str, Any]:
    """A photo's verdict, and the pictures that its card in the report needs: more for those that are flagged."""
    row = asdict(inspection.verdict) | {"photo": None, "heatmap": None, "evidence": []}
    if inspection.pixels is None:
        return row
    if inspection.verdict.verdict not in _FLAGGED:
        return row | {"photo": encode(inspection.pixels, longest_side=360, quality=70)}
    row["photo"] = encode(inspection.pixels, longest_side=512, quality=75)
    if heat is not None:
        row["heatmap"] = encode(heat, longest_side=512, quality=75)
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


def _file_name(inspection: Inspection, number: int) -> str:
    stem = re.sub(r"[^\w.-]+", "_", Path(inspection.verdict.path).stem)[:60]
    return f"{number:06d}-{stem}.webp"
