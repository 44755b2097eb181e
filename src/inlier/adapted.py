"""AdaptedBackbone: a backbone that learned the domain, and what is known of it; one folder, written whole."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inlier import folders
from inlier.config import Config
from inlier.features.backbone import Backbone, all_layers
from inlier.training import History

KIND = folders.Kind("backbone", verb="adapt", format_version=1)
"""What the folder holds, a BACKBONE."""

_TENSORS = "backbone.safetensors"
_HISTORY = "history.csv"


@dataclass(frozen=True, eq=False)
class AdaptedBackbone:
    """A backbone that learned the domain; as a folder, any detector takes it in place of a name.

    Attributes:
        backbone: With all layers of its network, so that every detector finds those that it looks at.
        config: The fully resolved configuration; the backbone can be adapted again from it.
        facts: Where it comes from: among others ``objective``, ``data_fingerprint``, ``versions``, ``seed``; and
            ``gate``, which is None where it was never compared with what it was made from, and else has a
            ``verdict`` (``helps``, ``no evidence`` or ``hurts``) and ``measures``, each with its ``gain`` as
            ``value``, ``low`` and ``high``, in shares.
        history: How the training went, one row a step; empty where there was none.

    Raises:
        ValueError: The backbone lacks layers of its network.
    """

    backbone: Backbone
    config: Config
    facts: dict[str, Any]
    history: History

    def __post_init__(self) -> None:
        every = all_layers(self.backbone.name)
        if self.backbone.layers != every:
            raise ValueError(
                f"backbone of AdaptedBackbone must have all layers of {self.backbone.name}, {list(every)}, "
                f"got {list(self.backbone.layers)}."
            )

    @cached_property
    def identity(self) -> str:
        """Twelve hexadecimal digits that tell this backbone from any with other maps, wherever its folder is."""
        digest = hashlib.sha256(self.backbone.name.encode())
        digest.update(save(folders.plain(self.backbone.state_dict())))
        return digest.hexdigest()[:12]

    def save(self, directory: Path) -> None:
        """Writes the folder beside its final name and renames it, so that it is whole or absent.

        Raises:
            InlierError: There is something else at that place, or it cannot be written.
        """
        header = {
            "network": self.backbone.name,
            "identity": self.identity,
            "config": self.config,
            "facts": self.facts,
        }
        folders.write_folder(directory, KIND, header, self._write)

    @classmethod
    def load(cls, directory: Path, *, device: str = "cpu") -> Self:
        """Reads a folder that ``save`` wrote, and checks that nothing in it changed.

        Raises:
            ModelError: It is no backbone, damaged, or of a version that this one does not read.
        """
        header = folders.read_folder(directory, KIND)
        name = header["network"]
        try:
            backbone = Backbone(name, layers=all_layers(name), is_pretrained=False)
            backbone.load_state_dict(load_file(directory / _TENSORS))
            history = _read_history(directory / _HISTORY)
        except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
            raise folders.unusable(directory, error) from error
        return cls(backbone.to(device), header["config"], header["facts"], history)

    def _write(self, folder: Path) -> None:
        (folder / _TENSORS).write_bytes(save(folders.plain(self.backbone.state_dict())))
        _write_history(self.history, folder / _HISTORY)


def check_target(directory: Path) -> None:
    """Raises InlierError if a backbone cannot be written to this folder."""
    folders.check_target(directory, KIND)


def describe(directory: Path) -> dict[str, Any]:
    """What the header of a BACKBONE folder says of it, which a model that uses it keeps.

    Returns:
        ``network`` and ``identity``, and its facts.

    Raises:
        ModelError: It is no backbone, its header is damaged, or of a version that this one does not read.
    """
    header = folders.read_header(directory, KIND)
    return {"network": header["network"], "identity": header["identity"], **header["facts"]}


def note_on(title: str, facts: Mapping[str, Any]) -> str | None:
    """A sentence on a backbone that does not help, or was never asked to; None for one that does.

    Args:
        title: What the user calls it.
        facts: Of an ``AdaptedBackbone``.
    """
    gate = facts.get("gate")
    if gate is None:
        return (
            f"The backbone {title} was never compared with the plain one on its own data; "
            "compare a model of each by inlier compare."
        )
    if gate["verdict"] == "helps":
        return None
    if gate["verdict"] == "hurts":
        return f"The backbone {title} hurt on its own data ({_figures(gate)}); better take the plain one."
    return (
        f"The backbone {title} was not shown to help on its own data ({_figures(gate)}); "
        "compare with the plain one by inlier compare."
    )


def _figures(gate: Mapping[str, Any]) -> str:
    """The verdict with the gain behind it, in points: of what got worse if it hurts, else of what counts most."""
    gains = [measure["gain"] for measure in gate.get("measures", ())]
    worse = [gain for gain in gains if gain["high"] < 0]
    if not gains:
        return str(gate["verdict"])
    gain = (worse or gains)[0]
    value, low, high = (f"{round(100 * gain[key], 1) + 0.0:+.1f}" for key in ("value", "low", "high"))
    return f"{gate['verdict']}: {value} points, {low} to {high}"


def _write_history(history: History, path: Path) -> None:
    """One row a step, one column for each figure; empty where it was not measured."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _read_history(path: Path) -> History:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
