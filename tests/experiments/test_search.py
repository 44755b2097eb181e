from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inlier.config import Config, merge, read_config
from inlier.data.manifest import Manifest
from inlier.errors import ConfigError, InlierError
from inlier.evaluation import evaluate
from inlier.experiments import detector_search
from inlier.experiments.search import Request, check_target, settings, task_of, tune
from inlier.experiments.spaces import to_sections
from inlier.model import Model
from inlier.scale import Workers
from inlier.workflow import fit

pytest.importorskip("optuna", reason="Optuna is not installed")

ROOM = "64GiB"  # for a process that has run all tests before these
TINY: Config = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "fit": {"augment": 0, "memory_budget": ROOM},
}


def request(data: Manifest, out: Path, detector: str = "photo-neighbors", **changes: Any) -> Request:
    base = Request(
        config=merge(TINY, "fit", detector=detector), data=data, out=out, num_trials=4, command="inlier tune"
    )
    return replace(base, **changes)


def values(report: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(trial["params"], trial["value"]) for trial in report["trials"]]


@pytest.fixture(scope="module")
def searched(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("searched") / "search"
    report, unreadable = tune(request(data, out, "patchcore"))
    assert not unreadable
    return out, report


def test_a_search_leaves_all_that_a_reader_needs(searched: tuple[Path, dict[str, Any]]) -> None:
    out, report = searched
    assert {path.name for path in out.iterdir()} >= {
        *("tuning.json", "tuning.html", "trials.csv", "best.toml", "model", "evaluation", "search.db", "features"),
    }
    assert json.loads((out / "tuning.json").read_text()) == json.loads(json.dumps(report))
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [trial["value"] for trial in report["trials"]]
    assert report["counts"] == {"complete": 4, "pruned": 0, "failed": 0, "reduced": 0}
    best = max(report["trials"], key=lambda trial: trial["value"])
    assert report["best"]["value"] == best["value"]
    toml = tomllib.loads((out / "best.toml").read_text())
    assert toml["fit"]["detector"] == "patchcore" and toml["patchcore"]["max_cells"] == 784
    assert "Search of patchcore" in (out / "tuning.html").read_text()
    assert report["test"]["image_auroc"]["value"] == pytest.approx(
        json.loads((out / "evaluation" / "metrics.json").read_text())["image_auroc"]["value"]
    )


def test_a_trial_has_the_score_of_a_fit_and_an_evaluation_by_hand(
    searched: tuple[Path, dict[str, Any]], data: Manifest
) -> None:
    _, report = searched
    task = task_of(request(data, searched[0], "patchcore"))
    for trial in report["trials"][:3]:
        config = task.resolve(to_sections(task.space, trial["params"]))
        model, _ = fit(config, data)
        by_hand = evaluate(model, data, split="dev").metrics["image_auroc"]["value"]
        assert trial["value"] == pytest.approx(by_hand, abs=1e-12)


def test_the_winner_is_fitted_as_by_hand(searched: tuple[Path, dict[str, Any]], data: Manifest) -> None:
    out, report = searched
    config = read_config(out / "best.toml") if not report["is_default"] else {"fit": {"detector": "patchcore"}}
    for section, keywords in TINY.items():
        config = merge(config, section, **keywords)
    by_hand, _ = fit(config, data)
    assert Model.load(out / "model").identity == by_hand.identity


def test_an_interrupted_search_ends_as_it_would_have(data: Manifest, tmp_path: Path) -> None:
    whole, _ = tune(request(data, tmp_path / "whole", is_concluded=False))
    tune(request(data, tmp_path / "parts", num_trials=2, is_concluded=False))
    parts, _ = tune(request(data, tmp_path / "parts", is_concluded=False))
    assert values(parts) == values(whole)
    assert settings(parts) == settings(whole)


def test_where_no_trial_is_better_the_settings_stay(data: Manifest, tmp_path: Path) -> None:
    config = merge(TINY, "fit", detector="photo-neighbors") | {
        "space": {"layers": ["3,4"], "power": [3.0], "num_neighbors": [5], "is_whitened": [True]}
    }
    with pytest.raises(ConfigError, match="leaves nothing of photo-neighbors to be searched"):
        tune(request(data, tmp_path / "none", config=config))
    config["space"]["num_neighbors"] = [5, 5.0, 6]  # the first two are what it begins from
    report, _ = tune(request(data, tmp_path / "out", config=config, num_trials=1))
    assert report["best"]["value"] <= report["baseline"]["value"]
    assert report["is_default"] and settings(report) == {}
    assert any("No trial did better" in note for note in report["notes"])
    assert report["test"] == report["test_of_default"] and report["gain"] is None


def test_without_anomalies_in_dev_copies_stand_in(data: Manifest, tmp_path: Path) -> None:
    calm = Manifest(tuple(photo for photo in data.photos if photo.split != "dev" or photo.is_anomalous is False))
    report, _ = tune(request(calm, tmp_path / "out", num_trials=2))
    assert report["metric"] == "synthetic" and 0 < report["best"]["value"] <= 1
    assert any("altered copies" in note for note in report["notes"])
    without_test = Manifest(tuple(photo for photo in calm.photos if photo.split != "test"))
    report, _ = tune(request(without_test, tmp_path / "other", num_trials=1))
    assert report["test"] is None and (tmp_path / "other" / "model").is_dir()
    with pytest.raises(InlierError, match="--metric synthetic"):
        tune(request(calm, tmp_path / "third", metric="auroc"))


def test_a_second_objective_gives_a_front(data: Manifest, tmp_path: Path) -> None:
    report, _ = tune(request(data, tmp_path / "out", second="memory", is_concluded=False))
    assert report["second"] == "peak_bytes" and report["counts"]["complete"] == 4
    numbers = report["front"]["peak_bytes"]
    front = [report["trials"][number] for number in numbers]
    assert [of["peak_bytes"] for of in front] == sorted(of["peak_bytes"] for of in front)
    assert [of["value"] for of in front] == sorted(of["value"] for of in front)


@pytest.mark.slow
def test_where_memory_is_tight_and_with_several_processes_the_scores_are_the_same(
    data: Manifest, tmp_path: Path
) -> None:
    plain, _ = tune(request(data, tmp_path / "plain", "patchcore", is_concluded=False))
    tight = merge(TINY, "fit", detector="patchcore", memory_budget="1900MiB")
    report, _ = tune(request(data, tmp_path / "tight", config=tight, is_concluded=False))
    assert values(report) == values(plain)
    several, _ = tune(request(data, tmp_path / "several", "patchcore", on=Workers(2), num_trials=6, is_concluded=False))
    assert several["counts"]["complete"] in (6, 7) and several["counts"]["failed"] == 0
    of_plain = {json.dumps(params): value for params, value in values(plain)}
    for params, value in values(several):
        assert of_plain.get(json.dumps(params), value) == value


def test_a_configuration_that_fits_in_no_memory_is_refused(data: Manifest, tmp_path: Path) -> None:
    config = merge(TINY, "fit", detector="photo-neighbors", memory_budget="64MiB")
    with pytest.raises(InlierError, match="trials in a row failed, the last because: photo-neighbors takes at least"):
        tune(request(data, tmp_path / "out", config=config, num_trials=9))


def test_other_folders_and_other_settings_are_refused(data: Manifest, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InlierError, match="holds something else than a search"):
        check_target(tmp_path / "other")
    tune(request(data, tmp_path / "out", num_trials=1, is_concluded=False))
    config = merge(TINY, "fit", detector="photo-neighbors") | {"photo-neighbors": {"power": 2.0}}
    with pytest.raises(ConfigError, match="was begun otherwise, and cannot go on: settings changed"):
        tune(request(data, tmp_path / "out", config=config))
    with pytest.raises(ConfigError, match="--metric must be auroc or synthetic for a detector"):
        tune(request(data, tmp_path / "new", metric="loss"))


def test_layers_that_the_backbone_lacks_are_not_proposed(data: Manifest, tmp_path: Path) -> None:
    config = merge(TINY, "fit", detector="photo-neighbors") | {"space": {"layers": ["7", "3"]}}
    task = task_of(request(data, tmp_path, config=config))
    assert {of.name: of for of in task.space}["layers"].choices == ("3",)
    config["space"]["layers"] = ["7"]
    with pytest.raises(ConfigError, match="names no layers that the backbone has"):
        task_of(request(data, tmp_path, config=config))


def test_the_folder_names_are_those_of_the_tracker() -> None:
    assert (detector_search.MODEL, detector_search.EVALUATION) == ("model", "evaluation")


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "synthetic", "loss"])
def test_the_training_of_a_backbone_is_searched(data: Manifest, tmp_path: Path, metric: str) -> None:
    config: Config = {
        "finetune": {"objective": "simclr", "num_samples": 16, "size": 64, "batch_size": 8},
        "gate": {"detector": "photo-neighbors", "max_photos": 20},
        "input": {"size": 64},
        "space": {"num_samples": [16], "batch_size": [8]},
    }
    if metric == "loss":
        config["finetune"]["held_out_ratio"] = 0.3
    data = Manifest(tuple(replace(photo, group="") for photo in data.photos))  # of as many groups as photos
    report, _ = tune(request(data, tmp_path / "out", config=config, metric=metric, num_trials=2))
    assert report["kind"] == "objective" and report["counts"]["complete"] == 2
    assert report["direction"] == ("minimize" if metric == "loss" else "maximize")
    assert (tmp_path / "out" / "backbone" / "model.json").is_file()
    names = [of["name"] for of in report["parameters"]]
    assert "learning_rate" in names and ("simclr.temperature" in names) == (metric != "loss")
    assert report["test"]["image_auroc"] and report["gain"]


def test_test_photos_are_judged_once(
    searched: tuple[Path, dict[str, Any]], data: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("they were judged already")

    monkeypatch.setattr(detector_search, "evaluate", refuse)
    out, report = searched
    again, _ = tune(request(data, out, "patchcore"))
    assert again == json.loads(json.dumps(report))
