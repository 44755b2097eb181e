"""GrabCut: the foreground, cut out along the photo's own edges; the one place that knows OpenCV."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors.foreground import Foreground, some_of, tidy
from inlier.errors import MissingExtraError
from inlier.features.cache import FeatureSet
from inlier.features.regions import PICTURE

if TYPE_CHECKING:
    import types

NUM_ROUNDS = 2
"""How often colours are learned and the cut is made anew; more change few pixels, and each takes as long."""

_GROUND, _PART, _MAYBE_GROUND, _MAYBE_PART = 0, 1, 2, 3  # as OpenCV numbers them


@dataclass(frozen=True, eq=False)
class GrabCut:
    """Finds the part as ``Foreground`` does, and then its outline in the photo itself.

    GrabCut (Rother et al., SIGGRAPH 2004) learns the colours of both sides from a first guess, and cuts where a border
    costs least. The guess is the foreground's: what lies beyond the mean of either side is sure, the rest may change
    sides. Largest pieces are kept and holes filled, and half a cell of the map is added all round, so that a cell
    counts which the part reaches, and a chipped edge stays in view. It works on ``PICTURE``, which is small: time
    grows faster than the number of pixels.

    Attributes:
        foreground: The first guess, and whether there is a part.
        low: Mean of the cells below the foreground's threshold: what is lower is surely background.
        high: Mean of those above: what is higher is surely the part.
        known: What was found already, by picture and guess, where photos are gone through more than once; None: that is
            not kept.
    """

    foreground: Foreground
    low: float
    high: float
    known: dict[bytes, NDArray[np.uint8]] | None = None

    @classmethod
    def learn(cls, features: FeatureSet, *, layers: Sequence[int]) -> Self:
        """Learns the foreground from normal photos, and how sure it is; see ``Foreground.learn``."""
        foreground = Foreground.learn(features, layers=layers)
        some = some_of(features).with_layers(foreground.layers)
        values = torch.cat([foreground.values(maps).flatten() for maps in some.batches()])
        is_part = values > foreground.threshold
        sides = values[~is_part], values[is_part]
        low, high = (float(of.mean()) if len(of) else foreground.threshold for of in sides)
        return cls(foreground, low, high)

    @property
    def layers(self) -> tuple[int, ...]:
        """The foreground's layer, and the picture."""
        return (PICTURE, *self.foreground.layers)

    def remembering(self) -> Self:
        """The same, which keeps what it finds, some 2 kB a photo."""
        return replace(self, known={})

    def __call__(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Of B photos the region in pixels of the picture, shape (B, 1, h, w), 0 or 1; all 0 where there is none."""
        pictures = maps[PICTURE].byte().permute(0, 2, 3, 1).numpy()  # (B, h, w, 3)
        regions = self.foreground(maps)
        size = pictures.shape[1:3]
        margin = round(min(size) / min(regions.shape[2:]) / 2)
        is_near = F.interpolate(regions, size=size)[:, 0].numpy() > 0
        values = F.interpolate(self.foreground.values(maps)[:, None], size=size, mode="bilinear")[:, 0].numpy()
        found = [self._cut(*of, margin) for of in zip(pictures, is_near, values, strict=True)]
        return torch.from_numpy(np.stack(found).astype(np.float32))[:, None]

    def state_dict(self) -> dict[str, Tensor]:
        """What it has learned."""
        return self.foreground.state_dict() | {"low": torch.tensor([self.low]), "high": torch.tensor([self.high])}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The one that gave this state."""
        return cls(Foreground.from_state(state), float(state["low"]), float(state["high"]))

    def _cut(
        self, picture: NDArray[np.uint8], is_near: NDArray[np.bool_], values: NDArray[np.float32], margin: int
    ) -> NDArray[np.bool_]:
        """The region of one photo, shape (h, w)."""
        if not is_near.any():
            return is_near
        guess = np.where(is_near, np.uint8(_MAYBE_PART), np.uint8(_MAYBE_GROUND))
        guess[is_near & (values > self.high)] = _PART
        guess[~is_near & (values < self.low)] = _GROUND
        if self.known is None:
            return tidy(_grab(picture, guess), grown_by=margin)
        key = hashlib.sha256(picture.tobytes() + guess.tobytes()).digest()
        if key not in self.known:
            self.known[key] = np.packbits(tidy(_grab(picture, guess), grown_by=margin))
        return np.unpackbits(self.known[key], count=guess.size).reshape(guess.shape).astype(np.bool_)


def check_installed() -> None:
    """Raises MissingExtraError if OpenCV is not installed."""
    _library()


def _grab(picture: NDArray[np.uint8], guess: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """What is the part's side of the cut, shape (h, w); ``guess`` has both sides."""
    cv2 = _library()
    cv2.setRNGSeed(0)  # of this thread; colours are clustered by chance
    sides, models = guess.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), sides, None, *models, NUM_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(sides, (_PART, _MAYBE_PART))


def _library() -> types.ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(
            "Regions are cut out by OpenCV, which is not installed; install it with: pip install 'inlier[regions]'"
        ) from error
    return cv2
