"""Passing many photos through a backbone that is trained, in the memory that a few take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from inlier.features.backbone import Backbone
from inlier.features.runtime import MICRO_BATCH, Precision, best_precision

Embed = Callable[[Tensor], dict[int, Tensor]]
"""Images, shape (N, 3, S, S) -> layer -> map, shape (N, C_l, h_l, w_l), float32."""

MICRO_PIXELS = 48 * 160**2
"""Pixels that pass a backbone together on a CPU; activations of the default one take 1.9 kB for each, 2.3 GB in all."""

_CUDA_FACTOR = 4


def micro_batch_for(size: int, device: torch.device) -> int:
    """How many photos of a size pass together unless the user says: 48 of 160 px, on a CUDA device 192."""
    factor = _CUDA_FACTOR if device.type == "cuda" else 1
    return max(1, factor * MICRO_PIXELS // size**2)


def training_precision(device: torch.device) -> Precision:
    """bfloat16 where a CUDA device has it, else float32.

    On a CPU float32 is faster even where it multiplies bfloat16: forth and back through the default backbone two
    cores pass 59 photos of 160 px a second, with autocast 50.
    """
    return best_precision("cuda") if device.type == "cuda" else "float32"


def embedder(backbone: Backbone, *, micro_batch: int | None, precision: Precision, is_compiled: bool = False) -> Embed:
    """Runs the backbone on its device, in micro-batches whose activations are not kept but computed again.

    A contrastive loss compares each photo with all others of the batch. Accumulating gradients over micro-batches, as
    is usual where memory is short, would give another loss: each micro-batch would see its own negatives only, so
    that a batch of 128 in parts of 16 has 30 in place of 254. Here the maps of all micro-batches are joined, the loss
    is that of the whole batch, and its gradient is exact. When it comes back to a micro-batch, that one's activations
    are computed again, so that those of one only exist at a time: the gradient cache of Gao et al. (RepL4NLP 2021,
    arXiv:2101.06983), by PyTorch's checkpointing (Chen et al., arXiv:1604.06174). It costs a second forward pass of all
    micro-batches but the last, which is still there; a batch that fits in one costs nothing.

    The network computes under autocast in bfloat16 if ``precision`` says so, and in channels_last. Maps, heads and
    losses are float32, for similarities in bfloat16 have three digits.

    Args:
        backbone: In the mode that counts when it is run.
        micro_batch: Photos that pass together, >= 1; None: all, as batch normalisation needs that is not frozen.
        precision: Of the network's multiplications.
        is_compiled: Whether ``torch.compile`` translates the network first.
    """
    device = next(backbone.parameters()).device
    forward = cast("Callable[[Tensor], list[Tensor]]", torch.compile(backbone) if is_compiled else backbone)

    at_once = MICRO_BATCH if micro_batch and device.type == "cpu" else None  # see there why

    def run(images: Tensor) -> list[Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            parts = [forward(part) for part in torch.split(images, at_once or max(1, len(images)))]
        return [features.float() for features in _joined(parts)]

    def embed(images: Tensor) -> dict[int, Tensor]:
        images = images.to(device, non_blocking=True)
        parts = torch.split(images, micro_batch or max(1, len(images)))
        is_kept = not torch.is_grad_enabled()
        maps: list[Any] = [run(part) if is_kept else checkpoint(run, part, use_reentrant=False) for part in parts[:-1]]
        maps.append(run(parts[-1]))
        return dict(zip(backbone.layers, _joined(maps), strict=True))

    return embed


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The maps of several parts of a batch as those of the whole."""
    return [of[0] if len(parts) == 1 else torch.cat(of) for of in zip(*parts, strict=True)]


def anchored(
    objective: nn.Module, embed: Embed, embed_start: Embed, *, weight: float, layers: Collection[int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """An objective's loss, plus a weight times ``anchor_loss`` on the first view.

    Maps of the first view that the objective asks for by itself are not computed a second time.

    Args:
        objective: Called with a function from images to maps, the views and the labels.
        embed: The backbone that is trained.
        embed_start: The frozen start.
        weight: >= 0; 0: the start is never run.
        layers: On which the maps are compared.

    Returns:
        From views, shape (V, B, 3, S, S), and labels, shape (B,), to a scalar.
    """

    def loss_of(views: Tensor, labels: Tensor) -> Tensor:
        if not weight:
            return cast("Tensor", objective(embed, views, labels))
        num_photos, first = views.shape[1], {}

        def noting(images: Tensor) -> dict[int, Tensor]:
            maps = embed(images)
            begins_alike = images.data_ptr() == views.data_ptr() and images.shape[1:] == views.shape[2:]
            if begins_alike and images.is_contiguous() and len(images) >= num_photos:
                first.update({layer: features[:num_photos] for layer, features in maps.items()})
            return maps

        loss: Tensor = objective(noting, views, labels)
        with torch.no_grad():
            kept = embed_start(views[0])
        return loss + weight * anchor_loss(first or embed(views[0]), kept, layers=layers)

    return loss_of


def anchor_loss(maps: Mapping[int, Tensor], start: Mapping[int, Tensor], *, layers: Collection[int]) -> Tensor:
    """How far maps have turned from those of the frozen start: the mean of 1 - cos over cells, photos and layers.

    What keeps a backbone near ImageNet: distillation of its former self (Li & Hoiem, ECCV 2016, arXiv:1606.09282), on
    maps in place of classes.

    Args:
        maps: Layer -> shape (B, C_l, h_l, w_l).
        start: Likewise.
        layers: Which of them count, one at least.

    Returns:
        A scalar in [0, 2].
    """
    losses = [(1 - F.cosine_similarity(maps[layer], start[layer], dim=1)).mean() for layer in layers]
    return torch.stack(losses).mean()
