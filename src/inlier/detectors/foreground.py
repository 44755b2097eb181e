"""Foreground: which cells show the part, by the first principal component of the backbone's own features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors.moments import Moments
from inlier.features.cache import FeatureSet

MAX_LEARNED = 500
"""Photos, spread evenly over those to learn from, that say what tells part from background."""

MIN_SHARE, MAX_SHARE = 0.05, 0.95
"""Share of a photo's cells below which, and above which, what was found is taken for no part."""

_FINE_ENOUGH = 12
"""Cells a side that a map should have at least, to say where a part ends."""

_NUM_BINS = 256


@dataclass(frozen=True, eq=False)
class Foreground:
    """Finds the part in photos in which it stands before a background that looks otherwise.

    The first principal component of patch features tells an object from what surrounds it (Oquab et al. 2023,
    arXiv:2304.07193); AnomalyDINO leaves out patches on the other side of a threshold, lets the middle of
    the photo say which side is the object's, and closes holes (Damm et al. 2024, arXiv:2405.14529, section 3).
    Departures: one component for all photos, so that photos agree on what is background; features of unit length, and
    Otsu's threshold, since ours is not always DINOv2, for whose features their number is; the largest connected
    pieces are kept. ``GrabCut`` refines it by pixels.

    Attributes:
        layer: Of the map that it looks at.
        mean: Of features of unit length, shape (C,).
        direction: The component, shape (C,); the part's side is positive.
        threshold: Above which a cell, averaged over its neighbours, shows the part.
    """

    layer: int
    mean: Tensor
    direction: Tensor
    threshold: float

    @classmethod
    def learn(cls, features: FeatureSet, *, layers: Sequence[int]) -> Self:
        """Learns it from normal photos.

        Args:
            features: At least one photo.
            layers: Those to choose from: the deepest whose map is fine enough, else the finest.
        """
        some = some_of(features)
        sides = {layer: min(of.shape[2:]) for layer, of in some.select([0]).read().items() if layer in layers}
        fine = [layer for layer, side in sides.items() if side >= _FINE_ENOUGH]
        layer = max(fine) if fine else max(sides, key=lambda of: (sides[of], of))
        some = some.with_layers([layer])
        moments = Moments.of(torch.empty(0, some.select([0]).read()[layer].shape[1]))
        for maps in some.batches():
            moments += Moments.of(_unit(maps[layer]).permute(0, 2, 3, 1).flatten(0, 2))
        direction = torch.linalg.eigh(moments.scatter)[1][:, -1].float()
        found = cls(layer, moments.mean.float(), direction, 0.0)
        values = torch.cat([found.values(maps) for maps in some.batches()])  # (N, h, w)
        sign = 1.0 if _middle_less_border(values) >= 0 else -1.0
        return cls(layer, found.mean, sign * direction, _otsu(sign * values))

    def __call__(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Of B photos the region, shape (B, 1, h, w), 0 or 1; all 0 where none of a likely size was found."""
        is_part = (self.values(maps) > self.threshold).numpy()
        regions = np.stack([tidy(of_photo, grown_by=1) for of_photo in is_part])
        return torch.from_numpy(regions.astype(np.float32))[:, None]

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    def state_dict(self) -> dict[str, Tensor]:
        """What it has learned."""
        layer, threshold = torch.tensor([self.layer]), torch.tensor([self.threshold])
        return {"layer": layer, "mean": self.mean, "direction": self.direction, "threshold": threshold}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The one that gave this state."""
        return cls(int(state["layer"]), state["mean"], state["direction"], float(state["threshold"]))

    def values(self, maps: Mapping[int, Tensor]) -> Tensor:
        """How far along the component each cell with its neighbours lies: shape (B, h, w)."""
        along = torch.einsum("bchw,c->bhw", _unit(maps[self.layer]), self.direction) - self.mean @ self.direction
        return F.avg_pool2d(along[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]


def some_of(features: FeatureSet) -> FeatureSet:
    """The photos that are learned from: all, or ``MAX_LEARNED`` spread evenly over them."""
    places = np.unique(np.linspace(0, len(features) - 1, min(len(features), MAX_LEARNED)).round().astype(int))
    return features.select(places.tolist())


def tidy(is_part: NDArray[np.bool_], *, grown_by: int) -> NDArray[np.bool_]:
    """The pieces at least a quarter as large as the largest, grown, without holes; none of an unlikely size.

    Args:
        is_part: Shape (h, w).
        grown_by: Cells, or pixels, that are added all round.
    """
    pieces, num_pieces = ndimage.label(is_part)
    if not num_pieces:
        return np.zeros_like(is_part)
    sizes = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(4 * sizes >= sizes.max()))
    grown = ndimage.binary_dilation(kept, iterations=grown_by) if grown_by else kept
    region: NDArray[np.bool_] = ndimage.binary_fill_holes(grown)
    return region if MIN_SHARE <= region.mean() <= MAX_SHARE else np.zeros_like(is_part)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)


def _middle_less_border(values: Tensor) -> float:
    """Mean over the middle half of rows and columns, less that over the outermost cells."""
    rows, columns = values.shape[1:]
    middle = values[:, rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4].mean()
    edges = (values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1])
    return float(middle - torch.cat([edge.flatten() for edge in edges]).mean())


def _otsu(values: Tensor) -> float:
    """The threshold that parts values into two classes with means farthest apart, weighted (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return high
    counts = torch.histc(values.float(), _NUM_BINS, min=low, max=high).double()
    width = (high - low) / _NUM_BINS
    centers = low + width * (torch.arange(_NUM_BINS, dtype=torch.float64) + 0.5)
    below = counts.cumsum(0)[:-1]
    above = counts.sum() - below
    sums = (counts * centers).cumsum(0)
    apart = sums[:-1] / below.clamp_min(1) - (sums[-1] - sums[:-1]) / above.clamp_min(1)
    return low + width * (int((below * above * apart.square()).argmax()) + 1)
