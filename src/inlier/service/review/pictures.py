"""Pictures of photos: made by the model when a page asks for them, and kept a while."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import decode, open_image
from inlier.data.manifest import Photo
from inlier.data.remote import Location, RemotePath, locate, state_of
from inlier.decision.heatmap import RAMP, crop, encode, heat_overlay, outline
from inlier.errors import ImageReadError
from inlier.model import Model
from inlier.records import Evidence, Inspection
from inlier.workflow import inspect_photos

WIDTHS = (160, 320, 640, 1280, 2560)
"""Longest sides in pixels that a picture can have; others asked for become the next larger one."""

MAX_BYTES = 96 << 20
"""Pictures that are kept, in all; the least lately asked for go first."""

MAX_INSPECTIONS = 24
"""Photos whose maps and reasons are kept."""

_QUALITY = 82
_CROP_PX = 224


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is sent.

    Attributes:
        content: Its bytes.
        media_type: WebP, PNG or SVG.
        is_lasting: Whether it may be kept by who asked for it.
    """

    content: bytes
    media_type: str = "image/webp"
    is_lasting: bool = True

    @property
    def tag(self) -> str:
        """What tells it from any other, as an ETag."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'


class Pictures:
    """Draws what pages show of photos, one inspection at a time, for any number of threads.

    Args:
        model: Its maps are drawn.
        regions: Masks of what counts, by the path of the photo as the review has it, for a model that looks at them.
    """

    def __init__(self, model: Model, regions: Mapping[str, Location] | None = None) -> None:
        self._model = model
        self._regions = regions or {}
        self._model_lock = threading.Lock()  # a model scores one photo at a time, with all cores
        self._inspections: OrderedDict[str, Inspection] = OrderedDict()
        self._kept = _Kept(MAX_BYTES)

    def replace(self, model: Model) -> None:
        """Draws by another model from now on."""
        with self._model_lock:
            self._model = model
            self._inspections.clear()
        self._kept.clear()

    def photo(self, path: str, *, width: int) -> Picture:
        """The photo, upright, no larger than it is.

        Args:
            path: As the review has it.
            width: Longest side in pixels.
        """
        side = _allowed(width)

        def draw() -> Picture:
            with open_image(locate(Path(path))) as file:
                pixels = np.asarray(decode(file, longest_side=side))
            return Picture(encode(pixels, longest_side=side, quality=_QUALITY))

        return self._drawn(("photo", path, _state(path), side), draw)

    def heatmap(self, path: str, *, width: int) -> Picture:
        """The photo in muted colours under its anomaly map, with a thin line round the region that was looked at.

        The photo alone where the detector has no map.
        """
        side = _allowed(width)

        def draw() -> Picture:
            with open_image(locate(Path(path))) as file:
                pixels = np.asarray(decode(file, longest_side=side))
            found = self._map(path)
            if found is not None:
                pixels = heat_overlay(pixels, found, scale=self._model.calibration.heat_scale())
            if (region := self.inspection(path).region) is not None:
                pixels = outline(pixels, region)
            return Picture(encode(pixels, longest_side=side, quality=_QUALITY))

        return self._drawn(("heat", path, _state(path), side), draw)

    def contour(self, path: str, *, width: int) -> Picture:
        """A thin line round what is hotter than nearly all of any normal photo; nothing else, to lie over the photo."""
        side = _allowed(width)

        def draw() -> Picture:
            pixels, found = self.inspection(path).pixels, self._map(path)
            if pixels is None:
                raise ImageReadError(self.inspection(path).verdict.error or "it cannot be read")
            height, wide = pixels.shape[:2]
            size = max(1, round(wide * side / max(height, wide))), max(1, round(height * side / max(height, wide)))
            low = 0.0 if found is None else self._model.calibration.heat_scale()[0]
            return Picture(_outlined(found, low, size), "image/png")

        return self._drawn(("contour", path, _state(path), side), draw)

    def reason(self, path: str, number: int, *, is_reference: bool) -> Picture | None:
        """One side of a reason for the score: the place in the photo, or the normal place most like it.

        Args:
            path: As the review has it.
            number: Of the reason, strongest first, from 0.
            is_reference: Whether the normal place is meant.

        Returns:
            None if there is no such reason, or its normal photo is not known as a picture.
        """
        inspection = self.inspection(path)
        if inspection.pixels is None or not 0 <= number < len(inspection.evidence):
            return None
        of: Evidence = inspection.evidence[number]
        if is_reference:
            content = self._model.references.crop(of.reference, of.reference_box)
        else:
            content = encode(crop(inspection.pixels, of.box, size=_CROP_PX), longest_side=_CROP_PX, quality=_QUALITY)
        return Picture(content) if content else None

    def reference(self, number: int) -> Picture | None:
        """A normal photo that the model learned from; None if there is none, or it is not known as a picture."""
        references = self._model.references
        if not 0 <= number < len(references) or not references.thumbnails[number]:
            return None
        return Picture(references.thumbnails[number])

    def inspection(self, path: str) -> Inspection:
        """What the model says of a photo now."""
        key = f"{path}\0{_state(path)}"
        with self._model_lock:
            if key in self._inspections:
                self._inspections.move_to_end(key)
                return self._inspections[key]
            photo = Photo(locate(Path(path)), "test", roi=self._regions.get(path))
            found = next(inspect_photos(self._model, [photo], workers=0))
            self._inspections[key] = found
            while len(self._inspections) > MAX_INSPECTIONS:
                self._inspections.popitem(last=False)
            return found

    def _map(self, path: str) -> NDArray[np.float32] | None:
        """The anomaly map, where there is one and a scale for it."""
        return self.inspection(path).anomaly_map if len(self._model.calibration.map_maxima) else None

    def _drawn(self, key: Hashable, draw: Callable[[], Picture]) -> Picture:
        """The picture kept under a key, else drawn now; a placeholder for a photo that cannot be read."""
        if (kept := self._kept.get(key)) is None:
            try:
                kept = draw()
            except ImageReadError:
                return _placeholder()
            self._kept.put(key, kept)
        return kept


class _Kept:
    """Pictures by key, up to so many bytes in all; those least lately asked for go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._pictures: OrderedDict[Hashable, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Picture | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def put(self, key: Hashable, picture: Picture) -> None:
        with self._lock:
            if key not in self._pictures:
                self._num_bytes += len(picture.content)
                self._pictures[key] = picture
            while self._num_bytes > self._max_bytes:
                _, gone = self._pictures.popitem(last=False)
                self._num_bytes -= len(gone.content)

    def clear(self) -> None:
        with self._lock:
            self._pictures.clear()
            self._num_bytes = 0


def _state(path: str) -> str:
    """What tells that a file changed, or went; remote ones are not asked for that."""
    place = locate(Path(path))
    return "" if isinstance(place, RemotePath) else state_of(place)


def _allowed(width: int) -> int:
    return next((side for side in WIDTHS if side >= width), WIDTHS[-1])


def _outlined(anomaly_map: NDArray[np.float32] | None, level: float, size: tuple[int, int]) -> bytes:
    """PNG of this width and height, clear but for a line, bright with a dark one outside, where a map crosses a level.

    One of the two lines shows on any photo.
    """
    picture = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    if anomaly_map is not None:
        resized = Image.fromarray(anomaly_map.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        is_hot = np.asarray(resized) > level
        picture[_grown(is_hot, 2) & ~is_hot] = (0, 0, 0, 200)
        picture[is_hot & _grown(~is_hot, 2)] = (*RAMP[-2], 255)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _grown(mask: NDArray[np.bool_], num_px: int) -> NDArray[np.bool_]:
    """The mask and what is within so many steps of it; what lies outside the picture counts as clear."""
    for _ in range(num_px):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def _placeholder() -> Picture:
    """What stands where a photo would, if it is gone or cannot be read."""
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240" width="320" height="240">'
        '<rect width="320" height="240" fill="#77797c"/><g stroke="#fff" stroke-width="6" fill="none">'
        '<rect x="110" y="70" width="100" height="76" rx="8"/><path d="M100 160L220 56"/></g>'
        '<text x="160" y="196" fill="#fff" font-family="sans-serif" font-size="18" text-anchor="middle">'
        "cannot be read</text></svg>"
    )
    return Picture(drawing.encode(), "image/svg+xml", is_lasting=False)
