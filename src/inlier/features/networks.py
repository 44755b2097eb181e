"""timm's networks as givers of feature maps: those with stages, and plain transformers, whose layers are blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from inlier.features.weights import EMBEDDED


class Kind(NamedTuple):
    """What a network is, before it is built.

    Attributes:
        num_before: Stages that precede layer 1.
        num_stages: Stages, or blocks, that there are.
        is_plain: Whether it is a plain transformer: every layer is a block, and all maps are of one size.
        has_norm: Whether a normalisation of tokens follows its last block.
    """

    num_before: int
    num_stages: int
    is_plain: bool
    has_norm: bool

    @property
    def num_layers(self) -> int:
        """Layers, counted from 1."""
        return self.num_stages - self.num_before


def is_network(name: str) -> bool:
    """Whether there is a network of this name, with weights or without."""
    import timm

    return name in EMBEDDED or bool(timm.is_model(name))


@cache
def kind_of(name: str) -> Kind:
    """What a network is.

    Raises:
        ValueError: The network is unknown, or gives no feature maps.
    """
    import timm

    if not is_network(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:3]) or "resnet18"
        raise ValueError(f"timm has no backbone named {name}; it has, for example, {close}.")
    try:
        with torch.random.fork_rng(devices=[]):  # or random weights would depend on whether this was asked before
            whole = _with_shapes_only(EMBEDDED.get(name, name))
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"timm gives no feature maps of {name}: {error}") from error
    reductions = [stage["reduction"] for stage in whole.feature_info.info]
    inner = getattr(whole, "model", None)
    is_plain = hasattr(inner, "blocks") and len(set(reductions)) == 1
    return Kind(
        sum(reduction < 4 for reduction in reductions), len(reductions), is_plain, is_plain and hasattr(inner, "norm")
    )


def create_network(name: str, layers: tuple[int, ...]) -> Any:
    """The network, with random weights and without its head, that gives the maps of these layers.

    The tokens of a plain transformer's block pass its last normalisation, as those of its last block do when it is
    used whole: without it a few channels outweigh all others (Sun et al., COLM 2024, arXiv:2402.17762), and DINOv2's
    own ``get_intermediate_layers`` applies it by default. Where there is none for tokens, as in SAM, whose neck is a
    projection for its decoder, they are as the block gives them. Tokens that stand for no place, of the class and
    registers, are in no map.

    Args:
        name: That ``kind_of`` knows.
        layers: Ascending, from 1 on.

    Raises:
        ValueError: It has no such layers.
    """
    kind = kind_of(name)
    if layers[-1] > kind.num_layers:
        raise ValueError(f"layers of {name} must be in 1 to {kind.num_layers}, got {list(layers)}.")
    wanted = tuple(layer - 1 + kind.num_before for layer in layers)
    return _feature_network(EMBEDDED.get(name, name), out_indices=wanted, with_norm=kind.has_norm)


def layers_as_deep(name: str, stages: Sequence[int]) -> list[int]:
    """The layers of a network that lie as deep as these of four stages: themselves, or blocks of a plain transformer.

    Of twelve blocks the stages 2, 3 and 4 are 6, 9 and 12.
    """
    try:
        kind = None if name in EMBEDDED else kind_of(name)
    except ValueError:  # whoever builds it will say so
        kind = None
    if kind is None or not kind.is_plain:
        return list(stages)
    return sorted({max(1, stage * kind.num_layers // 4) for stage in stages})


def takes_any_grid(network: Any) -> bool:
    """Whether a plain transformer takes photos of any whole number of patches, its places being interpolated."""
    return getattr(getattr(getattr(network, "model", None), "patch_embed", None), "strict_img_size", True) is False


def for_size(network: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A plain transformer for photos of this height and width only; any other network as it is.

    Its places are interpolated beforehand, by PyTorch: other runtimes do it a little differently. All else is shared.
    """
    if not takes_any_grid(network):
        return network
    from timm.layers.pos_embed import resample_abs_pos_embed_nhwc

    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    sized = copy.deepcopy(network, shared)
    inner: Any = sized.model
    if hasattr(inner, "set_input_size"):
        inner.set_input_size(size)
    elif getattr(inner, "pos_embed", None) is not None:  # SAM's, shape (1, h, w, C)
        patch = inner.patch_embed.patch_size
        grid = [size[0] // patch[0], size[1] // patch[1]]
        inner.pos_embed = nn.Parameter(resample_abs_pos_embed_nhwc(inner.pos_embed, grid), requires_grad=False)
    return sized


def _with_shapes_only(known_as: str) -> Any:
    """The network without memory for its tensors, where timm can build it so; a large one takes seconds otherwise."""
    try:
        with torch.device("meta"):
            return _feature_network(known_as)
    except (RuntimeError, NotImplementedError):
        return _feature_network(known_as)


def _feature_network(known_as: str, *, out_indices: tuple[int, ...] | None = None, with_norm: bool = False) -> Any:
    """The network without its head, as timm builds it; a transformer takes photos of any size where it can."""
    import timm
    from timm.models._features import FeatureGetterNet  # it has no public name

    options: dict[str, Any] = {"features_only": True, "out_indices": out_indices}
    if with_norm:
        options["feature_cls"] = partial(FeatureGetterNet, norm=True)
    try:
        return timm.create_model(known_as, **options, dynamic_img_size=True)
    except TypeError:  # networks that take any size anyway, or only one, know no such option
        return timm.create_model(known_as, **options)
