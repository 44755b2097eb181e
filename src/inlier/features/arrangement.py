"""Embeddings -> places on a plane, near where they are alike; the home of openTSNE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from inlier.errors import MissingExtraError

FEWEST_PHOTOS = 7
"""Photos below which t-SNE has no neighbourhoods to keep: a perplexity of 2 needs 3 * 2 neighbours."""

_EXAGGERATED_STEPS, _STEPS, _REPORTED_STEPS = 250, 500, 25
NUM_STEPS = _EXAGGERATED_STEPS + _STEPS
"""Steps that ``arrange`` tells of."""


def check_extra() -> None:
    """Raises MissingExtraError unless openTSNE is installed."""
    _import()


def fitting_perplexity(perplexity: float, num_photos: int) -> float:
    """The perplexity asked for, or the largest that so few photos allow: a third of the other photos."""
    return min(perplexity, (num_photos - 1) / 3)


def arrange(
    embeddings: NDArray[np.float32],
    *,
    perplexity: float,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> NDArray[np.float64]:
    """Places by t-SNE (van der Maaten & Hinton, JMLR 2008), or of very few photos by their principal components.

    openTSNE's defaults (Policar et al., JSS 2024): 250 steps exaggerated by 12, then 500; a learning rate of N / 12
    and N (Belkina et al. 2019); from the principal components, which keeps far clusters where they belong (Kobak &
    Berens 2019). Departures: neighbours are exact, so that no seed or number of threads decides who is one.

    Args:
        embeddings: Shape (N, D).
        perplexity: About how many neighbours each photo keeps close, > 0; less where there are too few photos.
        seed: Of what little is random: what keeps apart photos that are exactly alike.
        advance: Told of steps done, of ``NUM_STEPS``.

    Returns:
        Shape (N, 2), centred on 0.

    Raises:
        MissingExtraError: openTSNE is not installed.
        ValueError: The perplexity is not positive.
    """
    if not perplexity > 0:
        raise ValueError(f"perplexity of arrange must be greater than 0, got {perplexity}.")
    components = _principal_components(embeddings)
    if len(embeddings) < FEWEST_PHOTOS:
        advance(NUM_STEPS)
        return components
    tsne = _import()
    perplexity = fitting_perplexity(perplexity, len(embeddings))
    spread = components[:, 0].std()
    start = components * (1e-4 / spread) if spread > 0 else components
    start = start + np.random.default_rng(seed).normal(0, 1e-6, start.shape)  # openTSNE's jitter: 1 %

    def tell(step: int, error: float, places: NDArray[np.float64]) -> None:
        advance(_REPORTED_STEPS)  # returns None, which means: go on

    num_neighbors = min(int(3 * perplexity), len(embeddings) - 1)
    distances, neighbors = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute").fit(embeddings).kneighbors()
    index = tsne.nearest_neighbors.PrecomputedNeighbors(neighbors, distances)
    affinities = tsne.affinity.PerplexityBasedNN(perplexity=perplexity, knn_index=index)
    arranged = tsne.TSNE(
        n_iter=_STEPS,
        early_exaggeration_iter=_EXAGGERATED_STEPS,
        random_state=seed,
        callbacks=tell,
        callbacks_every_iters=_REPORTED_STEPS,
    ).fit(affinities=affinities, initialization=start)
    places = np.array(arranged, dtype=np.float64)
    return np.asarray(places - places.mean(axis=0))


def turn_onto(places: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """The places turned and mirrored, as a whole, to agree with others as far as they can.

    How a t-SNE map is turned means nothing; two maps that are turned alike are compared at a glance. Orthogonal
    Procrustes (Schoenemann 1966).

    Args:
        places: Shape (N, 2), centred on 0.
        model: Shape (N, 2), likewise, of the same photos.
    """
    rotation, _ = scipy.linalg.orthogonal_procrustes(places, model)
    return np.asarray(places @ rotation)


def _principal_components(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first two, shape (N, 2); zero where there are fewer. Signs are fixed: most of each points one way."""
    centred = embeddings.astype(np.float64)
    centred -= centred.mean(axis=0)
    _, directions = scipy.linalg.eigh(
        centred.T @ centred, subset_by_index=(max(0, centred.shape[1] - 2), centred.shape[1] - 1)
    )
    components = centred @ directions[:, ::-1]
    components *= np.where((components**3).sum(axis=0) < 0, -1, 1)
    return np.pad(components, ((0, 0), (0, 2 - components.shape[1])))


def _import() -> Any:
    try:
        import openTSNE
        import openTSNE.affinity
        import openTSNE.nearest_neighbors
    except ImportError as error:
        raise MissingExtraError(
            "Maps are arranged by openTSNE, which is not installed; install it with: pip install 'inlier[map]'"
        ) from error
    return openTSNE
