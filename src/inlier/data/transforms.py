"""RGB photos to normalised tensors, and anomaly maps back to photo pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Transform:
    """What a backbone wants its photos to be: their size in pixels, and the mean and spread of each colour.

    Attributes:
        size: Height and width of the tensor, in pixels.
        mean: Of red, green and blue, on the scale [0, 1]; subtracted.
        std: Likewise; divided by.
        has_region: Whether a fourth channel says how much of each pixel lies in the photo's region; 0 where none is
            known.
        has_picture: Whether three more channels hold the colours as they are, in [0, 255]; not beside a region.

    Example:
        >>> transform = Transform(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> transform.to_tensor(np.full((90, 120, 3), 255, dtype=np.uint8)).unique()
        tensor([1.])

    Raises:
        ValueError: The size is not positive, or mean or std are not three numbers that can be divided by.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    has_region: bool = False
    has_picture: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size of Transform must be at least 1, got {self.size}.")
        if len(self.mean) != 3:
            raise ValueError(f"mean of Transform must be three numbers, got {self.mean}.")
        if len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"std of Transform must be three numbers > 0, got {self.std}.")
        if self.has_region and self.has_picture:
            raise ValueError("has_region and has_picture of Transform must not both be set.")

    @property
    def num_channels(self) -> int:
        """Of the tensor that it makes of a photo."""
        return 4 if self.has_region else 6 if self.has_picture else 3

    def to_tensor(self, image: NDArray[np.uint8], region: NDArray[np.bool_] | None = None) -> Tensor:
        """The whole photo as a normalised square.

        Nothing is cropped, for a crop could cut the defect away, and nothing is padded, for the edge of the
        padding would look anomalous itself; the aspect ratio is what is given up. The interpolation is
        bilinear and antialiased, on uint8: PyTorch takes 0.4 ms for 500 x 375 px, Pillow 1.6 ms, and they
        differ by one level of 255 at most. NumPy normalises, because PyTorch would start a team of threads
        for that in each thread that decodes.

        Args:
            image: Shape (H, W, 3), uint8.
            region: Shape (H, W), bool; ignored unless ``has_region``.

        Returns:
            Shape (num_channels, size, size).
        """
        square = self.to_square(image).transpose(2, 0, 1)
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.mean, self.std))
        colours = square.astype(np.float32, order="C")  # (3, size, size)
        plain = colours.copy() if self.has_picture else None
        colours *= 1 / (255 * std)
        colours -= mean / std
        if not self.has_region:
            return torch.from_numpy(colours if plain is None else np.concatenate([colours, plain]))
        share = np.zeros((self.size, self.size), dtype=np.float32)
        if region is not None:
            share = to_photo(region.astype(np.float32), height=self.size, width=self.size)
        return torch.from_numpy(np.concatenate([colours, share[None]]))

    def to_square(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same square before it is normalised.

        Args:
            image: Shape (H, W, 3), uint8.

        Returns:
            Shape (size, size, 3), uint8.
        """
        photo = torch.from_numpy(image).permute(2, 0, 1)[None]
        size = (self.size, self.size)
        square = F.interpolate(photo, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        return np.asarray(square.permute(1, 2, 0).numpy())


def to_photo(anomaly_map: NDArray[np.float32], *, height: int, width: int) -> NDArray[np.float32]:
    """An anomaly map in the pixels of its photo: bilinear, cell edges on photo edges.

    Args:
        anomaly_map: Shape (h, w), any unit; may be larger than the photo, and is then averaged down.
        height: Height of the photo, in pixels.
        width: Width of the photo, in pixels.

    Returns:
        Shape (height, width), same unit.
    """
    cells = torch.from_numpy(np.ascontiguousarray(anomaly_map, dtype=np.float32))[None, None]
    pixels = F.interpolate(cells, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(pixels[0, 0].numpy())
