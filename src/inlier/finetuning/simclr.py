"""SimCLR: two views of a photo are one, any other photo is another (Chen et al., arXiv:2002.05709)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inlier.finetuning.contrastive import nt_xent
from inlier.finetuning.heads import embed_views, layer_heads


class SimCLR(nn.Module):
    """Self-supervised contrastive learning: no labels, so that any archive will do, polluted or not (thesis 3.4).

    Each layer's map is averaged over its cells, projected by a head of its own, and compared within the batch by
    ``nt_xent``; the loss is the mean over layers. The paper looks at the last layer alone, which is the default.

    Example:
        >>> objective = SimCLR({4: 8}, hidden=16, width=4)
        >>> views = torch.rand(2, 3, 3, 32, 32)
        >>> embed = lambda images: {4: images.mean(dim=1, keepdim=True).repeat(1, 8, 1, 1)}
        >>> objective(embed, views, torch.full((3,), -1)).shape
        torch.Size([])
    """

    name = "simclr"
    num_views = 2
    needs_labels = False

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        layers: Sequence[int] = (),
        temperature: float = 0.2,
        hidden: int = 256,
        width: int = 128,
    ) -> None:
        """Checks the parameters, and makes a head for each layer.

        Args:
            channels: Layer -> channels of its map.
            layers: Which of them are compared; none named: the coarsest.
            temperature: Of the loss, > 0: the lower, the more the nearest others count.
            hidden: Units of a head.
            width: Of an embedding.

        Raises:
            ValueError: A parameter is outside its range.
        """
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature of SimCLR must be above 0 and finite, got {temperature}.")
        self.temperature = temperature
        self.heads = layer_heads(channels, layers=layers, hidden=hidden, width=width, owner="SimCLR")

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        """The loss of V views of B photos, shape (V, B, 3, S, S), and of those of all processes."""
        losses = [nt_xent(of, temperature=self.temperature) for of in embed_views(self.heads, embed, views)]
        return torch.stack(losses).mean()
