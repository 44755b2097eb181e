"""Objectives by name: section of a configuration -> what a backbone is adapted by, and the backbone to begin with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inlier.adapted import AdaptedBackbone
from inlier.build import DETECTORS, SECTIONS, resolve, resolve_keywords
from inlier.config import Config, check_names, merge
from inlier.downstream import resolve_gate
from inlier.errors import ConfigError
from inlier.features.backbone import Backbone, all_layers
from inlier.finetuning.adaptor import fit_adaptors
from inlier.finetuning.finetune import finetune
from inlier.finetuning.masked import MaskedReconstruction
from inlier.finetuning.passes import embedder, micro_batch_for, training_precision
from inlier.finetuning.reverse_distillation import UnfrozenTeacher
from inlier.finetuning.simclr import SimCLR
from inlier.finetuning.supcon import SupCon

OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "supcon": SupCon,
    "simclr": SimCLR,
    "masked": MaskedReconstruction,
    "reverse-distillation": UnfrozenTeacher,
}
"""What a backbone is trained by."""

ADAPTOR = "adaptor"
"""What is not trained but computed: a linear map behind the frozen backbone."""

_RESOURCES = ("channels", "teacher")
"""Keywords of objectives that no section has: what the backbone gives them."""


def resolve_adaptation(config: Mapping[str, Mapping[str, Any]], *, device: str) -> Config:
    """The configuration with every default filled in, which a BACKBONE stores and can be repeated from.

    Args:
        config: Sections of keywords: ``finetune``, one of the objective, ``gate``, and those that ``fit`` has.
        device: Where the backbone will run.

    Raises:
        ConfigError: A section, a keyword or an objective is unknown, or a value is of another type or out of range.
    """
    objectives = {section_of(name): name for name in (*OBJECTIVES, ADAPTOR)}
    check_names(config, ("finetune", "gate", *objectives, *SECTIONS), kind="section", owner="The configuration")
    section = resolve_keywords("finetune", config.get("finetune", {}), _finetune_schema())
    check_names([section["objective"]], objectives.values(), kind="objective", owner="inlier")
    of_objectives = {
        name: resolve_keywords(name, config.get(name, {}), _objective_schema(objective))
        for name, objective in objectives.items()
    }
    gate = resolve_gate(config)
    others: Config = {name: dict(of) for name, of in config.items() if name in SECTIONS}
    others = merge(others, "fit", seed=others.get("fit", {}).get("seed", section["seed"]))
    name = section_of(section["objective"])
    return {
        "finetune": section,
        name: of_objectives[name],
        "gate": gate,
        **resolve(merge(others, "fit", detector=gate["detector"]), device=device),
    }


def section_of(objective: str) -> str:
    """The section of a configuration that is an objective's; a detector's name is taken."""
    return f"{objective}-objective" if objective in DETECTORS else objective


def build_start(config: Config) -> Backbone:
    """The backbone to begin with, with all layers of its network, in a precision that can be trained."""
    section = config["backbone"]
    weights = Path(section["weights"]) if section["weights"] else None
    try:
        layers = all_layers(section["name"])
        if section.get("adapted") and weights is not None:
            backbone = AdaptedBackbone.load(weights).backbone.select(layers, precision=section["precision"])
        else:
            backbone = Backbone(section["name"], layers=layers, weights=weights, precision=section["precision"])
    except ValueError as error:
        raise ConfigError(f"[backbone]: {error}") from error
    try:
        backbone.check_image_size(config["finetune"]["size"])
    except ValueError as error:
        raise ConfigError(f"[finetune]: {error}") from error
    return backbone


def build_objective(config: Config, backbone: Backbone, start: Backbone) -> nn.Module:
    """The objective; its networks begin as the seed says, whatever was drawn before."""
    name = config["finetune"]["objective"]
    build, keywords = OBJECTIVES[name], config[section_of(name)]
    if "teacher" in inspect.signature(build).parameters:
        keywords = keywords | {"teacher": _teacher(start, config["finetune"])}
    channels = dict(zip(backbone.layers, backbone.channels, strict=True))
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(config["finetune"]["seed"])
        try:
            return build(channels=channels, **keywords)
        except ValueError as error:
            raise ConfigError(f"[{section_of(name)}]: {error}") from error


def _finetune_schema() -> dict[str, tuple[Any, Any]]:
    """The section ``finetune``: what the signature of ``finetune`` has a default for, and what ``adapt`` asks."""
    given = ("checkpoint", "workers", "advance", "report", "measure")
    schema: dict[str, tuple[Any, Any]] = {
        "objective": (str, "supcon"),
        "archive": (Literal["train", "train+dev"], "train+dev"),
    }
    return schema | _schema(finetune, without=given)


def _objective_schema(objective: str) -> dict[str, tuple[Any, Any]]:
    return _schema(fit_adaptors if objective == ADAPTOR else OBJECTIVES[objective], without=_RESOURCES)


def _schema(function: Callable[..., Any], *, without: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Keyword -> type and default, of the keywords that have one."""
    parameters = inspect.signature(function, eval_str=True).parameters.items()
    return {
        key: (of.annotation, of.default)
        for key, of in parameters
        if key not in without and of.default is not inspect.Parameter.empty
    }


def _teacher(start: Backbone, section: Mapping[str, Any]) -> Callable[[Tensor], dict[int, Tensor]]:
    """The frozen start, for objectives that learn from it."""
    device = next(start.parameters()).device
    embed = embedder(
        start.eval(),
        micro_batch=section["micro_batch"] or micro_batch_for(section["size"], device),
        precision=section["precision"] or training_precision(device),
    )
    return torch.no_grad()(embed)
