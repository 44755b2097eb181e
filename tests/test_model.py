from __future__ import annotations

import json
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from inlier.data.manifest import Manifest
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import decode
from inlier.errors import ConfigError, InlierError, ModelError
from inlier.features.backbone import Backbone
from inlier.features.runtime import has_openvino
from inlier.model import Model, References, check_target, package_versions
from inlier.workflow import inspect_photos

FILES = (
    "backbone.safetensors",
    "calibration.parquet",
    "components.safetensors",
    "detector.safetensors",
    "model.json",
    "references.parquet",
)


ADAPTED: dict[str, dict[str, str | None]] = {
    "adapted": {"title": "ships", "identity": "abcdefabcdef", "objective": "simclr", "verdict": None}
}


def scores(model: Model, data: Manifest) -> list[float | None]:
    return [inspection.verdict.score for inspection in inspect_photos(model, data.select("test").photos)]


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to be damaged."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_a_model_that_was_saved_moved_and_loaded_is_the_same(model: Model, folder: Path, data: Manifest) -> None:
    folder.rename(folder.with_name("moved"))
    loaded = Model.load(folder.with_name("moved"))
    assert loaded.identity == model.identity
    assert (loaded.config, loaded.facts, loaded.references) == (model.config, model.facts, model.references)
    assert loaded.transform == model.transform
    for name in ("normal_scores", "groups", "map_maxima"):
        assert np.array_equal(getattr(loaded.calibration, name), getattr(model.calibration, name))
    assert scores(loaded, data) == scores(model, data)


def test_the_folder_holds_these_files_and_says_what_they_are(model: Model, model_folder: Path) -> None:
    assert sorted(path.name for path in model_folder.iterdir()) == list(FILES)
    header = json.loads((model_folder / "model.json").read_text(encoding="utf-8"))
    assert (header["kind"], header["format_version"]) == ("inlier-model", 3)
    assert header["config"] == model.config
    assert header["config"]["fit"]["seed"] == 0
    assert header["facts"]["versions"] == package_versions()
    assert re.fullmatch(r"[0-9a-f]{64}", header["facts"]["data_fingerprint"])
    assert set(header["files"]) == set(FILES) - {"model.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    place = next(index for index in range(len(content) // 2, len(content)) if chr(content[index]).isalnum())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"^{re.escape(str(folder))} is damaged: .*{name}"):
        Model.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    sentence = "is no model: it has no model.json" if name == "model.json" else f"is damaged: {name} is missing"
    with pytest.raises(ModelError, match=rf"^{re.escape(str(folder))} {sentence}\.$"):
        Model.load(folder)


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^The model .*none does not exist\.$"):
        Model.load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"model\.json is no model: it has no model\.json\.$"):
        Model.load(folder / "model.json")
    header = folder / "model.json"
    text = header.read_text(encoding="utf-8")
    for content, sentence in (
        (text[: len(text) // 2], r"is damaged: its model\.json cannot be read\.$"),
        ("\xff", r"is damaged: its model\.json cannot be read\.$"),
        ("[]", r"is no model of inlier: its model\.json does not say so\.$"),
        ('{"kind": "bert"}', r"is no model of inlier: its model\.json does not say so\.$"),
        (
            text.replace('"format_version": 3', '"format_version": 2'),
            "has format version 2, and this inlier reads 3; fit",
        ),
        (
            text.replace('"kind": "inlier-model"', '"kind": "inlier-backbone"'),
            "no model of inlier: it holds a backbone",
        ),
    ):
        header.write_text(content, encoding="latin-1")
        with pytest.raises(ModelError, match=sentence):
            Model.load(folder)


def test_a_model_that_this_version_cannot_build_is_refused(model: Model, tmp_path: Path) -> None:
    sections = {"patchcore": model.config["patchcore"] | {"num_neighbors": 0}}
    replace(model, config=model.config | sections).save(tmp_path / "model")
    sentence = (
        r"model is damaged, or of another version of inlier: \[patchcore\]: num_neighbors of PatchCore must be at"
    )
    with pytest.raises(ModelError, match=sentence):
        Model.load(tmp_path / "model")


def test_adaptors_are_saved_with_the_model_and_need_no_other_folder(
    model: Model, data: Manifest, tmp_path: Path
) -> None:
    backbone = Backbone("efficientnet_lite0", layers=(2, 3, 4), runtime=model.backbone.runtime).adapt(
        {3: torch.nn.Conv2d(112, 112, 1)}
    )
    section = model.config["backbone"] | {"weights": str(tmp_path / "gone")}
    adapted = replace(model, backbone=backbone, config=model.config | {"backbone": section | ADAPTED})
    adapted.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    assert list(loaded.backbone.adaptors) == ["3"] and loaded.identity == adapted.identity
    assert scores(loaded, data) == scores(adapted, data) != scores(model, data)


def test_an_adapted_backbone_counts_by_what_it_is_and_not_by_where(model: Model) -> None:
    def identity(weights: str, adapted: dict[str, str | None]) -> str:
        section = model.config["backbone"] | {"weights": weights, "adapted": adapted}
        return replace(model, config=model.config | {"backbone": section}).identity

    known = ADAPTED["adapted"]
    assert identity("here", known) == identity("there", known | {"title": "other"}) != model.identity
    assert identity("here", known | {"identity": "0" * 12}) != identity("here", known)


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        (None, "The backbone ships was never compared with the plain one on its own data; compare a model of each by"),
        (
            {"verdict": "no evidence", "measures": []},
            "The backbone ships was not shown to help on its own data (no evi",
        ),
        (
            {"verdict": "hurts", "measures": []},
            "The backbone ships hurt on its own data (hurts); better take the plain",
        ),
        ({"verdict": "helps", "measures": []}, ""),
    ],
)
def test_a_note_says_what_is_not_known_to_help(model: Model, gate: dict[str, object] | None, sentence: str) -> None:
    section = model.config["backbone"] | ADAPTED
    facts = model.facts | {"backbone": {"gate": gate}}
    adapted = replace(model, config=model.config | {"backbone": section}, facts=facts)
    notes = adapted.with_rates(false_alarm_rate=0.2, uncertain_rate=0.3).notes
    assert len(notes) == bool(sentence) and all(note.startswith(sentence) for note in notes)


def test_saving_replaces_an_earlier_model_and_nothing_else(model: Model, folder: Path, tmp_path: Path) -> None:
    replace(model, facts={"note": "newer"}).save(folder)
    assert Model.load(folder).facts == {"note": "newer"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for save in (model.save, check_target):
        with pytest.raises(InlierError, match=r"photos holds something else than a model; choose another --out"):
            save(tmp_path / "photos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("call", ["write_text", "rename"])
def test_an_interrupted_save_leaves_what_was_there(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It stops while the last file is written, or just before the new folder gets its name."""
    rename = os.rename

    def stop_at_the_new(source: Path, target: Path) -> None:
        if Path(source).name == "model" and Path(source).parent != tmp_path:
            raise Interrupted
        rename(source, target)

    def stop(*arguments: object, **options: object) -> None:
        raise Interrupted

    if call == "rename":
        monkeypatch.setattr(os, "rename", stop_at_the_new)
    else:
        monkeypatch.setattr(Path, "write_text", stop)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(Interrupted):
            replace(model, facts={}).save(target)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert Model.load(folder).identity == model.identity


def test_what_cannot_be_written_is_a_sentence(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InlierError, match=r"^Nothing can be written to .*/file/model: .*/file is no folder"):
        model.save(tmp_path / "file" / "model")
    with pytest.raises(ModelError, match=r"^The model cannot be written to .*: File name too long\.$"):
        model.save(tmp_path / ("m" * 300))


def test_the_umask_decides_who_may_read(model: Model, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        model.save(tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    assert {stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in FILES} == {0o640}


def test_identity_tells_what_scores_differently(model: Model) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", model.identity)
    assert model.with_rates(false_alarm_rate=0.01).identity == model.identity
    others = [
        replace(model, facts=model.facts | {"data_fingerprint": "of other data"}),
        replace(model, config=model.config | {"input": {"size": 96}}),
        replace(model, calibration=Calibration(model.calibration.normal_scores[1:])),
    ]
    assert len({other.identity for other in others} | {model.identity}) == 4


def test_identity_is_of_what_was_learned(model: Model, folder: Path) -> None:
    loaded = Model.load(folder)
    state = loaded.detector.state_dict()
    loaded.detector.load_state_dict(state | {"scales_": 2 * state["scales_"]})
    assert loaded.identity != model.identity


def test_other_rates_are_checked_and_leave_the_model_as_it_is(model: Model) -> None:
    other = model.with_rates(false_alarm_rate=0.1, uncertain_rate=0.3)
    assert other.config["decide"] == {"false_alarm_rate": 0.1, "uncertain_rate": 0.3}
    assert model.with_rates().config == model.config
    assert model.config["decide"] == {"false_alarm_rate": 0.05, "uncertain_rate": 0.2}
    with pytest.raises(ConfigError, match=r"^false_alarm_rate of \[decide\] must be less than 1, got 2\.0\.$"):
        model.with_rates(false_alarm_rate=2.0)


def test_a_note_says_when_the_rate_asks_too_much(model: Model) -> None:
    few = replace(model, calibration=Calibration(np.arange(10.0)))
    (note,) = few.notes
    assert note.startswith("With 10 calibration photos no photo can be rejected at a false-alarm rate of 0.05; at")
    assert few.with_rates(false_alarm_rate=0.1).notes == ()


def test_a_note_says_when_pytorch_stands_in_for_openvino(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = model.notes
    backbone = Backbone("test_resnet", layers=(2,), is_pretrained=False, runtime="openvino")
    config = model.config | {"backbone": model.config["backbone"] | {"runtime": "openvino"}}
    other = replace(model, backbone=backbone, config=config)
    monkeypatch.setattr("inlier.model.has_openvino", lambda: True)
    assert other.notes == notes
    backbone.runs_in = "torch"  # which could be had, and could not take the network
    assert "here PyTorch computes them" in other.notes[-1]
    backbone.runs_in = None
    monkeypatch.setattr("inlier.model.has_openvino", lambda: False)
    assert "Install OpenVINO, or fit here" in other.notes[-1]


def test_references_show_places_of_normal_photos(model: Model, data: Manifest) -> None:
    train = sorted(str(photo.path) for photo in data.select("train").photos)
    assert list(model.references.names) == train
    assert model.references.crop(0, (0.0, 0.0, 1.0, 1.0)) == model.references.thumbnails[0]
    assert max(decode(model.references.crop(0, (0.1, 0.1, 0.3, 0.3))).shape) == 160
    assert model.references.select([2, 0]).names == (train[2], train[0])
    assert References(("a",), (b"",)).crop(0, (0.0, 0.0, 0.5, 0.5)) == b""


def test_versions_are_those_installed() -> None:
    versions = package_versions()
    always = ["python", "inlier", "torch", "timm", "numpy", "scikit-learn", "pillow"]
    assert list(versions) == always + ["openvino"] * has_openvino()
    assert torch.__version__.startswith(versions["torch"])


def test_references_know_their_groups_and_models_of_earlier_versions_do_not(model: Model, folder: Path) -> None:
    references = Model.load(folder).references
    assert references.has_groups and references == model.references
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in references.digests)
    assert {*references.groups} == {*model.calibration.groups.tolist()} & {*references.groups}
    earlier = replace(model, references=References(references.names, references.thumbnails))
    earlier.save(folder)
    assert pq.read_table(folder / "references.parquet").column_names == ["path", "thumbnail"]
    assert Model.load(folder).references == earlier.references


def test_references_are_joined_and_shortened() -> None:
    first = References(("a", "b"), (b"1", b"2"), ("x", "y"), ("d", "e"))
    second = References(("c",), (b"3",), ("z",), ("f",))
    both = first + second
    assert both == References(("a", "b", "c"), (b"1", b"2", b"3"), ("x", "y", "z"), ("d", "e", "f"))
    assert both.select([2, 0]) == References(("c", "a"), (b"3", b"1"), ("z", "x"), ("f", "d"))
    assert both.shortened(1).thumbnails == (b"1", b"", b"")
    assert (References(("o",), (b"",)) + second) == References(("o", "c"), (b"", b"3"))
