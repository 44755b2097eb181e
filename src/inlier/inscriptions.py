"""Inspects photos with what is written in them: read into columns, or left out of score and heatmap."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inlier.data.images import read_image
from inlier.data.manifest import Photo
from inlier.data.text.reading import SIDE, Text, numbers_in, read_text
from inlier.errors import ImageReadError
from inlier.records import Inspection

if TYPE_CHECKING:
    import torch

    from inlier.data.loader import Batch
    from inlier.model import Model

TEXT_USES = ("none", "read", "ignore")
"""What is done with writing: nothing, reading, or reading and leaving it out of the score."""

MAX_IGNORED_SHARE = 0.1
"""Share of a photo's pixels that are left out from which nobody has seen enough of it to accept it."""

_READ = (("text", pa.string()), ("digits", pa.string()), ("text_boxes", pa.string()))
_IGNORED = (("ignored_share", pa.float32()),)


@dataclass(frozen=True)
class Inscription:
    """What is written in a photo.

    Attributes:
        texts: What was read, from top to bottom and left to right.
        ignored_share: Share of the photo's pixels that were painted out before it was scored, in [0, 1]; None if
            nothing was to be.
    """

    texts: tuple[Text, ...]
    ignored_share: float | None

    def remarks(self) -> tuple[str, ...]:
        """What a reader of the report should know of it."""
        numbers = ", ".join(numbers_in(self.texts))
        said = (f"number {numbers}",) if numbers else ()
        if not self.ignored_share:
            return said
        return (*said, f"writing on {100 * self.ignored_share:.1f} % of it was left out of the score")


def text_fields(text: str) -> tuple[tuple[str, pa.DataType], ...]:
    """The columns that verdicts have besides, by name and type, for one of ``TEXT_USES``.

    ``text`` is what was read, ``digits`` the numbers in it, the surest first, both joined by spaces and empty if there
    are none; ``text_boxes`` a list in JSON of ``text``, ``confidence`` and ``corners``; ``ignored_share`` as in
    ``Inscription``. All are null for an unreadable photo.
    """
    return {"none": (), "read": _READ, "ignore": _READ + _IGNORED}[text]


def text_row(inscription: Inscription | None, text: str) -> dict[str, Any]:
    """A photo's values for ``text_fields``, and the remarks of its card in the report."""
    if inscription is None:
        return dict.fromkeys(name for name, _ in text_fields(text)) | {"remarks": []}
    texts = inscription.texts
    row = {
        "text": " ".join(of.text for of in texts),
        "digits": " ".join(numbers_in(texts)),
        "text_boxes": json.dumps([_box(of) for of in texts], ensure_ascii=False),
        "ignored_share": inscription.ignored_share,
    }
    return {name: row[name] for name, _ in text_fields(text)} | {"remarks": list(inscription.remarks())}


def inspect_inscribed(
    model: Model, photos: Sequence[Photo], *, ignores: bool, batch_size: int = 8, workers: int = 2
) -> Iterator[tuple[Inspection, Inscription | None]]:
    """As ``inspect_photos``, with what is written in each photo; None for one that is unreadable.

    Args:
        model: Fitted.
        photos: Which photos.
        ignores: Whether writing is painted out before a photo is scored. One without writing gets the same score; one
            of which more than ``MAX_IGNORED_SHARE`` was painted out is not accepted, but uncertain. The pixels of the
            inspection are the photo's own all the same.
        batch_size: Photos that are scored together; it changes no score.
        workers: Threads that decode.

    Raises:
        MissingExtraError: The library that reads is not installed.
    """
    import torch  # not above: who inspects with an exported model has none

    from inlier.data.loader import load_batches
    from inlier.workflow import inspect_batch

    ahead = workers if len(photos) > 1 else 0
    batches = load_batches(photos, model.transform, batch_size=batch_size, workers=ahead)
    for number, batch in enumerate(batches):
        large = map(_large, batch.photos, batch.pixels)
        texts = [read_text(pixels, num_threads=torch.get_num_threads()) for pixels in large]
        shares: list[float | None] = [None] * len(texts)
        if ignores:
            batch, shares = _without(batch, texts, model)
        inscriptions = dict(zip(batch.photos, map(Inscription, texts, shares), strict=True))
        outcomes = inspect_batch(model, batch, is_doubtful=[(share or 0.0) > MAX_IGNORED_SHARE for share in shares])
        for photo in photos[number * batch_size : (number + 1) * batch_size]:
            yield outcomes[photo], inscriptions.get(photo)


def _large(photo: Photo, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo as large as reading needs it; it was decoded only as large as the model does."""
    if min(pixels.shape[:2]) >= SIDE:
        return pixels
    try:
        return read_image(photo.path, min_side=SIDE)
    except ImageReadError:  # it has gone meanwhile
        return pixels


def _without(batch: Batch, texts: Sequence[Sequence[Text]], model: Model) -> tuple[Batch, list[float | None]]:
    """The batch as the model is to see it, and the share of each photo that was painted out."""
    import torch

    from inlier.data.text.strokes import paint_out

    images: list[torch.Tensor] = [*batch.images]
    shares: list[float | None] = []
    for place, (pixels, found) in enumerate(zip(batch.pixels, texts, strict=True)):
        painted, is_paint = paint_out(pixels, found)
        shares.append(float(is_paint.mean()))
        if is_paint.any():
            images[place] = torch.cat([model.transform.to_tensor(painted)[:3], batch.images[place][3:]])
    return replace(batch, images=torch.stack(images) if images else batch.images), shares


def _box(text: Text) -> dict[str, Any]:
    corners = [[round(x, 4), round(y, 4)] for x, y in text.corners]
    return {"text": text.text, "confidence": round(text.confidence, 4), "corners": corners}
