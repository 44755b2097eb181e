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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inlier.config import Config
from inlier.data.manifest import Photo
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import crop, encode, heat_overlay, outline
from inlier.inscriptions import Inscription, inspect_inscribed, text_fields, text_row
from inlier.records import Box, Evidence, Inspection
from inlier.scale import Workers

if TYPE_CHECKING:
    from inlier.model import Model

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
_CARD = (("photo", pa.binary()), ("heatmap", pa.binary()), ("evidence", pa.list_(_REASON)),
         ("remarks", pa.list_(pa.string())))  # fmt: skip
_FLAGGED = ("reject", "uncertain")


class Shown(Protocol):
    """The normal photos behind what judges, as the report shows them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of each."""
        ...

    def crop(self, number: int, box: Box) -> bytes:
        """WebP of a place in one; empty if there is none."""
        ...


class Judge(Protocol):
    """What an inspection needs of a ``Model``, or of another thing that judges photos."""

    @property
    def config(self) -> Config:
        """Resolved."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Scores of normal photos, and the scale of heat."""
        ...

    @property
    def references(self) -> Shown:
        """The photos behind its reasons."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Where it comes from."""
        ...

    @property
    def identity(self) -> str:
        """Tells it from any that scores differently."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader must not miss."""
        ...


@runtime_checkable
class Independent(Protocol):
    """A ``Judge`` that inspects by itself, without PyTorch, as an exported model does."""

    def inspect_photos(self, photos: Sequence[Photo], *, workers: int = 2) -> Iterator[Inspection]:
        """One inspection for every photo, in the order given."""
        ...


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


def verdict_schema(text: str) -> pa.Schema:
    """The columns of verdicts, with those for what is written in photos; for one of ``TEXT_USES``."""
    return pa.schema([*VERDICT_SCHEMA, *text_fields(text)])


def inspect_pieces(
    model: Judge,
    pieces: Sequence[Piece],
    *,
    heatmaps: str,
    workers: int,
    text: str = "none",
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
        text: What is done with writing: none, read or ignore.
        advance: Told of each photo.
    """
    shown = _inspect(model, [photo for piece in pieces for photo in piece.photos], heatmaps, text, workers)
    schema = pa.schema([*verdict_schema(text), *_CARD])
    for piece in pieces:
        rows, files, absent = [], [], []
        for place, (drawn, inscription) in enumerate(islice(shown, len(piece.photos))):
            rows.append(drawn.row | text_row(inscription, text))
            if drawn.heatmap is not None:
                files.append((_file_name(drawn.row["path"], piece.first + place), drawn.heatmap))
            path = piece.photos[place].path
            if drawn.row["verdict"] == "unreadable" and isinstance(path, Path) and not os.path.exists(path):
                absent.append(path)
            advance(1)
        yield Part(piece.number, pa.Table.from_pylist(rows, schema=schema), tuple(files), tuple(absent))


class _Drawn(NamedTuple):
    """A photo's row, and its heatmap's file, if there is one."""

    row: dict[str, Any]
    heatmap: bytes | None


def _inspect(
    model: Judge, photos: Sequence[Photo], heatmaps: str, text: str, workers: int
) -> Iterator[tuple[_Drawn, Inscription | None]]:
    """Photos drawn for the report, each in the thread that inspected it, if there are several."""
    draw = partial(_draw, model, heatmaps)
    if isinstance(model, Independent):
        return ((draw(inspection), None) for inspection in model.inspect_photos(photos, workers=workers))
    from inlier.model import Model
    from inlier.workflow import map_inspections

    assert isinstance(model, Model)
    if text != "none":
        inscribed = inspect_inscribed(model, photos, ignores=text == "ignore", workers=workers)
        return ((draw(inspection), inscription) for inspection, inscription in inscribed)
    return ((drawn, None) for drawn in map_inspections(draw, model, photos, workers=workers))


def _draw(model: Judge, heatmaps: str, inspection: Inspection) -> _Drawn:
    is_kept = heatmaps == "all" or (heatmaps == "flagged" and inspection.verdict.verdict in _FLAGGED)
    heat = _heat(model, inspection, is_kept)
    file = encode(heat, longest_side=1024, quality=85) if is_kept and heat is not None else None
    return _Drawn(_row(model, inspection, heat), file)


@contextmanager
def portable_inspector(
    model: Model, on: Workers, *, heatmaps: str, workers: int, text: str = "none"
) -> Iterator[Callable[[], Callable[[Piece], Part]]]:
    """What gives each worker its model and makes a part of a piece; for ``map_items``, within the block.

    Processes load the model from a folder that is there as long as the block. Ray's workers are sent the files
    themselves, which each node keeps once: a folder of that name elsewhere might be absent, or be another model.

    Args:
        model: Fitted.
        on: Where it goes.
        heatmaps: Of which photos heatmaps are drawn.
        workers: Threads that decode, of each process.
        text: What is done with writing.
    """
    device = next(model.backbone.parameters()).device.type
    with TemporaryDirectory(prefix="inlier-") as parent:
        folder = Path(parent) / "model"
        model.save(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()} if on.ray else {}
        where = None if on.ray else folder
        yield partial(_make_inspector, where, files, device, on.num_threads, heatmaps, workers, text)


def _make_inspector(
    folder: Path | None,
    files: Mapping[str, bytes],
    device: str,
    num_threads: int,
    heatmaps: str,
    workers: int,
    text: str,
) -> Callable[[Piece], Part]:
    """Loads a model, from its folder or from what is in it, and gives the function."""
    import torch

    from inlier.model import Model

    torch.set_num_threads(min(num_threads, torch.get_num_threads()))
    if folder is not None:
        model = Model.load(folder, device=device)
    else:
        with TemporaryDirectory(prefix="inlier-") as unpacked:
            for name, content in files.items():
                (Path(unpacked) / name).write_bytes(content)
            model = Model.load(Path(unpacked), device=device)

    def inspect(piece: Piece) -> Part:
        return next(inspect_pieces(model, [piece], heatmaps=heatmaps, workers=workers, text=text))

    return inspect


def _heat(model: Judge, inspection: Inspection, is_drawn: bool) -> NDArray[np.uint8] | None:
    """The photo under its map; None where there is no map, no scale for it, or nobody who will see it."""
    is_seen = is_drawn or inspection.verdict.verdict in _FLAGGED
    if inspection.pixels is None or inspection.anomaly_map is None or not is_seen:
        return None
    if not len(model.calibration.map_maxima):
        return None
    heat = heat_overlay(inspection.pixels, inspection.anomaly_map, scale=model.calibration.heat_scale())
    return heat if inspection.region is None else outline(heat, inspection.region)


def _row(model: Judge, inspection: Inspection, heat: NDArray[np.uint8] | None) -> dict[str, Any]:
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


def _reason(model: Judge, inspection: Inspection, reason: Evidence) -> dict[str, Any]:
    assert inspection.pixels is not None  # evidence is of readable photos
    is_whole = reason.box == (0.0, 0.0, 1.0, 1.0)
    cut = None if is_whole else encode(crop(inspection.pixels, reason.box, size=160), longest_side=160, quality=75)
    return {
        "crop": cut,
        "reference": reason.reference,
        "reference_crop": model.references.crop(reason.reference, reason.reference_box),
        "distance": reason.distance,
    }


def _file_name(path: str, number: int) -> str:
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem)[:60]
    return f"{number:06d}-{stem}.webp"
