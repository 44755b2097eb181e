"""Group-aware splits: photos of one part always land on the same side.

The result depends on the seed and on which groups there are with how many photos, never on the order of the
photos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inlier.data.tables import first_five


def group_folds(groups: Sequence[str], *, num_folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each photo: whole groups, folds as equal in photos as a greedy choice makes them.

    The largest group goes first, each to the fold with the fewest photos so far (longest processing time
    first: Graham, SIAM J. Appl. Math. 1969); groups of equal size are taken in an order drawn from the seed.

    Args:
        groups: The group of each of N photos.
        num_folds: How many folds, in [2, number of different groups], so that none is empty.
        seed: Seed of the order.

    Returns:
        Shape (N,), in [0, num_folds).

    Raises:
        ValueError: There are fewer groups than folds, or fewer than two folds.
    """
    member, sizes = _group_sizes(groups)
    if not 2 <= num_folds <= len(sizes):
        raise ValueError(
            f"num_folds of group_folds must be in [2, {len(sizes)}], the number of groups, got {num_folds}."
        )
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    fold_sizes = np.zeros(num_folds, dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold = np.argmin(fold_sizes)
        fold_of_group[group] = fold
        fold_sizes[fold] += sizes[group]
    return fold_of_group[member]


def stratified_folds(
    groups: Sequence[str], labels: Sequence[str], needed: NDArray[np.bool_], *, num_folds: int, seed: int
) -> NDArray[np.int64]:
    """A fold for each photo: whole groups, and of each label as equal a share in every fold as they allow.

    Each group goes where it raises the sum over labels and folds of squared shares least: where its labels are
    rarest so far, and of equal folds to the smallest. Groups with needed photos go first, those with most of them
    before others; as an empty fold is never crowded, no fold is without. (scikit-learn's ``StratifiedGroupKFold``
    makes no such promise, and warns of labels with fewer photos than folds, which are usual here.)

    Args:
        groups: The group of each of N photos.
        labels: The label of each.
        needed: Shape (N,), photos of which every fold gets at least one: the normal ones.
        num_folds: How many folds, in [2, number of groups with needed photos].
        seed: Seed of the order of groups of equal size.

    Returns:
        Shape (N,), in [0, num_folds).

    Raises:
        ValueError: There are fewer groups with needed photos than folds, or fewer than two folds.
    """
    member, sizes = _group_sizes(groups)
    _, label = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    counts = np.zeros((len(sizes), int(label.max()) + 1))
    np.add.at(counts, (member, label), 1)
    num_needed = np.bincount(member[needed], minlength=len(sizes))
    most = np.count_nonzero(num_needed)
    if not 2 <= num_folds <= most:
        raise ValueError(
            f"num_folds of stratified_folds must be in [2, {most}], the number of groups with needed photos, "
            f"got {num_folds}."
        )
    shares = counts / counts.sum(axis=0)
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    fold_shares = np.zeros((num_folds, shares.shape[1]))
    fold_sizes = np.zeros(num_folds, dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    for group in shuffled[np.lexsort((-sizes[shuffled], -num_needed[shuffled]))]:
        crowding = np.round(fold_shares @ shares[group], 12)  # half of what it adds to the squares, but for a constant
        fold = np.lexsort((fold_sizes, crowding))[0]  # an empty fold, while there is one
        fold_of_group[group] = fold
        fold_shares[fold] += shares[group]
        fold_sizes[fold] += sizes[group]
    return fold_of_group[member]


def hold_out(groups: Sequence[str], *, ratio: float, seed: int) -> NDArray[np.bool_]:
    """Which photos to hold out: whole groups, as close to the ratio of all photos as whole groups allow.

    Groups come in an order drawn from the seed, and each number of photos that they can add up to is noted
    with the group that first reached it (subset sum by dynamic programming), until the wanted number is
    reached or the groups are used up. At least one group is held out, and one is not.

    Args:
        groups: The group of each of N photos.
        ratio: Wanted share of photos to hold out, in (0, 1).
        seed: Seed of the order.

    Returns:
        Shape (N,), True where the photo is held out.

    Raises:
        ValueError: The ratio is not in (0, 1), or there are fewer than two groups.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio of hold_out must be in (0, 1), got {ratio}.")
    member, sizes = _group_sizes(groups)
    if len(sizes) < 2:
        raise ValueError(f"groups of hold_out must be at least two, to keep one and hold one out, got {len(sizes)}.")
    wanted = min(max(round(ratio * len(groups)), 1), len(groups) - 1)
    last_group = np.full(len(groups), -1)  # by number of photos held out; -1: no groups add up to it
    reached = last_group >= 0
    reached[0] = True
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        is_new = reached[: -sizes[group]] & ~reached[sizes[group] :]
        last_group[sizes[group] :][is_new] = group
        reached[sizes[group] :] |= is_new
        if reached[wanted]:
            break
    sums = np.flatnonzero(reached)[1:]
    remaining = int(sums[np.argmin(np.abs(sums - ratio * len(groups)))])
    is_held_out = np.zeros(len(sizes), dtype=bool)
    while remaining:
        group = last_group[remaining]
        is_held_out[group] = True
        remaining -= int(sizes[group])
    return is_held_out[member]


def allot_splits(
    groups: Sequence[str], labels: Sequence[str], given: Sequence[str], *, ratios: Mapping[str, float], seed: int
) -> list[str]:
    """A split for each photo: whole groups, and of each label as near to the ratios as a greedy choice comes.

    Each group goes where its labels are furthest behind: where the sum over its photos' labels of (ratio - share
    of the label that is there) x (share of the label that the group brings) is greatest, which adds least to the
    sum of squared differences between shares and ratios. Of splits equally far behind, that which lacks most
    photos of any label is taken, then the first of the ratios.

    The largest groups go first, as small ones can even out what they do, and groups of equal size in the order of
    the SHA-256 of seed and name. A photo never changes its split when photos are added, not because of this
    order, but if its split is passed as given.

    A label in one group goes to the split with the greatest ratio, one in two groups to that and another, as
    far as their other labels and what is given allow. So a label with too few groups is missing from some split.

    Args:
        groups: The group of each of N photos; a photo that stands alone needs a group of its own.
        labels: The label of each; "" is one too.
        given: The split that each has already, "" if none. It stays, whatever the ratio. Photos of the same group
            without one join it; if there are several, that with most photos, then the first of the ratios.
        ratios: The share of photos that each split should get, >= 0, in all 1; a split of ratio 0 gets no group
            that is not given.
        seed: Seed of the order.

    Returns:
        N names of splits.

    Raises:
        ValueError: The ratios cannot be used, a given split is not among them, or lengths differ.
    """
    _check_allotment(groups, labels, given, ratios)
    if not groups:
        return []
    names = list(ratios)
    ranks = {name: rank for rank, name in enumerate(names)}
    member, sizes = _group_sizes(groups)
    given_rank = np.array([ranks.get(split, -1) for split in given])
    split_of_group = _join(member, given_rank, num_groups=len(sizes), num_splits=len(names))
    split = np.where(given_rank >= 0, given_rank, split_of_group[member])

    label_of_photo = np.unique(np.asarray(labels, dtype=object), return_inverse=True)[1]
    totals = np.bincount(label_of_photo)
    is_allotted = split >= 0
    counts = np.zeros((len(totals), len(names)), dtype=np.int64)  # photos of each label in each split so far
    np.add.at(counts, (label_of_photo[is_allotted], split[is_allotted]), 1)

    first = np.unique(member, return_index=True)[1].tolist()  # a photo of each group, for its name
    waiting = np.flatnonzero(split_of_group < 0).tolist()
    waiting.sort(key=lambda group: (-sizes[group], _draw(groups[first[group]], seed)))
    contents = _contents(member, label_of_photo)
    chosen = _fill(waiting, contents, counts.tolist(), totals.tolist(), list(ratios.values()))
    split_of_group[waiting] = chosen
    return [names[rank] for rank in np.where(is_allotted, split, split_of_group[member])]


def _check_allotment(
    groups: Sequence[str], labels: Sequence[str], given: Sequence[str], ratios: Mapping[str, float]
) -> None:
    if not len(groups) == len(labels) == len(given):
        lengths = f"{len(groups)}, {len(labels)} and {len(given)}"
        raise ValueError(f"groups, labels and given of allot_splits must have the same length, got {lengths}.")
    if not all(ratio >= 0 for ratio in ratios.values()) or not abs(sum(ratios.values()) - 1) <= 1e-6:
        listed = ", ".join(f"{name} {ratio:g}" for name, ratio in ratios.items()) or "none"
        raise ValueError(f"ratios of allot_splits must be >= 0 and sum to 1, got {listed}.")
    unknown = sorted({split for split in given if split and split not in ratios})
    if unknown:
        raise ValueError(f"given of allot_splits must be empty or {', '.join(ratios)}, got {first_five(unknown)}.")


def _join(member: NDArray[np.intp], given: NDArray[np.int64], *, num_groups: int, num_splits: int) -> NDArray[np.int64]:
    """For each group the split given to most of its photos, the first of equals; -1 where none was given."""
    is_given = given >= 0
    votes = np.zeros((num_groups, num_splits), dtype=np.int64)
    np.add.at(votes, (member[is_given], given[is_given]), 1)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def _draw(group: str, seed: int) -> bytes:
    """What decides the order of groups: random, yet the same whatever other groups there are."""
    return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest()


def _contents(member: NDArray[np.intp], label_of_photo: NDArray[np.intp]) -> list[list[tuple[int, int]]]:
    """For each group its labels, ascending, with the number of photos: a table of all labels would be too large."""
    num_labels = int(label_of_photo.max()) + 1
    pairs, counts = np.unique(member * num_labels + label_of_photo, return_counts=True)
    contents: list[list[tuple[int, int]]] = [[] for _ in range(int(member.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        contents[pair // num_labels].append((pair % num_labels, count))
    return contents


def _fill(
    waiting: Sequence[int],
    contents: Sequence[Sequence[tuple[int, int]]],
    counts: list[list[int]],
    totals: Sequence[int],
    ratios: Sequence[float],
) -> list[int]:
    """The split of each group in the order they come; ``counts`` (labels x splits) is kept up to date."""
    num_photos = sum(totals)
    filled = [sum(column) for column in zip(*counts, strict=True)]
    open_splits = [split for split, ratio in enumerate(ratios) if ratio > 0]

    def behind(split: int, shares: Sequence[tuple[int, float]]) -> tuple[float, float, int]:
        deficit = sum((ratios[split] - counts[label][split] / totals[label]) * share for label, share in shares)
        # Rounded, so that what is equal but for the last bits counts as equal.
        return round(deficit, 12), round(ratios[split] - filled[split] / num_photos, 12), -split

    chosen = []
    for group in waiting:
        whole = sum(count / totals[label] for label, count in contents[group])
        shares = [(label, count / totals[label] / whole) for label, count in contents[group]]
        split = max(open_splits, key=partial(behind, shares=shares))
        for label, count in contents[group]:
            counts[label][split] += count
            filled[split] += count
        chosen.append(split)
    return chosen


def _group_sizes(groups: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each photo the rank of its group's name, and for each rank the number of photos."""
    _, member, sizes = np.unique(np.asarray(groups, dtype=object), return_inverse=True, return_counts=True)
    return member, sizes
