"""Networks that learn to give a backbone's maps: a bottleneck, and a student that mirrors the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4
"""Channels inside an inverted residual block, over those that go into it."""


def _norm(num_channels: int) -> nn.GroupNorm:
    """Group normalisation (arXiv:1803.08494) in up to 16 groups of at least 8 channels.

    The paper normalises over the batch. A photo's answer then depends in training on which others came with it, and
    later on running averages, which a handful of photos or a few hundred steps do not settle.
    """
    num_groups = max(n for n in (1, 2, 4, 8, 16) if n == 1 or (num_channels % n == 0 and num_channels >= 8 * n))
    return nn.GroupNorm(num_groups, num_channels)


class InvertedResidual(nn.Module):
    """Narrow outside and wide inside: expand, filter each channel by itself, project (arXiv:1801.04381, figure 3d).

    It can halve the map, or enlarge it to any size. It enlarges between expansion and filter: copying cells commutes
    with the expansion, which works cell by cell and so costs a quarter of what it would behind.
    """

    def __init__(self, num_in: int, num_out: int, *, stride: int = 1) -> None:
        """A block with these numbers of channels; a stride of 2 halves the map."""
        super().__init__()
        hidden = EXPANSION * num_in
        self.expand = nn.Sequential(nn.Conv2d(num_in, hidden, 1, bias=False), _norm(hidden), nn.ReLU())
        self.filter = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            _norm(hidden),
            nn.ReLU(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, num_out, 1, bias=False), _norm(num_out))
        self.is_residual = num_in == num_out and stride == 1

    def forward(self, maps: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Shape (B, num_in, h, w) -> (B, num_out, *size); without a size h and w are kept, or halved."""
        hidden = self.expand(maps)
        if size is not None:
            hidden = F.interpolate(hidden, size=tuple(size), mode="nearest")
        projected: Tensor = self.project(self.filter(hidden))
        return projected + maps if self.is_residual and size is None else projected


class Bottleneck(nn.Module):
    """Maps of all layers -> one compact embedding at half the resolution of the deepest (the paper's section 3.3).

    Multi-scale fusion: each map is projected to ``width`` channels and averaged over the cells of the deepest one,
    and all are joined. (The paper shrinks them by strided convolutions; averages have no weights, and do for maps of
    any sizes.) One-class embedding: two inverted residual blocks in place of a stage of the paper's ResNet.
    """

    def __init__(self, channels: Sequence[int], *, width: int) -> None:
        """For maps of these channels, finest first."""
        super().__init__()
        self.fuse = nn.ModuleList(
            nn.Sequential(nn.Conv2d(num_channels, width, 1, bias=False), _norm(width), nn.ReLU())
            for num_channels in channels
        )
        self.join = nn.Sequential(nn.Conv2d(width * len(channels), width, 1, bias=False), _norm(width), nn.ReLU())
        self.embed = nn.Sequential(InvertedResidual(width, width, stride=2), InvertedResidual(width, width))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Shapes (B, C_l, h_l, w_l), finest first -> (B, width, h / 2, w / 2), rounded up, of the deepest h and w."""
        size = (maps[-1].shape[2], maps[-1].shape[3])
        fused = [
            F.adaptive_avg_pool2d(project(features), size) for project, features in zip(self.fuse, maps, strict=True)
        ]
        embedding: Tensor = self.embed(self.join(torch.cat(fused, dim=1)))
        return embedding


class Student(nn.Module):
    """The embedding -> what the teacher would see in each layer, from the deepest to the finest.

    For each layer a block that enlarges and one that refines, with as many channels as the teacher has there but at
    most ``width``, and a head that gives the teacher's channels. The paper's student is the teacher's mirror image,
    an order of magnitude larger than a small teacher and slower to train than it is worth.
    """

    def __init__(self, channels: Sequence[int], *, width: int) -> None:
        """For maps of these channels, finest first."""
        super().__init__()
        widths = [min(num_channels, width) for num_channels in channels]
        self.grow = nn.ModuleList(
            InvertedResidual(num_in, num_out) for num_in, num_out in zip([*widths[1:], width], widths, strict=True)
        )
        self.refine = nn.ModuleList(InvertedResidual(num_out, num_out) for num_out in widths)
        self.heads = nn.ModuleList(
            nn.Conv2d(num_in, num_channels, 1) for num_in, num_channels in zip(widths, channels, strict=True)
        )

    def forward(self, embedding: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Shape (B, width, h, w), and height and width of each layer -> (B, C_l, h_l, w_l), both finest first."""
        found: list[Tensor] = []
        hidden = embedding
        for layer in reversed(range(len(self.heads))):
            hidden = self.refine[layer](self.grow[layer](hidden, sizes[layer]))
            found.insert(0, self.heads[layer](hidden))
        return found


def count_activations(shapes: Sequence[tuple[int, int, int]], *, width: int) -> tuple[int, int, int]:
    """How many numbers training Bottleneck and Student takes, to foresee its memory.

    Args:
        shapes: (C, h, w) of each layer's map, finest first.
        width: Of both networks.

    Returns:
        Numbers that are kept for the gradients of one photo, those of the largest array among these, and weights.
    """
    kept: list[int] = []
    weights: list[int] = []

    def convolve(num_in: int, num_out: int, cells: int, *, kernel: int = 1) -> None:
        kept.extend([num_out * cells] * 2)  # before and after normalisation, with the activation or what is added
        weights.append(num_in * num_out * kernel + 2 * num_out)

    def block(num_in: int, num_out: int, cells: int, cells_out: int, *, is_enlarged: bool = False) -> None:
        hidden = EXPANSION * num_in
        convolve(num_in, hidden, cells)
        kept.extend([hidden * cells_out] * is_enlarged)
        convolve(1, hidden, cells_out, kernel=9)
        convolve(hidden, num_out, cells_out)

    channels, sizes = [shape[0] for shape in shapes], [math.prod(shape[1:]) for shape in shapes]
    for num_channels, cells in zip(channels, sizes, strict=True):
        convolve(num_channels, width, cells)
    kept.append(width * len(shapes) * sizes[-1])
    convolve(width * len(shapes), width, sizes[-1])
    bottom = math.prod(math.ceil(side / 2) for side in shapes[-1][1:])
    block(width, width, sizes[-1], bottom)
    block(width, width, bottom, bottom)
    num_in, cells_in = width, bottom
    for num_channels, cells in reversed(list(zip(channels, sizes, strict=True))):
        num_out = min(num_channels, width)
        block(num_in, num_out, cells_in, cells, is_enlarged=True)
        block(num_out, num_out, cells, cells)
        kept.append(num_channels * cells)
        weights.append(num_out * num_channels + num_channels)
        num_in, cells_in = num_out, cells
    return sum(kept), max(kept), sum(weights)
