"""Perceptual hashes of photos, and the pairs of them that differ in few bits, without comparing all with all.

Two hashes of 64 bits that differ in at most 12 agree in one of four bands of 16 bits up to 3 (pigeonhole), so it is
enough to look where a band of one has up to 3 bits flipped: 697 look-ups a band instead of N comparisons. That is the
multi-index hashing of Norouzi, Punjani and Fleet (CVPR 2012, arXiv:1307.2982), one look-up of all photos at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft  # type: ignore[import-untyped]

SIDE = 64
"""Pixels of the square, grey thumbnail that hashes are made of."""

RADIUS, TURNED_RADIUS = 12, 8
"""Bits in which hashes of near-duplicates may differ; fewer for turned ones, which are three times as many."""

MOST = 16
"""Candidates before a photo that are kept of each turn, the nearest: on a fixture all photos look alike."""

_NUM_BANDS, _BAND_BITS = 4, 16
_WINDOW = 64
"""Photos with the same bits that a photo is compared with, those next to it in the order of hash, then of photos."""

_CHUNK = 1 << 19


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of photos with like hashes, each once, sorted by `first`, then `second`; P of them.

    Attributes:
        first: Shape (P,), int64, index of a photo; less than `second`.
        second: Shape (P,), int64.
        turn: Shape (P,), int8, by how many quarters `second` is turned counter-clockwise to look like `first`.
        distance: Shape (P,), uint8, bits in which the hashes differ.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    turn: NDArray[np.int8]
    distance: NDArray[np.uint8]


def perceptual_hashes(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash of a photo as it is, and turned by one, two and three quarters counter-clockwise.

    A bit says whether one of the 8 x 8 lowest frequencies (DCT-II of 32 x 32 pixels) is above their median: what
    ``imagehash.phash`` computes (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010).

    Args:
        thumbnail: Shape (64, 64), uint8 grey.

    Returns:
        Shape (4,), uint64.
    """
    halves = thumbnail.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3), dtype=np.float32)
    turned = np.stack([np.rot90(halves, turn) for turn in range(4)])
    low = fft.dctn(turned, axes=(1, 2))[:, :8, :8].reshape(4, 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


def find_candidates(hashes: NDArray[np.uint64], *, since: int = 0) -> Candidates:
    """All pairs within 12 bits, or within 8 if one photo is turned; in a crowd those of nearest hashes.

    Args:
        hashes: Shape (N, 4), uint64, of ``perceptual_hashes``.
        since: Only pairs with at least one photo from this index on.
    """
    found = [_search(hashes, turn, since, radius=TURNED_RADIUS if turn else RADIUS) for turn in range(4)]
    first, second, distance = np.hstack(found)
    turn = np.repeat(np.arange(4, dtype=np.int8), [pairs.shape[1] for pairs in found])
    order = np.lexsort((turn, distance, second, first))
    first, second = first[order], second[order]
    is_new = np.ones(len(order), dtype=bool)  # a photo that looks alike when turned comes up to four times
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    distance = distance[order].astype(np.uint8)
    return Candidates(first[is_new], second[is_new], turn[order][is_new], distance[is_new])


def _search(hashes: NDArray[np.uint64], turn: int, since: int, *, radius: int) -> NDArray[np.int64]:
    """Shape (3, P): `first`, `second` and distance of pairs whose second photo is from `since` on, and turned."""
    queries = hashes[since:, turn]
    sorting = np.argsort(hashes[:, 0], kind="stable")
    rank = np.empty(len(hashes), dtype=np.int64)  # by hash, equal ones in order
    rank[sorting] = np.arange(len(hashes))
    places = rank[since:] if turn == 0 else np.searchsorted(hashes[:, 0], queries, sorter=sorting)
    num_flips = radius // _NUM_BANDS
    bands = [_Band.of(hashes[:, 0], rank, number) for number in range(_NUM_BANDS)]
    active = np.arange(len(queries))
    kept = np.empty((3, 0), dtype=np.int64)
    for flips in range(num_flips + 1):
        for number, band in enumerate(bands):
            met = [kept]
            for query, photo in band.look_up(queries, places, active, flips, radius=radius):
                differing = queries[query] ^ hashes[photo, 0]
                is_pair = photo < query + since
                for earlier in range(number):  # which meets the pair too
                    is_pair &= count_bits(_bits_of_band(differing, earlier)) > num_flips
                distance = count_bits(differing).astype(np.int64)
                met.append(np.stack([photo, query + since, distance])[:, is_pair])
            kept = _nearest(np.hstack(met))
        active = np.flatnonzero(np.bincount(kept[1] - since, minlength=len(queries)) < MOST)
    return kept


@dataclass(frozen=True, slots=True)
class _Band:
    """Photos by 16 bits of their hashes: those with bits b are `order[starts[b]:starts[b + 1]]`, by their hash."""

    number: int
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    ranks: NDArray[np.int64]  # their ranks among all photos, by hash
    hashes: NDArray[np.uint64]  # and these; both in that order, which keeps what is looked at together

    @classmethod
    def of(cls, hashes: NDArray[np.uint64], rank: NDArray[np.int64], number: int) -> Self:
        bits = _bits_of_band(hashes, number)
        order = np.lexsort((rank, bits))
        starts = np.searchsorted(bits[order], np.arange((1 << _BAND_BITS) + 1, dtype=np.uint64))
        return cls(number, order, starts, rank[order], hashes[order])

    def look_up(
        self,
        queries: NDArray[np.uint64],
        places: NDArray[np.int64],
        active: NDArray[np.int64],
        flips: int,
        *,
        radius: int,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Queries and photos within the radius whose bits here differ in so many; in parts of bounded size.

        Of many photos with the same bits only those are looked at whose ranks are next to the query's place.
        """
        active = active[np.argsort(_bits_of_band(queries[active], self.number), kind="stable")]
        asked = queries[active]
        bits = _bits_of_band(asked, self.number)
        for mask in _masks(flips):
            start, end = self.starts[bits ^ mask], self.starts[(bits ^ mask) + np.uint64(1)]
            is_crowded = np.flatnonzero(end - start > _WINDOW)
            if len(is_crowded):
                place = _bisect(self.ranks, places[active[is_crowded]], start[is_crowded], end[is_crowded])
                start[is_crowded] = np.clip(place - _WINDOW // 2, start[is_crowded], end[is_crowded] - _WINDOW)
                end[is_crowded] = start[is_crowded] + _WINDOW
            num = end - start
            last = np.cumsum(num)
            for chunk in _chunks(last):
                first = last[chunk] - num[chunk]  # where the look-ups of each query begin
                slot = np.arange(first[0], last[chunk[-1]]) + np.repeat(start[chunk] - first, num[chunk])
                is_near = count_bits(np.repeat(asked[chunk], num[chunk]) ^ self.hashes[slot]) <= radius
                slot = slot[is_near]
                yield active[np.repeat(chunk, num[chunk])[is_near]], self.order[slot]


def _chunks(last: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Runs of queries that have about as many look-ups together; `last` are the running totals."""
    done, total = 0, int(last[-1]) if len(last) else 0
    while done < len(last) and total:
        before = int(last[done - 1]) if done else 0
        end = max(int(np.searchsorted(last, before + _CHUNK, side="right")), done + 1)
        if last[end - 1] > before:
            yield np.arange(done, end)
        done = end


def _bisect(
    values: NDArray[np.int64], wanted: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each wanted value its place in the sorted stretch `values[start:end]`."""
    low, high = start.copy(), end.copy()
    while (is_open := low < high).any():
        middle = (low + high) // 2
        is_right = is_open & (values[np.minimum(middle, len(values) - 1)] < wanted)
        low = np.where(is_right, middle + 1, low)
        high = np.where(is_open & ~is_right, middle, high)
    return low


def _nearest(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each second photo's pairs the nearest, of equally near ones the latest, as many as are kept."""
    pairs = pairs[:, np.lexsort((-pairs[0], pairs[2], pairs[1]))]
    starts = np.flatnonzero(np.diff(pairs[1], prepend=-1))
    rank = np.arange(pairs.shape[1]) - np.repeat(starts, np.diff(starts, append=pairs.shape[1]))
    return pairs[:, rank < MOST]


def _masks(flips: int) -> list[np.uint64]:
    """All numbers of 16 bits of which so many are set."""
    return [np.uint64(sum(1 << bit for bit in bits)) for bits in combinations(range(_BAND_BITS), flips)]


def _bits_of_band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    return (hashes >> np.uint64(_BAND_BITS * band)) & np.uint64((1 << _BAND_BITS) - 1)


def count_bits(numbers: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits of each number are set."""
    if hasattr(np, "bitwise_count"):  # since numpy 2
        return np.asarray(np.bitwise_count(numbers))
    octets = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 8)
    counts: NDArray[np.uint8] = np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.uint8)
    return counts
