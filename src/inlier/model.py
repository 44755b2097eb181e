"""Model: backbone, detector and calibration; one folder, written whole, loaded back."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inlier import folders
from inlier.adapted import note_on
from inlier.build import build_backbone, build_components, build_detector, resolve_rates
from inlier.config import Config, merge
from inlier.data.transforms import Transform
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import crop, decode, encode
from inlier.detectors.components import Components
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError
from inlier.features.backbone import Backbone
from inlier.features.runtime import has_openvino
from inlier.records import Box

_REFERENCE_COLUMNS = ("path", "thumbnail", "group", "digest")

KIND = folders.Kind("model", verb="fit", format_version=3)
"""What the folder holds, a MODEL."""


@dataclass(frozen=True)
class References:
    """The normal photos behind a model, as its reports show them.

    Attributes:
        names: Their paths as given to ``fit``, in its order.
        thumbnails: WebP of each; empty where there were too many to keep.
        groups: Of each what was never torn apart; () in models of earlier versions.
        digests: SHA-256 of each photo's bytes, by which it is known again; () likewise.
    """

    names: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    groups: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: References) -> References:
        """Both, one after the other; what is not known of all is known of none."""
        return References(
            self.names + other.names,
            self.thumbnails + other.thumbnails,
            self.groups + other.groups if self.has_groups and other.has_groups else (),
            self.digests + other.digests if self.has_groups and other.has_groups else (),
        )

    @property
    def has_groups(self) -> bool:
        """Whether groups and digests are known."""
        return len(self.groups) == len(self.digests) == len(self.names)

    def shortened(self, num_thumbnails: int) -> References:
        """The same photos, of which only the first so many have thumbnails."""
        kept = self.thumbnails[:num_thumbnails]
        return replace(self, thumbnails=kept + (b"",) * (len(self) - len(kept)))

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
            tuple(self.names[place] for place in places),
            tuple(self.thumbnails[place] for place in places),
            tuple(self.groups[place] for place in places) if self.has_groups else (),
            tuple(self.digests[place] for place in places) if self.has_groups else (),
        )


def transform_of(config: Config, backbone: Backbone) -> Transform:
    """What makes a tensor of a photo, with what the configuration needs beside it to know the region."""
    kind = config.get("regions", {}).get("kind")
    return Transform(config["input"]["size"], backbone.mean, backbone.std, kind == "mask", kind == "grabcut")


@dataclass(frozen=True)
class Model:
    """All that a verdict needs; a folder that works on any machine.

    Attributes:
        config: The fully resolved configuration; the model can be fitted again from it.
        backbone: The frozen network, weights included.
        detector: Fitted.
        calibration: Scores of normal photos that the detector has not seen.
        references: The photos that the detector was fitted on.
        facts: Where it comes from: data fingerprint, package versions, counts; what an adapted backbone says of itself.
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
        return transform_of(self.config, self.backbone)

    @cached_property
    def identity(self) -> str:
        """Twelve hexadecimal digits that tell this model from any that scores differently.

        They depend neither on where its folder is, or that of an adapted backbone, nor on the rates at which it
        decides.
        """
        scoring = {name: keywords for name, keywords in self.config.items() if name != "decide"}
        if adapted := self.config["backbone"].get("adapted"):
            without = {key: of for key, of in self.config["backbone"].items() if key != "weights"}
            scoring["backbone"] = without | {"adapted": adapted["identity"]}
        digest = hashlib.sha256(json.dumps([scoring, self.facts], sort_keys=True).encode())
        for name, tensor in sorted(self.detector.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        digest.update(self.calibration.normal_scores.tobytes())
        return digest.hexdigest()[:12]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the calibration cannot promise, on an adapted backbone's worth, and on other features."""
        shortage = self.calibration.shortage(self.config["decide"]["false_alarm_rate"])
        return tuple(note for note in (shortage, self.backbone_note, self._runtime_note()) if note)

    @property
    def backbone_note(self) -> str | None:
        """A sentence on an adapted backbone that is not known to help; None on any other."""
        adapted = self.config["backbone"].get("adapted")
        return note_on(adapted["title"], self.facts.get("backbone") or {}) if adapted else None

    def _runtime_note(self) -> str | None:
        """A sentence where features are not computed as they were for the calibration."""
        if self.config["backbone"].get("runtime", "torch") == "torch":
            return None
        is_on_cpu = next(self.backbone.parameters()).device.type == "cpu"
        if is_on_cpu and has_openvino() and self.backbone.runs_in != "torch":
            return None
        return (
            "The model was calibrated on features that OpenVINO computed, and here PyTorch computes them: scores "
            "differ a little, and so does the share of normal photos that are rejected. Install OpenVINO, or fit here."
        )

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
        header = {"config": self.config, "facts": self.facts}
        folders.write_folder(directory, KIND, header, self._write)

    @classmethod
    def load(cls, directory: Path, *, device: str = "cpu") -> Self:
        """Reads a folder that ``save`` wrote, and checks that nothing in it changed.

        Raises:
            ModelError: It is no model, damaged, or of a version that this one does not read.
        """
        header = folders.read_folder(directory, KIND)
        config: Config = header["config"]
        try:
            detector = build_detector(config)
            backbone = build_backbone(config, detector.layers, is_pretrained=False)
            backbone.load_state_dict(load_file(directory / "backbone.safetensors"))
            detector.load_state_dict(load_file(directory / "detector.safetensors"))
            components = build_components(config)
            if components is not None:
                components.load_state_dict(load_file(directory / "components.safetensors"))
            calibration = _read_calibration(directory / "calibration.parquet")
            references = _read_references(directory / "references.parquet")
        except (SafetensorError, RuntimeError, KeyError, ValueError, ConfigError, pa.ArrowException) as error:
            raise folders.unusable(directory, error) from error
        return cls(config, backbone.to(device), detector, calibration, references, header["facts"], components)

    def _write(self, folder: Path) -> None:
        (folder / "backbone.safetensors").write_bytes(save(folders.plain(self.backbone.state_dict())))
        (folder / "detector.safetensors").write_bytes(save(folders.plain(self.detector.state_dict())))
        if self.components is not None:
            (folder / "components.safetensors").write_bytes(save(folders.plain(self.components.state_dict())))
        pq.write_table(_calibration_table(self.calibration), folder / "calibration.parquet")
        pq.write_table(_references_table(self.references), folder / "references.parquet")


def check_target(directory: Path) -> None:
    """Raises InlierError if a model cannot be written to this folder."""
    folders.check_target(directory, KIND)


def package_versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    packages = ["inlier", "torch", "timm", "numpy", "scikit-learn", "pillow"]
    packages += ["openvino"] if has_openvino() else []
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


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
    columns = {
        "path": pa.array(references.names, pa.string()),
        "thumbnail": pa.array(references.thumbnails, pa.binary()),
    }
    if references.has_groups:
        columns["group"] = pa.array(references.groups, pa.string())
        columns["digest"] = pa.array(references.digests, pa.string())
    return pa.table(columns)


def _read_references(path: Path) -> References:
    table = pq.read_table(path)
    columns = [table[name].to_pylist() if name in table.column_names else [] for name in _REFERENCE_COLUMNS]
    return References(*map(tuple, columns))
