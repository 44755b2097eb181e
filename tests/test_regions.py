"""Regions from configuration to verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inlier.build import resolve
from inlier.copies import STRIDE, alter_all
from inlier.cross_validation import cross_validate
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.databases import as_url
from inlier.decision.heatmap import decode, outline
from inlier.detectors.regional import Regional
from inlier.errors import ConfigError, InlierError
from inlier.experiments.memory import predict_peak_bytes
from inlier.features.cache import FeatureCache
from inlier.features.regions import REGION
from inlier.features.store import FeatureStore
from inlier.inspection import inspect_to_folder, photos_named
from inlier.model import Model
from inlier.outputs import as_text
from inlier.reading import normal_groups
from inlier.reviewing.effective import corrected
from inlier.reviewing.effects import flips, on_photos
from inlier.reviewing.preparing import prepare
from inlier.reviewing.regions import Region, location_key, write_masks
from inlier.reviewing.unseen import look
from inlier.segmenting import write_manifest
from inlier.service.review.pictures import Pictures
from inlier.workflow import NO_REGION, fit, inspect_photos, no_progress

CONFIG: dict[str, dict[str, Any]] = {
    "input": {"size": 64},
    "fit": {"detector": "patchcore", "augment": 0},
    "patchcore": {"layers": [1, 2]},
    "regions": {"kind": "foreground"},
}


@pytest.fixture(scope="module")
def regional(data: Manifest) -> Model:
    return fit(CONFIG, data)[0]


@pytest.fixture(scope="module")
def cut_out(data: Manifest) -> Model:
    return fit(CONFIG | {"regions": {"kind": "grabcut"}}, data)[0]


@pytest.mark.parametrize("kind", ["foreground", "grabcut"])
def test_a_model_keeps_that_it_looks_at_regions(
    kind: str, data: Manifest, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue({"foreground": "regional", "grabcut": "cut_out"}[kind])
    assert model.config["regions"] == {"kind": kind} and model.transform.has_picture == (kind == "grabcut")
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    photos = data.select("test").photos
    before, after = (list(inspect_photos(of, photos)) for of in (model, again))
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


def test_what_is_cut_out_is_as_fine_as_the_photo(cut_out: Model, data: Manifest) -> None:
    inspections = list(inspect_photos(cut_out, data.select("train").photos[:4]))
    regions = [of.region for of in inspections if of.region is not None]
    assert len(regions) == 4 and {of.shape for of in regions} == {(64, 64)} and any(of.any() for of in regions)


def test_features_are_kept_with_the_pictures_that_a_cut_needs(cut_out: Model, data: Manifest, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    for config, states in ((CONFIG, None), (CONFIG | {"regions": {"kind": "grabcut"}}, cut_out.detector.state_dict())):
        models = [fit(config, data, store=store)[0] for _ in range(2)]
        kept = [of.detector.state_dict() for of in models]
        for name, tensor in (states or kept[0]).items():
            assert torch.equal(kept[0][name], tensor) and torch.equal(kept[1][name], tensor)
    assert store.num_filled == 4  # train and dev, with pictures and without


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


@pytest.fixture(scope="module")
def partly(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Model]:
    """Photos with masks but for every third, and a model fitted on them."""
    masked = with_masks(data, tmp_path_factory.mktemp("masks"))
    some = Manifest(tuple(replace(p, roi=p.roi if n % 3 else None) for n, p in enumerate(masked.photos)))
    return some, fit(MASKED, some)[0]


def test_folds_and_reviews_accept_no_photo_without_its_region_either(
    partly: tuple[Manifest, Model], tmp_path: Path
) -> None:
    data, model = partly
    lacking = {as_text(photo.path) for photo in data.photos if photo.roi is None}
    rate = model.config["decide"]["uncertain_rate"]
    evaluation = cross_validate(model, data, num_folds=2)
    review = prepare(model, data, as_url(str(tmp_path / "review.db")))
    rows = [(row["path"], row["p_value"], row["verdict"]) for row in evaluation.table.to_pylist()]
    for outcomes in (rows, [(of.path, of.p_value, of.verdict) for of in review.photos()]):
        capped = [verdict for path, p_value, verdict in outcomes if path in lacking and p_value > rate]
        assert capped and set(capped) == {"uncertain"}
        assert "accept" in {verdict for path, _, verdict in outcomes if path not in lacking}
    doubts = {of.doubt for of in review.photos() if of.path in lacking and (of.p_value or 0) > rate}
    assert doubts == {0.0}
    review.close()


def test_a_flip_by_a_refit_heeds_regions_on_both_sides(partly: tuple[Manifest, Model], tmp_path: Path) -> None:
    data, model = partly
    review = prepare(model, data, as_url(str(tmp_path / "review.db")))
    with FeatureCache(dtype=torch.float32) as cache:
        looked = look(model, data, cache, store=None, workers=0, progress=no_progress)
        outcomes = on_photos(model, model, looked, review, progress=no_progress)
    assert flips(outcomes) == []
    lacking = [of.verdicts for of in outcomes if of.photo.roi is None]
    assert lacking and not {"accept"}.intersection(*map(set, lacking))
    review.close()


def test_a_table_that_is_inspected_names_regions_too(partly: tuple[Manifest, Model], tmp_path: Path) -> None:
    data, model = partly
    write_manifest(Manifest(data.photos[:3]), tmp_path)
    named = photos_named([tmp_path / "manifest.csv"])
    assert [photo.roi for photo in named] == [photo.roi for photo in data.photos[:3]]
    inspected = inspect_to_folder(model, named, tmp_path / "out", heatmaps="none")
    assert inspect_to_folder(model, named, tmp_path / "out", heatmaps="none").num_scored == 0
    without = [replace(photo, roi=None) for photo in named]
    with pytest.raises(InlierError, match="holds an inspection of other photos"):
        inspect_to_folder(model, without, tmp_path / "out", heatmaps="none")
    table = pq.read_table(inspected.directory / "verdicts.parquet").to_pylist()
    assert [row["error"] for row in table] == [NO_REGION, None, None]


def test_the_pages_of_a_review_show_where_a_model_looked(partly: tuple[Manifest, Model]) -> None:
    data, model = partly
    photo = next(photo for photo in data.photos if photo.roi is not None)
    path = location_key(photo.path)
    drawn, blind = Pictures(model, {path: photo.roi}), Pictures(model)
    region = drawn.inspection(path).region
    assert region is not None and region[:, :8].all() and not region[:, 8:].any()
    assert drawn.inspection(path).verdict.error is None and blind.inspection(path).verdict.error == NO_REGION
    pixels = decode(drawn.heatmap(path, width=640).content)
    left, right = pixels.shape[1] // 2 - 2, pixels.shape[1] // 2 + 2  # a line where the region ends
    assert (pixels[:, left:right] != decode(blind.heatmap(path, width=640).content)[:, left:right]).any()


def test_what_a_reviewer_draws_is_where_the_next_model_looks(regional: Model, data: Manifest, tmp_path: Path) -> None:
    review = prepare(regional, data, as_url(str(tmp_path / "review.db")))
    left = Region("interest", "", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
    crack = Region("defect", "crack", ((0.1, 0.1), (0.2, 0.1), (0.2, 0.3)))
    numbers = {of.path: of.number for of in review.photos()}
    *drawn, last = data.photos
    for photo in drawn:
        review.set_regions(numbers[as_text(photo.path)], [left], reviewer="ada")
    review.set_regions(numbers[as_text(last.path)], [crack], reviewer="ada")
    out = tmp_path / "drawn"
    assert write_masks(review, out, data=corrected(data, review)[0]) == len(data)
    review.close()
    again = Manifest.read(out)
    assert [(of.path, of.split, of.label, of.group) for of in again.photos] == [
        (of.path, of.split, of.label, of.group) for of in data.photos
    ]
    assert again.photos[-1].roi is None and again.photos[-1].mask == next(out.rglob("defect/**/*_mask.png"))
    model, _ = fit(MASKED, again)
    assert (model.detector.state_dict()["detector.bank_places_"] % 16 < 8).all()
    *others, without = inspect_photos(model, photos_named([out / "manifest.csv"]))
    assert all(of.region is not None and of.region[:, :8].all() and not of.region[:, 8:].any() for of in others)
    assert without.verdict.error == NO_REGION and without.verdict.verdict != "accept"


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
    with pytest.raises(
        ConfigError, match=r"kind of \[regions\] must be 'none', 'mask', 'foreground' or 'grabcut', got 'sky'\.$"
    ):
        resolve({"regions": {"kind": "sky"}}, device="cpu")
    config = {"regions": {"kind": "foreground"}, "fit": {"detector": "reverse-distillation"}}
    with pytest.raises(ConfigError, match=r"^reverse-distillation imitates whole maps; leave --regions out"):
        resolve(config, device="cpu")


@pytest.mark.parametrize("kind", ["mask", "foreground", "grabcut"])
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
