"""Regional: any detector, looking at the part alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import torch
from torch import Tensor

from inlier.detectors.foreground import Foreground
from inlier.detectors.grabcut import GrabCut, check_installed
from inlier.detectors.protocol import Detector, check_features, check_is_fitted, take
from inlier.errors import ConfigError
from inlier.features.cache import FeatureSet
from inlier.features.regions import REGION, GivenRegion, RegionFinder
from inlier.records import Prediction

Kind = Literal["mask", "foreground", "grabcut"]

_NO_MASKS = (
    "None of the photos to learn from has a region; name masks in the manifest's column roi, or leave regions out with "
    "--regions none."
)
_NO_PART = (
    "No part stands out from the background in any of the photos to learn from; leave regions out with --regions none."
)


class Regional:
    """A detector to which only cells of the part count: they alone are learned, scored and on the map.

    Normal photos without a region are not learned from. One to be judged is scored as a whole, and its prediction
    says so, for a whole photo's score is no reason to accept it.

    Learns ``foreground_`` where masks do not say what the part is, ``kept_`` (M,), the numbers of the photos learned
    from, and what the detector learns.
    """

    foreground_: Foreground | GrabCut
    kept_: Tensor

    def __init__(self, detector: Detector, *, kind: Kind = "foreground") -> None:
        """Takes an unfitted detector that heeds ``REGION``.

        Args:
            detector: Looks at the region.
            kind: ``mask``: regions come beside the maps, from masks; ``foreground``: they are found in the maps;
                ``grabcut``: likewise, and refined in the photos, which come beside them.

        Raises:
            MissingExtraError: What refines them is not installed.
        """
        if kind == "grabcut":
            check_installed()
        self.detector = detector
        self.kind = kind
        self.layers = detector.layers
        self.is_trained = detector.is_trained

    def fit(self, features: FeatureSet) -> Self:
        """Learns what the part is, and then the part.

        Raises:
            ConfigError: There is no region in any photo.
        """
        check_features(self, features)
        finder = self._learn(features)
        is_found = torch.zeros(len(features), dtype=torch.bool)
        if self.kind != "mask" or REGION in features.cache.shapes:
            regions = (finder(maps) for maps in features.with_layers(finder.layers).batches())
            is_found = torch.cat([region.flatten(1).any(dim=1) for region in regions])
        self.kept_ = is_found.nonzero()[:, 0]
        if not is_found.any():
            raise ConfigError(_NO_MASKS if self.kind == "mask" else _NO_PART)
        self.detector.fit(replace(features.select(self.kept_.tolist()), region=finder))
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos by their regions, which come with the scores."""
        check_is_fitted(self, "kept_")
        region = (GivenRegion() if self.kind == "mask" else self.foreground_)(maps)
        is_found = region.flatten(1).any(dim=1)
        counted = region.masked_fill(~is_found[:, None, None, None], 1.0)
        prediction = self.detector.predict({**maps, REGION: counted})
        evidence = prediction.evidence and tuple(
            tuple(replace(reason, reference=int(self.kept_[reason.reference])) for reason in reasons)
            for reasons in prediction.evidence
        )
        return replace(prediction, evidence=evidence, region=region[:, 0] > 0)

    def state_dict(self) -> dict[str, Tensor]:
        """``kept_``, and the states of foreground and detector behind these words."""
        check_is_fitted(self, "kept_")
        state = {"kept_": self.kept_}
        if self.kind != "mask":
            state |= {f"foreground.{name}": tensor for name, tensor in self.foreground_.state_dict().items()}
        return state | {f"detector.{name}": tensor for name, tensor in self.detector.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's part and detector."""
        if self.kind != "mask":
            names = ("layer", "mean", "direction", "threshold", *(("low", "high") if self.kind == "grabcut" else ()))
            known = {name: take(self, state, f"foreground.{name}") for name in names}
            self.foreground_ = (GrabCut if self.kind == "grabcut" else Foreground).from_state(known)
        self.kept_ = take(self, state, "kept_")
        inner = {k.removeprefix("detector."): of for k, of in state.items() if k.startswith("detector.")}
        self.detector.load_state_dict(inner)
        return self

    def _learn(self, features: FeatureSet) -> RegionFinder:
        """What finds the regions of these photos, as often as they are gone through."""
        if self.kind == "mask":
            return GivenRegion()
        if self.kind == "foreground":
            self.foreground_ = Foreground.learn(features, layers=self.layers)
            return self.foreground_
        cut = self.foreground_ = GrabCut.learn(features, layers=self.layers)
        return cut.remembering()
