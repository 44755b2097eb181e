from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from inlier.adapted import AdaptedBackbone
from inlier.comparison import compare
from inlier.cross_validation import cross_validate
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, ManifestError
from inlier.features.backbone import Backbone
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.selection import select
from inlier.workflow import FEW_PHOTOS, VIEWS_OF_FEW, fit, inspect_photos

TINY: dict[str, dict[str, Any]] = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "fit": {"augment": 0},
}
QUICK = TINY | {"fit": {"detector": "photo-neighbors", "augment": 0}}


def scores(model: Model, photos: tuple[Photo, ...], *, batch_size: int = 8) -> NDArray[np.float64]:
    inspections = inspect_photos(model, photos, batch_size=batch_size)
    return np.array([inspection.verdict.score for inspection in inspections], dtype=np.float64)


def is_same(one: Model, other: Model) -> bool:
    """Whether two models learned the same, to the last bit."""
    states = one.detector.state_dict(), other.detector.state_dict()
    return states[0].keys() == states[1].keys() and all(
        tensor.equal(states[1][name]) for name, tensor in states[0].items()
    )


def write_photos(folder: Path, number: int) -> tuple[Path, ...]:
    """Photos of noise, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{index}.png" for index in range(number))
    for index, path in enumerate(paths):
        noise = np.random.default_rng(index).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def test_a_model_says_what_it_comes_from(model: Model, data: Manifest) -> None:
    assert model.facts["num_fitted"] == 18
    assert model.facts["num_calibration"] == len(model.calibration.normal_scores) == 26
    assert model.facts["calibration"] == "cross-conformal scores, 3 folds by group and scores of the dev photos"
    assert model.facts["num_unreadable"] == 0
    normal = tuple(photo for photo in data.normal().photos if photo.split != "test")
    assert model.facts["data_fingerprint"] == Manifest(normal).fingerprint()
    assert set(model.calibration.groups) == {photo.group for photo in normal}


def test_planted_defects_score_above_the_normal_photos(model: Model, data: Manifest) -> None:
    """Pictures of anything else must; cracks of a few pixels in photos this small need not."""
    test = data.select("test").photos
    unrelated = tuple(photo for photo in test if photo.label.startswith("unrelated"))
    normal = tuple(photo for photo in test if not photo.is_anomalous)
    assert scores(model, unrelated).min() > np.median(scores(model, normal))


def test_scores_depend_on_neither_batch_size_nor_order(model: Model, data: Manifest) -> None:
    alone = scores(model, data.photos, batch_size=1)
    for batch_size in (8, 32):
        np.testing.assert_allclose(scores(model, data.photos, batch_size=batch_size), alone, rtol=1e-3, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = scores(model, tuple(data.photos[place] for place in order))
    np.testing.assert_allclose(shuffled, alone[order], rtol=1e-3, atol=1e-4)


def test_several_batches_at_once_change_neither_a_model_nor_a_verdict(
    model: Model, data: Manifest, set_num_threads: Callable[[int], None]
) -> None:
    photos = [*data.photos] * 2
    fitted, given = [], []
    for num_threads in (1, 3):
        set_num_threads(num_threads)
        fitted.append(fit(QUICK, data)[0])
        given.append([of.verdict for of in inspect_photos(model, photos, batch_size=5)])
    assert fitted[0].references == fitted[1].references
    states = [of.detector.state_dict() for of in fitted]
    assert all(torch.allclose(tensor, states[1][name], rtol=1e-5) for name, tensor in states[0].items())
    for one, other in zip(*given, strict=True):
        assert (one.path, one.verdict) == (other.path, other.verdict)
        assert one.score == pytest.approx(other.score, rel=1e-5)


def test_the_same_photos_in_any_order_give_the_same_model(data: Manifest, model: Model) -> None:
    order = np.random.default_rng(1).permutation(len(data))
    again, _ = fit(TINY, Manifest(tuple(data.photos[place] for place in order)), workers=0)
    assert is_same(again, model)
    assert again.identity == model.identity
    assert again.references == model.references


def test_test_photos_decide_nothing(data: Manifest, model: Model, tmp_path: Path) -> None:
    """Other test photos, with other labels, give the same folder but for the bytes of no file."""
    others = write_photos(tmp_path, 5)
    test = [Photo(path, "test", "crack", is_anomalous=index > 2) for index, path in enumerate(others)]
    rest = [photo for photo in data.photos if photo.split != "test"]
    other, _ = fit(TINY, Manifest((*test, *rest)))
    for name, fitted in (("one", model), ("other", other)):
        fitted.save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_anomalous_photos_are_not_learned_from_wherever_they_are(data: Manifest) -> None:
    marked = tuple(
        replace(photo, is_anomalous=True) if photo.group == data.photos[0].group else photo for photo in data.photos
    )
    fitted, _ = fit(QUICK, Manifest(marked))
    assert fitted.facts["num_fitted"] == 12
    assert not {str(photo.path) for photo in marked if photo.is_anomalous} & set(fitted.references.names)


def test_the_precisions_agree(model: Model, data: Manifest) -> None:
    """One model, its features in either precision: no score moves by more than a tenth of the scores' spread."""
    lower = Backbone(model.backbone.name, layers=model.backbone.layers, precision="bfloat16")
    exact, rounded = scores(model, data.photos), scores(replace(model, backbone=lower), data.photos)
    difference = np.abs(exact - rounded) / exact.std()
    assert 0 < difference.max() < 0.1
    assert np.median(difference) < 0.05


def test_unreadable_photos_are_listed_and_left_out(tmp_path: Path) -> None:
    photos = [Photo(path, "train") for path in write_photos(tmp_path, 6)]
    photos[2].path.write_text("not a photo")
    photos[4].path.write_bytes(photos[4].path.read_bytes()[:200])
    fitted, unreadable = fit(QUICK, Manifest(tuple(photos)))
    assert [(photo.path.name, reason.partition(":")[0]) for photo, reason in unreadable] == [
        ("2.png", "not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF)"),
        ("4.png", "truncated"),
    ]
    assert fitted.facts["num_fitted"] == 4 and fitted.facts["num_unreadable"] == 2
    assert [Path(name).name for name in fitted.references.names] == ["0.png", "1.png", "3.png", "5.png"]


def test_a_photo_to_learn_from_and_one_to_calibrate_on_may_have_the_same_name(tmp_path: Path) -> None:
    (one,), (other,) = write_photos(tmp_path / "train" / "good", 1), write_photos(tmp_path / "dev" / "good", 1)
    fitted, _ = fit(QUICK, Manifest((Photo(one, "train"), Photo(other, "dev"))))
    assert (fitted.facts["num_fitted"], fitted.facts["num_calibration"]) == (1, 1)


@pytest.mark.parametrize("detector", ["combined", "photo-neighbors"])
def test_one_photo_is_enough_and_promises_nothing(detector: str, tmp_path: Path) -> None:
    """Its altered copies are learned from too, and keep the heat of its own kind low."""
    (path, other) = write_photos(tmp_path, 2)
    fitted, _ = fit(TINY | {"fit": {"detector": detector}}, Manifest((Photo(path, "train"),)))
    assert (fitted.facts["num_fitted"], fitted.facts["num_views"], fitted.facts["num_calibration"]) == (1, 7, 0)
    assert fitted.facts["calibration"] == "no photos to calibrate on"
    assert "promise nothing" in fitted.notes[0]
    fitted.save(tmp_path / "model")
    known, new = inspect_photos(Model.load(tmp_path / "model"), [Photo(path, "test"), Photo(other, "test")])
    assert known.verdict.verdict == new.verdict.verdict == "accept" and new.verdict.p_value == 1
    assert known.verdict.score is not None and new.verdict.score is not None
    assert known.verdict.score < new.verdict.score
    assert (len(fitted.calibration.map_maxima) == 7) == (new.anomaly_map is not None)


def test_few_photos_are_learned_from_in_altered_copies_and_many_are_not(tmp_path: Path) -> None:
    photos = tuple(Photo(path, "train") for path in write_photos(tmp_path, FEW_PHOTOS + 1))
    sections = TINY | {"fit": {"detector": "photo-neighbors"}}
    few, _ = fit(sections, Manifest(photos[:-1]))
    many, _ = fit(sections, Manifest(photos))
    assert (few.config["fit"]["augment"], few.facts["num_views"]) == (VIEWS_OF_FEW, VIEWS_OF_FEW * FEW_PHOTOS)
    assert (many.config["fit"]["augment"], many.facts["num_views"]) == (0, 0)
    assert few.facts["num_fitted"] == few.facts["num_calibration"] == FEW_PHOTOS
    assert few.references.names[:2] == (str(photos[0].path), f"{photos[0].path} (turned by 90 degrees)")
    wanted, _ = fit(TINY | {"fit": {"detector": "photo-neighbors", "augment": 2}}, Manifest(photos[:3]))
    assert wanted.facts["num_views"] == 6


def test_labelled_classes_are_named_in_the_verdict(tmp_path: Path) -> None:
    photos = []
    for label, level in (("piston", 60), ("valve", 200)):
        for number, path in enumerate(write_photos(tmp_path / label, 6)):
            flat = np.full((40, 50, 3), level + number, dtype=np.uint8)
            flat[:, :25] //= 2 if label == "piston" else 1
            Image.fromarray(flat).save(path)
            photos.append(Photo(path, "train", label, is_anomalous=False))
    fitted, _ = fit(QUICK, Manifest(tuple(photos)))
    assert fitted.facts["components"] == ["piston", "valve"]
    fitted.save(tmp_path / "model")
    for photo, inspection in zip(photos, inspect_photos(Model.load(tmp_path / "model"), photos), strict=True):
        assert inspection.verdict.component == photo.label
        assert 0.5 < (inspection.verdict.component_probability or 0) <= 1


def test_labels_that_say_no_more_than_normal_name_nothing(tmp_path: Path) -> None:
    labels = ("good", "OK", "normal", "good", "ok", "Normal", "single")
    paths = write_photos(tmp_path, len(labels))
    photos = [Photo(path, "train", label, is_anomalous=False) for path, label in zip(paths, labels, strict=True)]
    fitted, _ = fit(QUICK, Manifest(tuple(photos)))
    assert fitted.components is None and "components" not in fitted.config and fitted.facts["components"] == []
    (inspection,) = inspect_photos(fitted, photos[:1])
    assert (inspection.verdict.component, inspection.verdict.component_probability) == (None, None)


def test_a_background_is_learned_from_but_for_what_must_not_be(tmp_path: Path) -> None:
    photos = [Photo(path, "train") for path in write_photos(tmp_path / "own", 6)]
    photos.append(Photo(write_photos(tmp_path / "test", 1)[0], "test"))
    others = write_photos(tmp_path / "archive", 9)
    archive = [Photo(path, "test" if number == 8 else "train") for number, path in enumerate(others)]
    archive += [Photo(photo.path, "train") for photo in photos]  # what the data hold already, a test photo among it
    data = Manifest(tuple(photos))
    alone, _ = fit(QUICK, data)
    fitted, _ = fit(QUICK, data, background=Manifest(tuple(archive)))
    assert (alone.facts["num_background"], alone.facts["background_fingerprint"]) == (0, None)
    assert fitted.facts["num_background"] == 8
    assert fitted.facts["background_fingerprint"] == Manifest(tuple(archive[:8])).fingerprint()
    assert (fitted.facts["num_fitted"], fitted.facts["num_calibration"]) == (6, 6)
    assert not is_same(alone, fitted)


def test_a_background_that_is_of_no_use_is_refused(data: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"^patchcore takes no notice of a background; combined and photo-neighbors"):
        fit(TINY | {"fit": {"detector": "patchcore"}}, data, background=data)
    with pytest.raises(ManifestError, match=r"^The background has no photos outside the split test that the data do n"):
        fit(QUICK, data, background=data)


def test_classes_of_which_no_photo_can_be_read_are_told(tmp_path: Path) -> None:
    paths = write_photos(tmp_path, 6)
    labels = ("piston", "piston", "valve", "valve", "", "")
    photos = [Photo(path, "train", label, is_anomalous=False) for path, label in zip(paths, labels, strict=True)]
    for path in paths[:4]:
        path.write_bytes(b"")
    with pytest.raises(ManifestError, match=r"^Of the labelled normal photos of the split train no two of one class"):
        fit(QUICK, Manifest(tuple(photos)))


def test_an_adapted_backbone_serves_as_any_and_a_model_of_it_needs_its_folder_no_more(
    adapted: AdaptedBackbone, backbone_folder: Path, data: Manifest, tmp_path: Path
) -> None:
    shutil.copytree(backbone_folder, tmp_path / "ships")
    sections = QUICK | {"backbone": {"name": str(tmp_path / "ships"), "precision": "float32"}}
    fitted, _ = fit(sections, data)
    assert fitted.facts["backbone"] == {"network": "test_resnet", "identity": adapted.identity, **adapted.facts}
    (note,) = fitted.notes
    assert note.startswith("The backbone ships was not shown to help on its own data (no evidence: -0.4 points, -1.2")
    fitted.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "ships")
    loaded = Model.load((tmp_path / "model").rename(tmp_path / "moved"))
    assert (loaded.identity, loaded.notes) == (fitted.identity, fitted.notes)
    photos = data.select("test").photos
    assert np.array_equal(scores(loaded, photos), scores(fitted, photos))
    assert cross_validate(loaded, data, num_folds=2).metrics["notes"]
    elsewhere, _ = fit(QUICK | {"backbone": {"name": str(backbone_folder), "precision": "float32"}}, data)
    assert elsewhere.identity == fitted.identity


def test_a_plain_backbone_has_nothing_to_say(model: Model) -> None:
    assert model.facts["backbone"] is None


def test_adapted_and_plain_backbones_compare(data: Manifest, model: Model, backbone_folder: Path) -> None:
    fitted, _ = fit(QUICK | {"backbone": {"name": str(backbone_folder), "precision": "float32"}}, data)
    found = compare({"plain": model, "adapted": fitted}, data)
    assert [of["name"] for of in found.metrics["models"]] == ["plain", "adapted"]


def test_candidates_may_have_adapted_backbones(data: Manifest, backbone_folder: Path, adapted: AdaptedBackbone) -> None:
    candidates = [{"backbone": {"name": str(backbone_folder)}}]
    found = select(QUICK | {"select": {"candidates": candidates, "max_photos": 12}}, data)
    plain, other = found.trials
    assert "adapted" not in plain.config["backbone"]
    assert other.config["backbone"]["adapted"]["identity"] == adapted.identity
    fitted, _ = fit(other.config, data)  # what was resolved is taken as it is
    assert fitted.config["backbone"] == other.config["backbone"]


def test_a_training_leaves_checkpoints_where_asked_and_goes_on_from_them(tmp_path: Path) -> None:
    photos = Manifest(tuple(Photo(path, "train", group="ship") for path in write_photos(tmp_path / "photos", 3)))
    sections = TINY | {"fit": {"detector": "reverse-distillation", "augment": 0}}
    sections |= {"reverse-distillation": {"num_samples": 32, "width": 8}}
    plain, _ = fit(sections, photos)
    first, _ = fit(sections, photos, checkpoints=tmp_path / "training")
    (checkpoint,) = (tmp_path / "training").iterdir()
    written = checkpoint.stat().st_mtime_ns
    again, _ = fit(sections, photos, checkpoints=tmp_path / "training")
    assert checkpoint.stat().st_mtime_ns == written  # nothing was left to train
    assert is_same(first, plain) and is_same(again, plain)


def test_names_that_are_no_text_are_no_trouble(tmp_path: Path) -> None:
    paths = write_photos(tmp_path, 3)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xfclung.png"))
    paths[0].rename(odd)
    fitted, _ = fit(QUICK, Manifest(tuple(Photo(path, "train") for path in (odd, *paths[1:]))))
    fitted.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    assert loaded.references.names[-1].endswith(r"K\udcfclung.png")
    (inspection,) = inspect_photos(loaded, [Photo(odd, "test")])
    assert inspection.verdict.path.endswith(r"K\udcfclung.png") and inspection.verdict.error is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda paths: [Photo(paths[0], "train", is_anomalous=True), Photo(paths[1], "test")],
            r"^The split train has no normal photos to learn from; name their labels with --normal, or mark them",
        ),
        (
            lambda paths: [Photo(paths[3], "train"), Photo(paths[0], "dev")],
            r"^None of the normal photos of the split train could be read; 1 could not be read, the first because: t",
        ),
    ],
)
def test_too_few_photos_are_refused_in_a_sentence(
    tmp_path: Path, make: Callable[[tuple[Path, ...]], list[Photo]], sentence: str
) -> None:
    paths = write_photos(tmp_path, 4)
    paths[3].write_bytes(b"")
    with pytest.raises(ManifestError, match=sentence):
        fit(QUICK, Manifest(tuple(make(paths))))


def test_a_configuration_that_cannot_be_used_is_refused_before_a_photo_is_read(data: Manifest) -> None:
    def progress(task: str, total: int) -> Callable[[int], None]:
        raise AssertionError(task)

    for sections in ({"decide": {"false_alarm_rate": 2}}, {"patchcore": {"layers": [9]}}, {"input": {"size": 0}}):
        with pytest.raises(ConfigError):
            fit(sections, data, progress=progress)


def test_progress_adds_up(tmp_path: Path) -> None:
    told: dict[str, list[int]] = {}

    def progress(task: str, total: int) -> Callable[[int], None]:
        told[task] = [total, 0]

        def advance(steps: int) -> None:
            told[task][1] += steps

        return advance

    photos = [Photo(path, "train") for path in write_photos(tmp_path, 5)]
    photos[1].path.write_bytes(b"")
    fit(QUICK, Manifest(tuple(photos)), progress=progress)
    assert told == {"Reading photos": [5, 5], "Learning": [5, 5]}


def test_inspecting_keeps_the_order_and_every_photo(model: Model, data: Manifest, tmp_path: Path) -> None:
    good = data.select("test").photos[:3]
    photos = [good[0], Photo(tmp_path / "none.jpg", "test"), good[1], good[0], Photo(tmp_path, "test"), good[2]]
    inspections = list(inspect_photos(model, photos, batch_size=2))
    assert [inspection.verdict.path for inspection in inspections] == [str(photo.path) for photo in photos]
    assert [inspection.verdict.error for inspection in inspections] == [
        None, "the file does not exist", None, None, "a folder, not a file", None,
    ]  # fmt: skip
    for place in (1, 4):
        verdict = inspections[place].verdict
        assert (verdict.score, verdict.p_value, verdict.verdict) == (None, None, "unreadable")
        assert inspections[place].pixels is None and inspections[place].evidence == ()
    first, again = inspections[0].verdict, inspections[3].verdict  # another batch: equal but for rounding
    assert again.score == pytest.approx(first.score, rel=1e-4) and again.p_value == first.p_value
    assert list(inspect_photos(model, [])) == []


@pytest.mark.parametrize("augment", [0, 2])
def test_a_store_changes_nothing_but_the_time(data: Manifest, tmp_path: Path, augment: int) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
    photos = Manifest((Photo(broken, "train"), *data.photos))
    config = QUICK | {"fit": QUICK["fit"] | {"augment": augment}}
    plain, unreadable = fit(config, photos)
    for num_found in (0, 2):
        store = FeatureStore(tmp_path / "store")
        stored, still_unreadable = fit(config, photos, store=store)
        assert (store.num_found, store.num_filled) == (num_found, 2 - num_found)
        assert is_same(stored, plain) and stored.identity == plain.identity
        assert stored.references == plain.references
        assert still_unreadable == unreadable and [photo.path for photo, _ in unreadable] == [broken]
