"""Model: backbone, detector and calibration; one folder, written whole, loaded back."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from inlier.build import build_backbone, build_detector
from inlier.config import Config
from inlier.data.transforms import Transform
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import crop, decode, encode
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError, ModelError
from inlier.features.backbone import Backbone
from inlier.records import Box

FORMAT_VERSION = 1
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
    """

    config: Config
    backbone: Backbone
    detector: Detector
    calibration: Calibration
    references: References
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def transform(self) -> Transform:
        """What makes a tensor of a photo."""
        return Transform(self.config["input"]["size"], self.backbone.mean, self.backbone.std)

    @cached_property
    def identity(self) -> str:
        """Twelve hexadecimal digits that tell this model from any other, whatever its folder is called."""
        digest = hashlib.sha256(json.dumps([self.config, self.facts], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.detector.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        digest.update(self.calibration.normal_scores.tobytes())
        return digest.hexdigest()[:12]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the calibration cannot promise at the rates asked."""
        rates = (self.config["decide"][name] for name in ("false_alarm_rate", "uncertain_rate"))
        return tuple(note for rate in rates if (note := self.calibration.shortage(rate)))

    def save(self, directory: Path) -> None:
        """Writes the folder beside its final name and renames it, so that it is whole or absent.

        Raises:
            ModelError: There is something else at that place, or it cannot be written.
        """
        check_target(directory)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as beside:
                whole = Path(beside) / "model"
                whole.mkdir()
                self._write(whole)
                if directory.exists():
                    os.rename(directory, Path(beside) / "replaced")
                os.rename(whole, directory)
        except OSError as error:
            raise ModelError(f"The model cannot be written to {directory}: {error.strerror or error}.") from error

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
            calibration = _read_calibration(directory / "calibration.parquet")
            references = _read_references(directory / "references.parquet")
        except (SafetensorError, RuntimeError, KeyError, ValueError, ConfigError, pa.ArrowException) as error:
            raise ModelError(f"{directory} is damaged or of another version of inlier: {error}") from error
        return cls(config, backbone.to(device), detector, calibration, references, header["facts"])

    def _write(self, folder: Path) -> None:
        (folder / "backbone.safetensors").write_bytes(save(_plain(self.backbone.network.state_dict())))
        (folder / "detector.safetensors").write_bytes(save(_plain(self.detector.state_dict())))
        pq.write_table(_calibration_table(self.calibration), folder / "calibration.parquet")
        pq.write_table(_references_table(self.references), folder / "references.parquet")
        header = {
            "kind": _KIND,
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "facts": self.facts,
            "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
        }
        (folder / _HEADER).write_text(json.dumps(header, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_target(directory: Path) -> None:
    """Raises ModelError if a model cannot be written to this folder since something else is there."""
    is_model = (directory / _HEADER).is_file()
    is_empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not is_model and not is_empty:
        raise ModelError(f"{directory} exists and is no model; choose another --out, or remove it.")


def package_versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    packages = ("inlier", "torch", "timm", "numpy", "scikit-learn", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _read_header(directory: Path) -> dict[str, Any]:
    if not directory.exists():
        raise ModelError(f"The model {directory} does not exist.")
    try:
        header = json.loads((directory / _HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{directory} is no model: it has no {_HEADER}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{directory} is damaged: its {_HEADER} cannot be read.") from error
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise ModelError(f"{directory} is no model of inlier: its {_HEADER} does not say so.")
    if header.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{directory} has format version {header.get('format_version')}, and this inlier reads {FORMAT_VERSION}; "
            "fit it again, or use the version of inlier that wrote it."
        )
    if not all(isinstance(header.get(key), dict) for key in ("config", "facts", "files")):
        raise ModelError(f"{directory} is damaged: its {_HEADER} lacks config, facts or files.")
    return header


def _check_files(directory: Path, files: Mapping[str, str]) -> None:
    expected = {"backbone.safetensors", "detector.safetensors", "calibration.parquet", "references.parquet"}
    for name in sorted(expected | set(files)):
        path = directory / name
        if name not in files or Path(name).name != name or not path.is_file():
            raise ModelError(f"{directory} is damaged: {name} is missing.")
        if _digest(path) != files[name]:
            raise ModelError(f"{directory} is damaged: {name} is not what was written.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _calibration_table(calibration: Calibration) -> pa.Table:
    """One row a photo; map maxima are sorted on their own, and stand in rows of their own order."""
    num_rows = len(calibration.normal_scores)
    maxima = [*calibration.map_maxima.tolist(), *[None] * (num_rows - len(calibration.map_maxima))]
    return pa.table(
        {
            "score": pa.array(calibration.normal_scores, pa.float64()),
            "group": pa.array(calibration.groups.tolist(), pa.string()),
            "map_maximum": pa.array(maxima, pa.float64()),
        }
    )


def _read_calibration(path: Path) -> Calibration:
    table = pq.read_table(path)
    return Calibration(
        normal_scores=table["score"].to_numpy(),
        groups=np.array(table["group"].to_pylist(), dtype=np.str_),
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
