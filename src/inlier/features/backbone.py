"""Backbone: a timm network that gives feature maps of the stages asked for."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from inlier.features.networks import create_network, kind_of, takes_any_grid
from inlier.features.regions import PICTURE, REGION, to_cells, to_picture
from inlier.features.runtime import (
    MICRO_BATCH,
    PRECISIONS,
    RUNTIMES,
    Precision,
    Runtime,
    Trunk,
    feature_maps,
    open_trunk,
)
from inlier.features.weights import load_weights, set_weights

MAX_STAGES = 6
"""Layers of a network with stages, at most; those of a plain transformer are its blocks, and more."""

MAX_PATCHES = 2048
"""Patches of a plain transformer that pass it together, or one photo's: 8 photos of 224 px in patches of 14."""


class Backbone(nn.Module):
    """A frozen network and its feature maps, a list with one map for each layer.

    Layers count the stages as the thesis counts those of a ResNet (section 3.1), from stride 4 on: layers 1 to 4 of
    a convolutional network, or of a transformer with stages, have cells of 4, 8, 16 and 32 pixels. Layer k of a plain
    vision transformer is its k-th block, through its last normalisation (``networks.create_network``).

    An adaptor maps the vector in each cell of a layer's map to another one, on its way out; what the next stage sees
    stays the same.

    Attributes:
        name: Name of the network, as given.
        layers: The layers, ascending.
        strides: Input pixels for each cell of a layer's map.
        is_plain: Whether the network is a plain transformer.
        network: What timm builds.
        adaptors: Layer, as text -> its 1 x 1 convolution; none at first.
        mean: What the network expects to be subtracted from red, green and blue in [0, 1].
        std: Likewise, to be divided by.
        precision: Type of numbers that ``extract`` computes with.
        runtime: What ``extract`` is to compute with; where it cannot, PyTorch does.
        runs_in: What it computes with; None before the first photo.

    Example:
        >>> backbone = Backbone("efficientnet_lite0", layers=(3, 4))
        >>> maps = backbone.extract(torch.zeros(2, 3, 224, 224))
        >>> {layer: tuple(features.shape) for layer, features in maps.items()}
        {3: (2, 112, 14, 14), 4: (2, 320, 7, 7)}
    """

    def __init__(
        self,
        name: str,
        *,
        layers: Sequence[int],
        weights: Path | None = None,
        precision: Precision = "float32",
        runtime: Runtime = "torch",
        is_pretrained: bool = True,
    ) -> None:
        """Builds the network and loads its weights.

        Args:
            name: ``efficientnet_lite0``, whose weights are embedded, or any name that timm has.
            layers: Which stages, or blocks of a plain transformer, each once, counted from 1.
            weights: A file of weights; None: the embedded ones, or those that timm can fetch.
            precision: ``bfloat16`` is faster where the processor multiplies it; maps are off by 3 to 9 % of their norm.
            runtime: ``openvino`` is faster on a CPU; ``torch`` runs everywhere.
            is_pretrained: False leaves the weights random, for a caller who loads them.

        Raises:
            ValueError: The network is unknown, or has no such layers, or precision or runtime are none.
            WeightsError: The weights cannot be found, or do not fit.
        """
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision of Backbone must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime of Backbone must be one of {', '.join(RUNTIMES)}, got {runtime!r}.")
        self.name = name
        self.layers = check_layers(name, layers)
        self.precision: Precision = precision
        self.runtime: Runtime = runtime
        self.network = create_network(name, self.layers)
        self.is_plain = kind_of(name).is_plain
        self.adaptors = nn.ModuleDict()
        self.strides: tuple[int, ...] = tuple(self.network.feature_info.reduction())
        settings: dict[str, Any] = self.network.pretrained_cfg
        self.mean = cast("tuple[float, float, float]", tuple(settings["mean"]))
        self.std = cast("tuple[float, float, float]", tuple(settings["std"]))
        if is_pretrained:
            load_weights(name, self.network, weights=weights)
        self.runs_in: Runtime | None = None
        self._trunk: tuple[tuple[int, ...], Trunk] | None = None
        self.eval()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels C of each layer's map, as it comes out."""
        own: list[int] = self.network.feature_info.channels()
        return tuple(
            cast(nn.Conv2d, self.adaptors[key]).out_channels if (key := str(layer)) in self.adaptors else of_layer
            for layer, of_layer in zip(self.layers, own, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the layers: (B, 3, H, W) -> [(B, C_l, H_l, W_l)], with gradients, in float32."""
        return self._adapted(feature_maps(self.network, images))

    def adapt(self, adaptors: Mapping[int, nn.Conv2d]) -> Self:
        """Gives these layers these adaptors, and all others none.

        Args:
            adaptors: Layer -> a convolution of one cell, from the network's channels to any number.

        Raises:
            ValueError: The backbone lacks a layer, or an adaptor does not fit its map.
        """
        own = dict(zip(self.layers, self.network.feature_info.channels(), strict=True))
        for layer, adaptor in adaptors.items():
            if layer not in own:
                raise ValueError(f"adaptors of {self.name} must be for its layers, {list(own)}, got {layer}.")
            if adaptor.kernel_size != (1, 1) or adaptor.in_channels != own[layer]:
                raise ValueError(
                    f"The adaptor of layer {layer} of {self.name} must take single cells of {own[layer]} channels, got "
                    f"{adaptor.kernel_size[0]} x {adaptor.kernel_size[1]} cells of {adaptor.in_channels}."
                )
        device = next(self.network.parameters()).device
        self.adaptors = nn.ModuleDict({str(layer): adaptors[layer].to(device) for layer in sorted(adaptors)})
        return self

    def select(
        self, layers: Sequence[int], *, precision: Precision = "float32", runtime: Runtime = "torch"
    ) -> Backbone:
        """Another backbone with some of these layers: the same weights and adaptors, and none of them shared.

        Raises:
            ValueError: There are no such layers.
        """
        chosen = Backbone(self.name, layers=layers, precision=precision, runtime=runtime, is_pretrained=False)
        beyond = [layer for layer in chosen.layers if layer not in self.layers]
        if beyond:
            raise ValueError(f"layers of this {self.name} must be among {list(self.layers)}, got {list(layers)}.")
        set_weights(chosen.network, self.network.state_dict(), source=self.name)
        adaptors = {layer: self.adaptors[str(layer)] for layer in chosen.layers if str(layer) in self.adaptors}
        return chosen.to(next(self.network.parameters()).device).adapt(copy.deepcopy(adaptors))  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes another one's tensors, and adaptors of whatever width it has."""
        self.adapt(_adaptors_of(state_dict))
        self._trunk = None
        return super().load_state_dict(state_dict, strict, assign)

    def check_image_size(self, size: int) -> None:
        """Lets a blank photo of this height and width pass, unless its patches say enough.

        Raises:
            ValueError: The network takes none of this size, as some transformers do.
        """
        patch = self.strides[0]
        if self.is_plain and takes_any_grid(self.network):
            if size % patch:
                nearest = f"{size - size % patch} or {size - size % patch + patch}" if size > patch else str(patch)
                raise ValueError(
                    f"size of a photo for {self.name} must be a multiple of its patches of {patch} pixels, got {size}; "
                    f"take {nearest}."
                )
            return
        blank = torch.zeros(1, 3, size, size, device=next(self.network.parameters()).device)
        try:
            with torch.inference_mode():
                self.network(blank)
        except (AssertionError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"size of a photo for {self.name} cannot be {size} pixels; it was trained with "
                f"{self.network.pretrained_cfg['input_size'][-1]}."
            ) from error

    def num_together(self, height: int, width: int) -> int:
        """Photos of this size, in pixels, that pass the network together.

        What a transformer holds at once grows with the number of its patches, and of SAM's with their square, so that
        large photos pass one by one; of a network with stages the number is always the same.
        """
        if not self.is_plain:
            return MICRO_BATCH
        num_patches = -(-height // self.strides[0]) * -(-width // self.strides[0])
        return max(1, min(MICRO_BATCH, MAX_PATCHES // num_patches))

    @property
    def is_on_cpu(self) -> bool:
        """Whether the processor runs it, and no GPU."""
        kind: str = next(self.network.parameters()).device.type
        return kind == "cpu"

    def prepare(self, size: int) -> None:
        """Makes what ``extract`` runs in, for photos of this height and width, in pixels.

        It computes with the threads that the caller has: a thread among others has a few, and calls this not itself.
        """
        self._open_trunk(torch.empty(2, 3, size, size, device="meta"))

    @torch.inference_mode()
    def extract(self, images: Tensor) -> dict[int, Tensor]:
        """Feature maps for a detector: no gradients, in ``precision``, handed out as float32.

        Photos pass in micro-batches of a fixed size (``num_together``), so that neither memory nor speed depends on how
        many come at once.

        Args:
            images: Shape (B, 3, H, W), normalised; or (B, 4, H, W), with how much of each pixel lies in a region; or
                (B, 6, H, W), with the colours as they were.

        Returns:
            Layer -> shape (B, C_l, h_l, w_l), float32, on the processor where detectors work; and ``REGION`` -> that of
            the finest map's cells, if it was given, or ``PICTURE`` -> the photos, small, if their colours were.
        """
        colours, beside = images[:, :3], images[:, 3:]
        trunk = self._open_trunk(colours)
        chunks = torch.split(colours, self.num_together(*images.shape[2:]))
        parts = [self._adapted(trunk(chunk)) for chunk in chunks]
        maps = (torch.cat([part.cpu().float() for part in layer]) for layer in zip(*parts, strict=True))
        of_layers = dict(zip(self.layers, maps, strict=True))
        if beside.shape[1] == 1:
            return of_layers | {REGION: to_cells(beside.cpu(), *of_layers[self.layers[0]].shape[2:])}
        return of_layers | {PICTURE: to_picture(beside).cpu()} if beside.shape[1] else of_layers

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._trunk = None  # moved to another device, or of another type
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Self:
        """Switches training on or off; trained weights make ``extract`` begin anew."""
        self._trunk = None
        return super().train(mode)

    def _adapted(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps through their adaptors, which compute in float32 whatever the precision.

        They cost next to nothing, and may enlarge what rounding would leave.
        """
        adaptors = [self.adaptors[str(layer)] if str(layer) in self.adaptors else None for layer in self.layers]
        return [
            features if adaptor is None else adaptor(features.to(next(adaptor.parameters()).dtype))
            for adaptor, features in zip(adaptors, maps, strict=True)
        ]

    def _open_trunk(self, images: Tensor) -> Trunk:
        """The network as ``extract`` runs it, for photos of this size; made when it is first needed."""
        size = tuple(images.shape[2:])
        if self._trunk is None or self._trunk[0] != size:
            network, layers = self._as_run()
            trunk, self.runs_in = open_trunk(
                network, images, name=f"{self.name} {layers}", runtime=self.runtime, precision=self.precision
            )
            places = [layers.index(layer) for layer in self.layers]
            self._trunk = size, lambda photos: [maps[place] for maps in [trunk(photos)] for place in places]
        return self._trunk[1]

    def _as_run(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The network that is to be compiled, and its layers.

        Which maps are handed out changes what OpenVINO rounds to bfloat16 before the last of them. So it hands out all
        maps up to there, and a layer's map is the same whichever others a detector looks at.
        """
        before = tuple(range(1, self.layers[-1] + 1))
        if self.runtime == "torch" or self.precision == "float32" or before == self.layers:
            return self.network, self.layers
        if self.is_plain:
            return self.network, self.layers
        device = next(self.network.parameters()).device
        with torch.random.fork_rng(devices=[]):  # its random weights are replaced, and must move no others
            whole = create_network(self.name, before).to(device).eval()
        whole.load_state_dict(self.network.state_dict())
        return whole, before


def check_layers(owner: str, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers, ascending, which for networks with stages is finest first.

    Raises:
        ValueError: There are none, or they are no different whole numbers from 1 on.
    """
    is_whole = all(isinstance(layer, int) and layer >= 1 for layer in layers)
    if not layers or not is_whole or len(set(layers)) != len(layers):
        raise ValueError(f"layers of {owner} must be different whole numbers from 1 on, got {list(layers)}.")
    return tuple(sorted(layers))


def all_layers(name: str) -> tuple[int, ...]:
    """Every layer that a network has, ascending: of a plain vision transformer each of its blocks.

    Raises:
        ValueError: The network is unknown, or gives no feature maps.
    """
    return tuple(range(1, kind_of(name).num_layers + 1))


def _adaptors_of(state: Mapping[str, Tensor]) -> dict[int, nn.Conv2d]:
    """Adaptors of the shapes that a backbone's tensors say, not yet with these tensors."""
    adaptors = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"adaptors\.(\d+)\.weight", name):
            has_bias = f"adaptors.{found[1]}.bias" in state
            adaptors[int(found[1])] = nn.Conv2d(tensor.shape[1], tensor.shape[0], kernel_size=1, bias=has_bias)
    return adaptors
