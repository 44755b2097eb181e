"""Settings: what a data set is made with, the same from its first photo to its last."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from inlier.config import Config, check_names
from inlier.data.intake.grouping import parse_group_by
from inlier.data.intake.quality import QualityThresholds
from inlier.data.layouts import SPLITS
from inlier.errors import ConfigError, InlierError

Collapse = Literal["bytes", "same", "near"]
"""Which duplicates become one photo: equal files; also one picture re-encoded, resized or turned; also near ones."""

FLAGS = ("blurred", "dark", "overexposed", "uniform", "tiny")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a data set is made with.

    Attributes:
        longest_side: Pixels that a photo has at most on its longer side.
        keep_gps: Whether stored photos say where they were taken.
        collapse: Which duplicates become one photo.
        group_by: What photos of one group share, as ``grouping.parse_group_by`` reads it.
        ratios: Shares of photos for train, dev and test; they add up to 1.
        resplit: Whether splits that sources come with are ignored.
        drop: Flags of quality for which a photo is left out.
        thresholds: From when on a flag is set.
        seed: Seed of the splits.

    Raises:
        ValueError: A value is not allowed.
    """

    longest_side: int = 512
    keep_gps: bool = False
    collapse: Collapse = "same"
    group_by: str = "burst"
    ratios: tuple[float, float, float] = (0.6, 0.2, 0.2)
    resplit: bool = False
    drop: tuple[str, ...] = ()
    thresholds: QualityThresholds = field(default_factory=QualityThresholds)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 64 <= self.longest_side <= 16_384:
            raise ValueError(f"longest_side of Settings must be in [64, 16384] pixels, got {self.longest_side}.")
        if self.collapse not in get_args(Collapse):
            raise ValueError(f"collapse of Settings must be bytes, same or near, got {self.collapse!r}.")
        if len(self.ratios) != len(SPLITS) or min(self.ratios) < 0 or not math.isclose(sum(self.ratios), 1):
            raise ValueError(f"ratios of Settings must be three numbers >= 0 that add up to 1, got {self.ratios}.")
        if unknown := [flag for flag in self.drop if flag not in FLAGS]:
            raise ValueError(f"drop of Settings must be of {', '.join(FLAGS)}, got {', '.join(unknown)}.")
        parse_group_by(self.group_by)
        for name, threshold in asdict(self.thresholds).items():
            if not 0 <= threshold < math.inf:
                raise ValueError(f"{name} of QualityThresholds must be a number >= 0, got {threshold}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def check_same(self, made_with: Mapping[str, Any], shown: str) -> None:
        """Refuses to go on with a data set that was made with other settings.

        Raises:
            InlierError: Some differ.
        """
        mine = self.to_dict()
        differing = [of.name for of in fields(self) if mine[of.name] != made_with.get(of.name)]
        if differing:
            was = ", ".join(f"{name} = {json.dumps(made_with.get(name))}" for name in differing)
            now = ", ".join(f"{name} = {json.dumps(mine[name])}" for name in differing)
            raise InlierError(f"{shown} was made with {was}, not {now}; give the same, or choose another --out.")


def read_settings(config: Config) -> Settings:
    """The settings in the sections ``ingest`` and ``quality``, which holds the thresholds.

    Raises:
        ConfigError: A section or a keyword is unknown, or a value of another type or out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    check_names(config, ("ingest", "quality"), kind="section", owner="The configuration of ingest")
    keywords = {of.name for of in fields(Settings)} - {"thresholds"}
    check_names(config.get("ingest", {}), keywords, kind="keyword", owner="ingest")
    thresholds = {of.name for of in fields(QualityThresholds)}
    check_names(config.get("quality", {}), thresholds, kind="keyword", owner="quality")
    try:
        return TypeAdapter(Settings).validate_python(
            {**config.get("ingest", {}), "thresholds": config.get("quality", {})}
        )
    except ValidationError as errors:
        error = errors.errors()[0]
        if reason := error.get("ctx", {}).get("error"):
            raise ConfigError(str(reason)) from errors
        name = "quality." + str(error["loc"][-1]) if error["loc"][0] == "thresholds" else f"ingest.{error['loc'][0]}"
        raise ConfigError(f"{name} cannot be {error['input']!r}: {error['msg']}.") from errors
