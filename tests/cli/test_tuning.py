from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

Run = Callable[..., object]
TINY = (
    "--set",
    "input.size=64",
    "--set",
    "backbone.precision=float32",
    "--set",
    "fit.augment=0",
    "--memory-budget",
    "64GiB",
)  # room for a process that has run all tests before these


def test_a_search_says_what_it_found_and_where_to_look(inlier: Run, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("tune", dataset, "--out", out, "--detector", "photo-neighbors", "--trials", "3", *TINY)
    ran = inlier(*asked)
    assert ran.status == 0, ran.err  # type: ignore[attr-defined]
    lines = ran.out.splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "3 trials of photo-neighbors, 0 failed"
    assert "best auroc on dev" in lines[1] and "its AUROC on test" in lines[2]
    assert lines[-1] == f"Report: {out / 'tuning.html'}"
    again = inlier(*asked, "--json")
    report = json.loads(again.out)  # type: ignore[attr-defined]
    assert len(report["trials"]) == 3 and report["directory"] == str(out)
    assert report["command"].startswith("inlier tune ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--detector", "patchcore", "--objective", "simclr"), "give one of them"),
        (("--second", "speed"), "--second must be latency or memory, got speed"),
        (("--metric", "f1"), "--metric must be auroc or synthetic for a detector, got f1"),
        (("--cache-budget", "much"), "cache_budget must be a size such as 2GiB or 500MB, got 'much'"),
        (("--detector", "patchcore", "--set", "space.layers=[]"), "must be a range, a list of values, or one value"),
        (("--objective", "adaptor"), "The objective adaptor has nothing to search"),
        (("--storage", "sqlite:////nowhere/search.db"), "unable to open database file"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(
    inlier: Run, dataset: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    ran = inlier("tune", dataset, "--out", tmp_path / "out", *TINY, *arguments)
    assert ran.status == 2 and sentence in ran.err and ran.err.count("\n") == 1  # type: ignore[attr-defined]
