"""A backbone's parameters by layer, so that each layer has a learning rate of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from inlier.features.backbone import Backbone


class LayerParameters(nn.Module):
    """The part of a backbone that works for one layer's map and for no finer one's; it shares all with the backbone.

    What it holds are the backbone's own parameters and buffers, so that training it trains the backbone, and loading
    its state sets the backbone's. A backbone is moved to its device before it is divided, not after.

    Attributes:
        is_frozen: Whether the statistics of its batch normalisations stay as they are.
    """

    def __init__(self, modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter], *, frozen: bool):
        """Takes its share.

        Args:
            modules: By name in the backbone, those whose mode it sets and whose buffers it holds.
            parameters: By name in the backbone.
            frozen: Whether the statistics of its batch normalisations stay as they are.
        """
        super().__init__()
        self._members = tuple(modules.values())  # a tuple registers none: their other parameters are not ours
        self.is_frozen = frozen
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)
        held: set[int] = set()
        for name, module in modules.items():
            for key, buffer in module.named_buffers(recurse=False):
                if id(buffer) not in held:
                    held.add(id(buffer))
                    self.register_buffer(f"{name}.{key}".replace(".", "/"), buffer)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether some of its modules see, while they train, each photo in the light of the others beside it."""
        return not self.is_frozen and any(isinstance(module, _BatchNorm) for module in self._members)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of its modules; batch normalisations whose statistics are frozen stay in evaluation mode."""
        self.training = mode
        for module in self._members:
            module.training = mode and not (self.is_frozen and isinstance(module, _BatchNorm))
        return self


def layer_parameters(backbone: Backbone, *, frozen_batch_norm: bool = True) -> dict[str, LayerParameters]:
    """Divides a backbone by the finest of its layers whose map each parameter has a part in.

    What precedes layer 1 thus belongs to it. Which parameters have a part in a map, its gradients say, whatever the
    architecture. Parameters that have a part in none, such as a last normalisation that is never applied, are in
    none of the groups. Buffers and modules without parameters go with what they stand in.

    Args:
        backbone: In any mode, and left as it is.
        frozen_batch_norm: Whether batch normalisations stay in evaluation mode while the rest trains: they go on
            using the means and variances of ImageNet, for those of small batches of few kinds of photos are poor
            ones, and would differ between processes.

    Returns:
        ``layer1`` and so on -> its share, for the layers of the backbone, finest first.
    """
    group_of = _reached_first(backbone)
    owner = {id(parameter): name.rpartition(".")[0] for name, parameter in backbone.named_parameters()}
    group_of_module = {owner[number]: group for number, group in reversed(group_of.items())}  # the first one counts
    groups: dict[str, LayerParameters] = {}
    for group, layer in enumerate(backbone.layers):
        groups[f"layer{layer}"] = LayerParameters(
            {n: m for n, m in backbone.named_modules() if _group_of_module(n, group_of_module) == group},
            {n: p for n, p in backbone.named_parameters() if group_of.get(id(p)) == group},
            frozen=frozen_batch_norm,
        )
    return groups


def layer_rates(
    names: Sequence[str], *, learning_rate: float, layer_decay: float, named: Mapping[str, float]
) -> dict[str, float]:
    """A learning rate for each layer: the coarsest one's, and that much less for each finer one.

    Finer layers see edges and textures that all photos share, so that they need less change (Howard & Ruder, ACL
    2018, arXiv:1801.06146, section 3.2, who divide by 2.6; Clark et al., ICLR 2020, arXiv:2003.10555, by 1.25).

    Args:
        names: The layers, finest first.
        learning_rate: Of the coarsest, >= 0.
        layer_decay: What a layer's is multiplied by for the one before, in [0, 1]; 1: all have the same, 0: all but
            the coarsest have none.
        named: Layers that have this one instead.

    Raises:
        ValueError: A layer that is named is none of these, or has no learning rate, or all are 0.
    """
    if not set(named) <= set(names) or not all(0 <= rate < math.inf for rate in named.values()):
        raise ValueError(
            f"learning_rates of layers must be numbers >= 0 of some of {', '.join(names)}, got {dict(named)}."
        )
    rates = {name: learning_rate * layer_decay ** (len(names) - 1 - place) for place, name in enumerate(names)}
    rates |= named
    if not any(rates.values()):
        raise ValueError("learning_rates of layers must be above 0 for one of them at least, got 0 for all.")
    return rates


def trained_layers(groups: Mapping[str, LayerParameters], rates: Mapping[str, float]) -> dict[str, LayerParameters]:
    """The layers whose learning rate is above 0; the others are frozen.

    Frozen layers need no gradients and stay in evaluation mode.
    """
    for name, group in groups.items():
        group.requires_grad_(rates[name] > 0).eval()
    return {name: group for name, group in groups.items() if rates[name] > 0}


def _reached_first(backbone: Backbone) -> dict[int, int]:
    """Identity of each parameter -> place of the first map that depends on it; in the order of the parameters."""
    parameters = list(backbone.parameters())
    needs_gradient = [parameter.requires_grad for parameter in parameters]
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            totals = [features.sum() for features in _maps_of_blank(backbone)]
        found: dict[int, int] = {}
        remaining = parameters
        for group, total in enumerate(totals):
            gradients = torch.autograd.grad(total, remaining, retain_graph=True, allow_unused=True)
            found |= {id(p): group for p, g in zip(remaining, gradients, strict=True) if g is not None}
            remaining = [p for p in remaining if id(p) not in found]
            if not remaining:
                break
    finally:
        for parameter, needed in zip(parameters, needs_gradient, strict=True):
            parameter.requires_grad_(needed)
        for module, mode in modes:
            module.training = mode
    return {id(p): found[id(p)] for p in parameters if id(p) in found}


def _maps_of_blank(backbone: Backbone) -> list[torch.Tensor]:
    """Maps of a blank photo, a small one where the network takes it."""
    device = next(backbone.parameters()).device
    small, native = 4 * max(backbone.strides), int(backbone.network.pretrained_cfg["input_size"][-1])
    try:
        maps: list[torch.Tensor] = backbone(torch.zeros(1, 3, small, small, device=device))
    except (AssertionError, IndexError, RuntimeError):  # some transformers take one size only
        maps = backbone(torch.zeros(1, 3, native, native, device=device))
    return maps


def _group_of_module(name: str, group_of_module: Mapping[str, int]) -> int:
    """The group of a module's first parameter, or of that which it stands in or, failing that, which stands in it."""
    holder = name
    while True:
        if holder in group_of_module:
            return group_of_module[holder]
        inner = [group for other, group in group_of_module.items() if not holder or other.startswith(f"{holder}.")]
        if inner:
            return min(inner)
        holder = holder.rpartition(".")[0]
