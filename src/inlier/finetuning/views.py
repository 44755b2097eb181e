"""Views: ever new random shots of what one photo shows, for a backbone to learn what it should not mind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Augmentation = Literal["jitter", "randaugment", "none"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

NUM_OPS = 2
"""Changes that RandAugment makes to each view, one after the other: torchvision's default."""

MAGNITUDE = 9 / 30
"""How strong each is, as a share of the strongest: torchvision's default, the tenth of 31 steps."""

_JITTER_RATE = 0.8
_RATIOS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Views:
    """A square photo -> a random view of it: a part of it, enlarged, laid another way, in other light.

    A random resized crop (Szegedy et al., CVPR 2015) as torchvision makes it; then one of the eight ways to lay a
    square, as likely as another, since hand-held photos have no upright; then what ``augmentation`` says. The
    departures from SimCLR (Chen et al., ICML 2020, arXiv:2002.05709, appendix A): larger crops, for a small one may
    leave out the part; and neither greyscale nor blur, for rust is a colour and a crack is fine.

    All that is random is drawn from the generator given, none from torch's, so that threads can make views at the same
    time, and a view depends on nothing but its photo and its generator. Pillow does the work, since in each thread
    PyTorch would start a team of its own: 1.5 ms for 160 px with jitter.

    Attributes:
        size: Height and width of a view, in pixels.
        mean: Of red, green and blue, on the scale [0, 1]; subtracted.
        std: Likewise; divided by.
        scale: Least and greatest share of the photo's area that a view shows, in (0, 1].
        augmentation: ``jitter`` shifts brightness, contrast, saturation and hue, four times in five;
            ``randaugment`` makes two changes out of fourteen (Cubuk et al., NeurIPS 2020, arXiv:1909.13719), as
            torchvision by default; ``none`` leaves colours as they are.
        jitter: Most that brightness, contrast and saturation are changed by, as a share, in [0, 1]; hue by a quarter
            of it, as in SimCLR, whose colour strength 0.5 is 0.4 here.
        is_turned: Whether views are laid all eight ways; False: mirrored left and right only.

    Example:
        >>> views = Views(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> views(np.zeros((48, 48, 3), dtype=np.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])

    Raises:
        ValueError: A parameter is outside its range.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: tuple[float, float] = (0.4, 1.0)
    augmentation: Augmentation = "jitter"
    jitter: float = 0.4
    is_turned: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size of Views must be at least 1, got {self.size}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std of Views must be three numbers each, std > 0, got {self.mean}, {self.std}.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale of Views must be two ascending numbers in (0, 1], got {list(self.scale)}.")
        if self.augmentation not in AUGMENTATIONS:
            allowed = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation of Views must be one of {allowed}, got {self.augmentation!r}.")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter of Views must be in [0, 1], got {self.jitter}.")

    def __call__(self, square: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        """A view.

        Args:
            square: Shape (S, S, 3), uint8; left as it is.
            rng: Where its random numbers come from.

        Returns:
            Shape (3, size, size), normalised.
        """
        top, left, height, width = _draw_crop(square.shape[0], square.shape[1], self.scale, rng)
        view = Image.fromarray(square[top : top + height, left : left + width])
        view = view.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.augmentation == "jitter" and rng.random() < _JITTER_RATE:
            view = _jitter(view, self.jitter, rng)
        elif self.augmentation == "randaugment":
            for number in rng.integers(len(RANDAUGMENT), size=NUM_OPS):
                view = RANDAUGMENT[number](view, MAGNITUDE if rng.random() < 0.5 else -MAGNITUDE)
        pixels = np.asarray(view)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.is_turned:
            pixels = np.rot90(pixels, int(rng.integers(4)))
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std))
        colours = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
        colours *= 1 / (255 * std)
        colours -= mean / std
        return torch.from_numpy(colours)


def _draw_crop(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part: its area by ``scale``, its shape between 3:4 and 4:3."""
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width


def _jitter(view: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Torchvision's ColorJitter(s, s, s, s / 4): four changes in random order."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3)
    shift = rng.uniform(-strength / 4, strength / 4)
    changes: tuple[Callable[[Image.Image], Image.Image], ...] = (
        lambda image: F.adjust_brightness(image, brightness),
        lambda image: F.adjust_contrast(image, contrast),
        lambda image: F.adjust_saturation(image, saturation),
        lambda image: F.adjust_hue(image, shift),
    )
    for place in rng.permutation(len(changes)):
        view = changes[place](view)
    return view


def _affine(
    view: Image.Image,
    *,
    shear: tuple[float, float] = (0, 0),
    translate: tuple[float, float] = (0, 0),
    center: list[float] | None = None,
) -> Image.Image:
    """Sheared to have this slope, or moved by this share of its size; black is where nothing was."""
    moved: Image.Image = F.affine(
        view,
        angle=0.0,
        translate=[int(share * side) for share, side in zip(translate, view.size, strict=True)],
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=InterpolationMode.NEAREST,
        center=center,
    )
    return moved


RANDAUGMENT: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda view, strength: view,
    lambda view, strength: _affine(view, shear=(0.3 * strength, 0), center=[0, 0]),
    lambda view, strength: _affine(view, shear=(0, 0.3 * strength), center=[0, 0]),
    lambda view, strength: _affine(view, translate=(150 / 331 * strength, 0)),
    lambda view, strength: _affine(view, translate=(0, 150 / 331 * strength)),
    lambda view, strength: F.rotate(view, angle=30 * strength, interpolation=InterpolationMode.NEAREST),
    lambda view, strength: F.adjust_brightness(view, 1 + 0.9 * strength),
    lambda view, strength: F.adjust_saturation(view, 1 + 0.9 * strength),
    lambda view, strength: F.adjust_contrast(view, 1 + 0.9 * strength),
    lambda view, strength: F.adjust_sharpness(view, 1 + 0.9 * strength),
    lambda view, strength: F.posterize(view, bits=8 - round(4 * abs(strength))),
    lambda view, strength: F.solarize(view, threshold=255 * (1 - abs(strength))),
    lambda view, strength: F.autocontrast(view),
    lambda view, strength: F.equalize(view),
)
"""RandAugment's fourteen changes in torchvision's order, by a strength in [-1, 1] of the strongest."""
