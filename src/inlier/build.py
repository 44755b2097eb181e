"""Section of a configuration -> object. Names map through plain dicts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inlier.config import Config, check_names, merge
from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError
from inlier.features.backbone import Backbone, best_precision

DETECTORS: dict[str, Callable[..., Detector]] = {
    "combined": Combined,
    "patchcore": PatchCore,
    "photo-neighbors": PhotoNeighbors,
}

COMBINED_MEMBERS = ("patchcore", "photo-neighbors")
"""What ``combined`` joins unless told otherwise: one detector that sees places, one that sees the whole."""

SECTIONS = ("backbone", "input", "fit", "decide", *DETECTORS)

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}

T = TypeVar("T")


def resolve(config: Mapping[str, Mapping[str, Any]], *, device: str, layers: Sequence[int] | None = None) -> Config:
    """The configuration with every default filled in, which a Model stores and can be repeated from.

    Args:
        config: Sections of keywords.
        device: Where the backbone will run, which decides the fastest precision.
        layers: Stages of the backbone for every detector involved; None: those of their sections.

    Raises:
        ConfigError: A section, a keyword or a detector is unknown.
    """
    check_names(config, SECTIONS, kind="section", owner="The configuration")
    resolved = merge(config, "fit")
    fit: dict[str, Any] = {"detector": "combined", "seed": 0, "memory_budget": "2GiB"} | resolved.get("fit", {})
    check_names(fit, ("detector", "seed", "memory_budget"), kind="key", owner="[fit]")
    check_names([fit["detector"]], DETECTORS, kind="detector", owner="inlier")
    backbone: dict[str, Any] = {"name": "efficientnet_lite0", "weights": None, "precision": best_precision(device)}
    backbone |= resolved.get("backbone", {})
    check_names(backbone, ("name", "weights", "precision"), kind="key", owner="[backbone]")
    image = {"size": 224} | resolved.get("input", {})
    check_names(image, ("size",), kind="key", owner="[input]")
    decide = {"false_alarm_rate": 0.05, "uncertain_rate": 0.20} | resolved.get("decide", {})
    check_names(decide, ("false_alarm_rate", "uncertain_rate"), kind="key", owner="[decide]")
    result: Config = {"fit": fit, "backbone": backbone, "input": image, "decide": decide}
    for name in _involved(fit["detector"], resolved):
        result[name] = _with_defaults(name, resolved.get(name, {}))
        if layers is not None and "layers" in result[name]:
            result[name]["layers"] = list(layers)
    return result


def build_detector(config: Config) -> Detector:
    """The unfitted detector of a resolved configuration.

    Raises:
        ConfigError: A value is outside its range.
    """
    name = config["fit"]["detector"]
    seed, budget = config["fit"]["seed"], parse_bytes(config["fit"]["memory_budget"])
    if name != "combined":
        return _construct(name, config[name], budget)
    members = [_construct(member, config[member], budget) for member in config[name]["members"]]
    return _call(Combined, "combined", members=members, seed=seed)


def build_backbone(config: Config, detector: Detector, *, is_pretrained: bool = True) -> Backbone:
    """The backbone of a resolved configuration, with the layers that the detector looks at.

    Raises:
        ConfigError: The network is unknown or lacks these layers.
        WeightsError: Its weights cannot be found.
    """
    section = config["backbone"]
    weights = Path(section["weights"]) if section["weights"] else None
    return _call(
        Backbone, "backbone", name=section["name"], layers=detector.layers, weights=weights,
        precision=section["precision"], is_pretrained=is_pretrained,
    )  # fmt: skip


def parse_bytes(text: str | int) -> int:
    """A number of bytes written as ``2GiB``, ``500 MB`` or a whole number.

    Raises:
        ConfigError: It is not such a number, or is under 64 MiB, with which nothing can be fitted.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if found is None or found[2].upper() not in _UNITS:
        raise ConfigError(f"memory_budget must be a size such as 2GiB or 500MB, got {text!r}.")
    num_bytes = int(float(found[1]) * _UNITS[found[2].upper()])
    if num_bytes < 64 * 2**20:
        raise ConfigError(f"memory_budget must be at least 64MiB, got {text}.")
    return num_bytes


def _involved(detector: str, config: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """The sections that the chosen detector is made of."""
    if detector != "combined":
        return (detector,)
    members = config.get("combined", {}).get("members", COMBINED_MEMBERS)
    check_names(members, [name for name in DETECTORS if name != "combined"], kind="detector", owner="combined")
    return ("combined", *members)


def _with_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A section with the defaults of its class's constructor."""
    if name == "combined":
        check_names(given, ("members",), kind="key", owner="[combined]")
        return {"members": list(given.get("members", COMBINED_MEMBERS))}
    parameters = inspect.signature(DETECTORS[name]).parameters
    allowed = {key: value.default for key, value in parameters.items() if key != "memory_budget_bytes"}
    check_names(given, allowed, kind="key", owner=f"[{name}]")
    resolved = {**allowed, **given}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in resolved.items()}


def _construct(name: str, keywords: Mapping[str, Any], budget: int) -> Detector:
    takes_budget = "memory_budget_bytes" in inspect.signature(DETECTORS[name]).parameters
    extra = {"memory_budget_bytes": budget // 2} if takes_budget else {}
    return _call(DETECTORS[name], name, **keywords, **extra)


def _call(build: Callable[..., T], section: str, **keywords: Any) -> T:
    """Builds an object; what its constructor refuses is the configuration's mistake."""
    try:
        return build(**keywords)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"[{section}]: {error}") from error
