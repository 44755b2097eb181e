"""What every detector has in common, and the checks they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, Self, TypeGuard

import torch
from torch import Tensor

from inlier.errors import ConfigError, ModelError, NotFittedError
from inlier.features.cache import FeatureSet
from inlier.records import Prediction


class Detector(Protocol):
    """Learns from the features of normal photos, and scores those of others; a shape, not a base class.

    Detectors see a frozen backbone's feature maps, never photos: the backbone runs once for all of them, and
    whatever is asked of a detector (folds, trials, another detector's opinion) costs no second pass through it.

    Attributes:
        layers: The backbone's layers that it looks at.
        is_trained: Whether ``fit`` runs an optimisation, which takes minutes where others take seconds; it is then
            fitted once, and not for every fold of a calibration, wherever that can be had.
    """

    layers: tuple[int, ...]
    is_trained: bool

    def fit(self, features: FeatureSet) -> Self:
        """Learns from normal photos only; called again, it forgets what it knew.

        Raises:
            ValueError: There are no photos.
        """
        ...

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores B photos: layer -> shape (B, C_l, h_l, w_l), at least for ``layers``.

        Raises:
            NotFittedError: It was not fitted.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What it learned, by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes what another one learned.

        Raises:
            ModelError: Something is missing.
        """
        ...


class Mergeable(Detector, Protocol):
    """A detector that learns from photos part by part, wherever the parts are, and can forget photos again.

    ``part.fit_part(...)`` for each part, ``merge`` one after the other, and ``finish`` once: the result is that of
    ``fit`` on all photos, exactly or as far as a coreset of coresets goes. ``fit`` is ``fit_part`` and ``finish``.

    Attributes:
        forgets_numbers: Whether the number of a photo is enough to forget it; else its features are needed too.
    """

    forgets_numbers: bool

    def fit_part(self, features: FeatureSet) -> Self:
        """Learns from normal photos like ``fit``, and keeps more of them: what a merge still chooses from.

        Raises:
            ValueError: There are no photos.
        """
        ...

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Learns what another one with the same options has learned from other photos.

        Args:
            other: Fitted; it stays as it is.
            num_photos: How many photos this one has learned; those of the other are numbered from there on.

        Raises:
            NotFittedError: One of them is not fitted.
            ModelError: One of them is of an earlier version, whose models do not say what a merge must know.
            ValueError: They are of different options, or of photos of different sizes.
        """
        ...

    def finish(self) -> Self:
        """Lets go of what only further merges would have needed."""
        ...

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Forgets photos; those left are numbered anew, without gaps, in their order.

        Args:
            photos: Their numbers, in the order of ``fit``.
            features: Of these photos; None is enough if it ``forgets_numbers``.

        Raises:
            ModelError: It is of an earlier version, whose models do not say what is asked for.
            ValueError: None would be left, their features are needed, or they cannot be among those learned.
        """
        ...


def can_merge(detector: Detector) -> TypeGuard[Mergeable]:
    """Whether it is a ``Mergeable``, and all its members are, if it has some."""
    return hasattr(detector, "merge") and all(can_merge(member) for member in getattr(detector, "members", ()))


def mergeable(detector: Detector, *, name: str) -> Mergeable:
    """The same detector, which can learn part by part and forget; or ConfigError with the names of those that can.

    Args:
        detector: Any.
        name: What its section is called.
    """
    if not can_merge(detector):
        raise ConfigError(
            f"{name} learns from all photos at once: it can neither add nor remove some, nor learn in shards; "
            "patchcore, photo-neighbors, subspace, photo-subspace, baseline, and a combined of these can."
        )
    return detector


def kept_numbers(photos: Collection[int], num_photos: int, *, owner: str) -> Tensor:
    """The new number of each photo when some are forgotten, shape (num_photos,), int64; -1 of these.

    Raises:
        ValueError: None would be left, or there are no photos of these numbers.
    """
    if unknown := sorted(number for number in photos if not 0 <= number < num_photos):
        raise ValueError(f"{owner} has learned photos 0 to {num_photos - 1}, and cannot forget {unknown[0]}.")
    is_kept = torch.ones(num_photos, dtype=torch.bool)
    is_kept[sorted(photos)] = False
    if not is_kept.any():
        raise ValueError(f"{owner} must keep at least one photo, and was asked to forget all.")
    return torch.where(is_kept, is_kept.cumsum(0) - 1, -1)


def check_is_fitted(owner: object, attribute: str) -> None:
    """Raises NotFittedError unless a detector, or what stands beside one, has what ``fit`` gives it."""
    if not hasattr(owner, attribute):
        raise NotFittedError(f"{type(owner).__name__} is not fitted; call fit or load_state_dict first.")


def check_features(detector: Detector, features: FeatureSet) -> None:
    """Raises ValueError unless there are photos to learn from."""
    if not features:
        raise ValueError(f"{type(detector).__name__} needs at least one normal photo to learn from, got none.")


def take(owner: object, state: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that a detector, or what stands beside one, has saved; or ModelError."""
    if name not in state:
        raise ModelError(f"The saved {type(owner).__name__} lacks {name}; the model is damaged or of another version.")
    return state[name]
