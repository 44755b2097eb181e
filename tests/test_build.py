from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inlier.adapted import AdaptedBackbone
from inlier.build import (
    DETECTORS,
    SECTIONS,
    backbone_facts,
    build_backbone,
    build_components,
    build_detector,
    parse_bytes,
    resolve,
    resolve_keywords,
    resolve_rates,
)
from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.reverse_distillation import ReverseDistillation
from inlier.errors import ConfigError, ModelError, WeightsError
from inlier.features.runtime import best_precision, best_runtime


def test_nothing_given_resolves_to_the_defaults() -> None:
    config = resolve({}, device="cpu")
    members = ["patchcore", "photo-neighbors", "photo-subspace"]
    assert list(config) == ["fit", "backbone", "input", "decide", "combined", *members, "components"]
    assert config["fit"] == {"detector": "combined", "seed": 0, "memory_budget": "2GiB", "augment": None}
    assert config["backbone"] == {
        "name": "efficientnet_lite0",
        "weights": None,
        "precision": best_precision("cpu"),
        "runtime": best_runtime("cpu"),
    }
    assert config["input"] == {"size": 224}
    assert config["decide"] == {"false_alarm_rate": 0.05, "uncertain_rate": 0.2}
    assert config["combined"] == {"members": members}


@pytest.mark.parametrize(("name", "detector"), [("patchcore", PatchCore), ("photo-neighbors", PhotoNeighbors)])
def test_a_detectors_section_is_its_constructor(name: str, detector: type) -> None:
    config = resolve({"fit": {"detector": name}}, device="cpu")
    assert list(config) == ["fit", "backbone", "input", "decide", name, "components"]
    parameters = inspect.signature(detector).parameters
    assert set(config[name]) == set(parameters) - {"memory_budget_bytes"}
    for key, value in config[name].items():
        assert value == (list(default) if isinstance(default := parameters[key].default, tuple) else default)


def test_a_resolved_configuration_resolves_to_itself() -> None:
    config = resolve({"fit": {"seed": 3}, "patchcore": {"sigma": 2}}, device="cpu", layers=(3,))
    assert resolve(config, device="cpu") == config
    assert config["patchcore"]["sigma"] == 2


def test_layers_reach_every_member_and_beat_its_section() -> None:
    given = {"patchcore": {"layers": [1]}}
    assert build_detector(resolve(given, device="cpu")).layers != (2, 3)
    config = resolve(given, device="cpu", layers=(2, 3))
    assert config["patchcore"]["layers"] == config["photo-neighbors"]["layers"] == config["components"]["layers"]
    assert config["components"]["layers"] == [2, 3]
    assert build_detector(config).layers == (2, 3)
    assert given == {"patchcore": {"layers": [1]}}


def test_every_detector_is_built_as_its_section_says() -> None:
    for name, detector in DETECTORS.items():
        assert type(build_detector(resolve({"fit": {"detector": name}}, device="cpu"))) is detector
    sections = {"combined": {"members": ["photo-neighbors"]}, "photo-neighbors": {"power": 1.0}, "fit": {"seed": 5}}
    combined = build_detector(resolve(sections, device="cpu"))
    assert isinstance(combined, Combined) and combined.seed == 5
    (member,) = combined.members
    assert isinstance(member, PhotoNeighbors) and member.power == 1.0


def test_what_a_run_gives_its_detectors_is_no_setting_of_theirs(tmp_path: Path) -> None:
    given: dict[str, dict[str, Any]] = {"fit": {"detector": "combined", "seed": 7}}
    config = resolve({**given, "combined": {"members": ["reverse-distillation", "patchcore"]}}, device="cpu")
    assert not {"seed", "checkpoints"} & set(config["reverse-distillation"])
    combined = build_detector(config, checkpoints=tmp_path)
    assert isinstance(combined, Combined)
    trained, _ = combined.members
    assert isinstance(trained, ReverseDistillation) and (trained.seed, trained.checkpoints) == (7, tmp_path)
    with pytest.raises(ConfigError, match=r"^\[reverse-distillation\] has no key named checkpoints"):
        resolve({"reverse-distillation": {"checkpoints": "here"}}, device="cpu")


def test_half_of_the_memory_is_for_the_patches() -> None:
    config = resolve({"fit": {"detector": "patchcore", "memory_budget": "100MiB"}}, device="cpu")
    detector = build_detector(config)
    assert isinstance(detector, PatchCore) and detector.memory_budget_bytes == 50 * 2**20


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"backbne": {}}, "The configuration has no section named backbne; did you mean backbone?"),
        ({"fit": {"sed": 1}}, "[fit] has no key named sed; did you mean seed?"),
        ({"patchcore": {"coreset_rato": 1}}, "[patchcore] has no key named coreset_rato; did you mean coreset_ratio?"),
        ({"fit": {"detector": "patchcor"}}, "inlier has no detector named patchcor; did you mean patchcore?"),
        ({"combined": {"members": ["combined"]}}, "combined has no detector named combined; "),
        ({"combined": {"members": "patchcore"}}, "members of [combined] must be a valid list, got 'patchcore'."),
        ({"combined": {"members": []}}, "[combined]: members of Combined must hold at least one detector, got none."),
        ({"fit": {"seed": "abc"}}, "seed of [fit] must be a valid integer, got 'abc'."),
        ({"fit": {"seed": -1}}, "seed of [fit] must be greater than or equal to 0, got -1."),
        ({"fit": {"seed": True}}, "seed of [fit] must be a valid integer, got True."),
        ({"fit": {"memory_budget": "much"}}, "memory_budget must be a size such as 2GiB or 500MB, got 'much'."),
        ({"input": {"size": 16}}, "size of [input] must be greater than or equal to 32, got 16."),
        ({"input": {"size": "64"}}, "size of [input] must be a valid integer, got '64'."),
        ({"backbone": {"precision": "float16"}}, "precision of [backbone] must be 'float32' or 'bfloat16', got 'fl"),
        ({"decide": {"false_alarm_rate": 1.5}}, "false_alarm_rate of [decide] must be less than 1, got 1.5."),
        ({"decide": {"uncertain_rate": 0.0}}, "uncertain_rate of [decide] must be greater than 0, got 0.0."),
        ({"decide": {"uncertain_rate": float("nan")}}, "uncertain_rate of [decide] must be a finite number, got nan."),
        ({"decide": {"false_alarm_rate": 0.3}}, "uncertain_rate of [decide] must be at least its false_alarm_rate, 0"),
        ({"patchcore": {"layers": [2.5]}}, "layers of [patchcore] must be a valid integer, got [2.5]."),
        ({"patchcore": {"layers": "23"}}, "layers of [patchcore]: 'str' instances are not allowed as a Sequence value"),
        ({"patchcore": {"sigma": "wide"}}, "sigma of [patchcore] must be a valid number, got 'wide'."),
        ({"patchcore": {"coreset_ratio": 1.5}}, "[patchcore]: coreset_ratio of PatchCore must be in (0, 1], got 1.5."),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(sections: dict[str, dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        build_detector(resolve(sections, device="cpu"))


def test_sections_of_detectors_that_are_not_chosen_are_checked_too() -> None:
    assert set(SECTIONS) == {"fit", "backbone", "input", "regions", "decide", "select", *DETECTORS, "components"}
    with pytest.raises(ConfigError, match=r"^\[patchcore\] has no key named power"):
        resolve({"fit": {"detector": "photo-neighbors"}, "patchcore": {"power": 2}}, device="cpu")


def test_rates_are_filled_in_and_kept_in_order() -> None:
    assert resolve_rates({"uncertain_rate": 0.5}) == {"false_alarm_rate": 0.05, "uncertain_rate": 0.5}
    assert resolve_rates({"false_alarm_rate": 0.2, "uncertain_rate": 0.2})["false_alarm_rate"] == 0.2
    with pytest.raises(ConfigError, match=r"its false_alarm_rate, 0\.3, got 0\.2; give both\.$"):
        resolve_rates({"false_alarm_rate": 0.3})


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("2GiB", 2**31), ("500 MB", 500 * 10**6), (" 1.5gib", 3 * 2**29), ("67108864", 2**26), ("64MiB", 2**26)],
)
def test_sizes_are_read_with_their_units(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


def test_sizes_that_are_none_or_too_small_are_refused() -> None:
    for text in ("", "2 gigabytes", "-1GiB", "1e9", "GiB"):
        with pytest.raises(ConfigError, match=r"^memory_budget must be a size such as 2GiB or 500MB, got "):
            parse_bytes(text)
    with pytest.raises(ConfigError, match=r"^memory_budget must be at least 64MiB, got 63MiB\.$"):
        parse_bytes("63MiB")


def test_the_backbone_has_the_detectors_layers_and_the_files_weights(tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {"fit": {"detector": "photo-neighbors"}, "backbone": {"name": "resnet10t"}}
    config = resolve(sections, device="cpu", layers=(1, 3))
    detector = build_detector(config)
    donor = build_backbone(config, detector.layers, is_pretrained=False)
    save_file(donor.network.state_dict(), tmp_path / "weights.safetensors")
    config["backbone"]["weights"] = str(tmp_path / "weights.safetensors")
    backbone = build_backbone(config, detector.layers)
    assert (backbone.name, backbone.layers, backbone.strides) == ("resnet10t", (1, 3), (4, 16))
    for name, tensor in donor.network.state_dict().items():
        assert tensor.equal(backbone.network.state_dict()[name])


def test_the_backbone_has_the_layers_that_components_need_where_there_are_any() -> None:
    config = resolve({"fit": {"detector": "patchcore"}, "backbone": {"name": "resnet10t"}}, device="cpu")
    detector = build_detector(config)
    assert build_backbone(config, detector.layers, is_pretrained=False).layers == (2, 3, 4)
    components = build_components(config)
    assert components is not None and components.layers == (3, 4)
    del config["components"]
    assert build_backbone(config, detector.layers, is_pretrained=False).layers == (2, 3)
    assert build_components(config) is None


def test_backbones_that_cannot_be_had_are_refused_in_a_sentence(tmp_path: Path) -> None:
    def build(**backbone: str) -> None:
        config = resolve({"backbone": backbone, "fit": {"detector": "patchcore"}}, device="cpu", layers=(2, 9))
        build_backbone(config, build_detector(config).layers)

    with pytest.raises(ConfigError, match=r"^\[backbone\]: layers of efficientnet_lite0 must be in 1 to 4, got \[2"):
        build()
    with pytest.raises(ConfigError, match=r"^\[backbone\]: timm has no backbone named resnet1; "):
        build(name="resnet1")
    config = resolve({"backbone": {"weights": str(tmp_path / "none.pth")}}, device="cpu")
    with pytest.raises(WeightsError, match=r"^The weights file .*none\.pth does not exist\.$"):
        build_backbone(config, build_detector(config).layers)


PATCHES: dict[str, dict[str, Any]] = {"fit": {"detector": "patchcore"}}


def test_a_folder_is_a_backbone(adapted: AdaptedBackbone, backbone_folder: Path) -> None:
    config = resolve(PATCHES | {"backbone": {"name": str(backbone_folder)}}, device="cpu")
    assert config["backbone"] == {
        "name": "test_resnet",
        "weights": str(backbone_folder),
        "precision": best_precision("cpu"),
        "runtime": best_runtime("cpu"),
        "adapted": {
            "title": "ships", "identity": adapted.identity, "objective": "simclr", "verdict": "no evidence",
        },
    }  # fmt: skip
    assert resolve(config, device="cpu") == config
    assert backbone_facts(config) == {"network": "test_resnet", "identity": adapted.identity, **adapted.facts}
    del config["components"]
    config["backbone"]["precision"] = "float32"
    backbone = build_backbone(config, build_detector(config).layers)
    images = torch.rand(2, 3, 64, 64)
    maps, expected = backbone.extract(images), adapted.backbone.extract(images)
    assert backbone.layers == (2, 3) and backbone.channels[1] == 24
    assert all(torch.allclose(of, expected[layer], atol=1e-6) for layer, of in maps.items())


def test_a_plain_backbone_is_none(backbone_folder: Path) -> None:
    config = resolve({}, device="cpu")
    assert "adapted" not in config["backbone"] and backbone_facts(config) is None


def test_what_timm_knows_is_timms_and_what_has_a_separator_is_a_folder(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(name: str) -> Any:
        return resolve({"backbone": {"name": name}}, device="cpu")["backbone"]["name"]

    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "efficientnet_lite0", "ships"):
        shutil.copytree(backbone_folder, tmp_path / name)
    assert [network(name) for name in ("resnet18", "efficientnet_lite0")] == ["resnet18", "efficientnet_lite0"]
    assert {network(name) for name in ("./resnet18", "ships", "ships/", str(tmp_path / "ships"))} == {"test_resnet"}
    assert network("resnet19_x") == "resnet19_x"  # which build_backbone refuses
    with pytest.raises(ModelError, match=r"^The backbone none/here does not exist\.$"):
        network("none/here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^empty is no backbone: it has no model\.json\.$"):
        network("empty")


def test_folders_that_cannot_be_used_are_refused_in_a_sentence(
    adapted: AdaptedBackbone, backbone_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    def build(layers: tuple[int, ...] | None = None, **backbone: Any) -> None:
        config = resolve(PATCHES | {"backbone": backbone}, device="cpu", layers=layers)
        build_backbone(config, build_detector(config).layers)

    folder = str(backbone_folder)
    with pytest.raises(ModelError, match=r"/model is no backbone of inlier: it holds a model\.$"):
        build(name=str(model_folder))
    with pytest.raises(ConfigError, match=r"^\[backbone\]: layers of test_resnet must be in 1 to 4, got \[9\]\.$"):
        build(layers=(9,), name=folder)
    with pytest.raises(
        ConfigError, match=r"^\[backbone\]: the folder .*/ships has weights of its own; leave a\.pth out"
    ):
        build(name=folder, weights="a.pth")
    sentence = r"/ships holds an adapted test_resnet, and the backbone asked for is resnet18; leave one of them out\.$"
    with pytest.raises(ConfigError, match=sentence):
        build(name="resnet18", weights=folder)
    config = resolve({"backbone": {"weights": folder}}, device="cpu")["backbone"]
    assert config["name"] == "test_resnet"
    changed = config["adapted"] | {"identity": "0" * 12}
    sentence = (
        rf"/ships is no longer the backbone that the configuration was made with \(0{{12}}\), but {adapted.identity}"
    )
    with pytest.raises(ModelError, match=sentence):
        build(**config | {"adapted": changed})
    with pytest.raises(ModelError, match=r"^The backbone .*/gone does not exist\.$"):
        build(**config | {"weights": str(tmp_path / "gone")})


def test_a_folder_that_changes_before_it_is_built_from_is_noticed(
    adapted: AdaptedBackbone, backbone_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(backbone_folder, tmp_path / "ships")
    config = resolve(PATCHES | {"backbone": {"name": str(tmp_path / "ships")}}, device="cpu")
    plain = adapted.backbone.select((1, 2, 3, 4)).adapt({})
    AdaptedBackbone(plain, {}, {}, []).save(tmp_path / "ships")
    with pytest.raises(ModelError, match=r"/ships is no longer the backbone that the configuration was made with"):
        build_backbone(config, build_detector(config).layers)


def test_a_section_can_have_a_schema_of_its_own() -> None:
    schema = {"rounds": (int, 3), "names": (list[str], ("a",))}
    assert resolve_keywords("dance", {}, schema) == {"rounds": 3, "names": ["a"]}
    with pytest.raises(ConfigError, match=r"^rounds of \[dance\] must be a valid integer, got 'x'\.$"):
        resolve_keywords("dance", {"rounds": "x"}, schema)
    with pytest.raises(ConfigError, match=r"^\[dance\] has no key named round; did you mean rounds\?$"):
        resolve_keywords("dance", {"round": 1}, schema)
