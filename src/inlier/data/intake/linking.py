"""Which photos become one, and which must stay together: links between photos -> representatives, groups, splits."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from inlier.data.intake.similarity import Pairs


def unite(num_photos: int, links: Iterable[tuple[int, int]], fixed: Sequence[str]) -> NDArray[np.int64]:
    """The unit of each photo, named by its first photo: photos that links join, directly or through others.

    Links are taken in order (Kruskal's algorithm), and one that would join what is fixed to two places is passed over:
    so put the most certain first.

    Args:
        num_photos: N.
        links: Pairs of indices.
        fixed: The place of each photo, "" if it may go anywhere.

    Returns:
        Shape (N,), int64, each at most its own index.
    """
    root = array("q", range(num_photos))
    place = {photo: where for photo, where in enumerate(fixed) if where}
    for one, other in links:
        low, high = sorted((_find(root, one), _find(root, other)))
        if low == high or (low in place and high in place and place[low] != place[high]):
            continue
        root[high] = low
        if high in place:
            place[low] = place.pop(high)
    return np.fromiter((_find(root, photo) for photo in range(num_photos)), dtype=np.int64, count=num_photos)


def collapse(
    pairs: Pairs,
    kinds: Sequence[str],
    quality: NDArray[np.int64],
    *,
    num_known: int,
    is_one: Callable[[int], bool],
) -> NDArray[np.int64]:
    """For each photo the one that stands for it: of photos that are one picture, the best.

    Args:
        pairs: The near-duplicates, P of them.
        kinds: What each of N photos is said to show; photos of different kinds are not made one.
        quality: Shape (N,), the photo with the greatest stands for the others, of equal ones the first.
        num_known: Photos before this index stand for themselves, and for later ones before all others.
        is_one: Whether a pair is one picture, by its index in `pairs`; asked only where it matters.

    Returns:
        Shape (N,), int64.
    """
    num_photos = len(kinds)
    root = array("q", range(num_photos))  # the least index, so a known photo wherever there is one
    for pair in np.lexsort((pairs.second, pairs.first)).tolist():
        low, high = sorted((_find(root, int(pairs.first[pair])), _find(root, int(pairs.second[pair]))))
        if low != high and high >= num_known and kinds[low] == kinds[high] and is_one(pair):
            root[high] = low
    unit = np.fromiter((_find(root, photo) for photo in range(num_photos)), dtype=np.int64, count=num_photos)
    order = np.lexsort((np.arange(num_photos), -quality, np.arange(num_photos) >= num_known, unit))
    best = np.empty(num_photos, dtype=np.int64)
    is_first = np.diff(unit[order], prepend=-1) > 0
    best[unit[order][is_first]] = order[is_first]
    return best[unit]


def links_of_keys(keys: Sequence[str], chosen: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """A link from each chosen photo to the first one with the same key; those with key "" have none."""
    first: dict[str, int] = {}
    for photo in chosen.tolist():
        if keys[photo]:
            yield first.setdefault(keys[photo], photo), photo


def name_groups(
    units: NDArray[np.int64],
    chosen: NDArray[np.int64],
    *,
    given: Sequence[str],
    keys: Sequence[str],
    splits: Sequence[str],
    name: Callable[[int], str],
) -> list[str]:
    """The group of each chosen photo: its own, if one is given; else that of its unit; "" if it is alone in it.

    A unit goes by a group that one of its photos has, else by a key, else by its first photo; of several by the first
    in order of the alphabet. A name that is found in two splits, because splits were given so, is followed by the
    split, for a group never straddles them.

    Args:
        units: Shape (N,), of ``unite``.
        chosen: Shape (M,), the photos that are kept.
        given: The group of each of N photos, "" if none.
        keys: What each may be grouped by, "" if nothing.
        splits: The split of each.
        name: Names a unit of several photos by its first one, if nothing else does.

    Returns:
        M names.
    """
    sizes = np.bincount(units[chosen], minlength=len(units))
    shared: dict[int, str] = {}
    for of in (given, keys):
        found: defaultdict[int, set[str]] = defaultdict(set)
        for photo in chosen.tolist():
            if of[photo]:
                found[int(units[photo])].add(of[photo])
        shared = {unit: min(some) for unit, some in found.items()} | shared
    groups = []
    for photo in chosen.tolist():
        unit = int(units[photo])
        if unit not in shared:
            shared[unit] = name(unit) if sizes[unit] > 1 else ""
        groups.append(given[photo] or shared[unit])
    return _without_straddling(groups, [splits[photo] for photo in chosen.tolist()])


def _without_straddling(groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    of_group: defaultdict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        of_group[group].add(split)
    renamed = {}
    for group in sorted(of_group):
        for split in sorted(of_group[group]) if group and len(of_group[group]) > 1 else ():
            name = f"{group} ({split})"
            while name in of_group:
                name += "'"
            renamed[group, split] = name
    return [renamed.get((group, split), group) for group, split in zip(groups, splits, strict=True)]


def _find(root: array[int], photo: int) -> int:
    while root[photo] != photo:
        root[photo] = root[root[photo]]
        photo = root[photo]
    return photo
