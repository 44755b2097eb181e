"""UnfrozenTeacher: reverse distillation whose teacher learns too (the thesis's section 3.3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.features.student import Bottleneck, Student
from inlier.finetuning.heads import pooled
from inlier.finetuning.parallel import gather

Guard = Literal["anchor", "stop-gradient", "variance", "none"]
GUARDS: tuple[Guard, ...] = get_args(Guard)

_LEAST_DEVIATION = 1.0
_COVARIANCE_WEIGHT = 1 / 25
_TINY = 1e-4


class UnfrozenTeacher(nn.Module):
    """Teacher and student learn to agree on the maps of each layer (Deng & Li, CVPR 2022, arXiv:2201.10703).

    The student sees the teacher's maps through a bottleneck and gives them back; the loss is the mean over cells of
    1 - cos between the two, summed over layers (thesis eq. 3.4). With the teacher unfrozen, as the thesis has it, both
    agree best where all maps are alike, and that is what they become: nothing in the loss asks them to tell photos
    apart. ``guard`` is what keeps them from it:

    - ``anchor``: maps of the teacher must also stay near those of its frozen start, by the same measure.
    - ``stop-gradient``: the teacher is no target that can move; it learns only what the bottleneck sees of it, as one
      of two branches does in SimSiam (Chen & He, CVPR 2021, arXiv:2011.10566).
    - ``variance``: each channel of the pooled maps must vary within the batch, and channels must not vary together
      (VICReg: Bardes et al., ICLR 2022, arXiv:2105.04906, eq. 1 and 3, the second by a 25th, as there). They have one
      length first: the cosine does not see it, so that longer maps would vary enough and yet be all alike.
    - ``none``: the thesis's, to show the collapse.

    Bottleneck and student are those of the detector, with its departures from the paper (``features.student``).

    Example:
        >>> embed = lambda images: {3: torch.rand(2, 8, 4, 4), 4: torch.rand(2, 16, 2, 2)}
        >>> objective = UnfrozenTeacher({3: 8, 4: 16}, teacher=embed, layers=(3, 4), width=16)
        >>> objective(embed, torch.rand(1, 2, 3, 32, 32), torch.tensor([-1, -1])).shape
        torch.Size([])
    """

    name = "reverse-distillation"
    num_views = 1
    uses_labels = False

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        teacher: Callable[[Tensor], dict[int, Tensor]],
        layers: Sequence[int] = (2, 3, 4),
        guard: Guard = "anchor",
        guard_weight: float = 1.0,
        width: int = 128,
    ) -> None:
        """Checks the parameters, and makes bottleneck and student.

        Args:
            channels: Layer -> channels of its map.
            teacher: The frozen start; from images to layer -> map, without gradients.
            layers: Which of them are imitated, at least two.
            guard: What keeps teacher and student from collapsing.
            guard_weight: Of what ``anchor`` or ``variance`` adds to the loss, > 0.
            width: Channels of the bottleneck's embedding, and the most that a block of the student has.

        Raises:
            ValueError: A parameter is outside its range.
        """
        super().__init__()
        if guard not in GUARDS:
            raise ValueError(f"guard of UnfrozenTeacher must be one of {', '.join(GUARDS)}, got {guard!r}.")
        if not set(layers) <= set(channels) or not 2 <= len(set(layers)) == len(layers):
            raise ValueError(
                f"layers of UnfrozenTeacher must be at least two different ones of {sorted(channels)}, "
                f"got {list(layers)}."
            )
        if not 0 < guard_weight < math.inf:
            raise ValueError(f"guard_weight of UnfrozenTeacher must be above 0 and finite, got {guard_weight}.")
        if width < 1:
            raise ValueError(f"width of UnfrozenTeacher must be at least 1, got {width}.")
        self.layers = tuple(sorted(layers))
        self.guard = guard
        self.guard_weight = guard_weight
        self.bottleneck = Bottleneck([channels[layer] for layer in self.layers], width=width)
        self.student = Student([channels[layer] for layer in self.layers], width=width)
        self._teacher = teacher

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        """The loss of the first view of B photos, shape (V, B, 3, S, S); labels are not looked at."""
        of_all = embed(views[0])
        maps = [of_all[layer] for layer in self.layers]
        answers = self.student(self.bottleneck(maps), [features.shape[2:] for features in maps])
        targets = [features.detach() for features in maps] if self.guard == "stop-gradient" else maps
        loss = distance(targets, answers)
        if self.guard == "anchor":
            frozen = self._teacher(views[0])
            loss = loss + self.guard_weight * distance([frozen[layer] for layer in self.layers], maps)
        elif self.guard == "variance":
            spread = [_monotony(gather(pooled(features))) for features in maps]
            loss = loss + self.guard_weight * torch.stack(spread).sum()
        return loss


def distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The sum over layers of the mean of 1 - cos over photos and cells, a scalar: eq. 3.4 of the thesis, averaged.

    Args:
        maps: Of each layer shape (B, C_l, h_l, w_l).
        others: Likewise.
    """
    layers = zip(maps, others, strict=True)
    return torch.stack([(1 - F.cosine_similarity(one, other, dim=1)).mean() for one, other in layers]).sum()


def _monotony(embeddings: Tensor) -> Tensor:
    """VICReg's variance and covariance terms of embeddings (N, D), a scalar; 1 at most is a channel's deviation."""
    num_photos, width = embeddings.shape
    scaled = F.normalize(embeddings, dim=1) * math.sqrt(width)
    centred = scaled - scaled.mean(dim=0)
    covariance = centred.T @ centred / max(num_photos - 1, 1)  # (D, D)
    deviation = (covariance.diagonal() + _TINY).sqrt()
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return F.relu(_LEAST_DEVIATION - deviation).mean() + _COVARIANCE_WEIGHT * off_diagonal / width
