"""Near-duplicates by pixels: pairs with like hashes, confirmed by their fine detail.

Like hashes say that two photos have the same coarse light and dark, as two pistons in the same vice have. Photos of one
scene also share fine detail: scratches, stains, lettering. Each thumbnail is therefore reduced to its detail, a
difference of Gaussians of its logarithm in units of local deviation (so that exposure drops out), and two are compared
by the correlation of these at the best of a few shifts, computed by FFT (Kuglin and Hines 1975, without whitening the
phase). Where many photos are alike, as on a fixture, a pair must be more alike than the others are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage  # type: ignore[import-untyped]

from inlier.data.intake.hashing import SIDE, Candidates, find_candidates

LEAST = 0.5
"""How alike two photos must be, where 0 is what others like them are and 1 the same detail."""

LEAST_PEAK = 0.7
"""The correlation that they must have in any case: parts of one make reach 0.5 to 0.7 in front of any background."""

_FINE_PX, _COARSE_PX = 0.5, 2.0
_LOCAL_PX = 6.0
_NOISE = 0.01
_MAX_SHIFT = 4
_CROWD = 12
"""How many candidates of a photo are as alike before that likeness means nothing."""

_SAME = (0.98, 2.5, 6.0)
_IDENTICAL = (0.99, 1.0, 2.5)
"""Least correlation, and most difference in grey of 255, over all and over a block, of thumbnails of one picture."""
_SAME_PLACE, _PLACE_PX = 4.5, 3.0
_BLOCK = 512
"""Photos whose details are held at once, twice; with what they are computed from some 100 MB."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Near-duplicates, each pair once, P of them.

    Attributes:
        first: Shape (P,), int64, index of a photo; less than `second`.
        second: Shape (P,), int64.
        turn: Shape (P,), int8, by how many quarters `second` is turned counter-clockwise to look like `first`.
        similarity: Shape (P,), float32, in [0.5, 1].
        may_be_same: Shape (P,), bool: not told apart by their thumbnails; ``is_same_picture`` looks closer.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    turn: NDArray[np.int8]
    similarity: NDArray[np.float32]
    may_be_same: NDArray[np.bool_]

    def select(self, which: NDArray[np.bool_]) -> Self:
        """Some of the pairs; `which` has shape (P,)."""
        return type(self)(*(getattr(self, column.name)[which] for column in fields(self)))


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo as a grey square.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB.

    Returns:
        Shape (64, 64), uint8.
    """
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def find_pairs(
    hashes: NDArray[np.uint64],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    since: int = 0,
    advance: Callable[[int], None] = lambda steps: None,
) -> Pairs:
    """The near-duplicates among N photos.

    Args:
        hashes: Shape (N, 4), uint64, of ``hashing.perceptual_hashes``.
        read: Gives the thumbnail of a photo by its index, shape (64, 64), uint8; each is asked for a few times.
        since: Only pairs with at least one photo from this index on.
        advance: Told of candidate pairs as they are looked at; how many there are is not known before.
    """
    candidates = find_candidates(hashes, since=since)
    peaks = np.empty(len(candidates.first), dtype=np.float32)
    may_be_same, is_identical = np.empty((2, len(peaks)), dtype=bool)
    for rows in _by_blocks(candidates):
        peaks[rows], may_be_same[rows], is_identical[rows] = _compare(candidates, rows, read)
        advance(len(rows))
    usual = _usual_peaks(candidates, peaks, len(hashes))
    usual = np.maximum(usual[candidates.first], usual[candidates.second])
    similarity = (peaks - usual) / (1 - np.minimum(usual, 0.999))
    similarity[is_identical] = peaks[is_identical]  # twenty copies of one picture are a crowd, too
    is_pair = (similarity >= LEAST) & (peaks >= LEAST_PEAK)
    return Pairs(
        candidates.first[is_pair],
        candidates.second[is_pair],
        candidates.turn[is_pair],
        np.clip(similarity[is_pair], LEAST, 1).astype(np.float32),
        may_be_same[is_pair],
    )


def is_same_picture(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two photos are one picture, resized or re-encoded, and not two moments of one scene.

    What is lost by encoding is lost all over; a new scratch, another number in a chart or a glint that moved stand out
    in one place. So the difference, smoothed over a few pixels, must be small everywhere: 4.5 of 255, where a JPEG of
    quality 40 leaves less in 19 of 20 photos, and the most alike of different photos of one screw leave 5.7.

    Args:
        one: Shape (S, S), uint8 grey, S of at most 256 and no more than either photo has.
        other: Like it, and turned as it is.
    """
    difference = one.astype(np.float32) - other
    return float(np.abs(ndimage.gaussian_filter(difference, _PLACE_PX)).max()) <= _SAME_PLACE


def clusters(pairs: Pairs, num_photos: int) -> list[list[int]]:
    """Photos joined by pairs, directly or through others: each cluster sorted, and they by their first photo."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    joined = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(num_photos, num_photos))
    _, component = connected_components(joined, directed=False)
    order = np.argsort(component, kind="stable")
    stretches = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted([stretch.tolist() for stretch in stretches if len(stretch) > 1])


def _by_blocks(candidates: Candidates) -> Iterator[NDArray[np.int64]]:
    """Candidates so ordered that few photos are needed at a time: by block of the first, then of the second."""
    blocks = np.stack([candidates.first // _BLOCK, candidates.second // _BLOCK])
    order = np.lexsort((blocks[1], blocks[0]))
    changes = np.flatnonzero(np.diff(blocks[:, order], axis=1).any(axis=0)) + 1
    for rows in np.split(order, changes) if len(order) else ():
        yield from np.split(rows, range(_BLOCK, len(rows), _BLOCK))


def _compare(
    candidates: Candidates, rows: NDArray[np.int64], read: Callable[[int], NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """For some candidates the best correlation of their details, in [-1, 1], whether they may be, and are, the same."""
    firsts, first = np.unique(candidates.first[rows], return_inverse=True)
    keys = candidates.second[rows] * 4 + candidates.turn[rows]
    seconds, second = np.unique(keys, return_inverse=True)
    left = [read(int(photo)) for photo in firsts]
    right = [np.rot90(read(int(key // 4)), key % 4) for key in seconds]
    left_detail, right_detail = _details(left), _details(right)
    peaks = np.empty(len(rows), dtype=np.float32)
    may_be_same, is_identical = np.zeros((2, len(rows)), dtype=bool)
    for row, (i, j) in enumerate(zip(first, second, strict=True)):
        correlation = fft.irfft2(left_detail[i] * right_detail[j].conj(), s=(SIDE, SIDE))
        near = correlation[_SHIFTS[:, None], _SHIFTS]
        peaks[row] = near.max()
        may_be_same[row] = _are_alike(near[0, 0], left[i], right[j], *_SAME)
        is_identical[row] = may_be_same[row] and _are_alike(near[0, 0], left[i], right[j], *_IDENTICAL)
    return peaks, may_be_same, is_identical


_SHIFTS = np.arange(-_MAX_SHIFT, _MAX_SHIFT + 1)
_SHIFTS = np.concatenate([_SHIFTS[_MAX_SHIFT:], _SHIFTS[:_MAX_SHIFT]])  # 0 first


def _details(thumbnails: list[NDArray[np.uint8]]) -> NDArray[np.complex64]:
    """Fourier transforms, shape (N, 64, 33), of details of unit norm; of a picture without detail all 0."""
    grey = np.log1p(np.stack(thumbnails).astype(np.float32))
    sigmas = [(0, sigma, sigma) for sigma in (_FINE_PX, _COARSE_PX, _LOCAL_PX)]
    detail = ndimage.gaussian_filter(grey, sigmas[0]) - ndimage.gaussian_filter(grey, sigmas[1])
    detail /= np.sqrt(ndimage.gaussian_filter(detail**2, sigmas[2])) + _NOISE
    detail -= detail.mean(axis=(1, 2), keepdims=True)
    window = np.hanning(SIDE + 2)[1:-1].astype(np.float32)
    detail *= np.outer(window, window)
    norm = np.sqrt((detail**2).sum(axis=(1, 2), keepdims=True))
    transformed: NDArray[np.complex64] = fft.rfft2(detail / np.maximum(norm, 1e-6))
    return transformed


def _are_alike(
    peak: float, one: NDArray[np.uint8], other: NDArray[np.uint8], least_peak: float, most: float, most_in_block: float
) -> bool:
    """Whether thumbnails agree in detail, and their grey values in all and in each of 8 x 8 blocks."""
    if peak < least_peak:
        return False
    difference = one.astype(np.float32) - other
    blocks = difference.reshape(8, SIDE // 8, 8, SIDE // 8).mean(axis=(1, 3))
    return float(np.abs(difference).mean()) <= most and float(np.abs(blocks).max()) <= most_in_block


def _usual_peaks(candidates: Candidates, peaks: NDArray[np.float32], num_photos: int) -> NDArray[np.float32]:
    """For each photo how alike its candidates are even if they show something else: the 12th best, at least 0."""
    photo = np.concatenate([candidates.first, candidates.second])
    peak = np.tile(peaks, 2)
    order = np.lexsort((-peak, photo))
    starts = np.searchsorted(photo[order], np.arange(num_photos + 1))
    usual = np.zeros(num_photos, dtype=np.float32)
    is_crowd = np.diff(starts) >= _CROWD
    usual[is_crowd] = np.maximum(peak[order[starts[:-1][is_crowd] + _CROWD - 1]], 0)
    return usual
