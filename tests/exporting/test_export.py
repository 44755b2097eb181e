from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from inlier.data.images import read_image
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.detectors.combined import Combined
from inlier.errors import ConfigError, InlierError, ManifestError, MissingExtraError, ModelError
from inlier.exporting import graph
from inlier.exporting.export import Exported, _header, _notes, _pass, _write, check_target, export
from inlier.exporting.forwards import Shapes
from inlier.exporting.parity import TOLERANCE, check_accuracy, check_parity, draw_photos, gate_photos
from inlier.exporting.portable import METADATA, Portable
from inlier.model import Model


def test_an_export_that_agrees_is_kept_and_says_on_what(written: Exported, portable: Portable, model: Model) -> None:
    parity = written.parity
    assert (parity.num_photos, parity.source) == (14, "of dev")
    assert parity.largest_difference <= TOLERANCE * parity.spread
    assert parity.num_different == 0
    assert written.num_bytes == written.path.stat().st_size
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]
    header = portable.header
    assert portable.identity.startswith(f"{model.identity}-")
    assert header["heat_scale"] == list(model.calibration.heat_scale())
    assert header["components"] == list(model.components.names if model.components else ())
    assert "weights" not in portable.config["backbone"]
    assert portable.calibration.normal_scores.tolist() == model.calibration.normal_scores.tolist()


class Pieces(NamedTuple):
    trunk: Any
    shapes: Shapes
    head: Any


@pytest.fixture(scope="module")
def pieces(model: Model) -> Pieces:
    before = torch.random.get_rng_state()
    trunk, shapes = graph.build_trunk(model)
    assert torch.equal(before, torch.random.get_rng_state())  # an export leaves the caller's random numbers alone
    return Pieces(trunk, shapes, graph.build_head(model, shapes))


def _other_scales(model: Model) -> Model:
    """A model whose scores are all a little larger."""
    assert isinstance(model.detector, Combined)
    detector = Combined(model.detector.members)
    detector.centers_, detector.scales_ = model.detector.centers_, model.detector.scales_ * 0.99
    return replace(model, detector=detector)


class _OtherColours(Model):
    """A model that believes its network to have been trained on other colours."""

    @property
    def transform(self) -> Transform:
        right = super().transform
        return Transform(right.size, (0.3, 0.5, 0.5), right.std)


def _recoloured(model: Model) -> Model:
    return _OtherColours(**{name: getattr(model, name) for name in model.__dataclass_fields__})


BREAKAGES: dict[str, tuple[Callable[[Model], Model], str]] = {
    "another score": (_other_scales, r"the score of \S+ is \S+ and not \S+; they may differ by"),
    "other rates": (
        lambda model: model.with_rates(false_alarm_rate=0.6, uncertain_rate=0.9),
        r"the verdict on \S+ is (uncertain|reject) and not (accept|uncertain)\.",
    ),
    "another calibration": (
        lambda model: replace(
            model,
            calibration=replace(
                model.calibration, normal_scores=model.calibration.normal_scores + 1, groups=np.empty(0, dtype=np.str_)
            ),
        ),
        r"the (p-value|verdict)",
    ),
    "other colours": (_recoloured, r"the score of \S+ is"),
}


@pytest.mark.parametrize(("broken", "reason"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_export_is_refused_and_leaves_nothing(
    model: Model,
    data: Manifest,
    pieces: Pieces,
    tmp_path: Path,
    broken: Callable[[Model], Model],
    reason: str,
) -> None:
    other = broken(model)
    head = pieces.head if other.detector is model.detector else graph.build_head(other, pieces.shapes)
    metadata = {METADATA: json.dumps(_header(model, False))}
    whole = graph.join(other, pieces.trunk, head, metadata)
    photos, source = gate_photos(data)
    path = tmp_path / "model.onnx"
    path.write_text("an earlier one")
    with pytest.raises(ModelError, match=rf"^The export does not agree with the model, and was not kept: {reason}"):
        _write(
            path,
            whole.SerializeToString(),
            lambda export: check_parity(model, export, photos, source=source),
            lambda steps: None,
        )
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "an earlier one"


def test_eight_bits_are_smaller_and_worth_as_much(
    model: Model, data: Manifest, written: Exported, tmp_path: Path
) -> None:
    small = export(model, tmp_path / "small.onnx", data=data, is_int8=True)
    assert small.num_bytes < 0.5 * written.num_bytes
    assert small.parity.auroc is not None and small.parity.auroc[1] >= small.parity.auroc[0] - 0.005
    loaded = Portable.load(small.path, num_threads=1)
    assert loaded.header["precision"] == "int8"
    # What rounding adds to scores is taken off again: those of normal photos lie where they lay.
    normal = data.select("dev").normal().photos
    off = [
        ours.verdict.score - theirs.verdict.score
        for ours, theirs in zip(
            loaded.inspect_photos(normal), Portable.load(written.path).inspect_photos(normal), strict=True
        )
    ]
    assert abs(float(np.median(off))) < 0.01 * written.parity.spread


def test_eight_bits_that_find_less_are_refused(model: Model, data: Manifest, pieces: Pieces) -> None:
    assert isinstance(model.detector, Combined)
    upside_down = Combined(model.detector.members)
    upside_down.centers_, upside_down.scales_ = model.detector.centers_, -model.detector.scales_
    head = graph.build_head(replace(model, detector=upside_down), pieces.shapes)
    whole = graph.join(model, pieces.trunk, head, {METADATA: json.dumps(_header(model, True))})
    broken = Portable.read(whole.SerializeToString(), shown="small.onnx", num_threads=1)
    with pytest.raises(ModelError, match=r"^The int8 export is worth less, and was not kept: its AUROC on dev is 0\."):
        check_accuracy(model, broken, data.select("dev").photos, source="of dev")
    normal = data.normal().select("dev").photos
    with pytest.raises(ManifestError, match=r"^An int8 export is judged by the split dev, which needs normal and"):
        check_accuracy(model, broken, normal, source="of dev")


def test_without_data_photos_are_drawn_and_it_is_said(model: Model, portable: Portable) -> None:
    parity = _pass(model, portable, None, False)
    assert (parity.num_photos, parity.source) == (12, "that inlier drew")
    (note,) = _notes(parity)
    assert note.startswith("The export was compared with the model on generated photos only; --data")


def test_drawn_photos_are_of_several_sizes(tmp_path: Path) -> None:
    assert len({read_image(photo.path).shape for photo in draw_photos(tmp_path)}) == 12


def test_requests_that_cannot_be_met(model: Model, data: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--out of an export must end in \.onnx, got "):
        check_target(tmp_path / "model")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InlierError, match=r"folder\.onnx is a folder; choose another --out\.$"):
        check_target(tmp_path / "folder.onnx")
    with pytest.raises(InlierError, match=r"^Nothing can be written to .*: there is no folder to write to\.$"):
        check_target(tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(ManifestError, match=r"^--int8 needs --data: "):
        export(model, tmp_path / "model.onnx", is_int8=True)
    rounded = model.config | {"backbone": model.config["backbone"] | {"precision": "bfloat16"}}
    with pytest.raises(ConfigError, match=r"^The model was calibrated on features in bfloat16, and an export computes"):
        export(replace(model, config=rounded), tmp_path / "model.onnx")
    with pytest.raises(ManifestError, match=r"^The data hold no photos of the splits dev and train"):
        gate_photos(data.select("test"))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, model: Model, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'^Exporting needs onnxscript; install it with: pip install "inlier\['):
        export(model, tmp_path / "model.onnx")
