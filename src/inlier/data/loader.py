"""Photos -> batches of tensors, decoding ahead of the model that consumes them, or beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.images import read_image, read_mask
from inlier.data.manifest import Photo
from inlier.data.shares import num_lanes, open_pool
from inlier.data.transforms import Transform
from inlier.errors import ImageReadError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive photos, those that could be read as tensors, and the others with the reason.

    Attributes:
        images: Shape (B, 3, S, S), normalised, or (B, 4, S, S) with regions; B may be 0.
        photos: The B photos, in the order given.
        pixels: Of each of them the decoded photo, shape (H, W, 3), uint8, for thumbnails and heat maps.
        unreadable: The other photos, in the order given, each with the reason.
    """

    images: Tensor
    photos: tuple[Photo, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    unreadable: tuple[tuple[Photo, str], ...]


class _Readable(NamedTuple):
    photo: Photo
    image: Tensor
    pixels: NDArray[np.uint8]


_Unreadable = tuple[Photo, str]


def load_batches(
    photos: Sequence[Photo], transform: Transform, *, batch_size: int = 8, workers: int = 2, ahead: int = 16
) -> Generator[Batch, None, None]:
    """Batches in the order of the photos; batch k covers ``photos[k * batch_size : (k + 1) * batch_size]``.

    Threads do the decoding, for which Pillow and PyTorch let go of the interpreter lock. At most
    ``batch_size + ahead`` decoded photos exist at a time, however many there are, besides the batch in use.
    Closing the generator stops the threads.

    Args:
        photos: Which photos.
        transform: Makes a tensor of each; photos are reduced while decoding as far as its size allows.
        batch_size: Photos that a batch covers, readable or not, >= 1.
        workers: Threads that decode, >= 0; 0 decodes when a batch is asked for.
        ahead: Photos decoded before they are asked for, >= 1.

    Raises:
        ValueError: One of the numbers is too small.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("ahead", ahead, 1)):
        if value < least:
            raise ValueError(f"{name} of load_batches must be at least {least}, got {value}.")
    decoded = _decode_ahead(photos, transform, workers, ahead) if workers else _decode_all(photos, transform)
    return _batches(decoded, transform.size, batch_size)


def map_batches(
    function: Callable[[Batch], Result],
    photos: Sequence[Photo],
    transform: Transform,
    *,
    batch_size: int = 8,
    workers: int = 2,
    is_parallel: bool,
) -> Generator[Result, None, None]:
    """What a function makes of each batch of ``load_batches``, in order.

    In parallel, each batch is decoded and worked on by one thread from beginning to end, with its share of the threads
    that PyTorch computes with here: nobody waits within a batch, as several threads on one photo do, and none for
    another's decoding. So it is where the processor computes; a GPU is fed by one thread, and others decode ahead.

    Args:
        function: Called in any thread, and of several batches at a time.
        photos: As for ``load_batches``.
        transform: Likewise.
        batch_size: Likewise.
        workers: Likewise; 0 does everything when it is asked for, in the thread that asks.
        is_parallel: Whether batches are worked on beside each other, if there are threads to do so.

    Raises:
        ValueError: One of the numbers is too small.
    """
    batches = load_batches(photos, transform, batch_size=batch_size, workers=workers)
    chunks = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
    size = min(num_lanes(), len(chunks))
    if not is_parallel or not workers or size < 2:
        with closing(batches):
            yield from map(function, batches)
        return

    def work(chunk: Sequence[Photo]) -> Result:
        (batch,) = load_batches(chunk, transform, batch_size=batch_size, workers=0)
        return function(batch)

    with open_pool(size, name="lane") as pool, closing(_map_ahead(pool, work, chunks, ahead=size)) as results:
        yield from results


def _batches(
    decoded: Generator[_Readable | _Unreadable, None, None], size: int, batch_size: int
) -> Generator[Batch, None, None]:
    with closing(decoded):
        while chunk := list(islice(decoded, batch_size)):
            readable = [item for item in chunk if isinstance(item, _Readable)]
            yield Batch(
                images=torch.stack([item.image for item in readable]) if readable else torch.empty(0, 3, size, size),
                photos=tuple(item.photo for item in readable),
                pixels=tuple(item.pixels for item in readable),
                unreadable=tuple(item for item in chunk if not isinstance(item, _Readable)),
            )


def _decode_ahead(
    photos: Sequence[Photo], transform: Transform, workers: int, ahead: int
) -> Generator[_Readable | _Unreadable, None, None]:
    pool = open_pool(workers, name="decode", each=1)
    with pool, closing(_map_ahead(pool, lambda photo: _decode(photo, transform), photos, ahead=ahead)) as decoded:
        yield from decoded


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Generator[Result, None, None]:
    """Results in order, of which so many more are asked for; what has not begun when it is closed never does."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _decode_all(photos: Sequence[Photo], transform: Transform) -> Generator[_Readable | _Unreadable, None, None]:
    for photo in photos:
        yield _decode(photo, transform)


def _decode(photo: Photo, transform: Transform) -> _Readable | _Unreadable:
    try:
        pixels = read_image(photo.path, min_side=transform.size)
    except ImageReadError as error:
        return photo, str(error)
    if not transform.has_region or photo.roi is None:
        return _Readable(photo, transform.to_tensor(pixels), pixels)
    height, width = pixels.shape[:2]
    try:
        region = read_mask(photo.roi, size=(height, width))
    except ImageReadError as error:
        return photo, f"The mask of its region cannot be read: {error}"
    return _Readable(photo, transform.to_tensor(pixels, region), pixels)
