from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from inlier.comparison import check_target, compare, model_names, sentence, verdict, write_to_folder
from inlier.data.manifest import Manifest, Photo
from inlier.decision.calibration import Calibration
from inlier.decision.compare import Difference
from inlier.decision.intervals import Interval
from inlier.errors import InlierError, ManifestError
from inlier.evaluation import evaluate
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureSet
from inlier.model import Model, References
from inlier.records import Prediction


class Channel:
    """A detector whose score is the mean of one colour; nothing is learned."""

    layers = (1,)

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def fit(self, features: FeatureSet) -> Self:
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        values = maps[1][:, self.channel]  # (B, h, w)
        return Prediction(values.mean(dim=(1, 2)), values)

    def state_dict(self) -> dict[str, Tensor]:
        return {"channel": torch.tensor(self.channel)}

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


def a_model(channel: int, **changes: Any) -> Model:
    config: dict[str, dict[str, Any]] = {
        "input": {"size": 16},
        "decide": {"false_alarm_rate": 0.05, "uncertain_rate": 0.2},
        "fit": {"detector": "channel"},
        "backbone": {"name": "pixels"},
    }
    calibration = Calibration(np.arange(32) / 100, map_maxima=np.arange(32) / 100)
    model = Model(config, Pixels(), Channel(channel), calibration, References((), ()))
    return replace(model, **changes)


RED, GREEN, BLUE = (a_model(channel) for channel in range(3))


@pytest.fixture
def photos(tmp_path: Path) -> Manifest:
    """24 normal and 24 anomalous photos: these are redder, a little greener, and no bluer."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(48):
        is_anomalous = index >= 24
        color = rng.uniform(60, 100, size=3) + is_anomalous * np.array([35.0, 8.0, 0.0])
        path = tmp_path / f"{index:02d}.png"
        Image.fromarray(np.tile(color.astype(np.uint8), (16, 16, 1))).save(path)
        found.append(Photo(path, "test", label="crack" if is_anomalous else "good", is_anomalous=is_anomalous))
    return Manifest(tuple(found))


def a_difference(value: float, p_value: float, *, ahead: int = 1, behind: int = 0, **changes: Any) -> Difference:
    gain = Interval(value, value - 0.021, value + 0.021)
    return replace(Difference(ahead, behind, gain, p_value, p_value, p_value, gain, p_value, is_same=False), **changes)


def test_a_better_model_is_found_and_two_that_are_guessing_are_not(photos: Manifest) -> None:
    comparison = compare({"red": RED, "green": GREEN, "blue": BLUE}, photos, seed=3, command="inlier compare")
    metrics = comparison.metrics
    flags = [bool(photo.is_anomalous) for photo in photos.photos]
    for model in metrics["models"]:
        scores = comparison.table[f"score_{model['name']}"].to_numpy()
        assert model["image_auroc"]["value"] == pytest.approx(roc_auc_score(flags, scores))
    pairs = {(pair["ahead"], pair["behind"]): pair for pair in metrics["pairs"]}
    assert pairs["red", "green"]["is_real"] and pairs["red", "blue"]["is_real"]
    assert not next(pair for names, pair in pairs.items() if "red" not in names)["is_real"]
    assert metrics["verdict"] == "red is better than each of the other 2 models."
    assert (metrics["num_normal"], metrics["num_anomalous"], metrics["seed"]) == (24, 24, 3)
    assert metrics["data_fingerprint"] == photos.fingerprint()
    assert metrics["models"][0].keys() >= {"name", "identity", "detector", "backbone", "image_auroc", "aupro_03"}
    assert metrics["notes"] == [note for note in metrics["notes"] if "trivial statistic" in note]


def test_each_model_measures_what_evaluate_measures(photos: Manifest) -> None:
    metrics = compare({"red": RED, "green": GREEN}, photos, seed=2).metrics
    for model, of in zip((RED, GREEN), metrics["models"], strict=True):
        assert of["image_auroc"] == evaluate(model, photos, seed=2).metrics["image_auroc"]


def test_a_model_does_not_differ_from_itself(photos: Manifest) -> None:
    metrics = compare({"red": RED, "red (2)": RED}, photos).metrics
    (pair,) = metrics["pairs"]
    assert metrics["verdict"] == pair["sentence"] == "red and red (2) score every photo alike."
    assert (pair["p_holm"], pair["gain"], pair["is_real"]) == (1.0, {"value": 0.0, "low": 0.0, "high": 0.0}, False)


def test_a_photo_that_cannot_be_read_is_left_out_for_all(photos: Manifest) -> None:
    photos.photos[5].path.write_bytes(b"no photo")
    comparison = compare({"red": RED, "green": GREEN}, photos)
    assert [photo for photo, _ in comparison.unreadable] == [photos.photos[5]]
    assert comparison.metrics["num_unreadable"] == 1
    assert (comparison.metrics["num_normal"], len(comparison.table)) == (23, 47)
    assert str(photos.photos[5].path) not in comparison.table["path"].to_pylist()


def test_the_folder_holds_numbers_scores_and_a_page(photos: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    comparison = compare({"red": RED, "green": GREEN}, photos)
    for _ in range(2):  # an earlier comparison is written over
        write_to_folder(comparison, out)
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == comparison.metrics
    table = pq.read_table(out / "scores.parquet")
    assert table.column_names == ["path", "label", "is_anomalous", "group", "score_red", "score_green"]
    assert set(table["label"].to_pylist()) == {"good", "crack"}
    assert comparison.metrics["verdict"] in (out / "comparison.html").read_text(encoding="utf-8")
    (out / "comparison.json").unlink()
    with pytest.raises(InlierError, match=r"out holds something else than a comparison; choose another --out"):
        check_target(out)


def test_what_flatters_a_model_is_said(photos: Manifest) -> None:
    seen = References((str(photos.photos[0].path), str(photos.photos[1].path), "other.png"), (b"",) * 3)
    models = {"red": a_model(0, references=seen, facts={"data_fingerprint": "1"}), "green": GREEN}
    notes = compare(models, photos).metrics["notes"]
    assert "red was fitted on 2 of these photos, which flatters it." in notes
    assert "The models were not fitted on the same photos: the difference is not one of method alone." in notes


def test_few_photos_or_groups_are_said(photos: Manifest) -> None:
    few = Manifest(photos.photos[:30])
    notes = compare({"red": RED, "green": GREEN}, few).metrics["notes"]
    assert "Of anomalous photos there are 6: only a large difference can be found." in notes
    grouped = Manifest(tuple(replace(of, group=f"part {of.is_anomalous and i % 3}") for i, of in enumerate(few.photos)))
    notes = compare({"red": RED, "green": GREEN}, grouped).metrics["notes"]
    assert (
        "Of anomalous photos there are 6, worth 3.0 independent ones by their groups: only a large difference can be "
        "found." in notes
    )
    assert any(note.startswith("Of normal photos there are 24, worth 1.0 independent ones") for note in notes)


def test_both_kinds_of_photo_are_needed(photos: Manifest) -> None:
    models = {"red": RED, "green": GREEN}
    with pytest.raises(
        ManifestError, match=r"^The split test has no anomalous photos, and models are compared on both"
    ):
        compare(models, Manifest(photos.photos[:24]))
    with pytest.raises(ManifestError, match=r"^The split dev has no normal and no anomalous photos,"):
        compare(models, photos, split="dev")
    for photo in photos.photos[24:]:
        photo.path.write_bytes(b"no photo")
    with pytest.raises(InlierError, match=r"^Of the normal or of the anomalous photos of the split test none could be"):
        compare(models, photos)
    with pytest.raises(ValueError, match=r"^models of compare must be at least 2, got 1\.$"):
        compare({"red": RED}, photos)


@pytest.mark.parametrize(
    ("difference", "num_pairs", "expected"),
    [
        (a_difference(0.031, 0.004), 1, "B is better than A by 3.1 points, 95 % interval 1.0 to 5.2 (p = 0.004)."),
        (
            a_difference(0.031, 0.0004, p_holm=0.0012),
            3,
            "B is better than A by 3.1 points, 95 % interval 1.0 to 5.2 "
            "(p = 0.001, Holm-corrected over 3 comparisons).",
        ),
        (
            a_difference(0.022, 0.04, p_holm=0.12),
            3,
            "No difference between B and A was found: B is ahead by 2.2 points, 95 % interval 0.1 to 4.3 "
            "(p = 0.12, Holm-corrected over 3 comparisons; p = 0.040 alone).",
        ),
        (
            a_difference(0.0208, 0.53),
            1,
            "No difference between B and A was found: B is ahead by 2.1 points, 95 % interval 0.0 to 4.2 (p = 0.53).",
        ),
        (
            a_difference(0.0, 1.0),
            1,
            "No difference between B and A was found: neither is ahead, 95 % interval -2.1 to 2.1 (p = 1.00).",
        ),
        (a_difference(0.1, 0.0001), 1, "B is better than A by 10.0 points, 95 % interval 7.9 to 12.1 (p < 0.001)."),
        (a_difference(0.0, 1.0, is_same=True), 1, "B and A score every photo alike."),
    ],
)
def test_the_sentence_of_a_pair(difference: Difference, num_pairs: int, expected: str) -> None:
    assert sentence(difference, ["A", "B"], num_pairs) == expected


def test_the_sentence_of_more_than_two() -> None:
    singles, names = [Interval(value, 0.0, 1.0) for value in (0.8, 0.934, 0.9)], ["A", "B", "C"]

    def said(*p_values: float) -> str:
        pairs = ((1, 0), (2, 0), (1, 2))
        differences = [a_difference(0.1, p, ahead=a, behind=b) for p, (a, b) in zip(p_values, pairs, strict=True)]
        return verdict(singles, differences, names)

    assert said(0.01, 0.01, 0.01) == "B is better than each of the other 2 models."
    highest = "B has the highest AUROC, 0.934."
    assert said(0.01, 0.01, 0.5) == f"{highest} It is better than A; no difference from C was found."
    assert said(0.5, 0.01, 0.5) == f"{highest} No difference from A and C was found."
    assert said(0.5, 0.5, 0.5) == "No difference between the 3 models was found."
    alike = [a_difference(0.0, 1.0, ahead=a, behind=b, is_same=True) for a, b in ((1, 0), (2, 0), (2, 1))]
    assert verdict([Interval(0.9, 0.8, 1.0)] * 3, alike, names) == "All 3 models score every photo alike."


def test_names_are_as_short_as_they_can_be() -> None:
    assert model_names([Path("a/model"), Path("b/model"), Path("/c/other")]) == ["a/model", "b/model", "other"]
    assert model_names([Path("model"), Path("model"), Path("../model")])[1].endswith("model (2)")
    assert model_names([Path("x/m")] * 3) == ["m", "m (2)", "m (3)"]
