from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inlier import adaptation
from inlier.adaptation import CHECKPOINT, adapt, component_numbers, photos_to_learn
from inlier.adapted import AdaptedBackbone
from inlier.build import DETECTORS
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, ManifestError, ModelError
from inlier.features.backbone import Backbone
from inlier.gate import downstream_auroc
from inlier.objectives import ADAPTOR, OBJECTIVES, build_objective, build_start, resolve_adaptation, section_of

QUICK: dict[str, dict[str, Any]] = {
    "input": {"size": 64},
    "backbone": {"precision": "float32"},
    "finetune": {"size": 32, "num_samples": 48, "batch_size": 8, "learning_rate": 1e-4, "archive": "train"},
    "gate": {"detector": "photo-neighbors", "max_photos": 20},
}
EVERY = (*OBJECTIVES, ADAPTOR)


def with_(**finetune: Any) -> dict[str, dict[str, Any]]:
    return QUICK | {"finetune": QUICK["finetune"] | finetune}


def states(backbone: Backbone) -> dict[str, torch.Tensor]:
    return dict(backbone.state_dict())


@pytest.fixture(scope="module")
def whole(data: Manifest) -> AdaptedBackbone:
    """Adapted by the default objective, and judged."""
    return adapt(QUICK, data, workers=1)[0]


def test_it_learns_from_train_alone_and_judges_on_dev(whole: AdaptedBackbone, data: Manifest) -> None:
    facts = whole.facts
    assert (facts["objective"], facts["archive"]) == ("supcon", "train")
    assert facts["num_photos"] == len(data.select("train")) and facts["num_unreadable"] == 0
    assert facts["num_labelled"] == sum(
        photo.label not in ("", "good") for photo in data.select("train").photos if photo.is_anomalous is False
    )
    assert facts["num_steps"] == len(whole.history) == 6
    gate = facts["gate"]
    assert gate["verdict"] in ("helps", "no evidence", "hurts") and gate["num_adapted_to"] == 0
    assert gate["measures"][0]["kind"] == "anomalies"
    assert gate["measures"][0]["adapted"] == downstream_auroc(QUICK, data, whole.backbone)
    start = Backbone("efficientnet_lite0", layers=(1, 2, 3, 4))
    assert any(
        not torch.equal(a, b) for a, b in zip(states(start).values(), states(whole.backbone).values(), strict=True)
    )


def test_what_is_stored_can_be_repeated_from(whole: AdaptedBackbone, data: Manifest, tmp_path: Path) -> None:
    whole.save(tmp_path / "backbone")
    loaded = AdaptedBackbone.load(tmp_path / "backbone")
    assert loaded.facts == whole.facts and loaded.config == json.loads(json.dumps(whole.config))
    again, _ = adapt(loaded.config, data, is_judged=False, workers=0)
    assert again.identity == whole.identity and again.config == whole.config
    assert again.facts["gate"] is None


@pytest.mark.parametrize("objective", EVERY)
def test_every_objective_adapts(objective: str, data: Manifest) -> None:
    adapted, unreadable = adapt(with_(objective=objective, num_samples=16), data, is_judged=False, workers=0)
    assert adapted.facts["objective"] == objective and unreadable == []
    assert bool(adapted.history) == (objective != ADAPTOR)
    assert bool(len(adapted.backbone.adaptors)) == (objective == ADAPTOR)
    start = build_start(adapted.config)
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, after = start.extract(photo), adapted.backbone.extract(photo)
    assert any(not torch.equal(before[layer], after[layer]) for layer in before)
    assert all(torch.isfinite(maps).all() for maps in after.values())


def test_the_archive_may_hold_dev_without_labels_and_the_gate_says_so(data: Manifest) -> None:
    adapted, _ = adapt(with_(archive="train+dev", objective="adaptor"), data, workers=0)
    assert adapted.facts["num_photos"] == len(data.select("train")) + len(data.select("dev"))
    num_judged = adapted.facts["gate"]["measures"][0]["num_photos"]
    assert adapted.facts["gate"]["num_adapted_to"] == num_judged == len(data.select("dev"))
    assert (
        f"{num_judged} of these photos were among those adapted to, without labels."
        in adapted.facts["gate"]["sentence"]
    )


def test_photos_of_test_are_never_looked_at(data: Manifest, tmp_path: Path) -> None:
    gone = tuple(
        photo if photo.split != "test" else Photo(tmp_path / f"{n}.png", "test", photo.label, photo.is_anomalous)
        for n, photo in enumerate(data.photos)
    )
    adapted, unreadable = adapt(with_(objective="adaptor"), Manifest(gone), workers=0)
    assert unreadable == []
    assert (
        adapted.facts["data_fingerprint"]
        == Manifest(tuple(photo for photo in data.photos if photo.split != "test")).fingerprint()
    )


def test_labels_are_of_normal_photos_of_train_and_of_components_of_several() -> None:
    rows = [
        ("train", "piston", False),
        ("train", "valve", False),
        ("train", "piston", False),
        ("train", "valve", True),
        ("train", "liner", False),
        ("train", "good", False),
        ("train", "", None),
        ("train", "valve", False),
        ("dev", "piston", False),
    ]
    photos = [Photo(Path(f"{n}.png"), *row) for n, row in enumerate(rows)]  # type: ignore[arg-type]
    assert component_numbers(photos) == [0, 1, 0, -1, -1, -1, -1, 1, -1]


def test_a_training_that_was_interrupted_goes_on_to_the_same_weights(data: Manifest, tmp_path: Path) -> None:
    config, rows = with_(num_samples=80), list[float]()
    expected, _ = adapt(config, data, is_judged=False, workers=0)

    class Stop(Exception):
        pass

    def stop(row: Any) -> None:
        rows.append(row["loss"])
        if len(rows) == 5:
            raise Stop

    with pytest.raises(Stop):
        adapt(config, data, is_judged=False, workers=0, checkpoints=tmp_path / "run", report=stop)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    seen = list[float]()
    resumed, _ = adapt(
        config,
        data,
        is_judged=False,
        workers=1,
        checkpoints=tmp_path / "run",
        report=lambda row: seen.append(row["step"]),
    )
    assert seen[0] > 1 and resumed.identity == expected.identity and resumed.history == expected.history
    with pytest.raises(ModelError, match=r"was begun otherwise: the configuration changed since; leave --resume out"):
        adapt(with_(num_samples=81), data, is_judged=False, workers=0, checkpoints=tmp_path / "run")
    fewer = Manifest(data.photos[1:])
    with pytest.raises(ModelError, match=r"was begun otherwise: the photos changed since; leave --resume out to"):
        adapt(config, fewer, is_judged=False, workers=0, checkpoints=tmp_path / "run")


def test_photos_that_cannot_be_read_are_named_and_the_rest_is_learned_from(data: Manifest, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    more = Manifest((*data.photos, Photo(tmp_path / "broken.jpg", "train")))
    adapted, unreadable = adapt(with_(objective="adaptor"), more, is_judged=False, workers=0)
    assert [photo.path.name for photo, _ in unreadable] == ["broken.jpg"]
    assert adapted.facts["num_unreadable"] == 1 and adapted.facts["num_photos"] == len(data.select("train"))


def test_too_few_photos_are_one_sentence(data: Manifest, tmp_path: Path) -> None:
    few = Manifest(data.select("train").photos[:5])
    with pytest.raises(
        ManifestError, match=r"^A backbone is adapted to at least 8 photos, and train of the data have 5\.$"
    ):
        adapt(QUICK, few)
    with pytest.raises(ManifestError, match=r"at least 8 photos, and train and dev of the data have 5\.$"):
        photos_to_learn(few, "train+dev")
    gone = Manifest(tuple(Photo(tmp_path / f"{n}.jpg", "train") for n in range(9)))
    with pytest.raises(
        ManifestError, match=r"and 0 could be read; 9 could not be read, the first because: the file does"
    ):
        adapt(QUICK, gone, is_judged=False)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"finetune": {"objective": "simclear"}}, r"^inlier has no objective named simclear; did you mean simclr\?$"),
        ({"finetune": {"num_sample": 3}}, r"^\[finetune\] has no key named num_sample; did you mean num_samples\?$"),
        ({"finetune": {"archive": "test"}}, r"^archive of \[finetune\] must be 'train' or 'train\+dev', got 'test'\.$"),
        ({"simclr": {"temperatur": 1.0}}, r"^\[simclr\] has no key named temperatur; did you mean temperature\?$"),
        ({"tune": {}}, r"^The configuration has no section named tune"),
        ({"gate": {"detector": "patchcor"}}, r"^inlier has no detector named patchcor; did you mean patchcore\?$"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_photo_is_read(config: Any, sentence: str, data: Manifest) -> None:
    with pytest.raises(ConfigError, match=sentence):
        adapt(config, data)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"finetune": {"batch_size": 1}}, r"^\[finetune\]: batch_size of finetune must be at least 2, got 1\.$"),
        ({"supcon": {"temperature": 0.0}}, r"^\[supcon\]: temperature of SupCon must be above 0"),
        ({"backbone": {"name": "resnet"}}, r"^\[backbone\]: timm has no backbone named resnet; it has, for example,"),
    ],
)
def test_a_value_outside_its_range_is_the_configurations_mistake(config: Any, sentence: str, data: Manifest) -> None:
    with pytest.raises(ConfigError, match=sentence):
        adapt(QUICK | config, data, is_judged=False, workers=0)


def test_the_objectives_begin_as_the_seed_says_and_leave_random_numbers_alone() -> None:
    resolved = resolve_adaptation(QUICK, device="cpu")
    backbone = build_start(resolved)
    torch.manual_seed(5)
    first = build_objective(resolved, backbone, backbone).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    second = build_objective(resolved, backbone, backbone).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = resolve_adaptation(with_(seed=1), device="cpu")
    third = build_objective(other, backbone, backbone).state_dict()
    assert any(not torch.equal(first[name], third[name]) for name in first)
    assert other["fit"]["seed"] == 1


def test_every_objective_has_a_section_that_is_no_detectors() -> None:
    sections = [section_of(name) for name in EVERY]
    assert len(set(sections)) == len(EVERY) and not set(sections) & set(DETECTORS)
    assert section_of("reverse-distillation") == "reverse-distillation-objective"
    for name in EVERY:
        resolved = resolve_adaptation({"finetune": {"objective": name}}, device="cpu")
        assert section_of(name) in resolved and json.loads(json.dumps(resolved)) == resolved
        assert not {"channels", "teacher", "checkpoint", "advance", "workers", "report"} & {*resolved["finetune"]}
    for name, build in OBJECTIVES.items():
        assert build.name == name  # type: ignore[attr-defined]


def test_progress_tells_of_reading_adapting_and_judging(data: Manifest) -> None:
    told: dict[str, list[int]] = {}

    def progress(task: str, total: int) -> Callable[[int], None]:
        told.setdefault(task, []).append(total)
        return lambda steps: told[task].append(-steps)

    adapt(with_(objective="adaptor"), data, workers=0, progress=progress)
    assert list(told) == ["Reading photos", "Adapting", "Judging"]
    assert all(sum(of) == 0 for of in told.values())


def test_an_adapted_backbone_can_be_adapted_again(whole: AdaptedBackbone, data: Manifest, tmp_path: Path) -> None:
    whole.save(tmp_path / "first")
    config = with_(objective="adaptor") | {"backbone": {"name": str(tmp_path / "first"), "precision": "float32"}}
    second, _ = adapt(config, data, is_judged=False, workers=0)
    assert second.config["backbone"]["adapted"]["identity"] == whole.identity
    assert second.identity != whole.identity


def test_squares_are_large_enough_for_small_crops() -> None:
    side = adaptation._side(resolve_adaptation({}, device="cpu"))
    section = resolve_adaptation({}, device="cpu")["finetune"]
    assert side * section["scale"][0] ** 0.5 >= section["size"]
    assert adaptation._side(resolve_adaptation({"finetune": {"objective": "adaptor"}}, device="cpu")) == 224
