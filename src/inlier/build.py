"""Section of a configuration -> object. Names map through plain dicts."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from inlier.adapted import AdaptedBackbone, describe
from inlier.config import Config, check_names
from inlier.data.views import MAX_VIEWS
from inlier.detectors.baselines import Baseline
from inlier.detectors.combined import Combined
from inlier.detectors.components import Components
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Detector
from inlier.detectors.regional import Regional
from inlier.detectors.reverse_distillation import ReverseDistillation
from inlier.detectors.subspace import PatchSubspace, PhotoSubspace
from inlier.errors import ConfigError, ModelError
from inlier.features.backbone import Backbone
from inlier.features.networks import is_network, layers_as_deep
from inlier.features.runtime import Precision, Runtime, best_precision, best_runtime
from inlier.outputs import as_text

DETECTORS: dict[str, Callable[..., Detector]] = {
    "combined": Combined,
    "patchcore": PatchCore,
    "photo-neighbors": PhotoNeighbors,
    "subspace": PatchSubspace,
    "photo-subspace": PhotoSubspace,
    "baseline": Baseline,
    "reverse-distillation": ReverseDistillation,
}

DEFAULT_BACKBONE = "efficientnet_lite0"
"""Its weights are embedded."""

MIN_SIZE = 32
"""Pixels below which the deepest stage of a network sees nothing but its own padding."""

_Rate = Annotated[float, Field(gt=0, lt=1)]

_SETTINGS: dict[str, dict[str, tuple[Any, Any]]] = {
    "fit": {
        "detector": (str, "combined"),
        "seed": (Annotated[int, Field(ge=0)], 0),
        "memory_budget": (str | int, "2GiB"),
        "augment": (Annotated[int, Field(ge=0, le=MAX_VIEWS)] | None, None),
    },
    "backbone": {
        "name": (str, DEFAULT_BACKBONE),
        "weights": (str | None, None),
        "precision": (Precision | None, None),
        "runtime": (Runtime | None, None),
        "adapted": (dict[str, Any] | None, None),
    },
    "input": {"size": (Annotated[int, Field(ge=MIN_SIZE)], 224)},
    "regions": {"kind": (Literal["none", "mask", "foreground", "grabcut"], "none")},
    "decide": {"false_alarm_rate": (_Rate, 0.05), "uncertain_rate": (_Rate, 0.20)},
    "combined": {"members": (list[str], ["patchcore", "photo-neighbors", "photo-subspace"])},
    "select": {
        "candidates": (list[Any], ["combined", "patchcore", "photo-neighbors", "subspace", "photo-subspace"]),
        "max_photos": (Annotated[int, Field(ge=2)], 400),
    },
}
"""Sections that name no single constructor: keyword -> type and default. ``combined`` joins by default one detector
that sees places and two that see the whole; precision and runtime, which depend on the device, and how many altered
copies few photos need, are decided when they are known. What ``adapted`` says is not for the user to set: ``resolve``
writes it, and only where the backbone is one."""

_BESIDE: dict[str, Callable[..., Any]] = {"components": Components}
"""Sections that name what stands beside the detector."""

SECTIONS = tuple(dict.fromkeys((*_SETTINGS, *DETECTORS, *_BESIDE)))

_RESOURCES = ("memory_budget_bytes", "seed", "checkpoints", "watch")
"""Keywords of constructors that no section has: what one run gives all its detectors."""

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}

T = TypeVar("T")


def resolve(config: Mapping[str, Mapping[str, Any]], *, device: str, layers: Sequence[int] | None = None) -> Config:
    """The configuration with every default filled in, which a Model stores and can be repeated from.

    Args:
        config: Sections of keywords; all are checked, and those of the chosen detector kept.
        device: Where the backbone will run, which decides precision and runtime.
        layers: Stages of the backbone for every detector involved; None: those of their sections, by default blocks of
            a plain transformer that lie as deep as the stages of another network.

    A backbone may be a BACKBONE folder, by its path. A name that timm has is timm's wherever the command runs, so that
    a configuration means the same everywhere; anything else that holds a path separator, or is a folder here, is a
    folder, and ``./`` before a name says so. What is resolved then has timm's name, the folder as ``weights``, and in
    ``adapted`` what tells it from other backbones.

    Raises:
        ConfigError: A section, a keyword or a detector is unknown, or a value is of another type or out of range.
        ModelError: The backbone is named by a folder that holds none, or a damaged one.
    """
    check_names(config, SECTIONS, kind="section", owner="The configuration")
    sections = {name: _resolve_section(name, config.get(name, {})) for name in SECTIONS}
    check_names([sections["fit"]["detector"]], DETECTORS, kind="detector", owner="inlier")
    sections["fit"]["memory_budget"] = str(sections["fit"]["memory_budget"])
    parse_bytes(sections["fit"]["memory_budget"])
    sections["decide"] = resolve_rates(sections["decide"])
    sections["backbone"] = _resolve_adapted(config.get("backbone", {}), sections["backbone"])
    sections["backbone"]["precision"] = sections["backbone"]["precision"] or best_precision(device)
    sections["backbone"]["runtime"] = sections["backbone"]["runtime"] or best_runtime(device)
    involved = _involved(sections)
    for name in (*involved, *_BESIDE):
        if layers is not None and "layers" in sections[name]:
            sections[name]["layers"] = list(layers)
        elif "layers" in sections[name] and "layers" not in config.get(name, {}):
            sections[name]["layers"] = layers_as_deep(sections["backbone"]["name"], sections[name]["layers"])
    regions = ("regions",) if sections["regions"]["kind"] != "none" else ()
    if regions and "reverse-distillation" in involved:
        raise ConfigError("reverse-distillation imitates whole maps; leave --regions out, or take another detector.")
    return {name: sections[name] for name in ("fit", "backbone", "input", *regions, "decide", *involved, *_BESIDE)}


def resolve_rates(given: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``decide`` with its defaults filled in.

    Raises:
        ConfigError: A rate is not in (0, 1), or fewer photos may be uncertain than may be rejected.
    """
    rates = _resolve_section("decide", given)
    false_alarm_rate, uncertain_rate = rates["false_alarm_rate"], rates["uncertain_rate"]
    if uncertain_rate < false_alarm_rate:
        raise ConfigError(
            f"uncertain_rate of [decide] must be at least its false_alarm_rate, {false_alarm_rate:g}, "
            f"got {uncertain_rate:g}; give both."
        )
    return rates


def resolve_keywords(section: str, given: Mapping[str, Any], schema: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """A section with its defaults filled in.

    Args:
        section: Its name, for sentences.
        given: Keyword -> value.
        schema: Keyword -> type and default.

    Raises:
        ConfigError: A keyword is unknown, or a value is of another type or out of range.
    """
    check_names(given, schema, kind="key", owner=f"[{section}]")
    for key, value in given.items():
        _check_value(section, key, value, schema[key][0])
    resolved = {key: given.get(key, default) for key, (_, default) in schema.items()}
    return {key: list(value) if isinstance(value, (tuple, list)) else value for key, value in resolved.items()}


def resolve_selection(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The section ``select`` with its defaults filled in; which candidates it may name is for ``selection`` to say.

    Raises:
        ConfigError: A keyword is unknown, or a value is of another type or out of range.
    """
    return _resolve_section("select", config.get("select", {}))


def build_detector(
    config: Config, *, checkpoints: Path | None = None, watch: Callable[[Detector, float], None] | None = None
) -> Detector:
    """The unfitted detector of a resolved configuration.

    Args:
        config: Resolved.
        checkpoints: Folder from which detectors that train for minutes go on; None: they keep none.
        watch: Called now and then by such detectors, with themselves as they are and the share of the training done.

    Raises:
        ConfigError: A value is outside its range.
    """
    name = config["fit"]["detector"]
    resources = {
        "memory_budget_bytes": parse_bytes(config["fit"]["memory_budget"]) // 2,
        "seed": config["fit"]["seed"],
        "checkpoints": checkpoints,
        "watch": watch,
    }
    if name != "combined":
        detector = _construct(name, config[name], resources)
    else:
        members = [_construct(member, config[member], resources) for member in config[name]["members"]]
        detector = _call(Combined, "combined", members=members, seed=resources["seed"])
    return Regional(detector, kind=config["regions"]["kind"]) if "regions" in config else detector


def build_components(config: Config) -> Components | None:
    """What names the component, unfitted; None for a configuration without it.

    Raises:
        ConfigError: A value is outside its range.
    """
    return _call(Components, "components", **config["components"]) if "components" in config else None


def build_backbone(config: Config, layers: Sequence[int], *, is_pretrained: bool = True) -> Backbone:
    """The backbone of a resolved configuration, with these layers and those that what is beside the detector looks at.

    Args:
        config: Resolved.
        layers: Those that the detector looks at, or more.
        is_pretrained: False leaves the weights random, and looks for no file of them: a saved model has its own.

    Raises:
        ConfigError: The network is unknown, lacks these layers, or takes no photos of this size.
        ModelError: It is a folder that is no longer what it was.
        WeightsError: Its weights cannot be found.
    """
    section = config["backbone"]
    weights = Path(section["weights"]) if section["weights"] else None
    wanted = {*layers, *(layer for name in _BESIDE if name in config for layer in config[name]["layers"])}
    runtime = section.get("runtime", "torch")  # which models that were saved before there was another do not say
    options = {"layers": sorted(wanted), "precision": section["precision"], "runtime": runtime}
    if is_pretrained and weights and section.get("adapted"):
        adapted = AdaptedBackbone.load(weights)
        _check_identity(adapted.identity, section)
        backbone = _call(adapted.backbone.select, "backbone", **options)
    else:
        backbone = _call(
            Backbone, "backbone", name=section["name"], weights=weights, is_pretrained=is_pretrained, **options
        )
    if is_pretrained:  # a saved model's has seen photos of this size
        _call(backbone.check_image_size, "input", size=config["input"]["size"])
    return backbone


def backbone_facts(config: Config) -> dict[str, Any] | None:
    """What the folder of an adapted backbone says of it; None where the configuration has a plain one.

    Raises:
        ModelError: The folder is no longer there.
    """
    section = config["backbone"]
    return describe(Path(section["weights"])) if section.get("adapted") else None


def parse_bytes(text: str, *, name: str = "memory_budget") -> int:
    """A number of bytes written as ``2GiB``, ``500 MB`` or a whole number.

    Raises:
        ConfigError: It is not such a number, or is under 64 MiB, with which nothing can be fitted.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS:
        raise ConfigError(f"{name} must be a size such as 2GiB or 500MB, got {text!r}.")
    num_bytes = int(float(found[1]) * _UNITS[found[2].upper()])
    if num_bytes < 64 * 2**20:
        raise ConfigError(f"{name} must be at least 64MiB, got {text}.")
    return num_bytes


def _resolve_section(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A section with its defaults filled in; types and ranges of its settings checked, of a detector the types."""
    return resolve_keywords(section, given, _schema(section))


def _resolve_adapted(given: Mapping[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    """The section ``backbone``, which a BACKBONE folder fills in if it is named in it."""
    folder = _adapted_folder(given)
    if folder is None:
        return {key: value for key, value in section.items() if key != "adapted"}
    found = describe(folder)
    if given.get("weights") is not None and given.get("name") not in (None, found["network"]):
        raise ConfigError(
            f"[backbone]: {as_text(folder)} holds an adapted {found['network']}, and the backbone asked for is "
            f"{given['name']}; leave one of them out."
        )
    adapted = {
        "title": as_text(folder.absolute().name),
        "identity": found["identity"],
        "objective": found.get("objective"),
        "verdict": (found.get("gate") or {}).get("verdict"),
    }
    if section["adapted"]:
        _check_identity(adapted["identity"], section)
    return section | {"name": found["network"], "weights": str(folder), "adapted": adapted}


def _adapted_folder(given: Mapping[str, Any]) -> Path | None:
    """The BACKBONE folder that a section names, as its name or, once resolved, as its weights; None: it names none."""
    name, weights = given.get("name"), given.get("weights")
    if name is not None and (os.sep in name or (os.path.isdir(name) and not is_network(name))):
        if weights is not None:
            raise ConfigError(f"[backbone]: the folder {as_text(name)} has weights of its own; leave {weights} out.")
        return Path(name)
    if weights is not None and (given.get("adapted") or os.path.isdir(weights)):
        return Path(weights)
    return None


def _check_identity(found: str, section: Mapping[str, Any]) -> None:
    """Raises ModelError if the folder has another backbone than when the configuration was resolved."""
    if found != section["adapted"].get("identity"):
        raise ModelError(
            f"{as_text(section['weights'])} is no longer the backbone that the configuration was made with "
            f"({section['adapted'].get('identity')}), but {found}; name it anew with --backbone."
        )


def _schema(section: str) -> Mapping[str, tuple[Any, Any]]:
    """Keyword -> type and default: of a class, what the signature of its constructor says."""
    if section in _SETTINGS:
        return _SETTINGS[section]
    named = {**DETECTORS, **_BESIDE}[section]
    parameters = inspect.signature(named, eval_str=True).parameters
    return {key: (of.annotation, of.default) for key, of in parameters.items() if key not in _RESOURCES}


def _check_value(section: str, key: str, value: Any, wanted: Any) -> None:
    """Raises ConfigError unless the value is of the type wanted; nothing is converted but whole numbers to others."""
    try:
        TypeAdapter(wanted, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        verb = problem.replace("Input should", " must", 1) if problem.startswith("Input") else f": {problem}"
        raise ConfigError(f"{key} of [{section}]{verb}, got {value!r}.") from error


def _involved(sections: Config) -> Sequence[str]:
    """The sections that the chosen detector is made of."""
    detector = sections["fit"]["detector"]
    if detector != "combined":
        return (detector,)
    members = sections["combined"]["members"]
    check_names(members, [name for name in DETECTORS if name != "combined"], kind="detector", owner="combined")
    return ("combined", *members)


def _construct(name: str, keywords: Mapping[str, Any], resources: Mapping[str, Any]) -> Detector:
    taken = inspect.signature(DETECTORS[name]).parameters.keys() & resources.keys()
    return _call(DETECTORS[name], name, **keywords, **{key: resources[key] for key in taken})


def _call(build: Callable[..., T], section: str, **keywords: Any) -> T:
    """Builds an object; what its constructor refuses is the configuration's mistake."""
    try:
        return build(**keywords)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"[{section}]: {error}") from error
