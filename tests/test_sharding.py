from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, ManifestError
from inlier.sharding import Part, Shard, fit_in_shards
from inlier.workflow import fit, inspect_photos

SECTIONS = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "fit": {"detector": "patchcore", "augment": 0},
    "patchcore": {"coreset_ratio": 1.0, "map_size": 32},
}


@pytest.fixture
def noise(tmp_path: Path) -> Manifest:
    """Twenty photos of ten groups, two of dev, and two for testing."""
    photos = []
    for number in range(24):
        pixels = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path := tmp_path / f"{number:03d}.png")
        split = "train" if number < 20 else "dev" if number < 22 else "test"
        photos.append(Photo(path, split, group=f"part {number // 2}"))
    return Manifest(tuple(photos))


def _pickled(run: Callable[[Shard], Part], shards: Iterable[Shard]) -> Iterator[Part]:
    """As if each shard ran in another process."""
    for shard in shards:
        yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(run))(pickle.loads(pickle.dumps(shard)))))


def _scores(model: object, data: Manifest) -> list[float]:
    return [float(found.verdict.score or 0) for found in inspect_photos(model, data.photos)]  # type: ignore[arg-type]


def _fitted_alone(data: Manifest, references: tuple[str, ...]) -> object:
    chosen = tuple(photo for photo in data.photos if str(photo.path) in references)
    return fit(SECTIONS, Manifest(chosen))[0]


@pytest.mark.parametrize("num_shards", [1, 3, 4])
def test_shards_merged_score_like_one_fit_wherever_they_ran(noise: Manifest, num_shards: int) -> None:
    test = noise.select("test")
    model, unreadable = fit_in_shards(SECTIONS, noise, num_shards=num_shards)
    elsewhere, _ = fit_in_shards(SECTIONS, noise, num_shards=num_shards, map_shards=_pickled)
    assert not unreadable
    assert model.identity == elsewhere.identity
    assert sorted(model.references.names) == sorted({*model.references.names})
    assert len(model.references) == 16 == model.facts["num_fitted"]
    alone = _fitted_alone(noise, model.references.names)
    assert _scores(model, test) == pytest.approx(_scores(alone, test), rel=1e-4)
    for photo, inspection in zip(noise.photos, inspect_photos(model, noise.photos), strict=True):
        if str(photo.path) in model.references.names:
            assert model.references.names[inspection.evidence[0].reference] == str(photo.path)


def test_whole_groups_are_held_out_and_calibrate(noise: Manifest) -> None:
    model, _ = fit_in_shards(SECTIONS, noise, num_shards=2)
    learned = {*model.references.groups}
    assert len(learned) == 8
    assert sorted(model.calibration.groups.tolist()) == sorted(2 * [*({f"part {n}" for n in range(11)} - learned)])
    assert model.facts["calibration"] == "scores of held-out photos and scores of the dev photos"
    held_out = Manifest(tuple(p for p in noise.photos if p.split != "test" and p.group not in learned))
    assert model.calibration.normal_scores == pytest.approx(sorted(_scores(model, held_out)), rel=1e-5)


def test_unreadable_photos_are_told_and_a_shard_of_nothing_else_is_left_out(noise: Manifest) -> None:
    whole, _ = fit_in_shards(SECTIONS, noise, num_shards=8)
    name = whole.references.groups[0]
    broken = [photo for photo in noise.photos if photo.group == name]
    for photo in broken:
        Path(photo.path).write_bytes(b"no photo")
    model, unreadable = fit_in_shards(SECTIONS, noise, num_shards=8)
    assert {photo for photo, _ in unreadable} == {*broken}
    assert name not in model.references.groups and len(model.references) == 14
    for photo in noise.photos:
        Path(photo.path).write_bytes(b"no photo")
    with pytest.raises(ManifestError, match=r"^None of the photos to learn from could be read, the first because: "):
        fit_in_shards(SECTIONS, noise, num_shards=2)


def test_what_cannot_be_sharded_is_refused(noise: Manifest) -> None:
    for number, sentence in (
        (0, r"^The number of shards must be at least 1, got 0\.$"),
        (9, r"^There can be no more shards than groups to learn from, 8, got 9\.$"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            fit_in_shards(SECTIONS, noise, num_shards=number)
    trained = SECTIONS | {"fit": {"detector": "reverse-distillation"}}
    with pytest.raises(ConfigError, match=r"^reverse-distillation learns from all photos at once"):
        fit_in_shards(trained, noise, num_shards=2)


def test_a_model_says_that_pytorch_stood_in_somewhere(noise: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**SECTIONS, "backbone": {"precision": "float32", "runtime": "openvino"}}
    monkeypatch.setattr("inlier.features.runtime.has_openvino", lambda: False)
    model, _ = fit_in_shards(asked, noise, num_shards=2)
    assert model.config["backbone"]["runtime"] == model.backbone.runtime == "torch"
    assert not [note for note in model.notes if "OpenVINO" in note]
