"""Group-aware splits: photos of one part always land on the same side.

The result depends on the seed and on which groups there are with how many photos, never on the order of the
photos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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


def _group_sizes(groups: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each photo the rank of its group's name, and for each rank the number of photos."""
    _, member, sizes = np.unique(np.asarray(groups, dtype=object), return_inverse=True, return_counts=True)
    return member, sizes
