from __future__ import annotations

import json
import os
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from inlier.errors import InlierError, ModelError
from inlier.experiments import run as run_module
from inlier.experiments.run import Run, flat, name_part, numbers
from inlier.experiments.runs import read_run
from inlier.model import Model

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fabricated.py"))))


def metrics_of(run: Run) -> dict[str, float]:
    """The last value of each metric."""
    return {name: value for name, value, _ in run.metrics}


def names(run: Run) -> list[str]:
    return [path.relative_to(run.folder).as_posix() for path in run.artifacts]


def test_a_model_tells_its_configuration_its_counts_and_where_it_comes_from(model: Model, model_folder: Path) -> None:
    run = read_run(model_folder)
    assert (run.kind, run.name, run.model) == ("model", "model", model_folder)
    assert run.params["fit.detector"] == model.config["fit"]["detector"]
    assert run.params["input.size"] == "64"
    assert metrics_of(run)["num_fitted"] == 18
    assert metrics_of(run)["num_calibration"] == len(model.calibration.normal_scores)
    assert run.tags["identity"] == model.identity
    assert run.tags["data_fingerprint"] == model.facts["data_fingerprint"]
    assert run.tags["version.torch"] == model.facts["versions"]["torch"]
    assert names(run) == ["model.json"]  # the rest of the folder is sent as the model


def test_a_damaged_model_is_said_to_be_so(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / "detector.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is damaged: detector\.safetensors is not what was written"):
        read_run(folder)


def test_an_evaluation_tells_each_number_with_its_interval_and_those_of_its_classes(tmp_path: Path) -> None:
    run = read_run(made.write_evaluation(tmp_path / "judged"))
    found = metrics_of(run)
    assert {name: found[f"image_auroc{name}"] for name in ("", "_low", "_high")} == {
        "": 0.91,
        "_low": 0.86,
        "_high": 0.95,
    }
    assert found["class.rust_deep _2_.image_auroc"] == 0.93
    assert found["class.rust_deep _2_.num_reject"] == 16
    assert (found["trivial_auroc"], found["num_anomalous"]) == (0.61, 20)
    assert "pixel_auroc" not in found and "seed" not in found
    assert run.params == {"split": "test", "seed": "0", "false_alarm_rate": "0.05", "uncertain_rate": "0.2"}
    assert run.tags["model"] == "abcdefabcdef" and run.tags["trivial_statistic"] == "brightness"
    assert names(run) == ["evaluation.html", "metrics.json"]
    assert run.note == (
        "Image AUROC **0.910 (95 %: 0.860 to 0.950)** on 40 normal and 20 anomalous photos of the split test."
        "\n\n- There are few photos."
    )


def test_a_cross_validation_tells_how_the_folds_differ(tmp_path: Path) -> None:
    over = {"image_auroc": {"mean": 0.9, "spread": 0.02}, "image_ap": {"mean": 0.8, "spread": None}, "aupro_03": None}
    run = read_run(made.write_evaluation(tmp_path / "folds", folds=[{}, {}, {}], over_folds=over))
    found = metrics_of(run)
    assert (found["image_auroc_folds_mean"], found["image_auroc_folds_spread"]) == (0.9, 0.02)
    assert found["image_ap_folds_mean"] == 0.8 and "image_ap_folds_spread" not in found
    assert "of 3 folds" in run.note


def test_a_comparison_tells_each_model_and_each_pair(tmp_path: Path) -> None:
    run = read_run(made.write(tmp_path / "compared", "comparison.json", made.COMPARISON, "comparison.html"))
    found = metrics_of(run)
    assert (found["model.x_a.image_auroc"], found["model.x_b.image_auroc_high"]) == (0.9, 0.85)
    assert (found["pair.x_a over x_b.gain"], found["pair.x_a over x_b.p_holm"]) == (0.1, 0.02)
    assert run.tags["model.x_b"] == "b" * 12
    assert run.tags["verdict"] == run.note == "x/a is better than x/b by 10.0 points."


def test_an_inspection_tells_how_many_photos_came_to_which_verdict(tmp_path: Path) -> None:
    run = read_run(made.write(tmp_path / "seen", "inspection.json", made.INSPECTION, "report.html"))
    found = metrics_of(run)
    assert (found["num_photos"], found["num_reject"], found["share_reject"]) == (40, 4, 0.1)
    assert run.params == {"false_alarm_rate": "0.05", "uncertain_rate": "0.2"}
    assert run.note == "40 photos: 30 accept, 6 uncertain, 4 reject."


def test_an_inspection_that_stopped_is_not_sent(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "seen", "inspection.json", {"request": "0", "counts": None})
    with pytest.raises(InlierError, match=r"seen is not finished; give its command again\.$"):
        read_run(folder)


def test_a_search_tells_its_winner_and_each_trial(tmp_path: Path, model_folder: Path) -> None:
    folder = made.write_tuning(tmp_path / "tuned")
    shutil.copytree(model_folder, folder / "model")
    run = read_run(folder)
    values = [0.8, 0.8 + 0.15 * 0.9916648, 0.8 + 0.15 * 0.2555411]  # 0.15 |sin 1.7 n|; the fourth was pruned
    assert run.model == folder / "model"
    assert {"name": "patchcore", "metric": "auroc", "seed": "0"}.items() <= run.params.items()
    assert run.params["best.layers"] == "2,3" and run.tags["best_trial"] == "1"
    found = metrics_of(run)
    assert found["best.value"] == pytest.approx(values[1]) and found["baseline.value"] == 0.85
    assert (found["num_complete"], found["num_pruned"], found["num_failed"]) == (3, 1, 0)
    assert found["test.image_auroc"] == 0.91  # of the evaluation's own file, not of the search's copy
    assert found["test_of_default.image_auroc_low"] == 0.82 and found["test.gain_p_value"] == 0.012
    history = [(step, value) for name, value, step in run.metrics if name == "best_so_far"]
    assert history == [(0, pytest.approx(0.8)), (1, pytest.approx(values[1])), (2, pytest.approx(values[1]))]
    assert names(run) == [
        "best.toml",
        "trials.csv",
        "tuning.html",
        "tuning.json",
        "evaluation/evaluation.html",
        "evaluation/metrics.json",
    ]
    assert [child.name for child in run.children] == ["trial 0", "trial 1", "trial 2", "trial 3"]
    second, last = run.children[1], run.children[3]
    assert second.params == {"coreset_ratio": "0.02", "layers": "2,3"}
    assert second.tags == {"number": "1", "state": "complete", "worker": "worker 1", "reduced": "batch_size"}
    assert metrics_of(second)["latency_ms"] == 13.0 and metrics_of(second)["value"] == pytest.approx(values[1])
    assert last.tags["state"] == "pruned" and "value" not in metrics_of(last)
    assert run.num_runs == 5


def test_the_best_loss_is_the_lowest_and_trials_of_a_worker_follow_one_another(tmp_path: Path) -> None:
    record = made.tuning(3) | {"direction": "minimize"}
    run = read_run(made.write(tmp_path / "tuned", "tuning.json", record))
    history = [value for name, value, _ in run.metrics if name == "best_so_far"]
    assert history == [pytest.approx(0.8)] * 3
    began = [child.began - run.began for child in run.children]
    assert began == pytest.approx([0.0, 0.0, 5.0])  # trials 0 and 2 are of one worker
    assert run.ended - run.began == pytest.approx(7.5)


def test_a_search_without_an_end_or_a_finished_trial_still_tells(tmp_path: Path) -> None:
    trials = [{"number": 0, "state": "failed", "value": None}]
    record = {"name": "patchcore", "best": None, "test": None, "gain": None, "baseline": {"value": None}}
    run = read_run(made.write(tmp_path / "tuned", "tuning.json", record | {"trials": trials}))
    assert run.metrics == () and run.model is None
    assert [child.tags["state"] for child in run.children] == ["failed"]


def test_a_study_tells_each_cell_with_its_search_below_it(tmp_path: Path, model_folder: Path) -> None:
    folder = made.write_study(tmp_path / "study")
    shutil.copytree(model_folder, folder / "cells/piston/imagenet/patchcore/seed-0/model")
    run = read_run(folder)
    assert [child.name for child in run.children][:2] == [
        "piston/imagenet/patchcore/seed-0",
        "piston/simclr/patchcore/seed-0",
    ]
    first, second = run.children[:2]
    assert metrics_of(first)["test.image_auroc"] == pytest.approx(0.8)
    assert metrics_of(first)["dev.image_auroc_high"] == pytest.approx(0.86)
    assert metrics_of(first)["test.class.normal.flagged_share"] == 0.1
    asked = {"dataset": "piston", "backbone": "imagenet", "detector": "patchcore", "seed": "0"}
    assert asked.items() <= first.params.items()
    assert first.params["input.size"] == "64" and "input.size" not in second.params
    assert first.model == folder / "cells/piston/imagenet/patchcore/seed-0/model" and second.model is None
    assert names(first)[0] == "dev/evaluation.html"
    (search,) = first.children
    assert search.name == "search of piston/imagenet/patchcore/seed-0" and len(search.children) == 3
    assert metrics_of(run) == {
        "num_cells": 4,
        "seconds": 600,
        "num_pairs": 2,
        "num_real_pairs": 1,
        "mean.filter.patchcore.simclr": 0.86,
        "mean.filter.patchcore.simclr_low": 0.8,
    }
    assert "- piston: best on dev is piston/simclr/patchcore/seed-0, which reaches 0.850" in run.note
    assert run.without_models().children[0].model is None and run.num_runs == 9


def test_a_study_whose_cells_have_no_folder_tells_what_its_table_says(tmp_path: Path) -> None:
    cell = {
        "name": "a",
        "dataset": "piston",
        "test": {"value": 0.0, "low": 0.0, "high": 0.1},
        "dev": None,
        "folder": "",
    }
    (child,) = read_run(made.write(tmp_path / "study", "study.json", {"name": "x", "cells": [cell]})).children
    assert metrics_of(child) == {"test.image_auroc": 0.0, "test.image_auroc_low": 0.0, "test.image_auroc_high": 0.1}


def test_the_content_is_that_of_the_files_wherever_they_are(tmp_path: Path) -> None:
    run = read_run(made.write_tuning(tmp_path / "tuned"))
    moved = read_run(Path(shutil.copytree(tmp_path / "tuned", tmp_path / "elsewhere" / "moved")))
    assert moved.content == run.content
    (tmp_path / "tuned" / "tuning.html").write_text("another", encoding="utf-8")
    assert read_run(tmp_path / "tuned").content != run.content
    assert replace(run, children=run.children[1:]).content != run.content


def test_times_are_those_of_the_files(tmp_path: Path) -> None:
    folder = made.write_evaluation(tmp_path / "judged")
    os.utime(folder / "metrics.json", (1_700_000_000, 1_700_000_000))
    run = read_run(folder)
    assert run.began == run.ended == 1_700_000_000


def test_a_file_too_large_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.write_evaluation(tmp_path / "judged")
    monkeypatch.setattr(run_module, "MAX_ARTIFACT_BYTES", (folder / "metrics.json").stat().st_size)
    (folder / "evaluation.html").write_text("x" * 10_000, encoding="utf-8")
    run = read_run(folder)
    assert names(run) == ["metrics.json"]
    assert run.note.endswith("Too large to be copied, and only in the folder: evaluation.html.")


def test_what_is_no_run_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match=r"is no run folder, which is one that inlier fit, finetune, evaluate, .*\.$"):
        read_run(tmp_path)
    with pytest.raises(InlierError, match="is no run folder"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize(
    ("marker", "text", "reason"),
    [
        ("metrics.json", "{", "metrics.json cannot be read"),
        ("comparison.json", "[]", "comparison.json is not as inlier writes it"),
        ("comparison.json", "{}", "comparison.json is not as inlier writes it"),
        ("tuning.json", '{"trials": [3]}', "tuning.json is not as inlier writes it"),
        ("study.json", json.dumps({"cells": [{}]}), "study.json is not as inlier writes it"),
    ],
)
def test_a_damaged_record_is_one_sentence(tmp_path: Path, marker: str, text: str, reason: str) -> None:
    (tmp_path / marker).write_text(text, encoding="utf-8")
    with pytest.raises(InlierError, match=f"is damaged: {reason}"):
        read_run(tmp_path)


def test_sections_are_flattened_and_numbers_are_finite_ones_only() -> None:
    assert flat({"a": {"b": {"c": [1, 2]}, "d": None}}) == {"a.b.c": "[1, 2]", "a.d": "None"}
    values = {"a": 1, "b": True, "c": float("nan"), "d": "x", "e": {"value": 2.0, "low": None, "high": 3}, "f": None}
    assert list(numbers(values, "p.", 4)) == [("p.a", 1.0, 4), ("p.e", 2.0, 4), ("p.e_high", 3.0, 4)]


@pytest.mark.parametrize(
    ("label", "name"), [("rust", "rust"), ("a/b:c", "a_b_c"), ("..", "_"), ("Öl (alt)", "Öl (alt)"), ("ü%", "ü_")]
)
def test_labels_become_names_that_mlflow_takes(label: str, name: str) -> None:
    assert name_part(label) == name.replace("(", "_").replace(")", "_")
