"""Model: backbone, detector and calibration; one folder, written whole, loaded back."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inlier.build import build_backbone, build_components, build_detector, resolve_rates
from inlier.config import Config, merge
from inlier.data.transforms import Transform
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import crop, decode, encode
from inlier.detectors.components import Components
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError, ModelError
from inlier.features.backbone import Backbone
from inlier.outputs import as_text, check_folder
from inlier.records import Box

FORMAT_VERSION = 2
_KIND = "inlier-model"
_HEADER = "model.json"


@dataclass(frozen=True)
class References:
    """The normal photos behind a model, as its reports show them.

    Attributes:
        names: Their paths as given to ``fit``, in its order.
        thumbnails: WebP of each; empty where there were too many to keep.
    """

    names: tuple[str, ...]
    thumbnails: tuple[bytes, ...]

    def crop(self, number: int, box: Box) -> bytes:
        """WebP of a place in a photo; empty if it has no thumbnail."""
        if not self.thumbnails[number]:
            return b""
        if box == (0.0, 0.0, 1.0, 1.0):
            return self.thumbnails[number]
        return encode(crop(decode(self.thumbnails[number]), box, size=160), longest_side=160, quality=75)

    def select(self, places: Sequence[int]) -> References:
        """Those at these places, in this order."""
        return References(
            tuple(self.names[place] for place in places), tuple(self.thumbnails[place] for place in places)
        )


@dataclass(frozen=True)
class Model:
    """All that a verdict needs; a folder that works on any machine.

    Attributes:
        config: The fully resolved configuration; the model can be fitted again from it.
        backbone: The frozen network, weights included.
        detector: Fitted.
        calibration: Scores of normal photos that the detector has not seen.
        references: The photos that the detector was fitted on.
        facts: Where it comes from: data fingerprint, package versions, counts, notes.
        components: Names what a photo shows; None where the normal photos were of no several classes.
    """

    config: Config
    backbone: Backbone
    detector: Detector
    calibration: Calibration
    references: References
    facts: dict[str, Any] = field(default_factory=dict)
    components: Components | None = None

    @property
    def transform(self) -> Transform:
        """What makes a tensor of a photo."""
        return Transform(self.config["input"]["size"], self.backbone.mean, self.backbone.std)

    @cached_property
    def identity(self) -> str:
        """Twelve hexadecimal digits that tell this model from any that scores differently.

        They depend neither on where its folder is nor on the rates at which it decides.
        """
        scoring = {name: keywords for name, keywords in self.config.items() if name != "decide"}
        digest = hashlib.sha256(json.dumps([scoring, self.facts], sort_keys=True).encode())
        for name, tensor in sorted(self.detector.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        digest.update(self.calibration.normal_scores.tobytes())
        return digest.hexdigest()[:12]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the calibration cannot promise at the rate asked."""
        note = self.calibration.shortage(self.config["decide"]["false_alarm_rate"])
        return (note,) if note else ()

    def with_rates(self, *, false_alarm_rate: float | None = None, uncertain_rate: float | None = None) -> Self:
        """The same model, deciding at other rates, which its calibration scores serve as well; None keeps a rate.

        Raises:
            ConfigError: A rate is not in (0, 1), or fewer photos may be uncertain than may be rejected.
        """
        rates = {"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate}
        config = merge(self.config, "decide", **rates)
        return replace(self, config=config | {"decide": resolve_rates(config["decide"])})

    def save(self, directory: Path) -> None:
        """Writes the folder beside its final name and renames it, so that it is whole or absent.

        Raises:
            InlierError: There is something else at that place, or it cannot be written.
        """
        check_target(directory)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as beside:
                whole = Path(beside) / "model"
                whole.mkdir()
                self._write(whole)
                _move_in(whole, directory, aside=Path(beside) / "replaced")
        except OSError as error:
            raise ModelError(f"The model cannot be written to {as_text(directory)}: {error.strerror}.") from error

    @classmethod
    def load(cls, directory: Path, *, device: str = "cpu") -> Self:
        """Reads a folder that ``save`` wrote, and checks that nothing in it changed.

        Raises:
            ModelError: It is no model, damaged, or of a version that this one does not read.
        """
        header = _read_header(directory)
        _check_files(directory, header["files"])
        config: Config = header["config"]
        try:
            detector = build_detector(config)
            backbone = build_backbone(config, detector, is_pretrained=False)
            backbone.network.load_state_dict(load_file(directory / "backbone.safetensors"))
            detector.load_state_dict(load_file(directory / "detector.safetensors"))
            components = build_components(config)
            if components is not None:
                components.load_state_dict(load_file(directory / "components.safetensors"))
            calibration = _read_calibration(directory / "calibration.parquet")
            references = _read_references(directory / "references.parquet")
        except (SafetensorError, RuntimeError, KeyError, ValueError, ConfigError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(f"{as_text(directory)} is damaged, or of another version of inlier: {reason}") from error
        return cls(config, backbone.to(device), detector, calibration, references, header["facts"], components)

    def _write(self, folder: Path) -> None:
        (folder / "backbone.safetensors").write_bytes(save(_plain(self.backbone.network.state_dict())))
        (folder / "detector.safetensors").write_bytes(save(_plain(self.detector.state_dict())))
        if self.components is not None:
            (folder / "components.safetensors").write_bytes(save(_plain(self.components.state_dict())))
        pq.write_table(_calibration_table(self.calibration), folder / "calibration.parquet")
        pq.write_table(_references_table(self.references), folder / "references.parquet")
        header = {
            "kind": _KIND,
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "facts": self.facts,
            "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
        }
        header["digest"] = _header_digest(header)
        (folder / _HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def check_target(directory: Path) -> None:
    """Raises InlierError if a model cannot be written to this folder."""
    check_folder(directory, marker=_HEADER, content="a model")


def package_versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    packages = ("inlier", "torch", "timm", "numpy", "scikit-learn", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _move_in(whole: Path, directory: Path, *, aside: Path) -> None:
    """Gives a finished folder its name; what had that name goes aside, and comes back if this fails."""
    if not os.path.lexists(directory):
        os.rename(whole, directory)
        return
    os.rename(directory, aside)
    try:
        os.rename(whole, directory)
    except BaseException:
        os.rename(aside, directory)
        raise


def _read_header(directory: Path) -> dict[str, Any]:
    shown = as_text(directory)
    if not directory.exists():
        raise ModelError(f"The model {shown} does not exist.")
    try:
        header = json.loads((directory / _HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{shown} is no model: it has no {_HEADER}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{shown} is damaged: its {_HEADER} cannot be read.") from error
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise ModelError(f"{shown} is no model of inlier: its {_HEADER} does not say so.")
    if header.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{shown} has format version {header.get('format_version')}, and this inlier reads {FORMAT_VERSION}; "
            "fit it again, or use the version of inlier that wrote it."
        )
    if header.pop("digest", None) != _header_digest(header):
        raise ModelError(f"{shown} is damaged: {_HEADER} is not what was written.")
    return header


def _header_digest(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _check_files(directory: Path, files: Mapping[str, str]) -> None:
    """Raises ModelError for the first file that is missing, or not what was written."""
    for name, digest in files.items():
        if not (directory / name).is_file():
            raise ModelError(f"{as_text(directory)} is damaged: {name} is missing.")
        if _digest(directory / name) != digest:
            raise ModelError(f"{as_text(directory)} is damaged: {name} is not what was written.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _calibration_table(calibration: Calibration) -> pa.Table:
    """One row a photo; map maxima are sorted on their own, and stand in rows of their own order."""
    scores, maxima = calibration.normal_scores.tolist(), calibration.map_maxima.tolist()
    num_rows = max(len(scores), len(maxima))  # one photo alone leaves a scale for heat, and no score

    def padded(values: list[Any]) -> list[Any]:
        return values + [None] * (num_rows - len(values))

    return pa.table(
        {
            "score": pa.array(padded(scores), pa.float64()),
            "group": pa.array(padded(calibration.groups.tolist()), pa.string()),
            "map_maximum": pa.array(padded(maxima), pa.float64()),
        }
    )


def _read_calibration(path: Path) -> Calibration:
    table = pq.read_table(path)
    return Calibration(
        normal_scores=table["score"].drop_null().to_numpy(),
        groups=np.array(table["group"].drop_null().to_pylist(), dtype=np.str_),
        map_maxima=table["map_maximum"].drop_null().to_numpy(),
    )


def _references_table(references: References) -> pa.Table:
    return pa.table(
        {
            "path": pa.array(references.names, pa.string()),
            "thumbnail": pa.array(references.thumbnails, pa.binary()),
        }
    )


def _read_references(path: Path) -> References:
    table = pq.read_table(path)
    return References(tuple(table["path"].to_pylist()), tuple(table["thumbnail"].to_pylist()))
