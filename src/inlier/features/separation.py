"""How well an embedding keeps apart what people sorted apart: numbers for one that no detector was fitted on.

Photos of one group (one part, one visit) are often near-duplicates, whose closeness says nothing about an embedding.
Every photo is therefore judged only by photos of other groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray

_CHUNK_BYTES = 32 * 2**20
_SMALLEST_SHARE = 1e-7


@dataclass(frozen=True, eq=False)
class Separation:
    """What the neighbours of each photo say; of photos that can be judged, in the order given.

    A photo can be judged if it has a label that a photo of another group has too, and if some photo of another group
    has another label.

    Attributes:
        photos: Shape (J,), the places of these photos among those given, ascending.
        is_found: Shape (J,), whether the nearest photos of other groups vote for the photo's own label.
        silhouettes: Shape (J,), in [-1, 1]: 1 deep among its own label, 0 between two, -1 deep among another.
    """

    photos: NDArray[np.int64]
    is_found: NDArray[np.bool_]
    silhouettes: NDArray[np.float64]


def separate(
    embeddings: NDArray[np.float32], labels: Sequence[str], groups: Sequence[str], *, num_neighbors: int = 5
) -> Separation:
    """Leave-one-group-out nearest-neighbour votes and silhouettes, by Euclidean distance.

    The vote goes to the label that most of the K nearest have; the nearest photo decides between equals. The
    silhouette is (b - a) / max(a, b), a the mean distance to the own label and b that to the nearest other one
    (Rousseeuw 1987). The departure from both: photos of the own group are left out. Distances are computed in chunks.

    Args:
        embeddings: Shape (N, D).
        labels: Of each photo, "" where unknown; such photos take no part.
        groups: Of each photo; no two photos of a group judge one another. "" stands for a group of its own.
        num_neighbors: K, >= 1; fewer where fewer photos are in other groups.

    Raises:
        ValueError: There is not one label and one group for each photo, or K is not positive.
    """
    if not len(embeddings) == len(labels) == len(groups):
        raise ValueError(
            f"labels and groups of separate must be one for each of {len(embeddings)} photos, "
            f"got {len(labels)} and {len(groups)}."
        )
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors of separate must be at least 1, got {num_neighbors}.")
    places = [place for place, label in enumerate(labels) if label]
    labelled = np.array(places, dtype=np.int64)
    rows = embeddings[labelled].astype(np.float64)
    rows -= rows.mean(axis=0) if len(rows) else 0  # distances stay, and lose less to rounding
    label_of = _numbers([labels[place] for place in places])
    group_of = _numbers([groups[place] or f"\0{place}" for place in places])
    one_hot = np.eye(label_of.max(initial=-1) + 1)[label_of]  # (N, L)
    in_group = np.zeros((group_of.max(initial=-1) + 1, one_hot.shape[1]))
    np.add.at(in_group, group_of, one_hot)  # photos of each label in each group
    num_others = one_hot.sum(axis=0) - in_group[group_of]  # (N, L), how many of each label judge a photo
    own = num_others[np.arange(len(rows)), label_of]
    judged = np.flatnonzero((own > 0) & (num_others.sum(axis=1) > own))
    is_found, silhouettes = np.zeros(len(judged), dtype=np.bool_), np.zeros(len(judged))
    step = max(1, _CHUNK_BYTES // (8 * max(1, len(rows))))
    for start in range(0, len(judged), step):
        part = slice(start, start + step)
        chunk = judged[part]
        distances = _distances(rows[chunk], rows)
        is_kin = group_of[chunk, None] == group_of
        distances[is_kin] = 0
        means = distances @ one_hot / np.where(num_others[chunk] > 0, num_others[chunk], np.nan)  # (B, L)
        silhouettes[part] = _silhouettes(means, label_of[chunk])
        distances[is_kin] = np.inf
        is_found[part] = _votes(distances, label_of, num_neighbors) == label_of[chunk]
    return Separation(labelled[judged], is_found, silhouettes)


def effective_rank(embeddings: NDArray[np.float32]) -> float:
    """How many directions the embeddings use: the exponential of the entropy of their singular values.

    RankMe (Garrido et al., ICML 2023, arXiv:2210.02885, eq. 1): p_k = s_k / sum(s) + 1e-7, exp(-sum p_k log p_k). The
    paper takes the embeddings as they are, without centring, and so do we.

    Args:
        embeddings: Shape (N, D), N >= 1.

    Returns:
        In [1, min(N, D)]; 1 where all embeddings are alike.
    """
    singular = scipy.linalg.svdvals(embeddings.astype(np.float64))
    if not singular.sum():
        return 1.0
    shares = singular / singular.sum() + _SMALLEST_SHARE
    return float(np.clip(np.exp(-(shares * np.log(shares)).sum()), 1, min(embeddings.shape)))


def _numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """The same number for the same name."""
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], dtype=np.int64)


def _distances(some: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances, shape (B, N)."""
    squared = some @ rows.T
    squared *= -2
    squared += np.einsum("ij,ij->i", rows, rows)
    squared += np.einsum("ij,ij->i", some, some)[:, None]
    return np.asarray(np.sqrt(np.maximum(squared, 0, out=squared), out=squared))


def _silhouettes(means: NDArray[np.float64], label_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """From the mean distance to each label, shape (B, L), NaN where nobody has it."""
    photos = np.arange(len(means))
    own = means[photos, label_of]
    others = means.copy()
    others[photos, label_of] = np.nan
    nearest = np.nanmin(others, axis=1)
    larger = np.maximum(own, nearest)
    return np.asarray(np.divide(nearest - own, larger, out=np.zeros(len(means)), where=larger > 0))


def _votes(distances: NDArray[np.float64], label_of: NDArray[np.int64], num_neighbors: int) -> NDArray[np.int64]:
    """The label that most of the nearest have, shape (B,); of those with as many votes the nearest one's."""
    num_neighbors = min(num_neighbors, distances.shape[1])
    nearest = np.argpartition(distances, num_neighbors - 1, axis=1)[:, :num_neighbors]  # (B, K)
    far = np.take_along_axis(distances, nearest, axis=1)
    order = np.argsort(far, axis=1, kind="stable")
    nearest, far = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(far, order, axis=1)
    voters = np.where(np.isfinite(far), label_of[nearest], -1)  # photos of the own group do not vote
    votes = (voters[:, :, None] == voters[:, None, :]).sum(axis=2) * (voters >= 0)  # (B, K), votes for each one's label
    return np.asarray(voters[np.arange(len(voters)), votes.argmax(axis=1)])
