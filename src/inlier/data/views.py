"""Views: the same normal photo as another shot of a hand-held camera would show it.

A detector that has seen one photo of a part takes the next one, held upright and in other light, for something else.
Where normal photos are few, altered copies of them stand in for the shots that are missing: turned by right angles, as
phones are; nearer; darker and brighter. Nothing is drawn at random, so the same photos give the same copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TURNS = (0, 1, 2, 3)
_LIGHTS = ((1.0, ""), (1.5, "darker"), (0.67, "brighter"))
_ZOOMS = ((1.0, ""), (1.25, "nearer"))

MAX_VIEWS = len(_TURNS) * len(_LIGHTS) * len(_ZOOMS) - 1
"""All combinations, but for the photo as it is."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to alter a photo.

    Attributes:
        num_turns: Right angles that it is turned by, to the left.
        zoom: How much nearer it is, >= 1; the middle of the photo is kept and enlarged.
        gamma: Exponent of each colour in [0, 1]: above 1 is darker, below brighter; black and white stay.
        name: What a person would call it.

    Example:
        >>> turned = View(num_turns=1, zoom=1.0, gamma=1.0, name="turned by 90 degrees")
        >>> turned.apply(np.zeros((20, 30, 3), dtype=np.uint8)).shape
        (30, 20, 3)
    """

    num_turns: int
    zoom: float
    gamma: float
    name: str

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The altered photo: shape (H, W, 3), or (W, H, 3) if it lies on its side; uint8 RGB."""
        altered = np.rot90(pixels, self.num_turns)
        if self.zoom > 1:
            altered = _nearer(altered, self.zoom)
        if self.gamma != 1:
            curve = 255 * (np.arange(256) / 255) ** self.gamma
            altered = np.rint(curve).astype(np.uint8)[altered]
        return np.ascontiguousarray(altered)


def hand_held_views(num_views: int) -> tuple[View, ...]:
    """The first of the views, those that differ in one thing only before those that differ in two or three.

    Args:
        num_views: How many, in [0, ``MAX_VIEWS``].

    Raises:
        ValueError: There are not so many.
    """
    views = sorted(_all_views(), key=lambda view: view.name.count(","))
    if not 0 <= num_views <= MAX_VIEWS:
        raise ValueError(f"num_views must be in [0, {MAX_VIEWS}], got {num_views}.")
    return tuple(views[:num_views])


def _all_views() -> Iterator[View]:
    """Every combination of turn, zoom and light, but for the photo as it is."""
    for zoom, nearer in _ZOOMS:
        for gamma, light in _LIGHTS:
            for num_turns in _TURNS:
                turned = f"turned by {90 * num_turns} degrees" if num_turns else ""
                if name := ", ".join(part for part in (turned, nearer, light) if part):
                    yield View(num_turns, zoom, gamma, name)


def _nearer(pixels: NDArray[np.uint8], zoom: float) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    left, top = (width - width / zoom) / 2, (height - height / zoom) / 2
    box = (left, top, width - left, height - top)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))
