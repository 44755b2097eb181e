"""What can be told from a photo without looking at what is in it.

Anomalous photos taken on another day, in other light or with another camera are easy to tell, and teach
nothing. These statistics find such a shortcut in a data set: where one of them alone separates the labels,
the score of a detector proves little (`decision.metrics.trivial_auroc`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# ITU-R BT.601: the weights with which JPEG and Pillow turn RGB into brightness.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_BORDER = 0.1


def photo_statistics(pixels: NDArray[np.uint8], *, aspect: float | None = None) -> dict[str, float]:
    """Six numbers that describe a photo but not its content.

    `brightness` is the mean of the luma, in [0, 1]; `contrast` its standard deviation, in [0, 0.5];
    `saturation` the mean of (max - min) / max over red, green and blue, in [0, 1], black counting 0; `border`
    the mean luma of the outer tenth on each side minus that of the rest, in [-1, 1]; `edges` the mean length
    of the luma's gradient between neighbouring pixels, >= 0; `aspect` the width over the height.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB. Statistics of different photos compare at one size; `edges`
            more than all depends on it.
        aspect: Width over height of the photo as taken, where `pixels` have lost it; by default that of
            `pixels`.

    Raises:
        ValueError: If the pixels have another shape or type, or the aspect is not positive.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"pixels of photo_statistics must be uint8 of shape (H, W, 3), got {pixels.dtype} of shape {pixels.shape}."
        )
    if aspect is not None and not 0 < aspect < np.inf:
        raise ValueError(f"aspect of photo_statistics must be positive, got {aspect:g}.")
    height, width, _ = pixels.shape
    colours = pixels.astype(np.float32) / np.float32(255)
    luma = colours @ _LUMA  # (H, W)
    highest, lowest = colours.max(axis=2), colours.min(axis=2)
    saturation = np.divide(highest - lowest, highest, out=np.zeros_like(luma), where=highest > 0)
    return {
        "brightness": _mean(luma),
        "contrast": float(luma.std(dtype=np.float64)),
        "saturation": _mean(saturation),
        "border": _border(luma),
        "edges": _mean(np.hypot(np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1])),
        "aspect": width / height if aspect is None else aspect,
    }


def _border(luma: NDArray[np.floating[Any]]) -> float:
    """Mean of the outer tenth on each side minus mean of the rest; 0 where nothing is left inside."""
    rows, columns = (max(1, round(_BORDER * length)) for length in luma.shape)
    is_border = np.ones(luma.shape, dtype=np.bool_)
    is_border[rows:-rows, columns:-columns] = False
    return 0.0 if is_border.all() else _mean(luma[is_border]) - _mean(luma[~is_border])


def _mean(values: NDArray[np.floating[Any]]) -> float:
    """The mean, 0 of nothing: a picture of one row has no gradient."""
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
