from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, ManifestError
from inlier.model import Model, References
from inlier.updating import update
from inlier.workflow import fit, inspect_photos

SECTIONS = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "patchcore": {"coreset_ratio": 1.0, "map_size": 32},
}
MakePhotos = Callable[..., Manifest]


@pytest.fixture
def photos(tmp_path: Path) -> MakePhotos:
    """Writes photos of noise, one for each number, in groups of two unless they shall have none."""

    def make(
        first: int, stop: int, *, split: str = "train", has_groups: bool = True, folder: str = "photos"
    ) -> Manifest:
        (tmp_path / folder).mkdir(exist_ok=True)
        made = []
        for number in range(first, stop):
            noise = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path := tmp_path / folder / f"{number:03d}.png")
            group = f"part {number // 2}" if has_groups else ""
            made.append(Photo(path, split, group=group))  # type: ignore[arg-type]
        return Manifest(tuple(made))

    return make


def _fit(data: Manifest, detector: str, *, augment: int = 0) -> Model:
    return fit(SECTIONS | {"fit": {"detector": detector, "augment": augment}}, data)[0]


def _scores(model: Model, data: Manifest) -> list[float]:
    return [float(found.verdict.score or 0) for found in inspect_photos(model, data.photos)]


@pytest.mark.parametrize("detector", ["patchcore", "photo-neighbors", "photo-subspace", "baseline"])
def test_an_updated_model_scores_like_one_fitted_on_all(detector: str, photos: MakePhotos) -> None:
    old, new, test = photos(0, 8), photos(8, 14), photos(20, 24, split="test")
    everything = Manifest(old.photos + new.photos)
    model = _fit(old, detector, augment=1)
    before = _scores(model, test)
    updated, unreadable = update(model, Manifest(new.photos + old.photos[:3] + test.photos))
    assert not unreadable
    assert _scores(model, test) == before  # it stays as it was
    whole = _fit(everything, detector, augment=1)
    assert _scores(updated, test) == pytest.approx(_scores(whole, test), rel=1e-3)
    assert updated.references.names == whole.references.names
    assert updated.references.groups == whole.references.groups
    assert updated.references.digests == whole.references.digests
    facts = updated.facts
    assert (facts["num_added"], facts["num_known"], facts["num_removed"], facts["num_fitted"]) == (6, 3, 0, 14)
    assert (facts["num_views"], facts["parent"]) == (14, model.identity)
    assert facts["parent_fingerprint"] == model.facts["data_fingerprint"] != facts["data_fingerprint"]


def test_evidence_names_a_photo_of_the_update(photos: MakePhotos) -> None:
    new = photos(8, 12)
    updated, _ = update(_fit(photos(0, 8), "patchcore"), new)
    for photo, inspection in zip(new.photos, inspect_photos(updated, new.photos), strict=True):
        assert updated.references.names[inspection.evidence[0].reference] == str(photo.path)


def test_new_photos_calibrate_by_detectors_that_have_not_seen_their_group(photos: MakePhotos) -> None:
    old, new = photos(0, 8), photos(8, 14)
    model = _fit(old, "photo-neighbors")
    updated, _ = update(model, new)
    calibration = updated.calibration
    assert len(calibration.normal_scores) == 8 + 6 == updated.facts["num_calibration"]
    assert {*model.calibration.normal_scores} <= {*calibration.normal_scores}
    for group in ("part 4", "part 5", "part 6"):  # three folds of one group each
        rest = Manifest(old.photos + tuple(photo for photo in new.photos if photo.group != group))
        held_out = Manifest(tuple(photo for photo in new.photos if photo.group == group))
        expected = sorted(_scores(_fit(rest, "photo-neighbors"), held_out))
        assert calibration.normal_scores[calibration.groups == group] == pytest.approx(expected, rel=1e-3)
    sentence = "; further photos scored by the model before the update, joined with the other folds of the new photos"
    assert updated.facts["calibration"] == model.facts["calibration"] + sentence
    again, _ = update(updated, photos(14, 16))
    assert again.facts["calibration"] == updated.facts["calibration"]  # and does not grow


def test_photos_of_known_groups_do_not_calibrate_nor_do_dev_photos_twice(photos: MakePhotos) -> None:
    model = _fit(photos(0, 7), "photo-neighbors")  # photo 7 is of the group of photo 6
    dev = photos(10, 14, split="dev")
    updated, _ = update(model, Manifest(photos(7, 8).photos + dev.photos))
    assert updated.facts["num_added"] == 1
    assert sorted(updated.calibration.groups.tolist()) == sorted(
        [*model.calibration.groups.tolist(), *(photo.group for photo in dev.photos)]
    )
    with pytest.raises(
        ManifestError, match=r"^There is nothing to add: the model knows all 1 normal photos of train al"
    ):
        update(updated, Manifest(photos(7, 8).photos + dev.photos))


def test_the_same_bytes_elsewhere_are_known_and_a_name_with_other_bytes_is_new(
    photos: MakePhotos, tmp_path: Path
) -> None:
    old = photos(0, 4, has_groups=False)
    model = _fit(old, "photo-neighbors")
    shutil.copy(old.photos[0].path, tmp_path / "copy.png")
    shutil.copy(photos(9, 10, folder="other").photos[0].path, old.photos[1].path)  # a camera counts from 1 again
    data = Manifest((Photo(tmp_path / "copy.png", "train"), old.photos[1]))
    updated, _ = update(model, data)
    assert (updated.facts["num_known"], updated.facts["num_added"]) == (1, 1)
    assert updated.references.names == (*model.references.names, str(old.photos[1].path))


@pytest.mark.parametrize("detector", ["patchcore", "photo-neighbors", "photo-subspace", "combined"])
def test_removed_groups_were_never_there(detector: str, photos: MakePhotos) -> None:
    old, test = photos(0, 12), photos(20, 23, split="test")
    model = _fit(old, detector, augment=1)
    updated, _ = update(model, Manifest(old.photos[4:6]), remove=["part 2"])
    left = Manifest(old.photos[:4] + old.photos[6:])
    whole = _fit(left, detector, augment=1)
    if detector != "combined":  # whose units stay those of the calibration
        assert _scores(updated, test) == pytest.approx(_scores(whole, test), rel=1e-3)
    assert updated.references.names == whole.references.names
    assert sorted(updated.calibration.groups.tolist()) == sorted(photo.group for photo in left.photos)
    assert (updated.facts["num_removed"], updated.facts["num_fitted"], updated.facts["num_added"]) == (2, 10, 0)
    assert updated.facts["calibration"] == model.facts["calibration"]


def test_removing_and_adding_go_together(photos: MakePhotos) -> None:
    old, new, test = photos(0, 8), photos(8, 12), photos(20, 23, split="test")
    updated, _ = update(_fit(old, "patchcore"), new, remove=["part 0", "part 3"])
    whole = _fit(Manifest(old.photos[2:6] + new.photos), "patchcore")
    assert _scores(updated, test) == pytest.approx(_scores(whole, test), rel=1e-4)
    assert updated.references.names == whole.references.names


def test_what_cannot_be_removed_is_refused(photos: MakePhotos) -> None:
    old = photos(0, 6)
    model = _fit(old, "photo-subspace")
    with pytest.raises(ConfigError, match=r"^The model knows no group part 9; it has part 0, part 1, part 2\.$"):
        update(model, old, remove=["part 9"])
    sentence = (
        r"^photo-subspace forgets photos only when it sees them again: DATA must hold all .*, and it has 1 of 2\.$"
    )
    with pytest.raises(ConfigError, match=sentence):
        update(model, Manifest(old.photos[:1]), remove=["part 0"])
    with pytest.raises(
        ConfigError, match=r"^These photos cannot be removed: PhotoSubspace must keep at least one photo"
    ):
        update(model, old, remove=["part 0", "part 1", "part 2"])
    earlier = replace(model, references=References(model.references.names, model.references.thumbnails))
    with pytest.raises(
        ConfigError, match=r"^The model was fitted by an earlier version of inlier and does not say whi"
    ):
        update(earlier, old, remove=["part 0"])


def test_a_model_of_an_earlier_version_knows_photos_by_their_paths(photos: MakePhotos) -> None:
    old, test = photos(0, 6), photos(20, 23, split="test")
    model = _fit(old, "patchcore")
    state = {name: of for name, of in model.detector.state_dict().items() if name != "seen_"}
    references = References(model.references.names, model.references.thumbnails)
    earlier = replace(model, references=references, detector=model.detector.load_state_dict(state))
    new = photos(6, 8)
    lone = photos(8, 9, has_groups=False)
    updated, _ = update(earlier, Manifest(old.photos[:2] + new.photos + lone.photos))
    whole = _fit(Manifest(old.photos + new.photos + lone.photos), "patchcore")
    assert _scores(updated, test) == pytest.approx(_scores(whole, test), rel=1e-4)
    assert (updated.facts["num_known"], updated.facts["num_added"]) == (2, 3)
    assert not updated.references.has_groups
    assert len(updated.calibration.normal_scores) == 6 + 1  # a group may have been seen, a photo of none was not


def test_unreadable_photos_are_told_and_none_but_these_are_refused(photos: MakePhotos, tmp_path: Path) -> None:
    model = _fit(photos(0, 4), "photo-neighbors")
    (tmp_path / "broken.png").write_bytes(b"no photo")
    broken = Photo(tmp_path / "broken.png", "train")
    updated, unreadable = update(model, Manifest((*photos(4, 5).photos, broken)))
    assert [photo for photo, _ in unreadable] == [broken]
    assert (updated.facts["num_unreadable"], updated.facts["num_added"]) == (1, 1)
    with pytest.raises(ManifestError, match=r"^None of the new photos could be read, the first because: "):
        update(model, Manifest((broken,)))


def test_a_detector_that_learns_all_at_once_is_refused(photos: MakePhotos, model: Model) -> None:
    config = {name: dict(section) for name, section in model.config.items()}
    config["fit"]["detector"] = "reverse-distillation"

    class Trained:
        layers, is_trained = (2, 3), True

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {}

    trained = replace(model, config=config, detector=Trained())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^reverse-distillation learns from all photos at once"):
        update(trained, photos(0, 2))
