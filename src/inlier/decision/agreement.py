"""How far reviewers agree beyond what chance would do: Cohen's and Fleiss' kappa, with intervals over photos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.decision.intervals import Interval

LEVEL = 0.95
"""Of the intervals."""

_Codes = NDArray[np.integer[Any]]
_Counts = NDArray[np.float64]
_Statistic = Callable[[_Counts], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Photos of each pattern, shape (R, P) -> the share that agrees and the share that chance explains, each (R,)."""


def cohen_kappa(first: _Codes, second: _Codes, *, num_resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Cohen's kappa of two reviewers on the same photos, with a 95 % interval; photo order does not matter.

    (P - E) / (1 - E), P the share of photos on which they agree, E that on which they would if each kept his own
    shares and chose blindly (Cohen, Educational and Psychological Measurement 1960).

    Args:
        first: What one of them chose for each photo, shape (N,), >= 0.
        second: What the other one chose.
        num_resamples: Of the bootstrap over photos.
        seed: Of the same.

    Returns:
        None where it is not defined: without photos, or where both always chose the same one thing.

    Raises:
        ValueError: The shapes differ, or a number is below 0.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"first and second of cohen_kappa must have one shape (N,), got {first.shape}, {second.shape}."
        )
    if not len(first):
        return None
    if min(first.min(), second.min()) < 0:
        raise ValueError("first and second of cohen_kappa must be at least 0.")
    patterns, times = np.unique(np.stack([first, second], axis=1), axis=0, return_counts=True)
    is_alike = patterns[:, 0] == patterns[:, 1]
    num_kinds = int(patterns.max()) + 1
    of_first, of_second = (np.eye(num_kinds)[patterns[:, side]] for side in (0, 1))  # (P, C)

    def shares(counts: _Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        total = counts.sum(axis=1)
        by_chance = ((counts @ of_first) * (counts @ of_second)).sum(axis=1) / total**2
        return counts @ is_alike / total, by_chance

    return _kappa(shares, times, num_resamples, seed)


def fleiss_kappa(ratings: _Codes, *, num_resamples: int = 2000, seed: int = 0) -> Interval | None:
    """Fleiss' kappa of several reviewers, with a 95 % interval; neither photos nor reviewers have an order.

    (P - E) / (1 - E), P the mean over photos of the share of pairs of reviewers who agree, E the sum of the squared
    shares of the choices (Fleiss, Psychological Bulletin 1971). His is for as many reviewers on each photo. Here
    photos may have any number: those that fewer than two reviewed are left out, each other photo counts once with the
    pairs that it has, and the shares of choices are those of all that was chosen. With as many on each it is his.

    Args:
        ratings: How many reviewers chose what for a photo, shape (N, C), >= 0.
        num_resamples: Of the bootstrap over photos.
        seed: Of the same.

    Returns:
        None where it is not defined: without photos that two reviewed, or where the same was chosen every time.

    Raises:
        ValueError: The shape is another, or a number is below 0.
    """
    if ratings.ndim != 2 or (ratings < 0).any():
        raise ValueError(f"ratings of fleiss_kappa must have shape (N, C) and be at least 0, got {ratings.shape}.")
    rated = ratings[ratings.sum(axis=1) > 1]
    if not len(rated):
        return None
    patterns, times = np.unique(rated, axis=0, return_counts=True)
    num_raters = patterns.sum(axis=1)
    agreeing = (patterns * (patterns - 1)).sum(axis=1) / (num_raters * (num_raters - 1))

    def shares(counts: _Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        chosen = counts @ patterns  # (R, C)
        by_chance = ((chosen / chosen.sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
        return counts @ agreeing / counts.sum(axis=1), by_chance

    return _kappa(shares, times, num_resamples, seed)


def _kappa(shares: _Statistic, times: NDArray[np.int64], num_resamples: int, seed: int) -> Interval | None:
    """Kappa of all photos, and its percentiles over photos drawn anew; draws without a kappa do not count.

    Where all agree, drawing anew shows no disagreement either: the interval then goes down to where a coin may be that
    fell the same way as often as there are photos.
    """
    num_photos = int(times.sum())
    (agreed,), (by_chance,) = shares(times[None, :].astype(np.float64))
    if by_chance >= 1:
        return None
    value = float((agreed - by_chance) / (1 - by_chance))
    if agreed == 1:
        least = ((1 - LEVEL) / 2) ** (1 / num_photos)
        return Interval(value, low=float((least - by_chance) / (1 - by_chance)), high=1.0)
    draws = np.random.default_rng(seed).multinomial(num_photos, times / num_photos, size=num_resamples)
    found, chance = shares(draws.astype(np.float64))
    is_defined = chance < 1
    kappas = (found[is_defined] - chance[is_defined]) / (1 - chance[is_defined])
    low, high = np.quantile(kappas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(value, low=min(low, value), high=max(high, value))
