from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Results of an inspection, which are quickly made up."""
    caplog.set_level(logging.WARNING, logger="mlflow")  # as in a process that the command began
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seen").mkdir()
    record = {"request": "0", "model": "abcdefabcdef", "counts": {"accept": 3, "reject": 1}, "facts": {}, "decide": {}}
    (tmp_path / "seen" / "inspection.json").write_text(json.dumps(record), encoding="utf-8")
    return Path("seen")


def test_a_result_is_sent_and_how_to_look_at_it_is_said(
    inlier: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    ran = inlier("track", folder, "--to", "mlflow.db")
    assert (ran.status, ran.err) == (0, "")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (run,) = mlflow.MlflowClient(tracking_uri=uri).search_runs(["1"])
    assert run.data.metrics["num_reject"] == 1
    assert ran.out == (
        f"Run {run.info.run_id}: seen\n"
        f"Look at it: mlflow ui --backend-store-uri {uri} (needs all of MLflow: pip install mlflow)\n"
    )
    again = inlier("track", folder, "--to", "mlflow.db", "--json")
    assert json.loads(again.out) == {"run": "seen", "run_id": run.info.run_id, "uri": "mlflow.db"}
    assert inlier("track", folder, "--to", uri, "--quiet", "--no-models") == (0, "", "")


def test_a_store_that_is_away_and_a_folder_of_something_else_are_sentences(
    inlier: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    ran = inlier("track", folder, "--to", "http://127.0.0.1:9")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("inlier: http://127.0.0.1:9 did not take the run: ")
    assert ran.err.endswith("send them later with: inlier track seen --to http://127.0.0.1:9\n")
    ran = inlier("track", tmp_path, "--to", "mlflow.db")
    assert ran.status == 2 and " is no run folder, which is one that inlier fit, " in ran.err
    ran = inlier("track", folder, "--to", "somewhere")
    assert ran.status == 2 and ran.err.endswith("got somewhere.\n")


def test_without_mlflow_the_install_line_is_given(
    inlier: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    ran = inlier("track", folder, "--to", "mlflow.db")
    assert ran.status == 2 and ran.err.endswith("pip install 'inlier[tracking]'\n")
