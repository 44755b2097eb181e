"""Combined: the sum of several detectors' scores, each in units of its spread over normal photos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.detectors.crossfit import cross_scores, score_photos
from inlier.detectors.protocol import Detector, Mergeable, check_features, check_is_fitted, mergeable, take
from inlier.features.cache import FeatureSet
from inlier.records import Prediction

_MAD_TO_SIGMA = 1.4826
"""Spread of a normal distribution over its median absolute deviation."""


class Combined:
    """Several detectors as one: a photo's score is the sum of theirs, each centred and scaled robustly.

    Centre and scale are median and median absolute deviation of scores that the member gave normal photos it had
    not seen (two folds by group), so a member that scatters over normal photos, as a patch bank does over hand-held
    ones, counts for little, and one that sits tight counts for much. The map is that of the first member that has
    one; the evidence is all members', those that raise the score most first.

    Learned in parts, the centre is the parts' mean, and the scale the root of their mean square, weighted by how many
    photos were scored for them: each part knows its own spread, if it has photos of two groups at least.

    Learns ``centers_`` and ``scales_``, shape (number of members,), ``weight_`` (1,), the number of photos scored for
    them, and what its members learn.
    """

    centers_: Tensor
    scales_: Tensor
    weight_: Tensor | None

    def __init__(self, members: Sequence[Detector], *, seed: int = 0) -> None:
        """Joins unfitted detectors.

        Args:
            members: At least one.
            seed: Decides which groups go together when the spread is measured.

        Raises:
            ValueError: There are no members.
        """
        if not members:
            raise ValueError("members of Combined must hold at least one detector, got none.")
        self.members = tuple(members)
        self.layers = tuple(sorted({layer for member in members for layer in member.layers}))
        self.is_trained = any(member.is_trained for member in members)
        self.seed = seed

    def fit(self, features: FeatureSet) -> Self:
        """Measures each member's spread on photos it has not seen, then fits it on all."""
        return self._fit(features, lambda member: member.fit(features))

    def fit_part(self, features: FeatureSet) -> Self:
        """As ``fit``, while members keep what they need to merge; see ``Mergeable``."""
        return self._fit(features, lambda member: _mergeable(member).fit_part(features))

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Merges each member with the other's, and averages centres and scales; see ``Mergeable``."""
        check_is_fitted(self, "scales_")
        check_is_fitted(other, "scales_")
        for member, others in zip(self._mergeable_members(), other._mergeable_members(), strict=True):
            member.merge(others, num_photos=num_photos)
        of_other = take(other, {} if other.weight_ is None else {"weight_": other.weight_}, "weight_")
        weights = [num_photos if self.weight_ is None else int(self.weight_), int(of_other)]
        self.weight_ = torch.tensor([sum(weights)])
        if sum(weights):
            first, second = (weight / sum(weights) for weight in weights)
            self.centers_ = first * self.centers_ + second * other.centers_
            self.scales_ = (first * self.scales_.square() + second * other.scales_.square()).sqrt()
        return self

    def finish(self) -> Self:
        """Lets members go of what only merges would have needed."""
        check_is_fitted(self, "scales_")
        for member in self._mergeable_members():
            member.finish()
        return self

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Makes each member forget; centres and scales stay, as the calibration was made with them."""
        check_is_fitted(self, "scales_")
        for member in self._mergeable_members():
            member.remove(photos, features)
        return self

    @property
    def forgets_numbers(self) -> bool:
        """Whether all members forget photos by their numbers."""
        return all(member.forgets_numbers for member in self._mergeable_members())

    def _mergeable_members(self) -> list[Mergeable]:
        return [_mergeable(member) for member in self.members]

    def _fit(self, features: FeatureSet, fit_member: Callable[[Detector], object]) -> Self:
        check_features(self, features)
        centers, scales = torch.zeros(len(self.members)), torch.ones(len(self.members))
        weight = 0
        for place, member in enumerate(self.members):
            scores = self._unseen_scores(member, features)
            if weight := len(scores):  # the same for all members
                centers[place], scales[place] = _center_and_scale(scores)
            fit_member(member)
        self.centers_, self.scales_ = centers, scales
        self.weight_ = torch.tensor([weight])
        return self

    def _unseen_scores(self, member: Detector, features: FeatureSet) -> NDArray[np.float32]:
        """Scores by the member of photos that it has not seen; none where there is nothing to hold out.

        Of a single group the altered copies have to stand in for photos of others.
        """
        if len(set(features.groups)) >= 2:
            return cross_scores(member, features, num_folds=2, seed=self.seed).values
        copies = features.select(np.flatnonzero(features.is_view).tolist())
        if not copies:
            return np.empty(0, dtype=np.float32)
        return score_photos(member.fit(features.originals()), copies).values

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; the map stays in the units of the member that drew it."""
        check_is_fitted(self, "scales_")
        predictions = [member.predict(maps) for member in self.members]
        shares = torch.stack([prediction.score for prediction in predictions], dim=1)  # (B, members)
        shares = (shares - self.centers_) / self.scales_
        anomaly_map = next((p.anomaly_map for p in predictions if p.anomaly_map is not None), None)
        evidence = tuple(
            tuple(
                reason
                for member in share.argsort(descending=True).tolist()
                for reason in (predictions[member].evidence or ((),) * len(shares))[photo]
            )
            for photo, share in enumerate(shares)
        )
        return Prediction(shares.sum(dim=1), anomaly_map, evidence)

    def state_dict(self) -> dict[str, Tensor]:
        """``centers_``, ``scales_``, ``weight_`` where it is known, and the members' states behind their numbers."""
        check_is_fitted(self, "scales_")
        state = {"centers_": self.centers_, "scales_": self.scales_}
        state |= {} if self.weight_ is None else {"weight_": self.weight_}
        for place, member in enumerate(self.members):
            state |= {f"{place}.{name}": tensor for name, tensor in member.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's members and scales."""
        for place, member in enumerate(self.members):
            prefix = f"{place}."
            member.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.centers_, self.scales_ = take(self, state, "centers_"), take(self, state, "scales_")
        self.weight_ = state.get("weight_")
        return self


def _center_and_scale(scores: np.ndarray) -> tuple[float, float]:
    """Median, and spread about it: robust, else the standard deviation, else 1."""
    center = float(np.median(scores))
    scale = _MAD_TO_SIGMA * float(np.median(np.abs(scores - center)))
    return center, scale or float(scores.std()) or 1.0


def _mergeable(member: Detector) -> Mergeable:
    return mergeable(member, name=type(member).__name__)
