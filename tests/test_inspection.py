from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inlier import inspection as module
from inlier import parts, workflow
from inlier.data.layouts import find_photos
from inlier.data.manifest import Manifest, Photo
from inlier.errors import InlierError, ManifestError
from inlier.inspection import inspect_to_folder, photos_named
from inlier.model import Model
from inlier.scale import Workers

COLUMNS = {
    "path": pa.string(),
    "score": pa.float32(),
    "p_value": pa.float32(),
    "verdict": pa.string(),
    "component": pa.string(),
    "component_probability": pa.float32(),
    "error": pa.string(),
}


def contents(directory: Path) -> dict[str, str]:
    """Digest of every file that an inspection wrote."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(directory: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(directory / "verdicts.parquet").to_pylist()
    return rows


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what real ones hold: all that can be read before all that cannot, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    rgb = Image.fromarray(noise(0, 60, 90, 3))
    rgb.convert("L").save(folder / "a grey.png")
    Image.fromarray(noise(1, 60, 90).astype(np.uint16) * 257).save(folder / "a 16-bit.png")
    rgb.convert("P").save(folder / "a palette.gif")
    rgb.convert("RGBA").save(folder / "a alpha.webp")
    rgb.convert("CMYK").save(folder / "a cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "a turned.jpg", exif=exif)
    Image.new("RGB", (6000, 4500), (90, 120, 60)).save(folder / "a large.jpg")
    rgb.save(folder / "a Kühlwasserpumpe, Größe 3.JPG")
    rgb.save(folder / "a \"quoted\"\n<script>alert('x')<script>.png")
    pillow_heif.from_pillow(rgb).save(folder / "a phone.heic")
    rgb.save(folder / "z corrupt.jpg")
    damage(folder / "z corrupt.jpg")
    rgb.save(folder / "z truncated.png")
    (folder / "z truncated.png").write_bytes((folder / "z truncated.png").read_bytes()[:500])
    (folder / "z empty.jpg").touch()
    (folder / "z text.jpg").write_text("not a photo")
    Image.new("RGB", (1, 1)).save(folder / "z dot.png")
    (folder / "z dangling.jpg").symlink_to(folder / "nowhere.jpg")
    return folder


def damage(path: Path) -> None:
    """Overwrites the tables of a JPEG, without which nothing in it can be decoded."""
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def inspected(model: Model, hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("out") / "inspection"
    result = inspect_to_folder(model, as_photos(find_photos([hostile])), directory, heatmaps="all")
    assert result.counts["unreadable"] == 6
    assert sum(result.counts.values()) == result.num_scored == 16
    return directory


def as_photos(paths: list[Path]) -> list[Photo]:
    return [Photo(path, "test") for path in paths]


def test_every_file_of_a_hostile_folder_has_its_row_in_the_order_given(inspected: Path, hostile: Path) -> None:
    rows = rows_of(inspected)
    assert [row["path"] for row in rows] == [str(path) for path in find_photos([hostile])]
    for row in rows:
        is_readable = Path(row["path"]).name.startswith("a ")
        assert (row["verdict"] != "unreadable") == is_readable, row
        assert (row["score"] is None) == (row["p_value"] is None) == bool(row["error"]) == (not is_readable), row
    reasons = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert reasons.keys() == {
        "z corrupt.jpg", "z dangling.jpg", "z dot.png", "z empty.jpg", "z text.jpg", "z truncated.png",
    }  # fmt: skip
    assert reasons["z dangling.jpg"] == "a link to a file that does not exist"
    assert reasons["z dot.png"] == "is 1 x 1 px; at least 16 px a side are needed"


def test_the_tables_have_these_columns_and_agree(inspected: Path) -> None:
    table = pq.read_table(inspected / "verdicts.parquet")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == COLUMNS
    with (inspected / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    for row, other in zip(rows, table.to_pylist(), strict=True):
        for column in COLUMNS:
            value = other[column]
            if isinstance(value, float):
                assert np.float32(row[column]) == np.float32(value)
            else:
                assert row[column] == (value or "")


def test_p_values_and_verdicts_are_the_calibrations(inspected: Path, model: Model) -> None:
    rows = [row for row in rows_of(inspected) if row["score"] is not None]
    scores = np.array([row["score"] for row in rows])
    assert [row["p_value"] for row in rows] == [float(np.float32(p)) for p in model.calibration.p_values(scores)]
    assert [row["verdict"] for row in rows] == model.calibration.decide(scores, **model.config["decide"])


def test_the_report_shows_every_photo_and_runs_nothing(inspected: Path) -> None:
    page = (inspected / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "K\\u00fchlwasserpumpe" in page
    assert len(re.findall(r'"path":', page)) == 16


def test_heatmaps_are_named_by_number_and_photo(inspected: Path, hostile: Path) -> None:
    names = sorted(path.name for path in (inspected / "heatmaps").iterdir())
    places = [place for place, path in enumerate(find_photos([hostile])) if path.name.startswith("a ")]
    assert [int(name[:6]) for name in names] == places
    assert all(re.fullmatch(r"\d{6}-[\w.-]+\.webp", name) for name in names)
    assert "000005-a_Kühlwasserpumpe_Größe_3.webp" in names


def test_heatmaps_are_of_all_of_the_flagged_or_of_none(model: Model, data: Manifest, tmp_path: Path) -> None:
    photos = data.photos[:3] + data.select("test").photos
    flagged = inspect_to_folder(model, photos, tmp_path / "flagged")
    num_flagged = flagged.counts.get("reject", 0) + flagged.counts.get("uncertain", 0)
    assert 0 < num_flagged < len(photos)
    assert len(list((tmp_path / "flagged" / "heatmaps").iterdir())) == num_flagged
    inspect_to_folder(model, photos, tmp_path / "none", heatmaps="none")
    assert not (tmp_path / "none" / "heatmaps").exists()
    for name in ("verdicts.parquet", "verdicts.csv"):
        assert (tmp_path / "none" / name).read_bytes() == (tmp_path / "flagged" / name).read_bytes()


def test_names_that_are_no_text_get_a_row(model: Model, data: Manifest, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xfclung.jpg"))
    odd.write_bytes(data.photos[0].path.read_bytes())
    gone = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    result = inspect_to_folder(model, as_photos([odd, gone]), tmp_path / "out", heatmaps="all")
    assert [path for path, _ in result.verdicts()] == [f"{tmp_path}/K\\udcfclung.jpg", f"{tmp_path}/\\udcff.jpg"]
    assert result.counts["unreadable"] == 1
    (heatmap,) = (tmp_path / "out" / "heatmaps").iterdir()
    assert heatmap.name == "000000-K_udcfclung.webp"


def test_the_size_of_parts_changes_nothing(
    model: Model, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect_to_folder(model, data.photos, tmp_path / "one")
    monkeypatch.setattr(module, "PART_SIZE", 2)
    inspect_to_folder(model, data.photos, tmp_path / "many")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SIZE", 16)


class Killed(Exception):
    pass


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("num_done", [0, 45])
def test_an_interrupted_inspection_goes_on_and_ends_alike(
    model: Model, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_done: int
) -> None:
    """Of 46 photos, in parts of 16, ``num_done`` are scored before it stops."""
    photos = [*data.photos, Photo(tmp_path / "none.jpg", "test")] * 2
    photos = photos[:46]
    inspect_to_folder(model, photos, tmp_path / "whole")
    map_inspections = workflow.map_inspections

    def stop(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield from itertools.islice(map_inspections(*arguments, **options), num_done)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "map_inspections", stop)
        with pytest.raises(Killed):
            inspect_to_folder(model, photos, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "report.html").exists()
    result = inspect_to_folder(model, photos, tmp_path / "stopped")
    assert result.num_scored == 46 - 16 * (num_done // 16)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small_parts")
def test_processes_give_the_same_and_go_on_with_what_another_run_left(
    model: Model, data: Manifest, tmp_path: Path
) -> None:
    photos = [*data.photos, Photo(tmp_path / "none.jpg", "test")]
    inspect_to_folder(model, photos, tmp_path / "here", heatmaps="all")
    steps: list[int] = []
    shared = inspect_to_folder(
        model, photos, tmp_path / "shared", heatmaps="all", on=Workers(2), progress=lambda task, total: steps.append
    )
    assert shared.num_scored == sum(steps) == len(photos) and max(steps) == 16
    assert contents(tmp_path / "shared") == contents(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "cut")
    (tmp_path / "cut" / "report.html").unlink()  # as if one part had been written, and then no more
    (tmp_path / "cut" / ".inspection").mkdir()
    pieces = [module._piece(photos, number) for number in (1,)]
    (part,) = parts.inspect_pieces(model, pieces, heatmaps="all", workers=0)
    module._keep(part, tmp_path / "cut")
    rest = inspect_to_folder(model, photos, tmp_path / "cut", heatmaps="all", on=Workers(2))
    assert rest.num_scored == len(photos) - 16
    assert contents(tmp_path / "cut") == contents(tmp_path / "here")


def test_a_photo_that_a_worker_does_not_find_is_not_called_unreadable(data: Manifest, tmp_path: Path) -> None:
    table, path = pa.table({"path": ["a"]}), data.photos[0].path
    assert isinstance(path, Path)
    module._check_seen(parts.Part(0, table, (), (tmp_path / "gone.jpg",)))
    with pytest.raises(
        InlierError, match=r"0000\.jpg is there, but not for the worker that was to inspect it: all nodes"
    ):
        module._check_seen(parts.Part(0, table, (), (tmp_path / "gone.jpg", path)))


@pytest.mark.parametrize("suffix", (".parquet", ".csv"))
def test_tables_name_photos_in_their_order(data: Manifest, tmp_path: Path, suffix: str) -> None:
    names = ["b/2.jpg", "a/1.jpg", str(tmp_path / "elsewhere.png"), "b/2.jpg"]
    table = pa.table({"score": [0.5, 0.2, 0.1, 0.5], "path": names})
    pq.write_table(table, tmp_path / "list.parquet")
    pacsv.write_csv(table, tmp_path / "list.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "7.jpg").touch()
    named = photos_named([tmp_path / "folder", tmp_path / f"list{suffix}", tmp_path / "gone.csv", tmp_path / "folder"])
    listed = [tmp_path / name for name in names]
    seven = tmp_path / "folder" / "7.jpg"
    assert [photo.path for photo in named] == [seven, *listed, tmp_path / "gone.csv", seven]
    (tmp_path / "empty.csv").write_text("score\n1\n")
    with pytest.raises(ManifestError, match=r"empty\.csv needs a column named path"):
        photos_named([tmp_path / "empty.csv"])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["verdicts.csv", "inspection.json"])
def test_one_stopped_while_results_were_put_in_place_scores_nothing_again(
    model: Model, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inspect_to_folder(model, data.photos, tmp_path / "whole")
    replace = os.replace

    def stop(source: Path, target: Path) -> None:
        if target == tmp_path / "stopped" / name and (tmp_path / "stopped" / "verdicts.parquet").exists():
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(Killed):
            inspect_to_folder(model, data.photos, tmp_path / "stopped")
    assert inspect_to_folder(model, data.photos, tmp_path / "stopped").num_scored == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_finished_inspection_is_left_as_it_is(model: Model, data: Manifest, tmp_path: Path) -> None:
    first = inspect_to_folder(model, data.photos, tmp_path / "out")
    before = contents(tmp_path / "out")
    again = inspect_to_folder(model, data.photos, tmp_path / "out")
    assert (first.num_scored, again.num_scored) == (len(data), 0)
    assert (again.counts, again.notes) == (first.counts, first.notes)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "report.html").unlink()
    assert inspect_to_folder(model, data.photos, tmp_path / "out").num_scored == len(data)
    assert contents(tmp_path / "out") == before


def test_the_record_says_what_was_asked_and_what_came_of_it(inspected: Path, model: Model) -> None:
    record = json.loads((inspected / "inspection.json").read_text(encoding="utf-8"))
    assert (record["model"], record["facts"]) == (model.identity, model.facts)
    assert record["decide"] == {"false_alarm_rate": 0.05, "uncertain_rate": 0.2}
    assert sum(record["counts"].values()) == 16
    assert sorted(path.name for path in inspected.iterdir()) == [
        "heatmaps", "inspection.json", "report.html", "verdicts.csv", "verdicts.parquet",
    ]  # fmt: skip


def test_another_request_is_not_mixed_in(model: Model, data: Manifest, tmp_path: Path) -> None:
    photos = [Photo(path, "test") for path in (tmp_path / "a.jpg", tmp_path / "b.jpg")]
    for photo in photos:
        photo.path.write_bytes(data.photos[0].path.read_bytes())
    inspect_to_folder(model, photos, tmp_path / "out")

    def refused(model: Model, photos: list[Photo], heatmaps: str = "flagged") -> None:
        sentence = r"out holds an inspection of other photos, with another model or other options; choose another"
        with pytest.raises(InlierError, match=sentence):
            inspect_to_folder(model, photos, tmp_path / "out", heatmaps=heatmaps)

    refused(model, photos[:1])
    refused(model, photos[::-1])
    refused(model, photos, heatmaps="all")
    refused(model.with_rates(false_alarm_rate=0.01), photos)
    os.utime(photos[1].path, (0, 0))
    refused(model, photos)
    (tmp_path / "out" / "inspection.json").write_text("damaged")
    refused(model, photos)


def test_requests_that_cannot_be_carried_out_are_refused(model: Model, data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(InlierError, match=r"^There are no photos to inspect\.$"):
        inspect_to_folder(model, [], tmp_path / "out")
    with pytest.raises(InlierError, match=r"^heatmaps must be one of flagged, all, none, got 'some'\.$"):
        inspect_to_folder(model, data.photos, tmp_path / "out", heatmaps="some")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InlierError, match=r"holds something else than an inspection; choose another --out"):
        inspect_to_folder(model, data.photos, tmp_path)
    with pytest.raises(InlierError, match=r"^Nothing can be written to .*: File name too long\.$"):
        inspect_to_folder(model, data.photos, tmp_path / ("o" * 300))


def test_the_report_shows_the_worst_and_says_so(
    model: Model, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CARDS", 5)
    inspect_to_folder(model, data.photos, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    shown = [json.loads(f'"{path}"') for path in re.findall(r'"path":"(.*?)"', page)]
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: -row["score"])
    assert shown == [row["path"] for row in rows[:5]]
    assert f"The page shows the 5 worst of {len(data)} photos; verdicts.csv has them all." in page
