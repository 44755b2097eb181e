from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter
from pyarrow import parquet

from inlier.data.intake.dataset import WORK
from inlier.data.intake.ingest import CRASHED, Ingestion, ingest
from inlier.data.intake.settings import Settings
from inlier.data.manifest import Manifest
from inlier.errors import InlierError, ManifestError

from .hostile import HOSTILE, NUM_REJECTED, REASONS, TOLERATED

Picture = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Draws a picture with detail of many sizes, another for every seed."""

    def draw(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
        rng = np.random.default_rng(seed)
        layers = [
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
            for n in (3, 8, 24, 200)
        ]
        coarse = Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.3)
        return Image.blend(coarse, layers[3], 0.15)

    return draw


@pytest.fixture
def roll(tmp_path: Path, picture: Picture) -> Path:
    """A camera roll: two folders with six photos each."""
    for label, first in (("pump", 0), ("valve", 6)):
        folder = tmp_path / "roll" / label
        folder.mkdir(parents=True)
        for seed in range(first, first + 6):
            picture(seed).save(folder / f"{seed}.jpg", quality=92)
    return tmp_path / "roll"


def run(*sources: Path, out: Path, workers: int = 0, settings: Settings | None = None, **options: Any) -> Ingestion:
    return ingest(sources, out, settings or Settings(), workers=workers, **options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def list_below(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    return [(path, sorted(folders), sorted(files)) for path, folders, files in os.walk(folder)]


def test_a_camera_roll_becomes_a_data_set(roll: Path, tmp_path: Path) -> None:
    done = run(roll, out=tmp_path / "dataset")
    assert done.counts == {
        "given": 12, "new": 12, "kept": 12, "duplicate": 0, "rejected": 0, "dropped": 0, "photos": 12,
        **{split: sum(row["split"] == split for row in table(tmp_path / "dataset" / "manifest.csv"))
           for split in ("train", "dev", "test")},
    }  # fmt: skip
    assert (done.unreadable, done.num_unreadable) == ([], 0)
    assert done.notes == [
        "No label is good, normal or ok (pump, valve), so other commands will take every photo for an anomaly; tell "
        "them, or ingest, which are normal: --normal pump"
    ]
    rows = table(tmp_path / "dataset" / "manifest.csv")
    for row, (label, seed) in zip(
        rows, [(name, n + 6 * k) for k, name in enumerate(["pump", "valve"]) for n in range(6)], strict=True
    ):
        source = roll / label / f"{seed}.jpg"
        assert (row["source"], row["label"], row["anomalous"], row["group"]) == (source.as_posix(), label, "", "")
        assert row["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        with Image.open(tmp_path / "dataset" / row["path"]) as photo:
            assert photo.size == (320, 240) == (int(row["width"]), int(row["height"]))
    manifest = Manifest.read(tmp_path / "dataset", normal=["pump"])
    assert [photo.label for photo in manifest.photos] == [row["label"] for row in rows]
    assert [photo.is_anomalous for photo in manifest.photos] == [False] * 6 + [True] * 6
    assert all(photo.path.is_file() for photo in manifest.photos)
    about = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert about["counts"]["photos"] == 12
    assert not (tmp_path / "dataset" / WORK).exists()


def test_normal_labels_can_be_named(roll: Path, tmp_path: Path) -> None:
    done = run(roll, out=tmp_path / "dataset", normal=["Pump"])
    assert done.notes == []
    rows = table(tmp_path / "dataset" / "manifest.csv")
    assert [(row["label"], row["anomalous"]) for row in rows] == [("pump", "0")] * 6 + [("valve", "1")] * 6
    assert [photo.is_anomalous for photo in Manifest.read(tmp_path / "dataset").photos] == [False] * 6 + [True] * 6


def test_parquet_and_csv_say_the_same(roll: Path, tmp_path: Path) -> None:
    run(roll, out=tmp_path / "dataset")
    rows = parquet.read_table(tmp_path / "dataset" / "manifest.parquet").to_pylist()
    as_text = [
        {
            name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in row.items()
        }
        for row in rows
    ]
    assert as_text == table(tmp_path / "dataset" / "manifest.csv")


def test_photos_are_reduced_turned_upright_and_lose_their_place(tmp_path: Path, picture: Picture) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Apple", "iPhone 13"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:03:05 10:11:12"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (55.0, 40.0, 33.75)
    (tmp_path / "roll").mkdir()
    picture(0, (1600, 800)).save(tmp_path / "roll" / "a.jpg", exif=exif)
    for name, settings in (("without", Settings()), ("with", Settings(keep_gps=True, longest_side=300))):
        run(tmp_path / "roll", out=tmp_path / name, settings=settings)
    (without,), (kept,) = (table(tmp_path / name / "manifest.csv") for name in ("without", "with"))
    assert (without["width"], without["height"]) == ("256", "512")
    assert (kept["width"], kept["height"]) == ("150", "300")
    assert (without["source_width"], without["source_height"]) == ("800", "1600")
    assert (without["taken_at"], without["camera"]) == ("2024-03-05T10:11:12", "Apple iPhone 13")
    for name, row in (("without", without), ("with", kept)):
        with Image.open(tmp_path / name / row["path"]) as photo:
            stored = photo.getexif()
            assert ExifTags.Base.Orientation not in stored
            assert bool(stored.get_ifd(ExifTags.IFD.GPSInfo)) == (name == "with")


def test_a_second_run_changes_nothing_and_more_sources_only_add(roll: Path, tmp_path: Path, picture: Picture) -> None:
    out = tmp_path / "dataset"
    run(roll, out=out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run(roll, out=out)
    assert (again.counts["given"], again.counts["new"], again.counts["photos"]) == (12, 0, 12)
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    rows = table(out / "manifest.csv")
    (tmp_path / "more").mkdir()
    for seed in range(20, 40):
        picture(seed).save(tmp_path / "more" / f"{seed}.png")
    more = run(roll, tmp_path / "more", out=out)
    assert (more.counts["given"], more.counts["new"], more.counts["kept"], more.counts["photos"]) == (32, 20, 20, 32)
    assert table(out / "manifest.csv")[:12] == rows  # no photo changed its split, or anything else
    assert {
        name: content for name, content in contents(out).items() if name.startswith("photos") and name in before
    } == {name: content for name, content in before.items() if name.startswith("photos")}


def test_what_changed_is_new_and_what_went_stays(roll: Path, tmp_path: Path, picture: Picture) -> None:
    out = tmp_path / "dataset"
    run(roll, out=out)
    (roll / "pump" / "0.jpg").unlink()
    picture(99).save(roll / "pump" / "1.jpg")
    os.utime(roll / "pump" / "2.jpg", (1, 1))  # touched
    done = run(roll, out=out)
    assert (done.counts["new"], done.counts["kept"], done.counts["duplicate"], done.counts["photos"]) == (2, 2, 0, 13)
    rows = table(out / "manifest.csv")
    assert [row["source"] for row in rows].count((roll / "pump" / "1.jpg").as_posix()) == 2
    assert len({row["sha256"] for row in rows}) == 13


def test_duplicates_become_one_photo(roll: Path, tmp_path: Path, picture: Picture) -> None:
    pump = roll / "pump"
    shutil.copy(pump / "0.jpg", pump / "copy.jpg")
    with Image.open(pump / "1.jpg") as photo:
        photo.resize((160, 120)).save(pump / "small.jpg", quality=85)
        photo.transpose(Image.Transpose.ROTATE_90).save(pump / "sideways.png")
    with Image.open(pump / "2.jpg") as photo:
        photo.save(roll / "valve" / "elsewhere.webp", quality=90)
        photo.point(lambda value: value * 0.6).save(pump / "darker.jpg")
    done = run(roll, out=tmp_path / "dataset")
    names = {row["path"]: Path(row["source"]).name for row in table(tmp_path / "dataset" / "manifest.csv")}
    found = {
        Path(row["source"]).name: (names[row["path"]], Path(row["kept_source"]).name, row["kind"])
        for row in table(tmp_path / "dataset" / "duplicates.csv")
    }
    assert found == {
        "copy.jpg": ("0.jpg", "0.jpg", "bytes"),
        "small.jpg": ("1.jpg", "1.jpg", "same"),
        "sideways.png": ("1.jpg", "1.jpg", "same"),
    }
    assert (done.counts["kept"], done.counts["duplicate"]) == (14, 3)
    groups = {
        Path(row["source"]).name: (row["group"], row["split"]) for row in table(tmp_path / "dataset" / "manifest.csv")
    }
    assert (
        groups["2.jpg"] == groups["elsewhere.webp"] == groups["darker.jpg"]
    )  # other label, other light: kept, together
    assert groups["2.jpg"][0].startswith("near:")
    assert groups["0.jpg"][0] == ""


@pytest.mark.parametrize(("collapse", "num_kept"), [("bytes", 4), ("same", 3), ("near", 2)])
def test_which_duplicates_become_one_can_be_chosen(
    collapse: Any, num_kept: int, tmp_path: Path, picture: Picture
) -> None:
    (tmp_path / "roll").mkdir()
    picture(0).save(tmp_path / "roll" / "a.png")
    picture(0).save(tmp_path / "roll" / "b.jpg", quality=90)
    picture(0).point(lambda value: value * 0.6).save(tmp_path / "roll" / "darker.png")
    picture(1).save(tmp_path / "roll" / "other.png")
    shutil.copy(tmp_path / "roll" / "other.png", tmp_path / "roll" / "same.png")
    run(tmp_path / "roll", out=tmp_path / "dataset", settings=Settings(collapse=collapse))
    assert len(table(tmp_path / "dataset" / "manifest.csv")) == num_kept


def test_of_one_picture_the_largest_is_kept_and_of_earlier_runs_the_first(tmp_path: Path, picture: Picture) -> None:
    for name, size, suffix in (("a", (200, 150), "png"), ("b", (400, 300), "jpg")):
        (tmp_path / name).mkdir()
        picture(0, (400, 300)).resize(size).save(tmp_path / name / f"{name}.{suffix}")
    run(tmp_path / "a", tmp_path / "b", out=tmp_path / "at once")
    run(tmp_path / "a", out=tmp_path / "in turn")
    run(tmp_path / "b", out=tmp_path / "in turn")
    kept = [
        [Path(row["source"]).name for row in table(tmp_path / out / "manifest.csv")] for out in ("at once", "in turn")
    ]
    assert kept == [["b.jpg"], ["a.png"]]
    assert [len(contents(tmp_path / out / "photos")) for out in ("at once", "in turn")] == [1, 1]


def test_bursts_and_groups_of_manifests_stay_together(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "roll").mkdir()
    lines = ["path,group,split,label"]
    for seed in range(30):
        exif = Image.Exif()
        exif[ExifTags.Base.Model] = "Phone"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2024:03:05 {seed // 3:02}:00:{seed % 3:02}"
        picture(seed).save(tmp_path / "roll" / f"{seed}.jpg", exif=exif)
        lines.append(f"{seed}.jpg,{'visit' if seed < 4 else ''},{'dev' if seed == 0 else ''},good")
    run(tmp_path / "roll", out=tmp_path / "bursts")
    rows = table(tmp_path / "bursts" / "manifest.csv")
    assert [row["group"] for row in rows] == [f"burst:Phone 2024-03-05T{seed // 3:02}:00:00" for seed in range(30)]
    assert all(len({row["split"] for row in rows[first : first + 3]}) == 1 for first in range(0, 30, 3))
    (tmp_path / "roll" / "manifest.csv").write_text("\n".join(lines))
    run(tmp_path / "roll", out=tmp_path / "given")
    rows = table(tmp_path / "given" / "manifest.csv")
    assert {row["group"] for row in rows[:6]} == {"visit"}  # the fourth photo's burst goes with it
    assert {row["split"] for row in rows[:6]} == {"dev"}
    assert {row["anomalous"] for row in rows} == {"0"}
    Manifest.read(tmp_path / "given")


def test_given_splits_are_kept_and_a_leak_between_them_is_told(tmp_path: Path, picture: Picture) -> None:
    for split in ("train", "test"):
        (tmp_path / "data" / split / "good").mkdir(parents=True)
        for seed in range(3):
            picture(seed + 3 * (split == "test")).save(tmp_path / "data" / split / "good" / f"{seed}.png")
    picture(0).point(lambda value: value * 0.7).save(tmp_path / "data" / "test" / "good" / "again.png")
    kept = run(tmp_path / "data", out=tmp_path / "kept")
    assert [row["split"] for row in table(tmp_path / "kept" / "manifest.csv")] == ["test"] * 4 + ["train"] * 3
    assert kept.notes == [
        "1 pair of near-duplicates in different splits, for their sources say so: a leak. "
        "`inlier doctor` lists them; --resplit gives new splits."
    ]
    Manifest.read(tmp_path / "kept")
    anew = run(tmp_path / "data", out=tmp_path / "anew", settings=Settings(resplit=True))
    rows = {Path(row["source"]).parts[-3:]: row for row in table(tmp_path / "anew" / "manifest.csv")}
    assert anew.notes == []
    assert rows["test", "good", "again.png"]["split"] == rows["train", "good", "0.png"]["split"]


def test_flagged_photos_are_recorded_and_dropped_if_asked(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "roll").mkdir()
    pictures = {
        "blurred": picture(0).filter(ImageFilter.GaussianBlur(4)),
        "dark": picture(1).point(lambda value: value * 0.05),
        "fine": picture(2),
        "tiny": picture(3, (40, 30)),
        "uniform": Image.new("RGB", (320, 240), (90, 120, 90)),
    }
    for name, image in pictures.items():
        image.save(tmp_path / "roll" / f"{name}.png")
    run(tmp_path / "roll", out=tmp_path / "recorded")
    flags = {Path(row["source"]).stem: row["flags"].split() for row in table(tmp_path / "recorded" / "manifest.csv")}
    assert {name: name in of for name, of in flags.items()} == {name: name != "fine" for name in pictures}
    assert flags["fine"] == []
    done = run(tmp_path / "roll", out=tmp_path / "dropped", settings=Settings(drop=("dark", "uniform")))
    assert (done.counts["kept"], done.counts["dropped"], done.num_unreadable) == (3, 2, 0)
    assert [(Path(row["source"]).stem, row["reason"]) for row in table(tmp_path / "dropped" / "rejected.csv")] == [
        ("dark", "dropped: dark, uniform"),
        ("uniform", "dropped: uniform"),
    ]
    assert len(contents(tmp_path / "dropped" / "photos")) == 3


def test_masks_come_along_and_one_that_cannot_be_read_is_told(tmp_path: Path, picture: Picture) -> None:
    data = tmp_path / "data"
    for folder in ("train/good", "test/crack", "ground_truth/crack"):
        (data / folder).mkdir(parents=True)
    for seed in range(2):
        picture(seed, (1024, 512)).save(data / "test" / "crack" / f"{seed}.png")
    mask = np.zeros((512, 1024), dtype=np.uint8)
    mask[100:140, 200:260] = 255
    Image.fromarray(mask).save(data / "ground_truth" / "crack" / "0_mask.png")
    (data / "ground_truth" / "crack" / "1_mask.png").write_bytes(b"no picture")
    done = run(data, out=tmp_path / "dataset")
    first, second = table(tmp_path / "dataset" / "manifest.csv")
    with Image.open(tmp_path / "dataset" / first["mask"]) as stored:
        expected = np.zeros((256, 512), dtype=np.uint8)
        expected[50:70, 100:130] = 255
        assert (np.asarray(stored) == expected).all()
    assert (second["mask"], second["anomalous"], second["label"]) == ("", "1", "crack")
    assert done.notes == ["1 photo without a mask, which cannot be read; rejected.csv says why."]
    (row,) = table(tmp_path / "dataset" / "rejected.csv")
    assert row["reason"].startswith("its mask cannot be read: not a picture in a known format")


def masked_roll(folder: Path, picture: Picture) -> Path:
    """Three photos with regions, the last twice, the first time without; of the second the mask is broken."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    picture(0, (512, 1024)).save(folder / "0.jpg", quality=92, exif=exif)
    for seed in (1, 2):
        picture(seed, (1024, 512)).save(folder / f"{seed}.png")
    shutil.copy(folder / "2.png", folder / "2 again.png")
    region = np.zeros((512, 1024), dtype=np.uint8)
    region[100:140, 200:260] = 255
    Image.fromarray(region).save(folder / "roi.png")
    (folder / "broken.png").write_bytes(b"no picture")
    rows = ("0.jpg,roi.png", "1.png,broken.png", "2.png,", "2 again.png,roi.png")
    (folder / "manifest.csv").write_text("\n".join(["path,roi", *rows, ""]), encoding="utf-8")
    return folder


def test_regions_come_along_at_the_size_and_the_way_up_of_their_photos(tmp_path: Path, picture: Picture) -> None:
    done = run(masked_roll(tmp_path / "roll", picture), out=tmp_path / "dataset")
    assert (done.counts["kept"], done.counts["duplicate"], done.num_unreadable) == (3, 1, 0)
    turned, broken, copied = Manifest.read(tmp_path / "dataset").photos
    expected = np.zeros((256, 512), dtype=np.uint8)
    expected[50:70, 100:130] = 255
    for photo in (turned, copied):  # the region of any copy is that of the one that is kept
        assert isinstance(photo.path, Path) and isinstance(photo.roi, Path)
        with Image.open(photo.path) as stored, Image.open(photo.roi) as region:
            assert stored.size == region.size == (512, 256) and (np.asarray(region) == expected).all()
    assert broken.roi is None
    assert done.notes == ["1 photo without a region, whose mask cannot be read; rejected.csv says why."]
    (row,) = table(tmp_path / "dataset" / "rejected.csv")
    assert row["reason"].startswith("the mask of its region cannot be read: not a picture in a known format")
    before = contents(tmp_path / "dataset" / "rois")
    picture(9).save(tmp_path / "new.png")
    run(tmp_path / "new.png", out=tmp_path / "dataset")  # adds one, and keeps the regions
    assert contents(tmp_path / "dataset" / "rois") == before and len(before) == 2
    assert [photo.roi for photo in Manifest.read(tmp_path / "dataset").photos][:3] == [turned.roi, None, copied.roi]


def test_of_pictures_that_look_the_same_the_one_with_a_region_is_kept(tmp_path: Path, picture: Picture) -> None:
    folder = tmp_path / "roll"
    folder.mkdir()
    picture(3).save(folder / "a.png")
    picture(3).save(folder / "b.jpg", quality=92)
    Image.new("L", (320, 240), 255).save(folder / "roi.png")
    (folder / "manifest.csv").write_text("path,roi\na.png,\nb.jpg,roi.png\n", encoding="utf-8")
    done = run(folder, out=tmp_path / "dataset")
    (photo,) = Manifest.read(tmp_path / "dataset").photos
    assert done.counts["duplicate"] == 1 and photo.roi is not None


def test_a_data_set_of_before_there_were_regions_is_added_to(tmp_path: Path, picture: Picture) -> None:
    picture(0).save(tmp_path / "a.png")
    run(tmp_path / "a.png", out=tmp_path / "dataset")
    old = parquet.read_table(tmp_path / "dataset" / "manifest.parquet").drop_columns(["roi"])
    parquet.write_table(old, tmp_path / "dataset" / "manifest.parquet")
    picture(1).save(tmp_path / "b.png")
    assert run(tmp_path / "b.png", out=tmp_path / "dataset").counts["photos"] == 2
    first, second = parquet.read_table(tmp_path / "dataset" / "manifest.parquet").to_pylist()
    assert (first.pop("roi"), second["roi"]) == (None, None)
    assert first["path"] == old.to_pylist()[0]["path"] and first.keys() == old.to_pylist()[0].keys()


@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|EXIF data|Truncated File Read|Metadata Warning).*:UserWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_every_hostile_kind_has_its_reason(kind: str, tmp_path: Path, picture: Picture) -> None:
    if "permission" in kind and os.geteuid() == 0:
        pytest.skip("no permission stops this user")
    source = tmp_path / "roll"
    source.mkdir()
    HOSTILE[kind](source)
    picture(0).save(source / "fine.jpg")
    before = list_below(source)
    run(source, out=tmp_path / "dataset")
    rows = table(tmp_path / "dataset" / "rejected.csv")
    assert len([row for row in rows if re.search(REASONS[kind], row["reason"])]) >= NUM_REJECTED.get(kind, 1), rows
    assert list_below(source) == before
    assert {path.name for path in tmp_path.iterdir()} == {"roll", "dataset"}  # nothing was written beside the data set


@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|EXIF data).*:UserWarning")
@pytest.mark.parametrize("kind", TOLERATED)
def test_what_is_only_odd_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "roll").mkdir()
    TOLERATED[kind](tmp_path / "roll")
    done = run(tmp_path / "roll", out=tmp_path / "dataset")
    assert done.counts["kept"] >= 1
    assert done.num_unreadable == 0


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path, picture: Picture) -> None:
    roll = tmp_path / "roll"
    for label in ("good", "worn"):
        (roll / label).mkdir(parents=True)
        for seed in range(40):
            image = picture(seed + 100 * (label == "worn"))
            image.save(roll / label / f"{seed}.jpg")
            if seed % 10 == 0:
                image.save(roll / label / f"{seed}-copy.jpg", quality=70)
    (roll / "worn" / "text.jpg").write_text("no picture")
    command = [sys.executable, "-m", "inlier", "ingest", str(roll), "--workers", "2", "--quiet", "--out"]
    assert subprocess.run([*command, str(tmp_path / "whole")]).returncode == 1
    rng, num_cut = np.random.default_rng(0), 0
    for _ in range(20):
        process = subprocess.Popen([*command, str(tmp_path / "cut")])
        time.sleep(rng.uniform(0.2, 1.4))
        process.send_signal(signal.SIGKILL)
        num_cut += process.wait() == -signal.SIGKILL
        if (tmp_path / "cut" / "dataset.json").exists():
            shutil.rmtree(tmp_path / "cut")  # it was done before it could be killed: begin again
    assert num_cut >= 5
    assert subprocess.run([*command, str(tmp_path / "cut")]).returncode == 1
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    commands = [json.loads(of.pop("dataset.json")).pop("command") for of in (whole, cut)]
    assert commands[0].replace("whole", "cut") == commands[1]
    assert whole == cut


def test_a_crash_of_the_decoder_costs_one_photo(roll: Path, tmp_path: Path) -> None:
    """A file whose reading ends the process: a pipe that kills whoever opens it is hard to have, so a script is."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "import inlier.data.intake.preparing as preparing\n"
        "genuine = preparing.open_source\n"
        "def open_source(source):\n"
        "    return os.abort() if source.name.endswith(('/2.jpg', '/9.jpg')) else genuine(source)\n"
        "preparing.open_source = open_source\n"  # in the workers too, which import this file
        "if __name__ == '__main__':\n"
        "    from inlier.data.intake import ingest\n"
        "    from inlier.data.intake.settings import Settings\n"
        "    ingest._TOGETHER = 1\n"
        "    done = ingest.ingest([Path(sys.argv[1])], Path(sys.argv[2]), Settings(), workers=2)\n"
        "    assert done.num_unreadable == 2, done\n"
    )
    subprocess.run([sys.executable, script, roll, tmp_path / "dataset"], check=True, stderr=subprocess.DEVNULL)
    rows = table(tmp_path / "dataset" / "rejected.csv")
    assert [(Path(row["source"]).name, row["reason"]) for row in rows] == [("2.jpg", CRASHED), ("9.jpg", CRASHED)]
    assert len(table(tmp_path / "dataset" / "manifest.csv")) == 10


def test_the_number_of_workers_changes_nothing(roll: Path, tmp_path: Path, picture: Picture) -> None:
    for seed in range(60, 120):
        picture(seed, (64, 48)).save(roll / "pump" / f"{seed}.png")
    for workers in (0, 1, 3):
        run(roll, out=tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")


def test_what_cannot_be_carried_out_is_a_sentence(roll: Path, tmp_path: Path) -> None:
    run(roll, out=tmp_path / "dataset")
    before = contents(tmp_path / "dataset")
    with pytest.raises(InlierError, match=r'was made with group_by = "burst", not group_by = "day"; give the same, or'):
        run(roll, out=tmp_path / "dataset", settings=Settings(group_by="day"))
    assert contents(tmp_path / "dataset") == before
    with pytest.raises(ManifestError, match="missing does not exist"):
        run(tmp_path / "missing", out=tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="There are no files in what was given"):
        run(tmp_path / "empty", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InlierError, match="holds something else than a data set of inlier ingest"):
        run(roll, out=roll)
    (tmp_path / "dataset" / "dataset.json").write_text("{}")
    with pytest.raises(InlierError, match="is damaged, or not of inlier ingest"):
        run(roll, out=tmp_path / "dataset")


def test_a_full_disk_is_a_sentence_and_costs_nothing_done(roll: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset" / "photos").mkdir(parents=True)
    (tmp_path / "dataset" / WORK).mkdir()
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in roll.rglob("*.jpg"))
    (tmp_path / "dataset" / "photos" / digests[5][:2]).write_text("in the way of the photo's folder")
    with pytest.raises(
        InlierError, match=r"cannot be written: .*\. What was done is kept: given again, ingest goes on"
    ):
        run(roll, out=tmp_path / "dataset")
    (tmp_path / "dataset" / "photos" / digests[5][:2]).unlink()
    assert run(roll, out=tmp_path / "dataset").counts["kept"] == 12


def test_a_journal_that_cannot_grow_is_a_sentence_too(roll: Path, tmp_path: Path, picture: Picture) -> None:
    for seed in range(60, 160):
        picture(seed, (64, 48)).save(roll / "pump" / f"{seed}.png")
    out = tmp_path / "dataset"
    command = [sys.executable, "-m", "inlier", "ingest", str(roll), "--out", str(out)]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command]  # blocks of 1 kB
    ran = subprocess.run(limited, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(rf"inlier: {out} cannot be written: .*\. What was done is kept: given again, .*\n", ran.stderr)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.startswith("112 new files: 112 photos\n")


def test_two_runs_at_once_are_refused(roll: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    out.mkdir()
    script = (
        "import sys, time; from pathlib import Path; from inlier.data.intake.workers import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, out], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(InlierError, match=r"Another ingest is writing to .*; wait until it is done"):
            run(roll, out=out)
        holder.kill()


@pytest.mark.real
def test_random_splits_of_real_tiles_do_not_leak(real_data: Path, tmp_path: Path) -> None:
    """Six exposures of one tile, and nothing but their pixels to tell: they must land on one side."""
    rows = table(real_data / "magnetic-tile" / "manifest.csv")
    lines = ["path,label", *(f"{row['path']},{row['label']}" for row in rows)]
    (tmp_path / "tiles").mkdir()
    for name in {Path(row["path"]).parts[0] for row in rows}:
        (tmp_path / "tiles" / name).symlink_to(real_data / "magnetic-tile" / name)
    (tmp_path / "tiles" / "manifest.csv").write_text("\n".join(lines))
    done = run(tmp_path / "tiles", out=tmp_path / "dataset", workers=2)
    true = {row["path"]: row["group"] for row in rows}
    splits: dict[str, set[str]] = {}
    for row in table(tmp_path / "dataset" / "manifest.csv"):
        splits.setdefault(true["/".join(Path(row["source"]).parts[-2:])], set()).add(row["split"])
    torn = sum(len(of) > 1 for of in splits.values())
    assert done.counts["photos"] > 1300
    assert torn <= 0.15 * len(splits)  # of random splits by photo, nearly all


def test_a_strip_that_would_be_too_thin_is_refused(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "roll").mkdir()
    picture(0, (2000, 40)).save(tmp_path / "roll" / "strip.png")
    done = run(tmp_path / "roll", out=tmp_path / "dataset")
    assert done.unreadable == [
        (f"{tmp_path}/roll/strip.png", "is 2000 x 40 px, of which 512 x 10 are left; at least 16 px a side are needed")
    ]


def test_rows_of_before_stay_as_they_are_to_the_last_digit(roll: Path, tmp_path: Path, picture: Picture) -> None:
    for seed in range(200, 400):
        picture(seed, (64, 48)).save(roll / "pump" / f"{seed}.png")
    run(roll, out=tmp_path / "dataset")
    before = (tmp_path / "dataset" / "manifest.csv").read_text()
    picture(500).save(roll / "valve" / "500.png")
    run(roll, out=tmp_path / "dataset")
    assert (tmp_path / "dataset" / "manifest.csv").read_text().startswith(before)
