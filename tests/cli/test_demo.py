from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier import demonstration
from inlier.demonstration import Demonstration

METRICS = {"image_auroc": {"value": 0.9876, "low": 0.9, "high": 1.0}}
COUNTS = {"normal": {"accept": 58, "reject": 2}, "broken file": {"unreadable": 2}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the library, which is not called; its own test calls it."""
    asked: dict[str, Any] = {}

    def demonstrate(directory: Path, **options: Any) -> Demonstration:
        asked.update(options, directory=directory)
        return Demonstration(directory, METRICS, COUNTS, ("Too few photos.",))

    monkeypatch.setattr(demonstration, "demonstrate", demonstrate)
    return asked


def test_the_demo_ends_with_a_table_and_where_to_look(
    inlier: Callable[..., Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    ran = inlier("demo", "--out", tmp_path, "--scale", "0.5", "--seed", "3", "--workers", "1")
    assert ran.status == 0
    assert (asked["directory"], asked["scale"], asked["seed"], asked["workers"]) == (tmp_path, 0.5, 3, 1)
    assert ran.out.splitlines() == [
        "",
        "in the photo        accept   uncertain      reject  unreadable",
        "normal                  58           0           2           0",
        "broken file              0           0           0           2",
        "",
        "Image AUROC on photos of other visits: 0.988 (95 %: 0.900 to 1.000)",
        f"Look at  {tmp_path / 'inspection' / 'report.html'}",
        f"and at   {tmp_path / 'evaluation' / 'evaluation.html'}",
    ]
    assert ran.err.splitlines()[-1] == "Mind: Too few photos."


@pytest.mark.usefixtures("asked")
def test_the_demo_as_json_and_in_silence(inlier: Callable[..., Any], tmp_path: Path) -> None:
    ran = inlier("demo", "--out", tmp_path, "--json", "--quiet")
    assert (ran.status, ran.err) == (0, "")
    assert json.loads(ran.out) == {
        "directory": str(tmp_path), "metrics": METRICS, "counts": COUNTS, "notes": ["Too few photos."],
    }  # fmt: skip
    assert inlier("demo", "--out", tmp_path, "--quiet") == (0, "", "")


def test_a_demo_of_nothing_is_refused(inlier: Callable[..., Any], tmp_path: Path) -> None:
    assert inlier("demo", "--out", tmp_path / "demo", "--scale", "0").status == 2
    (tmp_path / "holiday.jpg").touch()
    ran = inlier("demo", "--out", tmp_path)
    assert ran.status == 2 and "holds something else than a demonstration" in ran.err
