from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from inlier.data.manifest import Manifest, Photo
from inlier.decision.calibration import Calibration
from inlier.errors import InlierError, ManifestError
from inlier.evaluation import check_target, evaluate, write_to_folder
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureSet
from inlier.model import Model, References
from inlier.records import Prediction

INTERVAL = {"value", "low", "high"}
METRICS = ("image_auroc", "image_ap", "tpr_at_fpr_05", "pixel_auroc", "aupro_03")
KEYS = {
    "component_accuracy",
    *METRICS, "split", "command", "model", "data_fingerprint", "fitted_on", "seed", "versions", "num_unreadable",
    "false_alarm_rate", "uncertain_rate", "num_normal", "num_anomalous", "trivial", "classes",
    "confusion", "num_thresholds", "notes",
}  # fmt: skip


class Brightness:
    """A detector whose map is how bright each cell is, and whose score is the brightest; nothing is learned."""

    layers = (1,)

    def fit(self, features: FeatureSet) -> Self:
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        values = maps[1].mean(dim=1)  # (B, h, w)
        return Prediction(values.flatten(1).amax(dim=1), values)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        return self


class Pixels(Backbone):
    """A backbone whose only map is the photo itself."""

    is_on_cpu = False  # nothing to prepare

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def extract(self, images: Tensor) -> dict[int, Tensor]:
        return {1: images}


@pytest.fixture
def brightness() -> Model:
    """Scores a photo by its brightest pixel: 32 normal photos were as bright as 0.00, 0.01 and so on to 0.31."""
    config: dict[str, dict[str, Any]] = {
        "input": {"size": 32},
        "backbone": {"name": "pixels"},
        "decide": {"false_alarm_rate": 0.05, "uncertain_rate": 0.2},
        "fit": {"detector": "brightness"},
    }
    calibration = Calibration(np.arange(32) / 100, map_maxima=np.arange(32) / 100)
    return Model(config, Pixels(), Brightness(), calibration, References((), ()))


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """The MVTec AD layout: dark photos; cracks are bright squares with a mask, dents are half as bright."""
    root = tmp_path / "bottle"
    for split, label, number in (("train", "good", 4), ("test", "good", 6), ("test", "crack", 4), ("test", "dent", 2)):
        (root / split / label).mkdir(parents=True)
        (root / "ground_truth" / label).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            pixels = np.full((32, 32, 3), 10 + index, dtype=np.uint8)
            mask = np.zeros((32, 32), dtype=np.uint8)
            if label != "good":
                pixels[8:16, 4:20] = 200 if label == "crack" else 100
                mask[8:16, 4:20] = 255
                Image.fromarray(mask).save(root / "ground_truth" / label / f"{index:03d}_mask.png")
            Image.fromarray(pixels).save(root / split / label / f"{index:03d}.png")
    return root


def test_perfect_scores_and_maps_measure_one(brightness: Model, mvtec: Path) -> None:
    metrics = evaluate(brightness, Manifest.read(mvtec)).metrics
    assert (metrics["num_normal"], metrics["num_anomalous"]) == (6, 6)
    for name in METRICS:
        assert metrics[name]["value"] == pytest.approx(1.0)
        assert metrics[name].keys() == INTERVAL
    assert list(metrics["classes"]) == ["crack", "dent", "good"]


def test_metrics_agree_with_an_independent_library(brightness: Model, mvtec: Path) -> None:
    """A bright normal photo spoils them, and a mask beside the defect spoils those of pixels."""
    bright = np.full((32, 32, 3), 12, dtype=np.uint8)
    bright[:4, :4] = 150
    Image.fromarray(bright).save(mvtec / "test" / "good" / "000.png")
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(mvtec / "ground_truth" / "dent" / "000_mask.png")
    data = Manifest.read(mvtec)
    evaluation = evaluate(brightness, data)
    flags = np.array([photo.is_anomalous for photo in evaluation.photos])
    assert evaluation.scores.max() == pytest.approx(200 / 255)
    assert evaluation.metrics["image_auroc"]["value"] == pytest.approx(roc_auc_score(flags, evaluation.scores))
    assert evaluation.metrics["image_ap"]["value"] == pytest.approx(average_precision_score(flags, evaluation.scores))
    values, truth = [], []
    for photo in data.select("test").photos:
        values.append(np.asarray(Image.open(photo.path))[..., 0].ravel())
        truth.append(np.asarray(Image.open(photo.mask)).ravel() > 0 if photo.mask else np.zeros(32 * 32, dtype=bool))
    expected = roc_auc_score(np.concatenate(truth), np.concatenate(values))
    assert evaluation.metrics["pixel_auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert 0.9 < expected < 1


def test_each_anomalous_class_is_measured_against_all_normal_photos(brightness: Model, mvtec: Path) -> None:
    bright = np.full((32, 32, 3), 150, dtype=np.uint8)
    Image.fromarray(bright).save(mvtec / "test" / "good" / "000.png")
    classes = evaluate(brightness, Manifest.read(mvtec)).metrics["classes"]
    assert classes["crack"]["image_auroc"]["value"] == 1.0
    assert classes["dent"]["image_auroc"]["value"] == pytest.approx(5 / 6)
    assert classes["dent"]["pixel_auroc"]["value"] < 1 == classes["crack"]["pixel_auroc"]["value"]
    assert [classes[name]["num_photos"] for name in ("crack", "dent", "good")] == [4, 2, 6]
    assert classes["good"].keys() == {"num_photos", "is_anomalous", "flagged_share", "confusion", "verdicts"}
    assert classes["crack"].keys() == classes["good"].keys() | set(METRICS)
    # Rejected is what is brighter than all 32 calibration photos (p = 1/33); 10 to 15 of 255 are like many of them.
    assert classes["crack"]["verdicts"] == {"reject": 4}
    assert classes["good"]["verdicts"] == {"reject": 1, "accept": 5}
    assert 0 <= classes["good"]["flagged_share"] < classes["crack"]["flagged_share"] <= 1


def test_photos_without_labels_are_left_out(brightness: Model, mvtec: Path) -> None:
    photos = Manifest.read(mvtec).photos
    unknown = tuple(replace(photo, label="", is_anomalous=None) if photo.label == "dent" else photo for photo in photos)
    metrics = evaluate(brightness, Manifest(unknown)).metrics
    assert (metrics["num_anomalous"], list(metrics["classes"])) == (4, ["crack", "good"])
    with pytest.raises(ManifestError, match=r"^The split dev has no labelled photos to evaluate on; --split names an"):
        evaluate(brightness, Manifest(unknown), split="dev")


def test_flags_without_labels_are_enough(brightness: Model, mvtec: Path) -> None:
    photos = tuple(replace(photo, label="") for photo in Manifest.read(mvtec).photos)
    metrics = evaluate(brightness, Manifest(photos)).metrics
    assert list(metrics["classes"]) == ["anomalous", "normal"]
    assert metrics["image_auroc"]["value"] == 1.0


@pytest.mark.parametrize("is_anomalous", [False, True])
def test_one_kind_of_photo_alone_gives_nulls(
    brightness: Model, mvtec: Path, tmp_path: Path, is_anomalous: bool
) -> None:
    photos = tuple(photo for photo in Manifest.read(mvtec).photos if photo.is_anomalous == is_anomalous)
    evaluation = evaluate(brightness, Manifest(photos))
    for name in (*METRICS[:3], "trivial"):
        assert evaluation.metrics[name] is None
    assert (evaluation.metrics["pixel_auroc"] is None) == (not is_anomalous)  # a defect photo has normal pixels too
    assert evaluation.metrics.keys() == KEYS
    assert {of["flagged_share"] for of in evaluation.metrics["classes"].values()} == {None}
    write_to_folder(evaluation, brightness, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == evaluation.metrics


def test_without_masks_or_without_maps_pixels_are_not_measured(brightness: Model, mvtec: Path) -> None:
    photos = tuple(replace(photo, mask=None) for photo in Manifest.read(mvtec).photos)
    metrics = evaluate(brightness, Manifest(photos)).metrics
    assert (metrics["pixel_auroc"], metrics["aupro_03"]) == (None, None)
    assert metrics["image_auroc"]["value"] == 1.0


def test_a_defect_without_a_mask_says_nothing_of_pixels(brightness: Model, mvtec: Path) -> None:
    """Its pixels are neither known to be normal, which bright cracks would spoil, nor known to be defects."""
    shutil.rmtree(mvtec / "ground_truth" / "crack")
    metrics = evaluate(brightness, Manifest.read(mvtec)).metrics
    assert metrics["classes"]["crack"]["pixel_auroc"] is None
    assert metrics["classes"]["dent"]["pixel_auroc"] == metrics["pixel_auroc"]
    assert metrics["pixel_auroc"]["value"] == pytest.approx(1.0)


def test_masks_that_cover_everything_give_nulls(brightness: Model, mvtec: Path) -> None:
    photos = tuple(photo for photo in Manifest.read(mvtec).photos if photo.label != "good")
    for photo in photos:
        assert photo.mask is not None
        Image.new("L", (32, 32), 255).save(photo.mask)
    assert evaluate(brightness, Manifest(photos)).metrics["pixel_auroc"] is None


def test_masks_that_cannot_be_read_are_refused(brightness: Model, mvtec: Path) -> None:
    data = Manifest.read(mvtec)
    (mvtec / "ground_truth" / "crack" / "001_mask.png").write_text("not a picture")
    with pytest.raises(ManifestError, match=r"^The mask .*001_mask\.png cannot be read: not a picture in a known"):
        evaluate(brightness, data)
    (mvtec / "ground_truth" / "crack" / "001_mask.png").unlink()
    with pytest.raises(ManifestError, match=r"^These masks are missing: .*001_mask\.png\.$"):
        evaluate(brightness, data)


def test_unreadable_photos_are_listed_and_left_out(brightness: Model, mvtec: Path) -> None:
    (mvtec / "test" / "crack" / "001.png").write_bytes(b"")
    evaluation = evaluate(brightness, Manifest.read(mvtec))
    assert [(photo.path.name, reason) for photo, reason in evaluation.unreadable] == [("001.png", "the file is empty")]
    assert evaluation.metrics["num_unreadable"] == 1
    assert evaluation.metrics["classes"]["crack"]["num_photos"] == 3
    assert evaluation.metrics["pixel_auroc"]["value"] == 1.0
    for path in (mvtec / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InlierError, match=r"^None of the 12 labelled photos of the split test could be read\.$"):
        evaluate(brightness, Manifest.read(mvtec))


def test_everything_is_traced_and_written(model: Model, data: Manifest, tmp_path: Path) -> None:
    evaluation = evaluate(model, data, seed=3, command="inlier evaluate M D --out E --seed 3")
    metrics = evaluation.metrics
    assert metrics.keys() == KEYS
    assert metrics["command"] == "inlier evaluate M D --out E --seed 3"
    assert (metrics["model"], metrics["fitted_on"]) == (model.identity, model.facts["data_fingerprint"])
    assert metrics["data_fingerprint"] == data.fingerprint()
    assert (metrics["seed"], metrics["split"], metrics["num_unreadable"]) == (3, "test", 0)
    assert metrics["versions"]["inlier"] == model.facts["versions"]["inlier"]
    assert metrics["pixel_auroc"].keys() == INTERVAL

    write_to_folder(evaluation, model, tmp_path / "out")
    write_to_folder(evaluation, model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.html", "metrics.json", "scores.parquet",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == metrics
    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert [row["path"] for row in rows] == [str(photo.path) for photo in data.select("test").photos]
    assert [row["score"] for row in rows] == evaluation.scores.tolist()
    assert {"label", "is_anomalous", "group", "p_value", "verdict", "brightness"} <= rows[0].keys()


def test_the_same_request_gives_the_same_numbers(brightness: Model, mvtec: Path) -> None:
    data = Manifest.read(mvtec)
    assert evaluate(brightness, data, seed=1).metrics == evaluate(brightness, data, seed=1, workers=0).metrics


def test_another_split_is_evaluated_on_request(brightness: Model, mvtec: Path) -> None:
    metrics = evaluate(brightness, Manifest.read(mvtec), split="train").metrics
    assert (metrics["split"], metrics["num_normal"], metrics["num_anomalous"]) == ("train", 4, 0)


def test_other_folders_are_not_written_to(brightness: Model, mvtec: Path, tmp_path: Path) -> None:
    evaluation = evaluate(brightness, Manifest.read(mvtec))
    sentence = rf"^{re.escape(str(mvtec))} holds something else than an evaluation; choose another --out, or remove it"
    with pytest.raises(InlierError, match=sentence):
        check_target(mvtec)
    with pytest.raises(InlierError, match=sentence):
        write_to_folder(evaluation, brightness, mvtec)
    with pytest.raises(InlierError, match=r"^Nothing can be written to .*: File name too long\.$"):
        write_to_folder(evaluation, brightness, tmp_path / ("e" * 300))


def test_one_photo_is_scored_as_inspect_scores_it(brightness: Model, mvtec: Path) -> None:
    photo = Photo(mvtec / "test" / "crack" / "002.png", "test", "crack", is_anomalous=True)
    evaluation = evaluate(brightness, Manifest((photo,)))
    assert evaluation.scores.tolist() == [pytest.approx(200 / 255)]
    assert evaluation.table["verdict"].to_pylist() == ["reject"]


def test_the_share_of_components_named_rightly_is_measured(model: Model, data: Manifest) -> None:
    """On normal photos alone, and by hand."""
    evaluation = evaluate(model, data)
    rows = [row for row in evaluation.table.to_pylist() if not row["is_anomalous"]]
    assert {row["label"] for row in rows} == set(model.facts["components"]) == {"piston-crown", "bolted-flange"}
    share = np.mean([row["component"] == row["label"] for row in rows])
    found = evaluation.metrics["component_accuracy"]
    assert found["value"] == pytest.approx(share) and found["low"] <= share <= found["high"]
    without = evaluate(replace(model, components=None), data)
    assert without.metrics["component_accuracy"] is None and "component" not in without.table.column_names
