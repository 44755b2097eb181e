"""Regions from configuration to verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.build import resolve
from inlier.copies import STRIDE, alter_all
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.decision.heatmap import outline
from inlier.detectors.regional import Regional
from inlier.errors import ConfigError
from inlier.experiments.memory import predict_peak_bytes
from inlier.features.regions import REGION
from inlier.features.store import FeatureStore
from inlier.inspection import inspect_to_folder
from inlier.model import Model
from inlier.reading import normal_groups
from inlier.workflow import NO_REGION, fit, inspect_photos

CONFIG: dict[str, dict[str, Any]] = {
    "input": {"size": 64},
    "fit": {"detector": "patchcore", "augment": 0},
    "patchcore": {"layers": [1, 2]},
    "regions": {"kind": "foreground"},
}


@pytest.fixture(scope="module")
def regional(data: Manifest) -> Model:
    return fit(CONFIG, data)[0]


def test_a_model_keeps_that_it_looks_at_regions(regional: Model, data: Manifest, tmp_path: Path) -> None:
    assert regional.config["regions"] == {"kind": "foreground"}
    regional.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    photos = data.select("test").photos
    before, after = (list(inspect_photos(model, photos)) for model in (regional, again))
    assert [of.verdict for of in before] == [of.verdict for of in after]
    for inspection in before:
        assert inspection.region is not None and inspection.region.dtype == np.bool_
        if inspection.region.any() and not inspection.region.all():
            assert inspection.anomaly_map is not None and (inspection.anomaly_map == 0).any()


@pytest.fixture
def blind(regional: Model) -> Iterator[Model]:
    """The model, for which no photo has a foreground."""
    detector = regional.detector
    assert isinstance(detector, Regional)
    found = detector.foreground_
    detector.foreground_ = replace(found, threshold=1e9)
    yield regional
    detector.foreground_ = found


def test_a_photo_whose_region_was_not_found_is_never_accepted(blind: Model, data: Manifest, tmp_path: Path) -> None:
    photos = data.select("train").photos
    inspections = list(inspect_photos(blind, photos))
    for inspection in inspections:
        assert inspection.region is not None and not inspection.region.any()
        assert inspection.verdict.verdict in ("uncertain", "reject")
        assert inspection.verdict.error == NO_REGION and inspection.verdict.score is not None
    assert any(inspection.verdict.verdict == "uncertain" for inspection in inspections)
    inspected = inspect_to_folder(blind, photos, tmp_path / "out", heatmaps="none")
    assert not inspected.counts.get("accept") and sum(inspected.counts.values()) == len(photos)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f'"remarks":["{NO_REGION}"]' in report


def test_an_inspection_of_regions_is_written(regional: Model, data: Manifest, tmp_path: Path) -> None:
    inspected = inspect_to_folder(regional, data.select("test").photos, tmp_path / "out", heatmaps="all")
    assert sum(inspected.counts.values()) == len(data.select("test"))
    assert list((tmp_path / "out" / "heatmaps").iterdir())


def with_masks(data: Manifest, folder: Path, *, columns: slice = slice(0, 3)) -> Manifest:
    """The photos, each with a mask of those sixths of its width; the last of ``test`` has none."""
    photos = []
    for number, photo in enumerate(data.photos):
        mask = np.zeros((30, 60), dtype=np.uint8)
        mask[:, 10 * columns.start : 10 * columns.stop] = 255
        path = folder / f"{number}.png"
        Image.fromarray(mask).save(path)
        photos.append(replace(photo, roi=path))
    last = max(place for place, photo in enumerate(photos) if photo.split == "test")
    photos[last] = replace(photos[last], roi=None)
    return Manifest(tuple(photos))


MASKED = CONFIG | {"regions": {"kind": "mask"}, "patchcore": {"layers": [1], "coreset_ratio": 1.0}}


def test_masks_say_what_is_learned_and_scored(data: Manifest, tmp_path: Path) -> None:
    masked = with_masks(data, tmp_path)
    model, unreadable = fit(MASKED, masked)
    assert not unreadable and model.transform.has_region
    bank = model.detector.state_dict()["detector.bank_places_"]
    assert (bank % 16 < 8).all() and len(bank) == 18 * 16 * 8
    *others, last = inspect_photos(model, masked.select("test").photos)
    for inspection in others:
        assert inspection.region is not None and inspection.region[:, :8].all() and not inspection.region[:, 8:].any()
        assert inspection.anomaly_map is not None and not inspection.anomaly_map[:, 113:].any()
        assert inspection.verdict.error is None
    assert last.region is not None and not last.region.any()
    assert last.verdict.verdict != "accept" and last.verdict.error == NO_REGION


def test_a_region_turns_with_the_altered_copies_of_its_photo(data: Manifest, tmp_path: Path) -> None:
    masked = with_masks(data, tmp_path, columns=slice(4, 6))
    model, _ = fit(MASKED | {"fit": {"detector": "patchcore", "augment": 3}}, masked)
    places = model.detector.state_dict()["detector.bank_places_"]
    copies, rows, columns = places // 256 % 4, places % 256 // 16, places % 16
    assert [of.rpartition("(")[2] for of in model.references.names[1:4]] == [
        "turned by 90 degrees)", "turned by 180 degrees)", "turned by 270 degrees)",
    ]  # fmt: skip
    for copy, of, is_high in ((0, columns, True), (1, rows, False), (2, columns, False), (3, rows, True)):
        assert ((of[copies == copy] > 9) if is_high else (of[copies == copy] < 6)).all()


def test_other_masks_are_other_features_in_a_store(data: Manifest, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("left", "right")]
    for folder in folders:
        folder.mkdir()
    sides = (slice(0, 3), slice(3, 6))
    manifests = [with_masks(data, folder, columns=side) for folder, side in zip(folders, sides, strict=True)]
    store = FeatureStore(tmp_path / "store")
    kept = [fit(MASKED, masked, store=store)[0].detector.state_dict() for masked in manifests]
    assert (kept[0]["detector.bank_places_"] % 16 < 8).all() and (kept[1]["detector.bank_places_"] % 16 >= 8).all()
    assert manifests[0].fingerprint() != manifests[1].fingerprint() != data.fingerprint()


def test_detectors_are_chosen_by_altered_copies_of_the_same_regions(data: Manifest, tmp_path: Path) -> None:
    masked, seen = with_masks(data, tmp_path), []
    backbone = fit(MASKED, masked)[0].backbone
    transform = Transform(64, backbone.mean, backbone.std, has_region=True)
    alter_all(
        backbone, transform, masked.photos[:2], normal_groups(masked), lambda maps, photos: seen.append(maps[REGION]),
        seed=0, workers=0, advance=lambda steps: None,
    )  # fmt: skip
    (regions,) = seen
    assert len(regions) == 2 * STRIDE and regions[..., :8].all() and not regions[..., 8:].any()


def test_masks_that_are_missing_are_told(data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^None of the photos to learn from has a region; name masks in .* column roi, or "
    ):
        fit(MASKED, data)
    masked = with_masks(data, tmp_path)
    (tmp_path / "0.png").unlink()
    (batch,) = load_batches(masked.photos[:1], fit(MASKED, masked)[0].transform)
    assert not batch.photos and batch.unreadable[0][1].startswith("The mask of its region cannot be read: ")


def test_a_manifest_names_masks_of_regions(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,roi\na.jpg,a roi.png\nb.jpg,\n", encoding="utf-8")
    first, second = Manifest.read(tmp_path).photos
    assert (first.roi, second.roi) == (tmp_path / "a roi.png", None)


def test_without_regions_a_configuration_is_what_it_was() -> None:
    assert "regions" not in resolve({}, device="cpu")
    assert "regions" not in resolve({"regions": {"kind": "none"}}, device="cpu")
    resolved = resolve({"regions": {"kind": "foreground"}}, device="cpu")
    assert resolve(resolved, device="cpu") == resolved


def test_regions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kind of \[regions\] must be 'none', 'mask' or 'foreground', got 'sky'\.$"):
        resolve({"regions": {"kind": "sky"}}, device="cpu")
    config = {"regions": {"kind": "foreground"}, "fit": {"detector": "reverse-distillation"}}
    with pytest.raises(ConfigError, match=r"^reverse-distillation imitates whole maps; leave --regions out"):
        resolve(config, device="cpu")


@pytest.mark.parametrize("kind", ["mask", "foreground"])
def test_the_memory_that_regions_take_is_predicted(kind: str) -> None:
    shapes = {2: (40, 28, 28), 3: (112, 14, 14)}
    asked = {"fit": {"detector": "patchcore"}, "regions": {"kind": kind}}
    plain, regional = (
        predict_peak_bytes(resolve(of, device="cpu"), shapes=shapes, num_photos=50, num_judged=20)
        for of in ({"fit": asked["fit"]}, asked)
    )
    assert plain <= regional <= 2 * plain


def test_the_outline_is_thin_and_leaves_all_else_as_it_is() -> None:
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    region = np.zeros((4, 6), dtype=bool)
    region[1:3, 2:4] = True
    drawn = outline(pixels, region)
    changed = (drawn != pixels).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 30, 20, 40)
    assert changed.sum() == 4 * 20 - 1 and not changed[11:30, 21:40].any()
    assert not (outline(pixels, np.ones((4, 6), dtype=bool)) != pixels).any()
