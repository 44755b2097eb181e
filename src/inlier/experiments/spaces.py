"""What a search may choose: the parameters of each detector and objective, and how a choice becomes a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol

from inlier.config import Config, check_names
from inlier.errors import ConfigError

Value = bool | int | float | str
"""What is proposed for one parameter."""


class Proposer(Protocol):
    """What proposes values, such as a trial of Optuna."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of several."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter of a search.

    Attributes:
        name: What a report calls it: the keyword, before it the section where that is another one's.
        section: Section of the configuration that has the keyword.
        low: Least number; None for a choice.
        high: Greatest number.
        is_log: Whether it is drawn on a logarithmic scale, as the thesis draws all numbers (appendix B).
        step: Between whole numbers.
        choices: The values of a choice.
        when: The parameter, and its values, with which this one is proposed at all; None: always. What would mean
            nothing is never proposed, so that the sampler does not learn from it.
    """

    name: str
    section: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    step: int = 1
    choices: tuple[Value, ...] = ()
    when: tuple[str, tuple[Value, ...]] | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether there is but one value, which needs no search."""
        return len(self.choices) == 1

    @property
    def key(self) -> str:
        """The keyword in its section."""
        return self.name.rpartition(".")[2]

    def propose(self, trial: Proposer) -> Value:
        """A value from the trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        assert self.low is not None and self.high is not None  # it is a number
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step, log=self.is_log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.is_log)


Space = tuple[Dimension, ...]

MAX_CELLS = 784
"""28 x 28, the grid of the second layer: the first one's has four times as many cells, all compared with each other."""


def _layers(name: str, section: str, *, least: int = 1) -> Dimension:
    """Every combination of the stages 1 to 4, of at least so many of them."""
    chosen = [of for count in range(least, 5) for of in combinations("1234", count)]
    return Dimension(name, section, choices=tuple(",".join(of) for of in chosen))


def _ratio(name: str, section: str, *, when: tuple[str, tuple[Value, ...]]) -> Dimension:
    return Dimension(name, section, 0.002, 0.5, is_log=True, when=when)


def _patchcore(prefix: str = "", when: tuple[str, tuple[Value, ...]] | None = None) -> Space:
    own = "patchcore"
    dimensions = (
        _layers(f"{prefix}layers", own),
        Dimension(f"{prefix}patch_size", own, 1, 29, step=2),
        Dimension(f"{prefix}distance", own, choices=("cosine", "euclidean")),
        Dimension(f"{prefix}embedding_width", own, choices=(0, 32, 64, 128, 256)),
        Dimension(f"{prefix}max_cells", own, choices=(MAX_CELLS,)),
        Dimension(f"{prefix}coreset_ratio", own, 0.001, 0.2, is_log=True),
        Dimension(f"{prefix}pooling", own, choices=("max", "mean", "top")),
    )
    return tuple(replace(of, when=when) for of in dimensions)


_OF_MAX, _OF_TOP = ("pooling", ("max",)), ("pooling", ("top",))
_VARIANCE = (0.5, 0.99)
_POWER = (1.0, 8.0)

DETECTOR_SPACES: dict[str, Space] = {
    "patchcore": (
        *_patchcore(),
        _ratio("top_ratio", "patchcore", when=_OF_TOP),
        Dimension("is_reweighted", "patchcore", choices=(False, True), when=_OF_MAX),
        Dimension("num_neighbors", "patchcore", 2, 10, is_log=True, when=("is_reweighted", (True,))),
    ),
    "reverse-distillation": (
        _layers("layers", "reverse-distillation", least=2),
        Dimension("scoring_layers", "reverse-distillation", choices=("default", "all", "finest", "coarsest")),
        Dimension("bottleneck_rate", "reverse-distillation", 1e-5, 1e-2, is_log=True),
        Dimension("student_rate", "reverse-distillation", 1e-5, 1e-2, is_log=True),
        Dimension("beta1", "reverse-distillation", 0.5, 0.99, is_log=True),
        Dimension("beta2", "reverse-distillation", 0.9, 0.9999, is_log=True),
        Dimension("cycle_factor", "reverse-distillation", 1.0, 50.0, is_log=True),
        Dimension("num_samples", "reverse-distillation", 400, 12_800, is_log=True),
        Dimension("loss", "reverse-distillation", choices=("flattened", "per-position")),
        Dimension("combination", "reverse-distillation", choices=("sum", "product")),
        Dimension("pooling", "reverse-distillation", choices=("max", "mean", "top")),
        _ratio("top_ratio", "reverse-distillation", when=_OF_TOP),
    ),
    "photo-neighbors": (
        _layers("layers", "photo-neighbors"),
        Dimension("power", "photo-neighbors", *_POWER, is_log=True),
        Dimension("num_neighbors", "photo-neighbors", 1, 10, is_log=True),
        Dimension("is_whitened", "photo-neighbors", choices=(True, False)),
    ),
    "subspace": (
        _layers("layers", "subspace"),
        Dimension("patch_size", "subspace", 1, 29, step=2),
        Dimension("distance", "subspace", choices=("cosine", "euclidean")),
        Dimension("explained_variance", "subspace", *_VARIANCE, is_log=True),
        Dimension("pooling", "subspace", choices=("max", "mean", "top")),
        _ratio("top_ratio", "subspace", when=_OF_TOP),
    ),
    "photo-subspace": (
        _layers("layers", "photo-subspace"),
        Dimension("power", "photo-subspace", *_POWER, is_log=True),
        Dimension("explained_variance", "photo-subspace", *_VARIANCE, is_log=True),
    ),
    "baseline": (
        _layers("layers", "baseline"),
        Dimension(
            "method", "baseline", choices=("mahalanobis", "nearest-neighbor", "one-class-svm", "isolation-forest")
        ),
        Dimension("power", "baseline", *_POWER, is_log=True),
    ),
}
"""The thesis's ranges (section 4.2, appendix B), with the fourth layer that it left out. The method ``combined`` is
searched through its members, see below."""

_MEMBERS = (
    "patchcore+photo-neighbors+photo-subspace",
    "patchcore+photo-neighbors",
    "patchcore+photo-subspace",
    "photo-neighbors+photo-subspace",
)


def _of_member(member: str, dimensions: Space) -> Space:
    when = ("members", tuple(of for of in _MEMBERS if member in of.split("+")))
    return tuple(replace(of, name=f"{member}.{of.name}", when=when) for of in dimensions)


DETECTOR_SPACES["combined"] = (
    Dimension("members", "combined", choices=_MEMBERS),
    *_of_member("patchcore", tuple(of for of in _patchcore() if of.key != "embedding_width")),
    *_of_member("photo-neighbors", DETECTOR_SPACES["photo-neighbors"]),
    *_of_member("photo-subspace", DETECTOR_SPACES["photo-subspace"]),
)

_TRAINING: Space = (
    Dimension("num_samples", "finetune", 400, 6_400, is_log=True),
    Dimension("batch_size", "finetune", 8, 32, is_log=True),
    Dimension("learning_rate", "finetune", 1e-6, 1e-3, is_log=True),
    Dimension("layer_decay", "finetune", 0.0, 1.0),
    Dimension("head_rate", "finetune", 1e-5, 1e-2, is_log=True),
    Dimension("cycle_factor", "finetune", 1.0, 50.0, is_log=True),
    Dimension("beta1", "finetune", 0.5, 0.99, is_log=True),
    Dimension("beta2", "finetune", 0.9, 0.9999, is_log=True),
    Dimension("blend", "finetune", 0.25, 1.0),
)


def _objective(section: str, *own: Dimension) -> Space:
    return (*_TRAINING, *(replace(of, name=f"{section}.{of.name}", section=section) for of in own))


OBJECTIVE_SPACES: dict[str, Space] = {
    "supcon": _objective("supcon", Dimension("temperature", "", 0.05, 1.0, is_log=True)),
    "simclr": _objective("simclr", Dimension("temperature", "", 0.05, 1.0, is_log=True)),
    "masked": _objective("masked", Dimension("mask_ratio", "", 0.2, 0.8)),
    "reverse-distillation": _objective(
        "reverse-distillation-objective", Dimension("guard_weight", "", 0.1, 10.0, is_log=True)
    ),
}
"""What phase one is searched over: learning rates, betas, cycle and budget of photos (appendix B), and what each
objective has of its own."""


def read_space(name: str, space: Space, given: Mapping[str, Any]) -> Space:
    """A space changed by what the user gives: a table narrows or widens a parameter, a list is its choices.

    Args:
        name: The detector's or objective's, for sentences.
        space: As it is.
        given: Parameter -> ``{low = 1, high = 9, log = true}``, a list of choices, or one value that is fixed. False
            is a value; a parameter is left at its default by ``"default"``.

    Raises:
        ConfigError: There is no such parameter, or a range or choice makes no sense.
    """
    names = [of.name for of in space]
    check_names(given, names, kind="parameter to search", owner=name)
    changed = (_changed(of, given[of.name]) if of.name in given else of for of in space)
    kept = tuple(of for of in changed if of is not None)
    if all(of.is_fixed for of in kept):
        raise ConfigError(f"[space] leaves nothing of {name} to be searched.")
    return kept


def _changed(dimension: Dimension, given: Any) -> Dimension | None:
    owner = f"{dimension.name} of [space]"
    if given == "default" and "default" not in dimension.choices:
        return None
    if isinstance(given, Mapping):
        check_names(given, ("low", "high", "log"), kind="key", owner=owner)
        low, high = given.get("low", dimension.low), given.get("high", dimension.high)
        is_log = given.get("log", dimension.is_log)
        is_range = all(isinstance(of, int | float) and not isinstance(of, bool) for of in (low, high))
        if not is_range or not low <= high or (is_log and not low > 0) or not isinstance(is_log, bool):
            raise ConfigError(
                f"{owner} must be a range such as {{ low = 1, high = 9 }}, above 0 where log = true, got {dict(given)}."
            )
        if isinstance(dimension.low, float):
            low, high = float(low), float(high)
        if dimension.choices:
            is_log = given.get("log", False)
        return replace(dimension, low=low, high=high, is_log=is_log, choices=())
    choices = given if isinstance(given, list) else [given]
    if not choices or not all(isinstance(of, bool | int | float | str) for of in choices):
        raise ConfigError(f"{owner} must be a range, a list of values, or one value, got {given!r}.")
    return replace(dimension, low=None, high=None, is_log=False, choices=tuple(dict.fromkeys(choices)))


def suggest(trial: Proposer, space: Space) -> dict[str, Value]:
    """One value for each parameter that means something beside those proposed before."""
    proposed: dict[str, Value] = {}
    for dimension in space:
        if _applies(dimension, proposed):
            proposed[dimension.name] = dimension.choices[0] if dimension.is_fixed else dimension.propose(trial)
    return proposed


def _applies(dimension: Dimension, values: Mapping[str, Value]) -> bool:
    """Whether a parameter means something beside these values."""
    return dimension.when is None or values.get(dimension.when[0]) in dimension.when[1]


def to_sections(space: Space, values: Mapping[str, Value]) -> Config:
    """The sections of a configuration that these values are.

    Args:
        space: The parameters.
        values: Name -> what was proposed; names without a value keep their default, or the one value that they have.
    """
    sections: Config = {}
    known = dict(values)
    for dimension in space:
        if dimension.is_fixed and _applies(dimension, known):
            known.setdefault(dimension.name, dimension.choices[0])
        if dimension.name in known:
            sections.setdefault(dimension.section, {})[dimension.key] = known[dimension.name]
    for keywords in sections.values():
        _spell_out(keywords)
    return sections


def _spell_out(keywords: dict[str, Any]) -> None:
    """Turns what a sampler likes to choose among into what constructors take, in place."""
    if isinstance(layers := keywords.get("layers"), str):
        keywords["layers"] = [int(layer) for layer in layers.split(",")]
    if isinstance(members := keywords.get("members"), str):
        keywords["members"] = members.split("+")
    if "beta1" in keywords or "beta2" in keywords:
        keywords["betas"] = [keywords.pop("beta1", 0.9), keywords.pop("beta2", 0.99)]
    if (scoring := keywords.pop("scoring_layers", "default")) != "default":
        every = keywords.get("layers", [])
        chosen = {"all": every, "finest": every[:1], "coarsest": every[-1:]}
        of_all = chosen[str(scoring)] if scoring in chosen else [int(layer) for layer in str(scoring).split(",")]
        keywords["scoring_layers"] = of_all
