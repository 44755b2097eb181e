"""SimCLR: two views of a photo are one, any other photo is another (Chen et al., arXiv:2002.05709)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inlier.data.cutpaste import AREA_RATIO, ASPECT_RANGES
from inlier.finetuning.contrastive import nt_xent
from inlier.finetuning.heads import embed_views, layer_heads


class SimCLR(nn.Module):
    """Self-supervised contrastive learning: no labels, so that any archive will do, polluted or not (thesis 3.4).

    Each layer's map is averaged over its cells, projected by a head of its own, and compared within the batch by
    ``nt_xent``; the loss is the mean over layers. The paper looks at the last layer alone, which is the default.

    With ``is_altered``, a copy of each photo with a piece of itself in another place stands apart from all photos: a
    further negative, as copies that shift the distribution are in CSI (Tack et al., NeurIPS 2020, arXiv:2007.08176).
    Their shift is a quarter turn, which hand-held photos do not mind; CutPaste's stands for damage.

    Example:
        >>> objective = SimCLR({4: 8}, hidden=16, width=4)
        >>> views = torch.rand(2, 3, 3, 32, 32)
        >>> embed = lambda images: {4: images.mean(dim=1, keepdim=True).repeat(1, 8, 1, 1)}
        >>> objective(embed, views, torch.full((3,), -1)).shape
        torch.Size([])
    """

    name = "simclr"
    num_views = 2
    uses_labels = False

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        layers: Sequence[int] = (),
        temperature: float = 0.2,
        is_altered: bool = False,
        hidden: int = 256,
        width: int = 128,
    ) -> None:
        """Checks the parameters, and makes a head for each layer.

        Args:
            channels: Layer -> channels of its map.
            layers: Which of them are compared; none named: the coarsest.
            temperature: Of the loss, > 0: the lower, the more the nearest others count.
            is_altered: Whether altered copies are further negatives; they make a step half as long again.
            hidden: Units of a head.
            width: Of an embedding.

        Raises:
            ValueError: A parameter is outside its range.
        """
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature of SimCLR must be above 0 and finite, got {temperature}.")
        self.temperature = temperature
        self.is_altered = is_altered
        self.heads = layer_heads(channels, layers=layers, hidden=hidden, width=width, owner="SimCLR")

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        """The loss of V views of B photos, shape (V, B, 3, S, S), and of those of all processes."""
        num_views = len(views)
        if self.is_altered:
            views = torch.cat([views, paste_pieces(views[0])[None]])
        losses = [
            nt_xent(of[:num_views], temperature=self.temperature, negatives=of[num_views:].flatten(0, 1))
            for of in embed_views(self.heads, embed, views)
        ]
        return torch.stack(losses).mean()


def paste_pieces(images: Tensor) -> Tensor:
    """Copies of images with a rectangle of each in another place: CutPaste (arXiv:2104.04015), on tensors.

    Sizes are those of ``data.cutpaste.cut_paste``, which alters photos; here colours stay. Torch's generator draws.

    Args:
        images: Shape (B, 3, H, W).
    """
    altered = images.clone()
    height, width = images.shape[2:]
    for image, copy in zip(images, altered, strict=True):
        chance = torch.rand(7).tolist()
        area = height * width * (AREA_RATIO[0] + chance[0] * (AREA_RATIO[1] - AREA_RATIO[0]))
        low, high = ASPECT_RANGES[int(chance[1] < 0.5)]
        aspect = low + chance[2] * (high - low)
        tall, wide = (max(1, min(size, round(side))) for size, side in (
            (height, math.sqrt(area / aspect)), (width, math.sqrt(area * aspect))
        ))  # fmt: skip
        top, left, new_top, new_left = (
            int(share * (room + 1)) for share, room in zip(chance[3:], (height - tall, width - wide) * 2, strict=True)
        )
        copy[:, new_top : new_top + tall, new_left : new_left + wide] = image[:, top : top + tall, left : left + wide]
    return altered
