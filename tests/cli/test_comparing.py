from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUICK = ("--size", "64", "--precision", "float32")


def test_two_models_are_compared_in_a_table_and_a_sentence(
    inlier: Callable[..., Any], dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "nearest", tmp_path / "out"
    assert inlier("fit", dataset, "--out", other, "--detector", "photo-neighbors", *QUICK).status == 0
    ran = inlier("compare", model_folder, other, "--data", dataset, "--out", out)
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0] == "8 normal and 6 anomalous photos of test"
    assert lines[1].split() == ["model", "detector", "backbone", "AUROC", "95", "%", "AUPRO", "95", "%"]
    assert lines[2].split()[:3] == ["model", "combined", "efficientnet_lite0"]
    assert lines[3].split()[:3] == ["nearest", "photo-neighbors", "efficientnet_lite0"]
    assert lines[1].index("AUROC") == lines[2].index("0.") == lines[3].index("0.")
    metrics = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert lines[4:] == ["", metrics["verdict"], f"Figures: {out / 'comparison.html'}"]
    assert metrics["command"] == f"inlier compare {model_folder} {other} --data {dataset} --out {out}"
    assert "Mind: Of normal photos there are 8" in ran.err and "only a large difference can be found.\n" in ran.err
    assert (out / "comparison.html").is_file() and (out / "scores.parquet").is_file()


def test_a_model_does_not_differ_from_itself(inlier: Callable[..., Any], dataset: Path, model_folder: Path) -> None:
    ran = inlier("compare", model_folder, model_folder, model_folder, "--data", dataset, "--json")
    metrics = json.loads(ran.out)
    assert [model["name"] for model in metrics["models"]] == ["model", "model (2)", "model (3)"]
    assert metrics["verdict"] == "All 3 models score every photo alike."
    assert not any(pair["is_real"] for pair in metrics["pairs"])
    assert inlier("compare", model_folder, model_folder, "--data", dataset, "--quiet") == (0, "", "")


def test_what_cannot_be_compared_is_refused_in_a_sentence(
    inlier: Callable[..., Any], dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    twice = ("compare", model_folder, model_folder, "--data", dataset)
    refused = {
        ("compare", model_folder, "--data", dataset): "inlier: compare needs at least two models, got 1.\n",
        (*twice, "--split", "all"): "inlier: --split must be train, dev or test, got all.\n",
        (*twice, "--out", tmp_path / "notes"): "holds something else than a comparison; choose another --out, or rem",
        (*twice, "--split", "train"): "The split train has no anomalous photos, and models are compared on both kinds;",
        (
            "compare",
            model_folder,
            tmp_path / "gone",
            "--data",
            dataset,
        ): f"The model {tmp_path / 'gone'} does not exist",
    }
    for command, expected in refused.items():
        ran = inlier(*command)
        assert (ran.status, ran.out) == (2, "")
        assert expected in ran.err
