from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier import adaptation
from inlier.adaptation import CHECKPOINT
from inlier.adapted import AdaptedBackbone
from inlier.cli import finetuning as cli
from inlier.cli.finetuning import _line
from inlier.errors import CollapseError
from inlier.finetuning.finetune import finetune
from inlier.objectives import ADAPTOR, OBJECTIVES

QUICK = (
    "--size", "32", "--samples", "48", "--batch-size", "8", "--seed", "0", "--workers", "0",
    "--set", "input.size=64", "--set", "backbone.precision=float32", "--set", "gate.detector=photo-neighbors",
    "--archive", "train",
)  # fmt: skip
LONG = ("--samples", "240")


def test_a_backbone_is_adapted_judged_and_taken_by_fit(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "backbone", tmp_path / "model"
    ran = inlier("finetune", dataset, "--out", out, *QUICK)
    assert (ran.status, ran.err) == (0, "")
    first, verdict, use = ran.out.splitlines()
    adapted = AdaptedBackbone.load(out)
    assert first == f"Adapted efficientnet_lite0 to 18 photos by supcon in 6 steps: {out}"
    assert verdict == adapted.facts["gate"]["sentence"]
    assert use == f"Use it: inlier fit {dataset} --backbone {out} --out MODEL"
    assert adapted.config["finetune"]["size"] == 32 and adapted.config["input"]["size"] == 64
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]
    ran = inlier("fit", dataset, "--backbone", out, "--out", model, "--size", "64", "--detector", "photo-neighbors")
    assert ran.status == 0 and model.is_dir()


def test_json_and_quiet(inlier: Callable[..., Any], dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    ran = inlier("finetune", dataset, "--out", out, "--objective", "adaptor", "--no-gate", *QUICK, "--json")
    printed = json.loads(ran.out)
    assert printed["backbone"] == str(out) and printed["objective"] == "adaptor" and printed["gate"] is None
    assert printed["identity"] == AdaptedBackbone.load(out).identity and printed["notes"] == []
    assert inlier("finetune", dataset, "--out", out, "--objective", "adaptor", "--no-gate", *QUICK, "-q") == (0, "", "")


def test_photos_without_labels_are_said_to_be_classes_of_their_own(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").symlink_to(dataset / "photos")
    ran = inlier("finetune", tmp_path / "photos", "--out", tmp_path / "b", "--no-gate", *QUICK, "--samples", "8")
    assert ran.status == 0
    assert ran.err == "Mind: No photo is labelled with a component, so each was a class of its own, as in simclr.\n"


def test_what_cannot_be_done_is_refused_in_a_sentence(
    inlier: Callable[..., Any], dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused = {
        ("--objective", "simclear"): "inlier: inlier has no objective named simclear; did you mean simclr?\n",
        ("--archive", "test"): "inlier: archive of [finetune] must be 'train' or 'train+dev', got 'test'.\n",
        ("--batch-size", "1", "--no-gate"): "inlier: [finetune]: batch_size of finetune must be at least 2, got 1.\n",
        ("--out", model_folder): f"{model_folder} holds something else than a backbone; choose another --out, or remov",
        ("--set", "finetune.blend=2.0", "--no-gate"): "inlier: [finetune]: blend of finetune must be in [0, 1], got 2.",
    }
    for options, expected in refused.items():
        ran = inlier("finetune", dataset, "--out", out, *QUICK, *options)
        assert (ran.status, ran.out) == (2, "")
        assert expected in ran.err
    assert not out.exists()


def test_a_collapse_is_a_sentence_and_leaves_no_backbone(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapse(*arguments: Any, **options: Any) -> None:
        raise CollapseError("At step 20 of training embeddings have become all alike.")

    monkeypatch.setattr(adaptation, "finetune", collapse)
    ran = inlier("finetune", dataset, "--out", tmp_path / "backbone", *QUICK, "--no-gate")
    assert ran == (2, "", "inlier: At step 20 of training embeddings have become all alike.\n")
    assert not (tmp_path / "backbone").exists()


def test_the_run_goes_to_the_tracker_and_one_that_is_away_loses_nothing(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out, uri = tmp_path / "backbone", f"sqlite:///{tmp_path / 'tracking.db'}"
    assert inlier("finetune", dataset, "--out", out, *QUICK, "--track", uri).status == 0
    (run,) = mlflow.MlflowClient(tracking_uri=uri).search_runs(["1"])
    assert run.data.tags["gate.verdict"] == AdaptedBackbone.load(out).facts["gate"]["verdict"]
    away = tmp_path / "away"
    ran = inlier("finetune", dataset, "--out", away, *QUICK, "--no-gate", "--track", "http://127.0.0.1:9")
    assert ran.status == 0 and AdaptedBackbone.load(away)
    assert ran.err.startswith("Mind: http://127.0.0.1:9 did not take the run: ")
    assert ran.err.endswith(f"inlier track {away} --to http://127.0.0.1:9\n")


def test_a_missing_tracker_is_said_before_the_training(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    ran = inlier("finetune", dataset, "--out", tmp_path / "backbone", "--track", "sqlite:///x.db")
    assert ran.status == 2 and ran.err.endswith("pip install 'inlier[tracking]'\n")


def test_the_line_below_the_bar_says_how_the_training_goes() -> None:
    row = {"step": 3.0, "loss": 1.2345, "learning_rate.layer1": 1e-5, "learning_rate.layer4": 3e-4}
    assert _line({}) == ""
    assert _line(row) == "loss 1.234, learning rate 3.0e-04"
    measured = row | {"held_out_loss": 2.0, "effective_rank": 12.34}
    assert _line(measured) == "loss 1.234, 2.000 on photos held out, effective rank 12.3, learning rate 3.0e-04"


def stop(command: list[str], checkpoint: Path, how: signal.Signals) -> tuple[int, str]:
    """Starts a command, and sends the signal once there is a checkpoint; its status and what it said."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate()
    return process.returncode, said


@pytest.mark.slow
def test_a_training_that_is_killed_and_interrupted_ends_like_one_run(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the same in both processes, or sums differ in their last bits
    out, checkpoint = tmp_path / "stopped", tmp_path / ".stopped.training" / CHECKPOINT
    options = ["finetune", str(dataset), "--no-gate", *QUICK, *LONG, "--out"]
    command = [sys.executable, "-m", "inlier", *options]
    assert stop([*command, str(out)], checkpoint, signal.SIGKILL)[0] == -signal.SIGKILL
    begun = checkpoint.read_bytes()
    assert not out.exists()

    ran = inlier(*options, out, "--set", "finetune.cycle_factor=2.0", "--resume")
    assert ran.status == 2 and "was begun otherwise: the configuration changed since" in ran.err
    assert checkpoint.read_bytes() == begun

    resumed = subprocess.run([*command, str(out), "--resume"], capture_output=True, text=True)
    assert (resumed.returncode, resumed.stderr) == (0, "") and "in 30 steps" in resumed.stdout
    subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, check=True)
    assert AdaptedBackbone.load(out).identity == AdaptedBackbone.load(tmp_path / "whole").identity
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]

    status, said = stop([*command, str(out)], checkpoint, signal.SIGINT)
    assert status == 130 and "finetune with --resume go on where they stopped" in said
    ran = inlier(*options, out)
    aside = tmp_path / ".stopped.training-before"
    assert ran.status == 0 and "would have gone on with --resume; this one begins anew, and that one is put" in ran.err
    assert str(aside) in ran.err and not aside.exists()
    ran = inlier(*options, out, "--resume", "--samples", "8")
    assert ran.status == 0 and "has no training to go on with; this one begins anew." in ran.err


@pytest.mark.slow
def test_processes_launched_by_torchrun_give_one_backbone(dataset: Path, tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "inlier"]
    out = tmp_path / "two"
    arguments = ["finetune", str(dataset), "--out", str(out), *QUICK, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    printed = json.loads(ran.stdout)  # one process speaks
    assert printed["num_processes"] == 2 and printed["gate"]["verdict"] in ("helps", "no evidence", "hurts")
    alone = tmp_path / "one"
    arguments[3] = str(alone)
    subprocess.run([sys.executable, "-m", "inlier", *arguments], capture_output=True, check=True, env=environment)
    two, one = AdaptedBackbone.load(out), AdaptedBackbone.load(alone)
    assert [row["loss"] for row in two.history] == pytest.approx([row["loss"] for row in one.history], rel=1e-3)


def test_help_names_every_objective(inlier: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran = inlier("finetune", "--help")
    assert all(name in ran.out for name in (*OBJECTIVES, ADAPTOR))


@pytest.mark.parametrize(
    ("option", "keyword"),
    [("samples", "num_samples"), ("batch_size", "batch_size"), ("size", "size"), ("learning_rate", "learning_rate")],
)
def test_help_shows_the_defaults_of_the_recipe(option: str, keyword: str) -> None:
    annotation = inspect.signature(cli.finetune, eval_str=True).parameters[option].annotation
    shown = annotation.__metadata__[0].show_default
    assert shown == str(inspect.signature(finetune).parameters[keyword].default)
