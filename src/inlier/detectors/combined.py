"""Combined: the sum of several detectors' scores, each in units of its spread over normal photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.detectors.crossfit import cross_scores, score_photos
from inlier.detectors.protocol import Detector, check_features, check_is_fitted, take
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

    Learns ``centers_`` and ``scales_``, shape (number of members,), and what its members learn.
    """

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
        check_features(self, features)
        centers, scales = torch.zeros(len(self.members)), torch.ones(len(self.members))
        for place, member in enumerate(self.members):
            scores = self._unseen_scores(member, features)
            if len(scores):
                centers[place], scales[place] = _center_and_scale(scores)
            member.fit(features)
        self.centers_, self.scales_ = centers, scales
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
        """``centers_``, ``scales_``, and the members' states behind their numbers."""
        check_is_fitted(self, "scales_")
        state = {"centers_": self.centers_, "scales_": self.scales_}
        for place, member in enumerate(self.members):
            state |= {f"{place}.{name}": tensor for name, tensor in member.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's members and scales."""
        for place, member in enumerate(self.members):
            prefix = f"{place}."
            member.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.centers_, self.scales_ = take(self, state, "centers_"), take(self, state, "scales_")
        return self


def _center_and_scale(scores: np.ndarray) -> tuple[float, float]:
    """Median, and spread about it: robust, else the standard deviation, else 1."""
    center = float(np.median(scores))
    scale = _MAD_TO_SIGMA * float(np.median(np.abs(scores - center)))
    return center, scale or float(scores.std()) or 1.0
