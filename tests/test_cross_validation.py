from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from inlier.cross_validation import MEASURED, cross_validate
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ManifestError
from inlier.evaluation import write_to_folder
from inlier.model import Model
from inlier.workflow import fit, inspect_photos

QUICK: dict[str, dict[str, Any]] = {
    "fit": {"detector": "patchcore", "augment": 0},
    "patchcore": {"layers": [2]},
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
}


def draw(folder: Path, name: str, *, seed: int, spot: int = 0) -> Path:
    """A grey, noisy photo, of which a damaged one has a bright spot of so many pixels."""
    pixels = np.random.default_rng(seed).integers(90, 130, size=(64, 64, 3), dtype=np.uint8)
    pixels[20 : 20 + spot, 20 : 20 + spot] = 250
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eight parts, normal, three of them in two photos; two kinds of damage, one with masks, in all three splits."""
    folder = tmp_path_factory.mktemp("parts")
    photos = []
    for part in range(8):
        split = ("train", "dev", "test")[part % 3]
        for number in range(1 + (part < 3)):
            path = draw(folder, f"normal-{part}-{number}", seed=10 * part + number)
            photos.append(Photo(path, split, "good", is_anomalous=False, group=f"part-{part}"))  # type: ignore[arg-type]
    for number in range(5):
        path = draw(folder, f"crack-{number}", seed=100 + number, spot=24)
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[20:44, 20:44] = 255
        Image.fromarray(mask).save(folder / f"crack-{number}-mask.png")
        photos.append(Photo(path, "test", "crack", True, folder / f"crack-{number}-mask.png", f"part-{number}x"))
    for number in range(4):
        photos.append(Photo(draw(folder, f"dent-{number}", seed=200 + number, spot=3), "dev", "dent", True))
    photos.append(Photo(draw(folder, "unknown", seed=300), "test"))
    return Manifest(tuple(photos))


@pytest.fixture(scope="module")
def few(parts: Manifest) -> Model:
    return fit(QUICK, parts)[0]


def test_scores_are_those_of_models_fitted_without_the_fold(few: Model, parts: Manifest) -> None:
    evaluation = cross_validate(few, parts, num_folds=3)
    folds = evaluation.table["fold"].to_numpy()
    assert len(evaluation.photos) == 20 and set(folds) == {1, 2, 3}
    for fold in (1, 2, 3):
        known = [photo for photo, its in zip(evaluation.photos, folds, strict=True) if its != fold]
        learned = Manifest(tuple(replace(photo, split="train") for photo in known if not photo.is_anomalous))
        refitted, _ = fit(QUICK, learned)
        rows = np.flatnonzero(folds == fold)
        inspected = list(inspect_photos(refitted, [evaluation.photos[row] for row in rows]))
        assert [of.verdict.score for of in inspected] == pytest.approx(evaluation.scores[rows].tolist(), rel=1e-4)
        assert evaluation.metrics["folds"][fold - 1]["num_learned"] == len(learned)


def test_metrics_compare_within_folds_and_agree_with_scikit_learn(few: Model, parts: Manifest) -> None:
    evaluation = cross_validate(few, parts, num_folds=3)
    metrics, folds = evaluation.metrics, evaluation.table["fold"].to_numpy()
    flags = evaluation.table["is_anomalous"].to_numpy()
    values, num_pairs = [], []
    for of in metrics["folds"]:
        rows = folds == of["fold"]
        assert of["num_normal"] == (~flags & rows).sum() > 0 and of["num_anomalous"] == (flags & rows).sum()
        values.append(roc_auc_score(flags[rows], evaluation.scores[rows]))
        num_pairs.append(of["num_normal"] * of["num_anomalous"])
        assert of["image_auroc"] == pytest.approx(values[-1], abs=1e-9)
        assert 0 <= of["aupro_03"] <= 1 and 0.5 < of["pixel_auroc"] <= 1
    assert metrics["image_auroc"]["value"] == pytest.approx(np.average(values, weights=num_pairs), abs=1e-9)
    assert metrics["over_folds"]["image_auroc"]["mean"] == pytest.approx(np.mean(values))
    assert metrics["over_folds"]["image_auroc"]["spread"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["over_folds"].keys() == set(MEASURED)
    assert (metrics["split"], metrics["num_normal"], metrics["num_anomalous"]) == ("all", 11, 9)
    assert metrics["classes"]["crack"]["image_auroc"]["value"] == 1.0  # a large spot is found by any detector
    assert metrics["classes"]["dent"]["pixel_auroc"] is None  # it has no masks


def test_verdicts_rank_among_the_normal_photos_of_other_folds(few: Model, parts: Manifest) -> None:
    model = few.with_rates(false_alarm_rate=0.15, uncertain_rate=0.3)
    evaluation = cross_validate(model, parts, num_folds=3)
    rows = evaluation.table.to_pylist()
    for row in rows:
        others = [of["score"] for of in rows if not of["is_anomalous"] and of["fold"] != row["fold"]]
        p_value = (1 + sum(score >= row["score"] for score in others)) / (len(others) + 1)
        assert row["p_value"] == pytest.approx(p_value)
        assert row["verdict"] == ("reject" if p_value <= 0.15 else "uncertain" if p_value <= 0.3 else "accept")
    (shortcut,) = evaluation.metrics["notes"]
    assert shortcut.startswith("A trivial statistic of the photos (brightness) alone reaches an AUROC of 1.000")
    shortage = cross_validate(few, parts, num_folds=3).metrics["notes"][1]
    least = min(sum(not of["is_anomalous"] and of["fold"] != fold for of in rows) for fold in (1, 2, 3))
    assert shortage.startswith(
        f"With {least} calibration photos no photo can be rejected at a false-alarm rate of 0.05"
    )


def test_groups_stay_whole_and_the_order_of_photos_changes_nothing(few: Model, parts: Manifest) -> None:
    evaluation = cross_validate(few, parts, num_folds=4, seed=3)
    rows = evaluation.table.to_pylist()
    groups = {row["group"] for row in rows if row["group"]}
    assert len({(row["group"], row["fold"]) for row in rows if row["group"]}) == len(groups) == 13
    turned = cross_validate(few, Manifest(parts.photos[::-1]), num_folds=4, seed=3, workers=0)
    assert turned.metrics == evaluation.metrics and turned.table == evaluation.table
    assert cross_validate(few, parts, num_folds=4, seed=4).metrics["folds"] != evaluation.metrics["folds"]


def test_what_the_model_learned_plays_no_part_and_stays(few: Model, parts: Manifest) -> None:
    before = {name: tensor.clone() for name, tensor in few.detector.state_dict().items()}
    metrics = cross_validate(few, parts, num_folds=2).metrics
    assert all(torch.equal(tensor, before[name]) for name, tensor in few.detector.state_dict().items())
    other, _ = fit(QUICK, Manifest(tuple(photo for photo in parts.photos if photo.label == "good")[:4]))
    again = cross_validate(other, parts, num_folds=2).metrics
    told_apart = {"model", "fitted_on"}
    assert {k: v for k, v in metrics.items() if k not in told_apart} == {
        k: v for k, v in again.items() if k not in told_apart
    }


def test_altered_copies_are_learned_from_and_never_judged(few: Model, parts: Manifest) -> None:
    config = few.config | {"fit": few.config["fit"] | {"augment": 2}}
    plain, varied = (cross_validate(model, parts, num_folds=2) for model in (few, replace(few, config=config)))
    assert varied.photos == plain.photos and varied.scores.shape == plain.scores.shape
    assert (varied.scores != plain.scores).any()


def test_two_normal_photos_say_next_to_nothing(few: Model, tmp_path: Path) -> None:
    """The thesis's ring-condition learned from one photo; what such a result is worth must be seen."""
    photos = [Photo(draw(tmp_path, f"good-{n}", seed=n), "train", "good", is_anomalous=False) for n in range(2)]
    photos += [Photo(draw(tmp_path, f"broken-{n}", seed=9 + n, spot=24), "test", "broken", True) for n in range(12)]
    evaluation = cross_validate(few, Manifest(tuple(photos)), num_folds=2)
    auroc = evaluation.metrics["image_auroc"]
    assert [of["num_learned"] for of in evaluation.metrics["folds"]] == [1, 1]
    assert (auroc["value"], auroc["high"]) == (1.0, 1.0) and auroc["low"] == pytest.approx(0.025 ** (1 / 2))
    with pytest.raises(
        ManifestError, match=r"^Cross-validation needs normal photos of at least two groups, .*got 1\.$"
    ):
        cross_validate(few, Manifest(tuple(photos[1:])), num_folds=2)


def test_folds_without_anomalous_photos_are_left_out_of_what_they_cannot_tell(few: Model, parts: Manifest) -> None:
    chosen = [photo for photo in parts.photos if photo.label == "good" or photo.path.stem == "crack-0"]
    metrics = cross_validate(few, Manifest(tuple(chosen)), num_folds=4).metrics
    assert [of["image_auroc"] for of in metrics["folds"]].count(None) == 3
    assert metrics["over_folds"]["image_auroc"] == {"mean": metrics["image_auroc"]["value"], "spread": None}
    assert metrics["image_auroc"]["low"] < 0.05
    normal = Manifest(tuple(photo for photo in chosen if photo.label == "good"))
    metrics = cross_validate(few, normal, num_folds=4).metrics
    assert (metrics["image_auroc"], metrics["over_folds"]["image_auroc"], metrics["trivial"]) == (None, None, None)


def test_folds_are_written_like_any_evaluation(few: Model, parts: Manifest, tmp_path: Path) -> None:
    evaluation = cross_validate(few, parts, num_folds=3, command="inlier evaluate M D --folds 3")
    write_to_folder(evaluation, few, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == evaluation.metrics
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "Each fold" in page and "inlier evaluate M D --folds 3" in page
    assert "Share of the normal photos of other folds that are less anomalous" in page


def test_folds_that_cannot_be_are_refused(few: Model, parts: Manifest, tmp_path: Path) -> None:
    for num_folds in (1, 9):
        sentence = r"^--folds must be in 2 to 8, for every fold needs a group of normal photos and there are 8, got "
        with pytest.raises(ManifestError, match=rf"{sentence}{num_folds}\.$"):
            cross_validate(few, parts, num_folds=num_folds)
    unlabelled = tuple(photo for photo in parts.photos if photo.is_anomalous is None)
    with pytest.raises(ManifestError, match=r"^There are no labelled photos to cross-validate on\.$"):
        cross_validate(few, Manifest(unlabelled), num_folds=2)
    empty = tmp_path / "empty.png"
    empty.touch()
    photos = [photo for photo in parts.photos if photo.group == "part-7"]
    broken = Manifest((*photos, Photo(empty, "test", "good", is_anomalous=False)))
    with pytest.raises(ManifestError, match=r"got 1; 1 could not be read, the first because: the file is empty\.$"):
        cross_validate(few, broken, num_folds=2)


def test_unreadable_photos_are_listed_and_left_out(few: Model, parts: Manifest, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    data = Manifest((*parts.photos, Photo(empty, "test", "crack", is_anomalous=True)))
    evaluation = cross_validate(few, data, num_folds=2)
    assert [photo.path for photo, _ in evaluation.unreadable] == [empty]
    assert (evaluation.metrics["num_unreadable"], len(evaluation.photos)) == (1, 20)
