from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.model import Model

QUICK = ("--detector", "photo-neighbors", "--size", "64", "--precision", "float32")


def section(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))["config"][name]
    return found


def write_photos(folder: Path, number: int, *, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + number):
        noise = np.random.default_rng(index).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six photos and nothing else."""
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


def test_fit_inspect_and_evaluate_say_what_came_of_it(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path
) -> None:
    model, inspection, evaluation = tmp_path / "model", tmp_path / "inspection", tmp_path / "evaluation"
    learned = "Learned from 18 normal photos, calibrated on 26 (cross-conformal scores, 3 folds by group and scores of"
    ran = inlier("fit", dataset, "--out", model, *QUICK)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"{learned} the dev photos): {model}\n"

    ran = inlier("inspect", model, dataset / "photos", "--out", inspection)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("46 photos: ") and ran.out.endswith(f"\nReport: {inspection / 'report.html'}\n")

    ran = inlier("evaluate", model, dataset, "--out", evaluation)
    assert ran.status == 0
    assert ran.out.startswith("8 normal and 6 anomalous photos of test\n  image_auroc    ")
    assert ran.out.endswith(f"\nFigures: {evaluation / 'evaluation.html'}\n")
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["command"] == f"inlier evaluate {model} {dataset} --out {evaluation}"
    assert ran.err == "".join(f"Mind: {note}\n" for note in metrics["notes"])


def test_json_is_one_object_on_stdout_and_quiet_is_silent(inlier: Callable[..., Any], tmp_path: Path) -> None:
    data, model, inspection, evaluation = (tmp_path / name for name in ("data", "model", "inspection", "evaluation"))
    write_photos(data / "train" / "good", 4)
    write_photos(data / "test" / "good", 2, first=4)
    write_photos(data / "test" / "crack", 2, first=6)
    rates = ("--false-alarm-rate", "0.2", "--uncertain-rate", "0.5")
    commands: dict[tuple[str | Path, ...], set[str]] = {
        ("fit", data, "--out", model, *QUICK, *rates): {"model", "identity", "num_fitted", "data_fingerprint", "notes"},
        ("inspect", model, data, "--out", inspection): {"directory", "counts", "num_scored", "notes"},
        ("evaluate", model, data, "--out", evaluation): {"image_auroc", "classes", "command"},
    }
    for command, keys in commands.items():
        ran = inlier(*command, "--json")
        assert ran.out.endswith("}\n") and keys <= json.loads(ran.out).keys()
        assert (ran.status, ran.err) == (0, "".join(f"Mind: {note}\n" for note in json.loads(ran.out)["notes"]))
        assert inlier(*command, "--quiet") == (0, "", "")


def test_a_background_and_altered_copies_can_be_asked_for(inlier: Callable[..., Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4)
    write_photos(tmp_path / "archive", 7, first=4)
    options = ("--background", tmp_path / "archive", "--augment", "2")
    ran = inlier("fit", tmp_path / "photos", "--out", tmp_path / "model", *QUICK, *options, "--json")
    assert ran.status == 0
    facts = json.loads(ran.out)
    assert (facts["num_fitted"], facts["num_views"], facts["num_background"]) == (4, 8, 7)
    assert section(tmp_path / "model", "fit")["augment"] == 2
    ran = inlier("fit", tmp_path / "photos", "--out", tmp_path / "model", *QUICK, "--augment", "24")
    assert (ran.status, ran.err) == (2, "inlier: augment of [fit] must be less than or equal to 23, got 24.\n")


def test_nothing_is_left_beside_a_model(inlier: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    """Neither the folder in which it grew, nor the checkpoints of a training."""
    assert inlier("fit", photos, "--out", tmp_path / "model", *QUICK, "--augment", "0").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


def test_folds_are_measured_and_a_shortcut_is_said(inlier: Callable[..., Any], tmp_path: Path) -> None:
    data, model, out = tmp_path / "data", tmp_path / "model", tmp_path / "out"
    write_photos(data / "train" / "good", 4)
    write_photos(data / "test" / "crack", 2, first=4)
    for path in (data / "test" / "crack").iterdir():  # darker than all others, which needs no model
        Image.fromarray(np.asarray(Image.open(path)) // 4).save(path)
    assert inlier("fit", data, "--out", model, *QUICK).status == 0
    ran = inlier("evaluate", model, data, "--out", out, "--folds", "2")
    assert ran.status == 0
    assert ran.out.startswith("4 normal and 2 anomalous photos in 2 folds\n  image_auroc    ")
    assert "   folds: " in ran.out and " +- " in ran.out
    assert "Mind: A trivial statistic of the photos (" in ran.err and "alone reaches an AUROC of 1.000" in ran.err
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["folds"]) == 2 and f"Mind: {metrics['notes'][0]}\n" in ran.err
    refused = {("--folds", "5"): "--folds must be in 2 to 4,", ("--folds", "2", "--split", "dev"): "leave --split out."}
    for options, sentence in refused.items():
        ran = inlier("evaluate", model, data, "--out", out, *options)
        assert ran.status == 2 and sentence in ran.err


def test_unreadable_photos_are_named_and_make_the_status_one(
    inlier: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    (photos / "empty.jpg").touch()
    ran = inlier("fit", photos, "--out", tmp_path / "model", *QUICK)
    assert ran.status == 1
    assert f"  unreadable: {photos / 'empty.jpg'}: the file is empty\n" in ran.err
    for _ in range(2):
        ran = inlier("inspect", tmp_path / "model", photos, tmp_path / "gone.jpg", "--out", tmp_path / "out")
        assert ran.status == 1 and "2 unreadable" in ran.out
    assert inlier("inspect", tmp_path / "model", photos / "1.png", "--out", tmp_path / "one").status == 0

    rows = ["path,split,anomalous", "0.png,test,0", "empty.jpg,test,1", "1.png,test,1"]
    (photos / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    ran = inlier("evaluate", tmp_path / "model", photos, "--out", tmp_path / "evaluation")
    assert ran.status == 1 and "unreadable" in ran.err


def test_a_calibration_too_small_for_the_rate_is_said(inlier: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    ran = inlier("fit", photos, "--out", tmp_path / "model", *QUICK)
    sentence = "Mind: With 6 calibration photos no photo can be rejected at a false-alarm rate of 0.05; at least 19 are"
    assert ran.status == 0 and ran.err.startswith(sentence)
    ran = inlier("inspect", tmp_path / "model", photos, "--out", tmp_path / "out")
    assert ran.err.startswith(sentence)
    rates = ("--false-alarm-rate", "0.15", "--uncertain-rate", "0.3")
    ran = inlier("inspect", tmp_path / "model", photos, "--out", tmp_path / "other", *rates)
    assert (ran.status, ran.err) == (0, "")


def test_a_backbone_that_was_not_shown_to_help_is_said(
    inlier: Callable[..., Any], dataset: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    options = (*QUICK, "--augment", "0", "--backbone", backbone_folder)
    ran = inlier("fit", dataset, "--out", tmp_path / "model", *options, "--json")
    sentence = (
        "The backbone ships was not shown to help on its own data (no evidence: -0.4 points, -1.2 to +0.5); compare "
        "with the plain one by inlier compare."
    )
    assert (ran.status, ran.err) == (0, f"Mind: {sentence}\n")
    facts = json.loads(ran.out)
    assert facts["notes"] == [sentence] and facts["backbone"]["objective"] == "simclr"
    assert section(tmp_path / "model", "backbone")["adapted"]["title"] == "ships"
    ran = inlier("inspect", tmp_path / "model", dataset / "photos", "--out", tmp_path / "inspection")
    assert (ran.status, ran.err) == (0, f"Mind: {sentence}\n")
    ran = inlier("evaluate", tmp_path / "model", dataset, "--out", tmp_path / "evaluation", "--folds", "2")
    assert ran.status == 0 and f"Mind: {sentence}\n" in ran.err


def test_options_beat_overrides_and_overrides_beat_the_file(
    inlier: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('[fit]\nseed = 1\ndetector = "patchcore"\n[input]\nsize = 32\n[photo-neighbors]\npower = 1.0\n')
    given = ("--config", file, "--set", "fit.detector=photo-neighbors", "--set", "input.size=96", "--size", "64")
    ran = inlier("fit", photos, "--out", tmp_path / "model", *given, "--layers", "1,3", "--memory-budget", "64MiB")
    assert ran.status == 0
    assert section(tmp_path / "model", "fit") == {
        "detector": "photo-neighbors", "seed": 1, "memory_budget": "64MiB", "augment": 7,
    }  # fmt: skip
    assert section(tmp_path / "model", "input") == {"size": 64}
    assert section(tmp_path / "model", "photo-neighbors")["power"] == 1.0
    assert section(tmp_path / "model", "photo-neighbors")["layers"] == [1, 3]


def test_layers_reach_every_member_within_the_smallest_budget(
    inlier: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    options = ("--size", "64", "--layers", "2,4", "--memory-budget", "64MiB", "--precision", "bfloat16", "--seed", "5")
    assert inlier("fit", photos, "--out", tmp_path / "model", *options).status == 0
    model = Model.load(tmp_path / "model")
    assert model.config["patchcore"]["layers"] == model.config["photo-neighbors"]["layers"] == [2, 4]
    assert (model.backbone.layers, model.backbone.precision) == ((2, 4), "bfloat16")
    assert model.config["fit"]["seed"] == 5


def test_the_thesis_layout_and_its_labels(inlier: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_photos(root / "train" / "intact", 4)
    write_photos(root / "train" / "worn", 2, first=4)
    write_photos(root / "dev" / "fine", 2, first=6)
    write_photos(root / "test" / "fine", 2, first=8)
    write_photos(root / "test" / "broken", 3, first=10)
    ran = inlier("fit", root, "--out", tmp_path / "model", *QUICK)
    assert ran.status == 2 and "has no normal photos to learn from; name their labels with --normal" in ran.err
    ran = inlier("fit", root, "--out", tmp_path / "model", *QUICK, "--normal", "intact, FINE", "--json")
    facts = json.loads(ran.out)
    assert (facts["num_fitted"], facts["num_calibration"]) == (4, 6)
    labels = ("--normal", "intact", "--normal", "fine", "--json")
    ran = inlier("evaluate", tmp_path / "model", root, "--out", tmp_path / "out", *labels)
    metrics = json.loads(ran.out)
    assert (metrics["num_normal"], metrics["num_anomalous"]) == (2, 3)


def test_the_mvtec_layout_and_its_masks(inlier: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "bottle"
    write_photos(root / "train" / "good", 5)
    write_photos(root / "test" / "good", 2, first=5)
    write_photos(root / "test" / "crack", 2, first=7)
    for index in (7, 8):
        mask = np.zeros((40, 50), dtype=np.uint8)
        mask[:20] = 255
        (root / "ground_truth" / "crack").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / "ground_truth" / "crack" / f"{index}_mask.png")
    options = ("--detector", "patchcore", "--size", "64", "--precision", "float32")
    assert inlier("fit", root, "--out", tmp_path / "model", *options).status == 0
    ran = inlier("evaluate", tmp_path / "model", root, "--out", tmp_path / "out")
    assert ran.status == 0 and "pixel_auroc" in ran.out and "aupro_03" in ran.out


def test_folders_whose_names_are_no_text_are_no_trouble(
    inlier: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xf6\xdfe"))
    odd.mkdir()
    photos = photos.rename(odd / "photos")
    (photos / "manifest.csv").write_text("path,anomalous\n" + "".join(f"{n}.png,0\n" for n in range(6)))
    shown = f"{tmp_path}/Gr\\udcf6\\udcdfe/photos"
    assert inlier("fit", photos, "--out", tmp_path / "model", *QUICK).status == 0
    ran = inlier("inspect", tmp_path / "model", photos, photos / "none.jpg", "--out", tmp_path / "out")
    assert ran.status == 1 and ran.out.startswith("7 photos: ")
    (photos / "0.png").write_bytes(b"")
    ran = inlier("evaluate", tmp_path / "model", photos, "--out", tmp_path / "evaluation", "--split", "train")
    assert ran.status == 1 and f"  unreadable: {shown}/0.png: the file is empty\n" in ran.err
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert shown in metrics["command"]
    ran = inlier("inspect", tmp_path / "model", photos, "--out", odd / "out")
    assert ran.status == 2 and "its path is no valid UTF-8; choose another --out." in ran.err


def test_results_below_the_photos_are_not_inspected_again(
    inlier: Callable[..., Any], model_folder: Path, photos: Path
) -> None:
    for num_scored in (6, 0):
        ran = inlier("inspect", model_folder, photos, "--out", photos / "out", "--heatmaps", "all", "--json")
        assert json.loads(ran.out)["num_scored"] == num_scored
    with (photos / "out" / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == [f"{index}.png" for index in range(6)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--detector", "patchcor"), "inlier has no detector named patchcor; did you mean patchcore?"),
        (("--backbone", "resnet1"), "[backbone]: timm has no backbone named resnet1; "),
        (("--layers", "9"), "[backbone]: layers of efficientnet_lite0 must be in 1 to 4, got [9]."),
        (("--layers", "two"), "--layers must be whole numbers such as 2,3, got 'two'."),
        (("--layers", ""), "--layers must be whole numbers such as 2,3, got ''."),
        (("--set", "fit.sed=1"), "[fit] has no key named sed; did you mean seed?"),
        (("--set", "seed=1"), "An override must look like section.key=value, got 'seed=1'."),
        (("--config", "nowhere.toml"), "The configuration file nowhere.toml does not exist."),
        (("--false-alarm-rate", "1.5"), "false_alarm_rate of [decide] must be less than 1, got 1.5."),
        (("--false-alarm-rate", "0.3"), "uncertain_rate of [decide] must be at least its false_alarm_rate, 0.3, got 0"),
        (("--precision", "float16"), "precision of [backbone] must be 'float32' or 'bfloat16', got 'float16'."),
        (("--device", "tpu"), "--device must be auto, cpu or cuda, got tpu."),
        (("--memory-budget", "1KiB"), "memory_budget must be at least 64MiB, got 1KiB."),
        (("--weights", "nowhere.pth"), "The weights file nowhere.pth does not exist."),
        (("--normal", "fine"), "The split train has no normal photos to learn from; "),
    ],
)
def test_a_fit_that_cannot_be_is_one_sentence(
    inlier: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    write_photos(tmp_path / "data" / "train" / "good", 2)
    ran = inlier("fit", tmp_path / "data", "--out", tmp_path / "model", *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"inlier: {sentence}") and ran.err.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_data_and_folders_that_cannot_be_used_are_one_sentence(
    inlier: Callable[..., Any], model_folder: Path, backbone_folder: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("file,label\na.jpg,good\n", encoding="utf-8")
    shutil.copytree(model_folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "detector.safetensors").write_bytes(b"\0" * 100)
    new = tmp_path / "new"
    commands: dict[tuple[str | Path, ...], str] = {
        ("fit", tmp_path / "empty", "--out", new): "holds no photos.",
        ("fit", tmp_path / "none", "--out", new): "does not exist.",
        ("fit", tmp_path / "bad.csv", "--out", new): "needs a column named path; its columns: file, label.",
        ("fit", photos, "--out", photos): "holds something else than a model; choose another --out, or remove it.",
        ("fit", photos, "--out", new, "--backbone", model_folder): "is no backbone of inlier: it holds a model.",
        ("fit", photos, "--out", new, "--backbone", "none/here"): "The backbone none/here does not exist.",
        ("fit", photos, "--out", backbone_folder): "ships holds something else than a model; choose another --out,",
        ("inspect", backbone_folder, photos, "--out", new): "is no model of inlier: it holds a backbone.",
        ("fit", photos, "--out", photos / "0.png"): "0.png holds something else than a model; choose another --out,",
        ("inspect", tmp_path / "none", photos, "--out", new): "does not exist.",
        ("inspect", photos, photos, "--out", new): "is no model: it has no model.json.",
        ("inspect", tmp_path / "damaged", photos, "--out", new): "detector.safetensors is not what was written.",
        ("inspect", model_folder, tmp_path / "empty", "--out", new): "There are no photos to inspect.",
        ("inspect", model_folder, photos, "--out", model_folder): "holds something else than an inspection;",
        ("inspect", model_folder, photos, "--out", new, "--heatmaps", "some"): "heatmaps must be one of flagged, all",
        ("inspect", model_folder, photos, "--out", new, "--false-alarm-rate", "2"): "must be less than 1, got 2.0.",
        ("evaluate", model_folder, photos, "--out", new): "has no labelled photos to evaluate on;",
        ("evaluate", model_folder, photos, "--out", new, "--split", "all"): "--split must be train, dev or test, got",
        ("evaluate", model_folder, photos, "--out", photos): "holds something else than an evaluation;",
        ("evaluate", model_folder, photos / "0.png", "--out", new): "must be a folder of photos, or a manifest (.csv",
    }
    for command, sentence in commands.items():
        ran = inlier(*command)
        assert (ran.status, ran.out) == (2, ""), command
        assert ran.err.startswith("inlier: ") and sentence in ran.err and ran.err.count("\n") == 1, ran.err
        assert not new.exists()
