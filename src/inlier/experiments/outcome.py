"""What a search needs to know of what it searches: a detector's settings, or a backbone's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from inlier.config import Config
from inlier.data.manifest import Photo
from inlier.decision.intervals import Interval
from inlier.experiments.spaces import Space
from inlier.workflow import Progress

Metric = Literal["auroc", "synthetic", "loss"]
Second = Literal["latency", "memory"]

SECONDS: dict[str, str] = {"latency": "latency_ms", "memory": "peak_bytes"}
"""What may be made small beside a large metric, and the fact of a trial that tells it."""

COSTS = ("fit_seconds", "latency_ms", "peak_bytes", "predicted_bytes")
"""What a trial costs, as its facts call it."""

Watch = Callable[[float, int], None]
"""Told the value that a half-trained thing reaches, and at which look; what it raises ends the training."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a configuration did; None where it does not apply.

    Attributes:
        value: The metric.
        fit_seconds: Of learning, features read from disk.
        latency_ms: Of judging one photo whose features are there, the median of some.
        predicted_bytes: What the process was to have at its peak.
        peak_bytes: What it had.
        reduced: What was lowered so that it stays within the memory budget, as ``section.key=value``.
    """

    value: float | None = None
    fit_seconds: float | None = None
    latency_ms: float | None = None
    predicted_bytes: int | None = None
    peak_bytes: int | None = None
    reduced: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a trial notes beside its value."""
        return {name: getattr(self, name) for name in COSTS} | {"reduced": list(self.reduced)}


Run = Callable[[Config, Watch | None], Outcome]
"""Judges a resolved configuration on photos of dev."""


@dataclass(frozen=True, eq=False)
class Conclusion:
    """What test photos say of the winner.

    Attributes:
        test: Metric -> its value with its interval, or None; empty where nothing could be judged.
        test_of_default: Likewise of the settings that the search began from.
        gain: How much larger the AUROC is, paired over photos; None where there is none.
        p_value: Of the paired test.
        unreadable: Photos that could not be read, each with the reason.
        notes: What a reader must not miss.
    """

    test: Mapping[str, Any] | None = None
    test_of_default: Mapping[str, Any] | None = None
    gain: Interval | None = None
    p_value: float | None = None
    unreadable: tuple[tuple[Photo, str], ...] = ()
    notes: tuple[str, ...] = field(default=())


class Task(Protocol):
    """What is searched."""

    @property
    def name(self) -> str:
        """Of the detector or objective."""
        ...

    @property
    def kind(self) -> Literal["detector", "objective"]:
        """Which of the two."""
        ...

    @property
    def metric(self) -> Metric:
        """What is measured on dev."""
        ...

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether the metric is to be large or small."""
        ...

    @property
    def default(self) -> Config:
        """The resolved configuration that the search begins from."""
        ...

    @property
    def space(self) -> Space:
        """The parameters."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    def resolve(self, changes: Config) -> Config:
        """The default configuration, changed."""
        ...

    def prepare(self, progress: Progress) -> Any:
        """Reads what all trials share; tells what another process needs to find it."""
        ...

    def open(self, prepared: Any) -> AbstractContextManager[Run]:
        """What judges configurations, in this process or another one."""
        ...

    def conclude(self, config: Config, out: Path, *, is_default: bool, progress: Progress) -> Conclusion:
        """Fits the winner into the folder, and judges it on test once, beside the default."""
        ...
