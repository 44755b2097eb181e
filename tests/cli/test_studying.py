from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

STUDY = """
[config.input]
size = 64
[config.backbone]
precision = "float32"
[data.parts]
path = "parts"
[backbone.imagenet]
[detector.photo-neighbors]
"""


def test_a_study_says_what_is_best_and_can_be_tracked(
    inlier: Callable[..., object], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").symlink_to(dataset)
    (tmp_path / "study.toml").write_text(STUDY)
    ran = inlier("study", "study.toml", "--out", "out", "--track", "mlflow.db")
    assert ran.status == 0, ran.err  # type: ignore[attr-defined]
    lines = ran.out.splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "1 cell of Study"
    assert "condition: best mean AUROC on test" in lines[1] and lines[-1] == "Report: out/study.html"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [of for of in client.search_experiments() if of.name == "inlier"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} >= {"out"} and len(runs) == 2
    again = inlier("study", "study.toml", "--out", "out", "--json")
    assert [of["name"] for of in json.loads(again.out)["cells"]] == [  # type: ignore[attr-defined]
        "parts/imagenet/photo-neighbors/seed-0"
    ]


def test_a_study_that_cannot_be_read_is_one_sentence(inlier: Callable[..., object], tmp_path: Path) -> None:
    ran = inlier("study", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert ran.status == 2 and "none.toml does not exist" in ran.err  # type: ignore[attr-defined]
