from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier.cli.doctor import summarize


@pytest.fixture
def leaking(dataset: Path, tmp_path: Path) -> Path:
    """Four photos that were taken for training, one of them in the test too."""
    train = sorted((dataset / "photos").rglob("*.jpg"))[:4]
    for number, path in enumerate(train):
        (tmp_path / "data" / "train" / "good").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / "train" / "good" / f"{number}.jpg")
    (tmp_path / "data" / "test" / "odd").mkdir(parents=True)
    shutil.copy(train[0], tmp_path / "data" / "test" / "odd" / "same.jpg")
    return tmp_path / "data"


def test_a_leak_is_named_and_counts_if_asked(inlier: Callable[..., Any], leaking: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = inlier("doctor", leaking, "--no-embedding", "--html", page)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("5 photos\n  train  good  normal     4\n  test   odd   anomalous  1\n\nleak: ")
    assert f"  - {leaking}/train/good/0.jpg (train, good)\n    {leaking}/test/odd/same.jpg (test, odd)\n" in ran.out
    assert ran.out.endswith(f"\nPage: {page}\n")
    assert "<h1>1 leak" in page.read_text(encoding="utf-8")
    ran = inlier("doctor", leaking, "--no-embedding", "--strict", "--quiet")
    assert ran == (2, "", "inlier: 1 leak between splits; test results would be too good.\n")


def test_json_has_everything(inlier: Callable[..., Any], leaking: Path) -> None:
    (leaking / "train" / "good" / "empty.jpg").touch()
    ran = inlier("doctor", leaking, "--no-embedding", "--json", "--normal", "good,odd", "--false-alarm-rate", "0.5")
    result = json.loads(ran.out)
    assert (ran.status, ran.err) == (1, "")  # a photo cannot be read
    assert (result["data"], result["num_leaks"], result["counts"]["num_unreadable"]) == (str(leaking), 1, 1)
    assert {row["condition"] for row in result["counts"]["labels"]} == {"normal"}
    assert result["command"].startswith("inlier doctor ") and "--false-alarm-rate 0.5" in result["command"]
    kinds = [(finding["kind"], finding["severity"]) for finding in result["findings"]]
    assert kinds[0] == ("exact-duplicates", "leak")
    assert not any("rate of" in finding["message"] for finding in result["findings"])
    assert inlier("doctor", leaking, "--no-embedding", "--json", "--strict").status == 2


def test_labels_are_looked_at_unless_told_not_to(inlier: Callable[..., Any], leaking: Path) -> None:
    assert inlier("doctor", leaking, "--quiet").status == 0
    ran = inlier("doctor", leaking, "--backbone", "resnet1")
    assert (ran.status, ran.out) == (2, "") and "timm has no backbone named resnet1" in ran.err


def test_text_names_only_the_first(tmp_path: Path) -> None:
    photo = {"path": "a.jpg", "split": "train", "label": "", "group": "", "remark": "the file is empty"}
    findings = [
        {"kind": "near-duplicates", "severity": "leak", "message": "Seven.", "clusters": [[photo] * 8] * 7},
        {"kind": "unreadable", "severity": "warning", "message": "Six.", "photos": [photo] * 6},
    ]
    labels = [{"split": "train", "label": "", "condition": "unlabelled", "num_photos": 12}]
    counts = {
        "num_photos": 12,
        "num_groups": 3,
        "num_masks": 0,
        "num_regions": 0,
        "num_unreadable": 6,
        "labels": labels,
    }
    lines = summarize({"counts": counts, "findings": findings}).splitlines()
    assert lines[:2] == ["12 photos, 3 groups, 6 unreadable", "  train  -  unlabelled  12"]
    assert lines[3:5] == ["leak: near-duplicates: Seven.", "  - a.jpg (train, the file is empty)"]
    assert lines.count("    … and 3 more of these") == 5
    assert lines.count("  … and 2 more (--json or --html show all)") == 1
    assert lines[-1] == "  … and 1 more (--json or --html show all)"
    assert summarize({"counts": counts, "findings": []}).endswith("\n\nNothing wrong was found.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--false-alarm-rate", "1"), "--false-alarm-rate must be in (0, 1), got 1."),
        (("--html", "page.txt"), "The page is an .html file, and page.txt is none; choose another --html."),
        (("--device", "tpu"), "--device must be auto, cpu or cuda, got tpu."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    inlier: Callable[..., Any], leaking: Path, options: tuple[str, ...], sentence: str
) -> None:
    assert inlier("doctor", leaking, *options) == (2, "", f"inlier: {sentence}\n")


def test_data_that_are_not_there(inlier: Callable[..., Any], tmp_path: Path) -> None:
    ran = inlier("doctor", tmp_path / "gone")
    assert ran == (2, "", f"inlier: {tmp_path / 'gone'} does not exist.\n")
