from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Inlier = Callable[..., Any]


@pytest.fixture
def roll(dataset: Path, tmp_path: Path) -> Path:
    """Eight photos, a copy of one, and a text that calls itself a photo."""
    folder = tmp_path / "roll"
    folder.mkdir()
    paths = sorted((dataset / "photos").rglob("*.jpg"))[:8]
    for path in paths:
        shutil.copy(path, folder / path.name)
    shutil.copy(paths[0], folder / "copy.jpg")
    (folder / "text.jpg").write_text("no picture")
    return folder


def test_ingest_says_what_came_of_it_and_again_that_nothing_is_new(inlier: Inlier, roll: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    ran = inlier("ingest", roll, "--out", out)
    first, second = ran.out.splitlines()
    assert first == "10 new files: 8 photos, 1 duplicate, 1 rejected"
    assert second.startswith(f"{out} has 8 photos: ")
    assert ran.status == 1
    assert ran.err == (
        f"  unreadable: {roll}/text.jpg: not a picture in a known format "
        "(JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF)\n"
    )
    assert {path.name for path in out.iterdir()} == {
        "photos", "manifest.parquet", "manifest.csv", "rejected.csv", "duplicates.csv", "sources.parquet",
        "dataset.json",
    }  # fmt: skip
    again = inlier("ingest", roll, "--out", out)
    assert again.out == f"Nothing new in 10 files; {out} stays as it is, with 8 photos.\n"
    assert (again.status, again.err) == (1, ran.err)


def test_json_quiet_and_options(inlier: Inlier, roll: Path, tmp_path: Path) -> None:
    (roll / "text.jpg").unlink()
    config = tmp_path / "inlier.toml"
    config.write_text("[quality]\nmin_sharpness = 1.0\n", encoding="utf-8")
    out = tmp_path / "dataset"
    ran = inlier(
        "ingest", roll, "--out", out, "--json", "--quiet", "--config", config, "--set", "ingest.longest_side=64",
        "--drop", "blurred", "--split", "0.5, 0.5, 0", "--group-by", "regex:^(.*/).", "--collapse", "bytes",
        "--normal", "roll", "--seed", "3", "--include", "*.jpg", "--exclude", "copy*", "--workers", "0",
    )  # fmt: skip
    assert (ran.status, ran.err) == (0, "")
    result = json.loads(ran.out)
    assert result["dataset"] == str(out)
    assert (result["counts"]["given"], result["counts"]["dropped"], result["counts"]["photos"]) == (8, 8, 0)
    about = json.loads((out / "dataset.json").read_text())
    assert about["command"].startswith("inlier ingest ")
    assert about["versions"].keys() >= {"inlier", "pillow"}
    settings = about["settings"]
    assert settings["thresholds"]["min_sharpness"] == 1.0
    assert (settings["longest_side"], settings["ratios"], settings["seed"]) == (64, [0.5, 0.5, 0.0], 3)
    assert (settings["drop"], settings["group_by"], settings["collapse"]) == (["blurred"], "regex:^(.*/).", "bytes")


def test_all_flags_can_be_dropped(inlier: Inlier, roll: Path, tmp_path: Path) -> None:
    inlier("ingest", roll, "--out", tmp_path / "dataset", "--drop", "all")
    settings = json.loads((tmp_path / "dataset" / "dataset.json").read_text())["settings"]
    assert settings["drop"] == ["blurred", "dark", "overexposed", "uniform", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--group-by", "foo"), "group_by must be none, folder, camera, day, burst, burst:SECONDS, digits or regex:"),
        (("--split", "1,2"), "--split must be three numbers such as 0.6,0.2,0.2, got 1,2."),
        (("--split", "a,b,c"), "--split must be three numbers such as 0.6,0.2,0.2, got a,b,c."),
        (("--split", "0.5,0.6,0.1"), "ratios of Settings must be three numbers >= 0 that add up to 1, got (0.5, 0.6"),
        (("--drop", "ugly"), "drop of Settings must be of blurred, dark, overexposed, uniform, tiny, got ugly."),
        (("--longest-side", "9"), "longest_side of Settings must be in [64, 16384] pixels, got 9."),
        (("--set", "ingest.longest=9"), "ingest has no keyword named longest; did you mean longest_side?"),
        (("--set", "fit.seed=9"), "The configuration of ingest has no section named fit; it has ingest, quality."),
        (("--include", "*.gif"), "There are no files in what was given, or --include and --exclude leave none."),
    ],
)
def test_what_cannot_be_carried_out_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, inlier: Inlier, roll: Path, tmp_path: Path
) -> None:
    ran = inlier("ingest", roll, "--out", tmp_path / "dataset", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"inlier: {sentence}")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "dataset").exists()


def test_the_data_set_serves_the_other_commands(inlier: Inlier, dataset: Path, tmp_path: Path) -> None:
    assert inlier("ingest", dataset, "--out", tmp_path / "dataset", "--quiet").status == 0
    tiny = ("--set", "input.size=64", "--set", "backbone.precision=float32", "--set", "fit.augment=0")
    fitted = inlier("fit", tmp_path / "dataset", "--out", tmp_path / "model", *tiny, "--quiet")
    assert (fitted.status, fitted.err) == (0, "")
    checked = inlier("doctor", tmp_path / "dataset", "--no-embedding", "--json")
    assert checked.status == 0
    assert json.loads(checked.out)["counts"]["num_masks"] > 0
