from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inlier import inscriptions, inspection, parts
from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.data.text import strokes
from inlier.data.text.reading import Text
from inlier.data.text.strokes import paint_out
from inlier.errors import InlierError, MissingExtraError
from inlier.inscriptions import MAX_IGNORED_SHARE, inspect_inscribed
from inlier.inspection import inspect_to_folder
from inlier.model import Model
from inlier.scale import Workers
from inlier.workflow import inspect_photos

BOX = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
WHITE = (240, 240, 235)


def marked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo with two white strokes in the middle of ``BOX``."""
    result = pixels.copy()
    height, width = result.shape[:2]
    result[round(0.35 * height) : round(0.65 * height), round(0.38 * width) : round(0.43 * width)] = WHITE
    result[round(0.35 * height) : round(0.65 * height), round(0.55 * width) : round(0.6 * width)] = WHITE
    return result


def fake_reader(pixels: NDArray[np.uint8], *, num_threads: int) -> tuple[Text, ...]:
    """Reads 12 and H in what ``marked`` made, and nothing elsewhere."""
    height, width = pixels.shape[:2]
    is_marked = (np.abs(pixels[height // 2, round(0.4 * width)].astype(int) - WHITE) < 12).all()
    return (Text("H 12", 0.93, BOX),) if is_marked else ()


@pytest.fixture
def photos(data: Manifest, tmp_path: Path) -> list[Photo]:
    """Two photos as they are, one with writing, one that is not there."""
    first, second, third = data.normal().select("test").photos[:3]
    Image.fromarray(marked(read_image(third.path))).save(tmp_path / "marked.png")
    return [first, Photo(tmp_path / "marked.png", "test"), second, Photo(tmp_path / "none.jpg", "test")]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that needs no networks."""
    monkeypatch.setattr(inscriptions, "read_text", fake_reader)
    monkeypatch.setattr(inspection, "check_reader", lambda: None)


@pytest.mark.usefixtures("reads")
def test_without_writing_ignoring_it_changes_no_bit(model: Model, data: Manifest) -> None:
    chosen = data.select("test").photos[:3]
    plain = list(inspect_photos(model, chosen))
    for before, (after, inscription) in zip(plain, inspect_inscribed(model, chosen, ignores=True), strict=True):
        assert after.verdict == before.verdict
        np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
        assert inscription is not None and (inscription.texts, inscription.ignored_share) == ((), 0.0)


@pytest.mark.usefixtures("reads")
def test_a_photo_is_scored_as_if_nobody_had_written_on_it(
    model: Model, photos: Sequence[Photo], tmp_path: Path
) -> None:
    pixels = read_image(photos[1].path)
    painted, is_paint = paint_out(pixels, fake_reader(pixels, num_threads=1))
    Image.fromarray(painted).save(tmp_path / "painted.png")
    (expected,) = inspect_photos(model, [Photo(tmp_path / "painted.png", "test")])
    found = [*inspect_inscribed(model, photos, ignores=True)]
    after, inscription = found[1]
    assert after.verdict.score == pytest.approx(expected.verdict.score, rel=1e-4)
    np.testing.assert_array_equal(after.pixels, pixels)  # the report shows the photo itself
    assert inscription is not None and inscription.ignored_share == pytest.approx(is_paint.mean())
    (read, _) = [*inspect_inscribed(model, photos, ignores=False)][1]
    assert read.verdict.score != pytest.approx(expected.verdict.score, rel=1e-4)
    assert found[3][0].verdict.verdict == "unreadable" and found[3][1] is None


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(
    ("share", "expected"), [(MAX_IGNORED_SHARE, "accept"), (MAX_IGNORED_SHARE + 0.01, "uncertain")]
)
def test_a_photo_that_is_mostly_writing_is_not_accepted(
    model: Model, photos: Sequence[Photo], monkeypatch: pytest.MonkeyPatch, share: float, expected: str
) -> None:
    lenient = model.with_rates(false_alarm_rate=1e-9, uncertain_rate=1e-9)  # accepts whatever it is shown

    def covers(pixels: NDArray[np.uint8], texts: Sequence[Text]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        is_paint = np.zeros(pixels.shape[:2], dtype=bool)
        is_paint.ravel()[: round(share * is_paint.size)] = bool(texts)
        return pixels, is_paint

    monkeypatch.setattr(strokes, "paint_out", covers)
    verdicts = [found.verdict.verdict for found, _ in inspect_inscribed(lenient, photos, ignores=True)]
    assert verdicts == ["accept", expected, "accept", "unreadable"]
    assert [found.verdict.verdict for found, _ in inspect_inscribed(lenient, photos, ignores=False)][1] == "accept"


@pytest.mark.usefixtures("reads")
def test_the_tables_say_what_was_read_and_how_much_was_left_out(
    model: Model, photos: Sequence[Photo], tmp_path: Path
) -> None:
    columns = pq.read_schema(plain_table(model, photos, tmp_path)).names
    for text, more in (("read", []), ("ignore", ["ignored_share"])):
        inspect_to_folder(model, photos, tmp_path / text, text=text)
        table = pq.read_table(tmp_path / text / "verdicts.parquet")
        assert table.schema.names == [*columns, "text", "digits", "text_boxes", *more]
        first, second, _, unreadable = table.to_pylist()
        assert (first["text"], first["digits"], first["text_boxes"]) == ("", "", "[]")
        assert (second["text"], second["digits"]) == ("H 12", "12")
        (box,) = json.loads(second["text_boxes"])
        assert box == {"text": "H 12", "confidence": 0.93, "corners": [[*corner] for corner in BOX]}
        assert [unreadable[name] for name in ("text", "digits", "text_boxes", *more)] == [None] * (3 + len(more))
        with (tmp_path / text / "verdicts.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[1]["digits"] == "12" and json.loads(rows[1]["text_boxes"]) == [box]
    assert first["ignored_share"] == 0 and 0.01 < second["ignored_share"] < 0.1
    page = (tmp_path / "ignore" / "report.html").read_text(encoding="utf-8")
    share = f"{100 * second['ignored_share']:.1f}"
    assert f'"remarks":["number 12","writing on {share} % of it was left out of the score"]' in page
    assert '"remarks":["number 12"]' in (tmp_path / "read" / "report.html").read_text(encoding="utf-8")


def plain_table(model: Model, photos: Sequence[Photo], folder: Path) -> Path:
    inspect_to_folder(model, photos, folder / "plain")
    return folder / "plain" / "verdicts.parquet"


@pytest.mark.usefixtures("reads")
def test_an_inspection_begun_otherwise_is_another_one(model: Model, photos: Sequence[Photo], tmp_path: Path) -> None:
    inspect_to_folder(model, photos, tmp_path / "out", text="read")
    for text in ("none", "ignore"):
        with pytest.raises(InlierError, match="holds an inspection of other photos, with another model or other opt"):
            inspect_to_folder(model, photos, tmp_path / "out", text=text)
    assert inspect_to_folder(model, photos, tmp_path / "out", text="read").num_scored == 0


class Killed(Exception):
    pass


@pytest.mark.usefixtures("reads")
def test_an_interrupted_one_goes_on_and_ends_alike(
    model: Model, photos: Sequence[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "PART_SIZE", 2)
    inspect_to_folder(model, photos, tmp_path / "whole", text="ignore")

    def stop(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield from itertools.islice(inspect_inscribed(*arguments, **options), 3)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(parts, "inspect_inscribed", stop)
        with pytest.raises(Killed):
            inspect_to_folder(model, photos, tmp_path / "stopped", text="ignore")
    assert inspect_to_folder(model, photos, tmp_path / "stopped", text="ignore").num_scored == 2
    for name in ("verdicts.parquet", "verdicts.csv", "report.html"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.usefixtures("reads")
def test_workers_are_told(model: Model, photos: Sequence[Photo]) -> None:
    piece = parts.Piece(0, 0, photos)
    with parts.portable_inspector(model, Workers(2), heatmaps="none", workers=0, text="ignore") as make:
        table = make()(piece).table
    assert table["digits"].to_pylist() == ["", "12", "", None]


def test_nothing_is_faked_from_the_photo_to_the_table(model: Model, tmp_path: Path) -> None:
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason="what reads is not installed: pip install 'inlier[ocr]'")
    picture = Image.new("RGB", (400, 300), (90, 92, 95))
    ImageDraw.Draw(picture).text((200, 150), "12", fill=WHITE, font=ImageFont.load_default(110), anchor="mm")
    picture.save(tmp_path / "plate.png")
    inspect_to_folder(model, [Photo(tmp_path / "plate.png", "test")], tmp_path / "out", text="ignore")
    (row,) = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    is_white = (np.asarray(picture) > 160).all(axis=2).mean()
    assert row["digits"] == "12" and is_white < row["ignored_share"] < 2.5 * is_white


def test_a_photo_is_read_as_large_as_it_is(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as the model needs it: small digits would be lost."""
    Image.new("RGB", (4000, 3000), (90, 90, 90)).save(tmp_path / "large.jpg")
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(inscriptions, "read_text", lambda pixels, num_threads: shapes.append(pixels.shape) or ())
    list(inspect_inscribed(model, [Photo(tmp_path / "large.jpg", "test")], ignores=False))
    assert inscriptions.SIDE <= min(shapes[0][:2]) < 2 * inscriptions.SIDE


@pytest.mark.usefixtures("reads")
def test_writing_that_nobody_knows_what_to_do_with(model: Model, photos: Sequence[Photo], tmp_path: Path) -> None:
    with pytest.raises(InlierError, match=r"^text must be one of none, read, ignore, got 'all'\.$"):
        inspect_to_folder(model, photos, tmp_path / "out", text="all")


def test_what_reads_is_missed_before_anything_is_written(
    model: Model, photos: Sequence[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inlier\[ocr\]'$"):
        inspect_to_folder(model, photos, tmp_path / "out", text="read")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(("option", "last"), [("--read-text", "text_boxes"), ("--ignore-text", "ignored_share")])
def test_the_command_line(
    inlier: Callable[..., Any], model_folder: Path, photos: Sequence[Photo], tmp_path: Path, option: str, last: str
) -> None:
    ran = inlier("inspect", model_folder, photos[1].path, "--out", tmp_path / "out", option)
    assert (ran.status, ran.err) == (0, "")
    assert pq.read_table(tmp_path / "out" / "verdicts.parquet").schema.names[-1] == last


def test_remarks_are_few_words() -> None:
    text = Text("cyl 4", 0.9, BOX)
    inscription = inscriptions.Inscription((text,), None)
    assert inscription.remarks() == ("number 4",)
    assert replace(inscription, ignored_share=0.0).remarks() == ("number 4",)
    assert inscriptions.Inscription((), 0.0).remarks() == ()
