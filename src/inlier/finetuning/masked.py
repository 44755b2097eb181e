"""MaskedReconstruction: from a photo with holes, what a frozen teacher sees of the whole one (arXiv:2304.02216)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from inlier.features.student import Student
from inlier.finetuning.reverse_distillation import distance


class MaskedReconstruction(nn.Module):
    """Masked multi-scale reconstruction (Zhang et al. 2023, MMR): to fill a hole, one must know the part.

    Random patches of a view are blanked. The backbone sees what is left, and a decoder gives from its coarsest map
    what the frozen teacher, the backbone at the start, sees of the whole view in several layers. The loss is the mean
    over cells of 1 - cos, summed over layers; over all cells as in the paper, seen or not.

    Departures: the paper's encoder is a plain vision transformer that drops the masked patches; a network of
    convolutions needs a whole picture, so blanked patches stay in place, as in SimMIM (Xie et al., CVPR 2022,
    arXiv:2111.09886), with the mean colour (0 after normalisation) where that learns one. The decoder is
    ``features.student``, in place of the paper's pyramid; both enlarge the coarsest map layer by layer. The teacher is
    the backbone's own start, in place of a larger network.

    Example:
        >>> embed = lambda images: {3: torch.rand(2, 8, 4, 4), 4: torch.rand(2, 16, 2, 2)}
        >>> objective = MaskedReconstruction({3: 8, 4: 16}, teacher=embed, layers=(3, 4), patch_px=16, width=16)
        >>> objective(embed, torch.rand(1, 2, 3, 32, 32), torch.tensor([-1, -1])).shape
        torch.Size([])
    """

    name = "masked"
    num_views = 1
    uses_labels = False

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        teacher: Callable[[Tensor], dict[int, Tensor]],
        layers: Sequence[int] = (2, 3, 4),
        mask_ratio: float = 0.4,
        patch_px: int = 16,
        width: int = 128,
    ) -> None:
        """Checks the parameters, and makes the decoder.

        Args:
            channels: Layer -> channels of its map.
            teacher: The frozen start; from images to layer -> map, without gradients.
            layers: Which of the teacher's maps are reconstructed.
            mask_ratio: Share of the patches that are blanked, in (0, 1); the paper's 0.4.
            patch_px: Side of a patch, in pixels of the view, >= 1.
            width: Most channels that a block of the decoder has.

        Raises:
            ValueError: A parameter is outside its range.
        """
        super().__init__()
        if not layers or not set(layers) <= set(channels) or len(set(layers)) != len(layers):
            raise ValueError(
                f"layers of MaskedReconstruction must be different ones of {sorted(channels)}, got {list(layers)}."
            )
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio of MaskedReconstruction must be in (0, 1), got {mask_ratio}.")
        for name, number in (("patch_px", patch_px), ("width", width)):
            if number < 1:
                raise ValueError(f"{name} of MaskedReconstruction must be at least 1, got {number}.")
        self.layers = tuple(sorted(layers))
        self.mask_ratio = mask_ratio
        self.patch_px = patch_px
        self.coarsest = max(channels)
        self.narrow = nn.Conv2d(channels[self.coarsest], width, 1)
        self.decoder = Student([channels[layer] for layer in self.layers], width=width)
        self._teacher = teacher

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        """The loss of the first view of B photos, shape (V, B, 3, S, S); labels are not looked at."""
        images = views[0]
        if not self.patch_px < max(images.shape[2:]):
            raise ValueError(
                f"patch_px of MaskedReconstruction must be less than the side of a view, {max(images.shape[2:])}, "
                f"got {self.patch_px}."
            )
        whole = self._teacher(images)
        targets = [whole[layer] for layer in self.layers]
        seen = embed(images * draw_mask(images, patch_px=self.patch_px, ratio=self.mask_ratio))
        answers = self.decoder(self.narrow(seen[self.coarsest]), [features.shape[2:] for features in targets])
        return distance(targets, answers)


def draw_mask(images: Tensor, *, patch_px: int, ratio: float) -> Tensor:
    """Ones, with zeros on a share of the patches of each image, drawn by torch's generator.

    Args:
        images: Shape (B, 3, H, W).
        patch_px: Side of a patch; those at the right and lower edge may be cut off.
        ratio: Share of the patches, rounded to a whole number of them; one at least is blanked, and one is not.

    Returns:
        Shape (B, 1, H, W).
    """
    height, width = images.shape[2:]
    rows, columns = -(-height // patch_px), -(-width // patch_px)
    num_blanked = min(max(round(ratio * rows * columns), 1), rows * columns - 1)
    order = torch.rand(len(images), rows * columns, device=images.device).argsort(dim=1).argsort(dim=1)
    patches = (order >= num_blanked).to(images.dtype).view(-1, 1, rows, columns)
    enlarged = patches.repeat_interleave(patch_px, dim=2).repeat_interleave(patch_px, dim=3)
    return enlarged[..., :height, :width]
