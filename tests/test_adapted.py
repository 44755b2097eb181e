from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inlier.adapted import AdaptedBackbone, check_target, describe, note_on
from inlier.errors import InlierError, ModelError
from inlier.features.backbone import Backbone

GAIN = {"value": -0.004, "low": -0.012, "high": 0.005}
FACTS: dict[str, Any] = {
    "objective": "simclr",
    "data_fingerprint": "0" * 64,
    "gate": {"verdict": "no evidence", "measures": [{"kind": "anomalies", "gain": GAIN}]},
    "seed": 0,
    "versions": {"inlier": "0.1"},
}
HISTORY = [
    {"step": 1, "loss": 0.1 + 0.2, "learning_rate.layer1": 1e-5},
    {"step": 2, "loss": math.pi, "learning_rate.layer1": 2e-5, "effective_rank": 7.5},
]


@pytest.fixture(scope="module")
def adapted() -> AdaptedBackbone:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(1, 2, 3, 4), is_pretrained=False)
    backbone.adapt({2: nn.Conv2d(backbone.channels[1], 6, 1)})
    return AdaptedBackbone(backbone, {"finetune": {"seed": 0}}, FACTS, HISTORY)


@pytest.fixture
def folder(adapted: AdaptedBackbone, tmp_path: Path) -> Path:
    adapted.save(tmp_path / "ships")
    return tmp_path / "ships"


def test_what_was_saved_moved_and_loaded_is_the_same(adapted: AdaptedBackbone, folder: Path) -> None:
    loaded = AdaptedBackbone.load(folder.rename(folder.with_name("moved")))
    assert (loaded.config, loaded.facts, loaded.history) == (adapted.config, adapted.facts, adapted.history)
    assert loaded.identity == adapted.identity
    images = torch.rand(2, 3, 64, 64)
    maps = loaded.backbone.extract(images)
    assert all(torch.equal(of, maps[layer]) for layer, of in adapted.backbone.extract(images).items())
    assert maps[2].shape[1] == 6


def test_the_folder_holds_these_files_and_says_what_they_are(adapted: AdaptedBackbone, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["backbone.safetensors", "history.csv", "model.json"]
    header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert (header["kind"], header["format_version"], header["network"]) == ("inlier-backbone", 1, "test_resnet")
    assert header["facts"]["gate"] == FACTS["gate"] and header["config"] == adapted.config
    assert describe(folder) == {"network": "test_resnet", "identity": adapted.identity, **FACTS}


def test_the_history_has_a_row_a_step_and_gaps_where_nothing_was_measured(folder: Path) -> None:
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "loss", "learning_rate.layer1", "effective_rank"]
    assert [row[-1] for row in rows] == ["", "7.5"]


def test_a_backbone_learned_in_closed_form_has_no_history(adapted: AdaptedBackbone, tmp_path: Path) -> None:
    replace(adapted, history=[]).save(tmp_path / "closed")
    assert AdaptedBackbone.load(tmp_path / "closed").history == []


def test_identity_is_of_the_maps(adapted: AdaptedBackbone) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", adapted.identity)
    assert replace(adapted, facts={}, history=[]).identity == adapted.identity
    plain = adapted.backbone.select((1, 2, 3, 4)).adapt({})
    assert replace(adapted, backbone=plain).identity != adapted.identity


@pytest.mark.parametrize("name", ["backbone.safetensors", "history.csv", "model.json"])
def test_damage_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    place = next(index for index in range(len(content) // 2, len(content)) if chr(content[index]).isalnum())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"^{re.escape(str(folder))} is damaged: .*{name}"):
        AdaptedBackbone.load(folder)


def test_what_is_no_backbone_is_refused_and_not_replaced(
    adapted: AdaptedBackbone, folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"is no backbone of inlier: it holds a model\.$"):
        AdaptedBackbone.load(model_folder)
    with pytest.raises(ModelError, match=r"^The backbone .*none does not exist\.$"):
        AdaptedBackbone.load(tmp_path / "none")
    shutil.copytree(model_folder, tmp_path / "model")
    for save in (adapted.save, check_target):
        with pytest.raises(InlierError, match=r"model holds something else than a backbone; choose another --out"):
            save(tmp_path / "model")
    check_target(folder)


def test_a_network_that_this_timm_lacks_is_a_sentence(adapted: AdaptedBackbone, tmp_path: Path) -> None:
    adapted.backbone.name, name = "test_efficientnet", adapted.backbone.name
    try:
        adapted.save(tmp_path / "other")
    finally:
        adapted.backbone.name = name
    with pytest.raises(ModelError, match=r"/other is damaged, or of another version of inlier: "):
        AdaptedBackbone.load(tmp_path / "other")


def test_all_layers_are_wanted(adapted: AdaptedBackbone) -> None:
    sentence = r"^backbone of AdaptedBackbone must have all layers of test_resnet, \[1, 2, 3, 4\], got \[2, 3\]\.$"
    with pytest.raises(ValueError, match=sentence):
        replace(adapted, backbone=adapted.backbone.select((2, 3)))


def test_a_note_gives_the_verdict_and_its_numbers() -> None:
    assert note_on("ships", FACTS) == (
        "The backbone ships was not shown to help on its own data (no evidence: -0.4 points, -1.2 to +0.5); "
        "compare with the plain one by inlier compare."
    )
    gains = [GAIN, {"value": -0.03, "low": -0.05, "high": -0.01}]
    hurts = {"gate": {"verdict": "hurts", "measures": [{"gain": gain} for gain in gains]}}
    assert note_on("ships", hurts) == (
        "The backbone ships hurt on its own data (hurts: -3.0 points, -5.0 to -1.0); better take the plain one."
    )
    assert note_on("ships", {"gate": {"verdict": "helps", "measures": []}}) is None
    never = "The backbone ships was never compared with the plain one on its own data; "
    assert (
        note_on("ships", {"gate": None}) == note_on("ships", {}) == f"{never}compare a model of each by inlier compare."
    )
