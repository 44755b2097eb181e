from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier.data.manifest import Manifest
from inlier.errors import ConfigError, InlierError, ManifestError
from inlier.evaluation import evaluate
from inlier.experiments import study as module
from inlier.experiments.study import check_target, run_study
from inlier.experiments.study_plan import Study
from inlier.model import Model
from inlier.scale import Workers
from inlier.workflow import fit

pytest.importorskip("optuna", reason="Optuna is not installed")

SMALL = """
[study]
title = "Small"
seeds = [0]
patches = "engine"
losses = "engine"

[config.input]
size = 64

[config.backbone]
precision = "float32"

[config.fit]  # room for a process that has run all tests before these
memory_budget = "64GiB"

[data.engine]
path = "engine"
title = "Engines"
task = "filter"

[backbone.imagenet]

[backbone.simclr]
objective = "simclr"
on = ["engine"]
finetune = { num_samples = 16, size = 64, batch_size = 8 }
gate = { detector = "photo-neighbors", max_photos = 20 }

[detector.patchcore]
trials = 2
space.layers = ["3", "2,3"]

[detector.photo-neighbors]
"""
TABLES = ("cells", "rows", "pairs", "losses", "boxes", "patches", "confusions", "rocs")


@pytest.fixture(scope="module")
def plan(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "engine").symlink_to(dataset)
    (folder / "study.toml").write_text(SMALL)
    return Study.read(folder / "study.toml")


@pytest.fixture(scope="module")
def done(plan: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(plan, out, command="inlier study study.toml")


def tables(out: Path) -> dict[str, str]:
    return {name: (out / f"{name}.csv").read_text() for name in TABLES}


def test_every_cell_is_there_and_says_what_it_reached(done: tuple[Path, dict[str, Any]]) -> None:
    out, report = done
    names = {of["name"] for of in report["cells"]}
    assert names == {
        f"engine/{backbone}/{detector}/seed-0"
        for backbone in ("imagenet", "simclr@engine")
        for detector in ("patchcore", "photo-neighbors")
    }
    for cell in report["cells"]:
        folder = out / cell["folder"]
        metrics = json.loads((folder / "test" / "metrics.json").read_text())
        assert cell["test"] == metrics["image_auroc"] and (folder / "model" / "model.json").is_file()
        assert cell["num_trials"] == (2 if cell["detector"] == "patchcore" else 0)
    assert json.loads((out / "study.json").read_text()) == json.loads(json.dumps(report))
    assert len(report["pairs"]) == 6 and len(report["rows"]) == 4 and len(report["means"]) == 4
    assert {of["is_anomalous"] for of in report["losses"]} == {True, False}
    assert [row["patch_size"] for row in report["patches"]["rows"]] == [size for size in (1, 5, 15, 29) for _ in "abc"]
    assert len(report["galleries"]) == 2 and report["galleries"][0]["most_normal_flagged"]
    assert {of["layers"] for of in report["boxes"]} <= {"3", "2,3"}
    page = (out / "study.html").read_text()
    assert "Small" in page and "Engines" in page
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test"]) for row in rows] == [of["test"]["value"] for of in report["cells"]]


def test_a_cell_is_what_fit_and_evaluate_give_by_hand(done: tuple[Path, dict[str, Any]], data: Manifest) -> None:
    out, _ = done
    for backbone in ("imagenet", "simclr@engine"):
        folder = out / "cells" / "engine" / backbone / "photo-neighbors" / "seed-0"
        cell = Model.load(folder / "model")
        section: dict[str, Any] = {"precision": "float32"}
        if backbone != "imagenet":
            weights = out / "backbones" / backbone / "model"
            section = {"name": "efficientnet_lite0", "weights": str(weights)}
        config = {"input": {"size": 64}, "backbone": section, "fit": {"detector": "photo-neighbors"}}
        config["fit"]["memory_budget"] = "64GiB"
        by_hand, _ = fit(config, data)
        assert by_hand.identity == cell.identity
        metrics = json.loads((folder / "test" / "metrics.json").read_text())
        ours = evaluate(by_hand, data, split="test").metrics
        same = ("image_auroc", "image_ap", "pixel_auroc", "aupro_03", "classes", "confusion", "model")
        assert all(ours[name] == metrics[name] for name in same)


def test_a_study_that_is_complete_is_not_done_again(
    done: tuple[Path, dict[str, Any]], plan: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("it is done already")

    monkeypatch.setattr(module, "run_cell", refuse)
    monkeypatch.setattr(module, "train_backbone", refuse)
    before = tables(done[0])
    run_study(plan, done[0])
    assert tables(done[0]) == before


@pytest.mark.slow
def test_an_interrupted_study_ends_with_the_same_tables(
    done: tuple[Path, dict[str, Any]], plan: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_after(number: int, run: Callable[..., None]) -> Callable[..., None]:
        left = [number]

        def interrupted(*arguments: Any) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            run(*arguments)

        return interrupted

    run_cell, train = module.run_cell, module.train_backbone
    for cells, backbones in ((0, 0), (1, 1), (2, 1)):
        monkeypatch.setattr(module, "run_cell", interrupt_after(cells, run_cell))
        monkeypatch.setattr(module, "train_backbone", interrupt_after(backbones, train))
        with pytest.raises(KeyboardInterrupt):
            run_study(plan, tmp_path / "out")
    monkeypatch.setattr(module, "run_cell", run_cell)
    monkeypatch.setattr(module, "train_backbone", train)
    run_study(plan, tmp_path / "out", on=Workers(2))
    assert tables(tmp_path / "out") == tables(done[0])


def test_a_study_in_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InlierError, match="holds something else than a study"):
        check_target(tmp_path)


def test_two_at_one_study_are_one_too_many(plan: Study, tmp_path: Path) -> None:
    with module._alone(tmp_path / "out"), pytest.raises(InlierError, match="Another process is running the study"):
        run_study(plan, tmp_path / "out")


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SMALL)
    with pytest.raises(ManifestError, match=r"\[data.engine\]: .*engine does not exist"):
        run_study(Study.read(tmp_path / "study.toml"), tmp_path / "out")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("[backbone.imagenet]", "[backbone.imagenet]\ntrials = 3", "is not trained without an objective"),
        ('on = ["engine"]', "", "needs on, the data sets"),
        ('on = ["engine"]', 'on = ["enigne"]', "has no data set named enigne; did you mean engine"),
        ('path = "engine"', "", r"\[data.engine\] needs a path"),
        ('task = "filter"', 'task = "archive"', "needs a data set to judge"),
        ("[detector.photo-neighbors]", "[detector.photo-neighbor]", "inlier has no detector named photo-neighbor"),
        ('space.layers = ["3", "2,3"]', 'space.layer = ["3"]', "has no parameter to search named layer"),
        ("seeds = [0]", "seeds = []", "must hold at least one seed"),
        ('patches = "engine"', 'patches = "motor"', "has no data set named motor"),
        ("[backbone.simclr]", '[backbone."a/b"]', "cannot be that of a folder"),
        ("[config.input]\nsize = 64", "[config.inptu]\nsize = 64", r"\[config\] has no section named inptu"),
        ("finetune = { num_samples = 16", "finetune = { num_sample = 16", "no key named num_sample; did you mean"),
        ("[study]", "[studdy]", "has no table named studdy; did you mean study"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_at_once(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    assert before in SMALL
    (tmp_path / "study.toml").write_text(SMALL.replace(before, after))
    with pytest.raises(ConfigError, match=sentence):
        Study.read(tmp_path / "study.toml")


@pytest.mark.parametrize("name", ["demo", "public", "thesis"])
def test_the_examples_can_be_carried_out(name: str) -> None:
    pytest.importorskip("timm")
    plan = Study.read(Path(__file__).parents[2] / "examples" / f"{name}.toml")
    trained = [of for of in plan.backbones.values() if of.objective]
    if name == "thesis":
        assert len(plan.cells) == 5 * 6 * 2 and {of.trained_on for of in trained} == {"scavport", "vesselarchive"}
    elif name == "public":
        assert len(plan.cells) == 6 * 4 * 2 and len(trained) == 3
    else:
        assert len(plan.cells) == 4 and len(trained) == 1
