"""From a fitted model to FILE.onnx: built, asked about photos, and only then given its name."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inlier.data.manifest import Manifest
from inlier.errors import ConfigError, InlierError, ManifestError
from inlier.exporting import graph
from inlier.exporting.parity import Parity, check_accuracy, check_parity, draw_photos, gate_photos, score_shift
from inlier.exporting.portable import FORMAT_VERSION, KIND, METADATA, SUFFIX, Portable
from inlier.exporting.quantizing import photos_to_quantize, quantize
from inlier.model import Model, package_versions
from inlier.outputs import as_text
from inlier.workflow import Progress, no_progress

GENERATED = "that inlier drew"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: The file.
        num_bytes: Its size.
        parity: What the gate found.
        notes: Sentences that a reader must not miss.
    """

    path: Path
    num_bytes: int
    parity: Parity
    notes: tuple[str, ...]


def export(
    model: Model, path: Path, *, data: Manifest | None = None, is_int8: bool = False, progress: Progress = no_progress
) -> Exported:
    """Writes the model as one file, if that says of photos what the model says.

    Args:
        model: Fitted, on the CPU, with the rates at which the file is to decide.
        path: The file, ``.onnx``; an earlier one is replaced.
        data: Photos to compare on: those of ``dev``, else the normal ones of ``train``; None: generated ones. With
            ``is_int8`` the network is quantised by normal photos of ``train``, else of ``dev``, and judged on ``dev``.
        is_int8: Whether the network's convolutions have eight bits.
        progress: Told how far it is.

    Raises:
        ConfigError: The model cannot be exported.
        ManifestError: The data lack what the request needs.
        MissingExtraError: A package is not installed.
        ModelError: The export does not agree with the model; nothing is left of it.
        InlierError: Nothing can be written there.
    """
    graph.check_installed()
    check_target(path)
    _check_model(model)
    if is_int8 and data is None:
        raise ManifestError("--int8 needs --data: photos that show the range of each activation, labelled ones in dev.")
    advance = progress("Exporting", 4)
    trunk, shapes = graph.build_trunk(model)
    advance(1)
    head = graph.build_head(model, shapes)
    advance(1)
    metadata, shift = {METADATA: json.dumps(_header(model, is_int8))}, 0.0
    if is_int8 and data is not None:
        trunk = quantize(model, trunk, photos_to_quantize(data))
        whole = graph.join(model, trunk, head, metadata)
        raw = Portable.read(whole.SerializeToString(), shown=as_text(path))
        shift = score_shift(model, raw, data.select("dev").normal().photos)
    whole = graph.join(model, trunk, head, metadata, shift=shift)
    advance(1)
    return _write(path, whole.SerializeToString(), lambda export: _pass(model, export, data, is_int8), advance)


def check_target(path: Path) -> None:
    """Refuses, before the work, a file that cannot be written.

    Raises:
        ConfigError: Its name does not end as an export's does.
        InlierError: There is a folder of that name, or the folder of the file is not there.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"--out of an export must end in {SUFFIX}, got {as_text(path)}.")
    if path.is_dir():
        raise InlierError(f"{as_text(path)} is a folder; choose another --out.")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise InlierError(f"Nothing can be written to {as_text(path)}: there is no folder to write to.")


def _check_model(model: Model) -> None:
    """Raises ConfigError for a model whose scores no float32 graph can give."""
    precision = model.config["backbone"].get("precision", "float32")
    if precision != "float32":
        raise ConfigError(
            f"The model was calibrated on features in {precision}, and an export computes in float32: its scores would "
            "not be comparable. Fit it with --precision float32."
        )


def _write(path: Path, content: bytes, check: Callable[[Portable], Parity], advance: Callable[[int], None]) -> Exported:
    """Gives the file its name once it has passed; else nothing is left of it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=SUFFIX, dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            export = Portable.load(Path(name))
            parity = check(export)
            advance(1)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(path)}: {error.strerror or error}.") from error
    notes = (*export.header["notes"], *_notes(parity))
    return Exported(path, len(content), parity, notes)


def _notes(parity: Parity) -> list[str]:
    """What a user should know of how the export was judged."""
    if parity.source == GENERATED:
        return ["The export was compared with the model on generated photos only; --data names others to take."]
    if parity.auroc is not None and parity.num_different:
        number = f"{parity.num_different} of {parity.num_photos}"
        return [f"Of the photos {parity.source} the int8 export gives {number} another verdict than the model."]
    return []


def _pass(model: Model, export: Portable, data: Manifest | None, is_int8: bool) -> Parity:
    if is_int8 and data is not None:
        return check_accuracy(model, export, data.select("dev").photos, source="of dev")
    if data is not None:
        photos, source = gate_photos(data)
        return check_parity(model, export, photos, source=source)
    with tempfile.TemporaryDirectory(prefix="inlier-") as folder:
        return check_parity(model, export, draw_photos(Path(folder)), source=GENERATED)


def _header(model: Model, is_int8: bool) -> dict[str, Any]:
    """What the file says of itself."""
    calibration = model.calibration
    backbone = {key: of for key, of in model.config["backbone"].items() if key != "weights"}  # a path on this machine
    has_scale = len(calibration.map_maxima) > 0
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "identity": model.identity,
        "precision": "int8" if is_int8 else "float32",
        "config": model.config | {"backbone": backbone},
        "num_calibration": len(calibration.normal_scores),
        "calibration": {"scores": calibration.normal_scores.tolist(), "map_maxima": calibration.map_maxima.tolist()},
        "heat_scale": calibration.heat_scale() if has_scale else None,
        "components": list(model.components.names) if model.components else [],
        "facts": model.facts,
        "notes": list(model.notes),
        "versions": package_versions() | {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")},
    }
