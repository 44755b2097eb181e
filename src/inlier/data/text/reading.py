"""Photo -> what is written in it: the one place that knows the library which reads.

RapidOCR (Apache-2.0) runs the networks PP-OCRv6 of PaddleOCR (Apache-2.0), which come with its wheel: nothing is
fetched. Its detector draws boxes around writing, at any angle; its recogniser reads a box, upright.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.errors import MissingExtraError

Point = tuple[float, float]
Corners = tuple[Point, Point, Point, Point]

SIDES = (352, 512, 736)
"""Pixels of the shorter side with which a photo is looked at: the detector misses what is large in a large photo, as
digits as high as a hand, and what is small in a small one."""

SIDE = max(SIDES)
"""Pixels of the shorter side that are of use."""

MAX_STRETCH = 2
"""Longer side over shorter side at most; a narrower photo is looked at with a shorter side yet."""

LEGIBLE = 0.9
"""Confidence from which a reading counts; what is below is scribble, texture, or read wrongly more often than not."""

SURE = 0.97
"""Confidence from which writing is not turned any more to see whether it reads better."""

MAX_TEXTS = 50
"""Boxes that are read in a photo of each size, those of which the detector is surest: a screenshot has hundreds."""

_BOX_THRESHOLD = 0.3
"""Confidence of the detector from which a box is read; the library's own 0.5 loses faint and large digits, and what
else it lets in seldom is legible."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of writing in a photo.

    Attributes:
        text: What it says.
        confidence: How sure the recogniser is, mean over the characters, in [``LEGIBLE``, 1].
        corners: Of its box, in reading order of the box as photographed (top left, top right, bottom right, bottom
            left), as shares of the photo's width and height, each in [0, 1].
    """

    text: str
    confidence: float
    corners: Corners

    @property
    def numbers(self) -> tuple[str, ...]:
        """The runs of digits in it."""
        return tuple(re.findall(r"[0-9]+", self.text))


def check_reader() -> None:
    """Raises MissingExtraError if the library that reads is not installed."""
    _library()


def read_text(pixels: NDArray[np.uint8], *, num_threads: int = 1) -> tuple[Text, ...]:
    """What is written in a photo, from top to bottom and left to right.

    Each box is read as it was photographed, and turned by quarters only if that is not sure: so that a 6 stays a 6
    unless it is plainly lying. A number that begins with 0 is never sure, for 01 is how 10 looks from above.

    Args:
        pixels: Shape (H, W, 3), uint8, RGB, of any size; ``SIDE`` px on the shorter side are enough.
        num_threads: How many the networks run in, >= 1.

    Raises:
        MissingExtraError: The library that reads is not installed.
    """
    photo, engine = Image.fromarray(pixels), _engine(num_threads)
    texts: list[Text] = []
    for found in sorted((text for side in SIDES for text in _read_at(side, photo, engine)), key=_worth, reverse=True):
        same = next((place for place, text in enumerate(texts) if _overlap(found, text) > 0.5), None)
        if same is None:
            texts.append(found)
        elif found.text == texts[same].text and _area(found) < _area(texts[same]):  # the closer box
            texts[same] = replace(texts[same], corners=found.corners)
    return tuple(sorted(texts, key=lambda text: (round(text.corners[0][1], 1), text.corners[0][0])))


def numbers_in(texts: Sequence[Text]) -> tuple[str, ...]:
    """The numbers in what was read, each once, the surest first."""
    surest = sorted(texts, key=lambda text: -text.confidence)
    return tuple(dict.fromkeys(number for text in surest for number in text.numbers))


def _library() -> Any:
    try:
        import_module("onnxruntime")  # rapidocr does without until it is asked to read
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingExtraError(
            "Writing is read by RapidOCR, which is not installed; install it with: pip install 'inlier[ocr]'"
        ) from error
    return RapidOCR


@lru_cache(maxsize=2)
def _engine(num_threads: int) -> Any:
    """The networks, loaded once a process."""
    parameters: dict[str, Any] = {
        "Global.log_level": "critical",  # it tells of every photo without text
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Global.text_score": 0.0,
        "Det.limit_type": "max",
        "Det.limit_side_len": MAX_STRETCH * SIDE,
        "Det.box_thresh": _BOX_THRESHOLD,
        "EngineConfig.onnxruntime.intra_op_num_threads": num_threads,
    }
    return _library()(params=parameters)


def _read_at(side: int, original: Image.Image, engine: Any) -> Iterator[Text]:
    """What is legible in a photo of so many pixels on the shorter side."""
    photo = _resized(original, side)
    found = engine(np.ascontiguousarray(np.asarray(photo)[..., ::-1]), use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None:
        return
    surest = np.argsort(-np.asarray(found.scores), kind="stable")[:MAX_TEXTS]
    for box in np.asarray(found.boxes, dtype=np.float64)[surest]:
        text, confidence = _read(engine, _flattened(photo, box))
        if text and confidence >= LEGIBLE:
            x, y = np.clip(box / photo.size, 0, 1).T.tolist()
            yield Text(text, confidence, ((x[0], y[0]), (x[1], y[1]), (x[2], y[2]), (x[3], y[3])))


def _worth(text: Text) -> float:
    """What counts more, of two readings of one place: the surer one, or the longer one if about as sure."""
    return text.confidence + 0.05 * min(len(text.text), 3)


def _area(text: Text) -> float:
    """Of a box, as a share of the photo."""
    x, y = np.array(text.corners).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _overlap(one: Text, other: Text) -> float:
    """How much of the smaller of two upright boxes around what was read lies in the larger, in [0, 1]."""
    boxes = np.array([one.corners, other.corners])
    low, high = boxes.min(axis=1), boxes.max(axis=1)  # (2, 2) each
    common = np.prod(np.maximum(high.min(axis=0) - low.max(axis=0), 0))
    return float(common / max(np.prod(high - low, axis=1).min(), 1e-9))


def _resized(photo: Image.Image, side: int) -> Image.Image:
    scale = min(side / min(photo.size), MAX_STRETCH * side / max(photo.size))
    # The detector works in steps of 32 px, and makes nothing of less than half a step.
    width, height = (max(32, round(scale * side)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _flattened(photo: Image.Image, box: NDArray[np.float64]) -> Image.Image:
    """What is in a box, shape (4, 2) in pixels, as a rectangle."""
    sides = np.linalg.norm(box - np.roll(box, -1, axis=0), axis=1)  # top, right, bottom, left
    size = max(2, round(max(sides[0], sides[2]))), max(2, round(max(sides[1], sides[3])))
    north_west, north_east, south_east, south_west = box.tolist()
    quad = (*north_west, *south_west, *south_east, *north_east)
    return photo.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def _read(engine: Any, crop: Image.Image) -> tuple[str, float]:
    """What a crop says, turned as it reads best, with the confidence."""
    best = ("", 0.0)
    upright = np.asarray(crop)[..., ::-1]
    quarters = (0, 1, 3, 2) if crop.height > 1.5 * crop.width else (0, 2, 1, 3)
    for turns in quarters:
        found = engine(np.ascontiguousarray(np.rot90(upright, turns)), use_det=False, use_cls=False, use_rec=True)
        text, confidence = found.txts[0].strip(), float(found.scores[0])
        if confidence > best[1]:
            best = text, confidence
        if confidence >= SURE and not re.match("0[0-9]", text):
            break
    return best
