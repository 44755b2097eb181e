"""Heads between a backbone and a contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inlier.finetuning.parallel import gather


class ProjectionHead(nn.Module):
    """A layer of hidden units between pooled features and the embedding that is compared.

    It is dropped after training: what the loss asks to forget, such as colour and direction, is forgotten in the head
    first, and the features before it keep more (Chen et al., ICML 2020, arXiv:2002.05709, section 4.2).

    Example:
        >>> ProjectionHead(320, hidden=256, width=128)(torch.rand(2, 320)).shape
        torch.Size([2, 128])
    """

    def __init__(self, num_in: int, *, hidden: int, width: int) -> None:
        """For pooled features of ``num_in`` channels; ``hidden`` units, and an embedding of this width."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_in, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, pooled: Tensor) -> Tensor:
        """Shape (B, num_in) -> (B, width), of any length."""
        embedding: Tensor = self.layers(pooled)
        return embedding


def layer_heads(
    channels: Mapping[int, int], *, layers: Sequence[int], hidden: int, width: int, owner: str
) -> nn.ModuleDict:
    """A head for each layer that is compared, by its number.

    Args:
        channels: Layer -> channels of its map.
        layers: Which of them; none named: the coarsest.
        hidden: Units of a head.
        width: Of an embedding.
        owner: Whose parameters these are.

    Raises:
        ValueError: There is no such layer, one is named twice, or a number is below 1.
    """
    chosen = tuple(layers) or (max(channels),)
    if not set(chosen) <= set(channels) or len(set(chosen)) != len(chosen):
        raise ValueError(f"layers of {owner} must be different ones of {sorted(channels)}, got {list(chosen)}.")
    for name, number in (("hidden", hidden), ("width", width)):
        if number < 1:
            raise ValueError(f"{name} of {owner} must be at least 1, got {number}.")
    return nn.ModuleDict(
        {str(layer): ProjectionHead(channels[layer], hidden=hidden, width=width) for layer in sorted(chosen)}
    )


def embed_views(heads: nn.ModuleDict, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor) -> list[Tensor]:
    """Of each head's layer the embeddings of all processes' photos.

    Args:
        heads: Layer -> its head.
        embed: Images -> layer -> map.
        views: V views of this process's B photos, shape (V, B, 3, S, S).

    Returns:
        Shape (V, ranks * B, D) for each layer, of any length.
    """
    maps = embed(views.flatten(0, 1))
    found = []
    for layer, head in heads.items():
        embeddings = head(pooled(maps[int(layer)])).unflatten(0, views.shape[:2])  # (V, B, D)
        found.append(gather(embeddings.transpose(0, 1)).transpose(0, 1))
    return found


def pooled(maps: Tensor) -> Tensor:
    """The mean over cells: (B, C, h, w) -> (B, C)."""
    return torch.mean(maps, dim=(2, 3))
