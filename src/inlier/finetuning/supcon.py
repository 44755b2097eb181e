"""SupCon: photos of one label are one, any other photo is another (Khosla et al., arXiv:2004.11362)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inlier.finetuning.contrastive import supcon_loss
from inlier.finetuning.heads import embed_views, layer_heads
from inlier.finetuning.parallel import gather


class SupCon(nn.Module):
    """Supervised contrastive learning where there are labels, and self-supervised where there are none (thesis 3.4).

    Two views of each photo are compared with the whole batch, as ``SimCLR`` does it and with its heads. Photos of one
    label are one class; a photo without a label is a class of its own, whose other view is all it shall be close to.
    So one objective learns from a sorted part of an archive and from the rest of it, and on an archive without any
    label it is SimCLR.

    Example:
        >>> objective = SupCon({4: 8}, hidden=16, width=4)
        >>> views = torch.rand(2, 3, 3, 32, 32)
        >>> embed = lambda images: {4: images.mean(dim=1, keepdim=True).repeat(1, 8, 1, 1)}
        >>> objective(embed, views, torch.tensor([0, 0, -1])).shape
        torch.Size([])
    """

    name = "supcon"
    num_views = 2
    uses_labels = True

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
            raise ValueError(f"temperature of SupCon must be above 0 and finite, got {temperature}.")
        self.temperature = temperature
        self.heads = layer_heads(channels, layers=layers, hidden=hidden, width=width, owner="SupCon")

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        """The loss of V views of B photos, shape (V, B, 3, S, S), with labels (B,), -1 for none; of all processes."""
        classes = own_classes(gather(labels))
        losses = [
            supcon_loss(embeddings.flatten(0, 1), classes.repeat(len(views)), temperature=self.temperature)
            for embeddings in embed_views(self.heads, embed, views)
        ]
        return torch.stack(losses).mean()


def own_classes(labels: Tensor) -> Tensor:
    """The labels, with for each photo that has none, -1, a number of its own below that: shape (B,)."""
    return torch.where(labels < 0, -1 - torch.arange(len(labels), device=labels.device), labels)
