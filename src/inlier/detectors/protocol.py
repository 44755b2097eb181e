"""What every detector has in common, and the checks they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from torch import Tensor

from inlier.errors import ModelError, NotFittedError
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
