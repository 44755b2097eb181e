"""What a STUDY.toml asks for: data sets, backbones and detectors, and the cells of the grid that they span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from inlier.build import DETECTORS, SECTIONS, resolve, resolve_keywords
from inlier.config import Config, check_names, read_config
from inlier.data.manifest import NORMAL_LABELS
from inlier.errors import ConfigError
from inlier.experiments.spaces import DETECTOR_SPACES, OBJECTIVE_SPACES, read_space
from inlier.objectives import ADAPTOR, OBJECTIVES, resolve_adaptation, section_of

Task = Literal["filter", "condition", "archive"]

_Count = Annotated[int, Field(ge=0)]
_STUDY: dict[str, tuple[Any, Any]] = {
    "title": (str, "Study"),
    "seeds": (list[_Count], [0]),
    "map": (str | None, None),
    "patches": (str | None, None),
    "losses": (str | None, None),
}
_DATA: dict[str, tuple[Any, Any]] = {
    "path": (str | None, None),
    "title": (str | None, None),
    "task": (Task, "condition"),
    "normal": (list[str], list(NORMAL_LABELS)),
}
_BACKBONE: dict[str, tuple[Any, Any]] = {
    "title": (str | None, None),
    "name": (str | None, None),
    "weights": (str | None, None),
    "objective": (str | None, None),
    "on": (str | list[str] | None, None),
    "trials": (_Count, 0),
    "metric": (Literal["auroc", "synthetic", "loss"] | None, None),
    "space": (dict[str, Any], {}),
}
_DETECTOR: dict[str, tuple[Any, Any]] = {
    "detector": (str | None, None),
    "trials": (_Count, 0),
    "space": (dict[str, Any], {}),
}
_TABLES = ("study", "data", "backbone", "detector", "config")


@dataclass(frozen=True, slots=True)
class DataPlan:
    """A data set.

    Attributes:
        name: What files and tables call it.
        title: What a person calls it.
        path: Any form of DATA.
        task: ``filter``: does a photo belong; ``condition``: is the part healthy; ``archive``: none, it only has photos
            that backbones are trained on.
        normal: Labels of normal photos.
    """

    name: str
    title: str
    path: Path
    task: Task
    normal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackbonePlan:
    """A backbone, frozen or trained.

    Attributes:
        name: What files and tables call it, such as ``supcon@camera-roll``.
        title: What a person calls it.
        objective: What it is trained by; None: not at all.
        trained_on: The data set; None: none.
        config: Sections of ``finetune``, or of ``fit`` for a frozen one.
        trials: Of the search for its training's settings; 0: none.
        metric: Of that search.
        space: What it may choose.
    """

    name: str
    title: str
    objective: str | None
    trained_on: str | None
    config: Config
    trials: int
    metric: str | None
    space: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DetectorPlan:
    """A detector with its settings, or a search for them.

    Attributes:
        name: What files and tables call it.
        config: Sections of ``fit``.
        trials: Of the search in each cell; 0: none.
        space: What it may choose.
    """

    name: str
    config: Config
    trials: int
    space: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """A detector over a backbone, fitted on a data set.

    Attributes:
        dataset: Name of the data set.
        backbone: Likewise.
        detector: Likewise.
        seed: Of everything random.
    """

    dataset: str
    backbone: str
    detector: str
    seed: int

    @property
    def name(self) -> str:
        """What tells it from others, and its folder below ``cells``."""
        return f"{self.dataset}/{self.backbone}/{self.detector}/seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """All that is to be done.

    Attributes:
        title: What a person calls it.
        seeds: Each cell is run once with each.
        datasets: By name.
        backbones: By name; a trained one for each data set that it is trained on.
        detectors: By name.
        map_of: The data set whose photos are arranged as each backbone sees them; None: none.
        patches_of: The data set on which patch sizes are compared; None: none.
        losses_of: The data set on which losses are measured; None: none.
    """

    title: str
    seeds: tuple[int, ...]
    datasets: Mapping[str, DataPlan]
    backbones: Mapping[str, BackbonePlan]
    detectors: Mapping[str, DetectorPlan]
    map_of: str | None
    patches_of: str | None
    losses_of: str | None

    @classmethod
    def read(cls, path: Path, *, device: str = "cpu") -> Self:
        """The study that a TOML file describes; paths in it count from its folder.

        Args:
            path: The file.
            device: Where backbones will run.

        Raises:
            ConfigError: The file cannot be read, or asks for what there is not.
        """
        tables = read_config(path)
        check_names(tables, _TABLES, kind="table", owner=path.name)
        section = resolve_keywords("study", tables.get("study", {}), _STUDY)
        if not section["seeds"]:
            raise ConfigError("seeds of [study] must hold at least one seed, got none.")
        shared: Config = tables.get("config", {})
        check_names(shared, ("finetune", *SECTIONS), kind="section", owner="[config]")
        datasets = {name: _data(name, of, path.parent) for name, of in _each(tables, "data").items()}
        backbones = {
            plan.name: plan
            for name, of in _each(tables, "backbone").items()
            for plan in _backbones(name, of, shared, datasets, path.parent)
        }
        detectors = {name: _detector(name, of, shared) for name, of in _each(tables, "detector").items()}
        _check(backbones, detectors, device)
        chosen = {of: section[of] for of in ("map", "patches", "losses")}
        for of, name in chosen.items():
            if name is not None:
                check_names([name], datasets, kind="data set", owner=f"{of} of [study]: {path.name}")
        if all(plan.task == "archive" for plan in datasets.values()):
            raise ConfigError("A study needs a data set to judge: one whose task is filter or condition.")
        return cls(
            title=section["title"],
            seeds=tuple(dict.fromkeys(section["seeds"])),
            datasets=datasets,
            backbones=backbones,
            detectors=detectors,
            map_of=chosen["map"],
            patches_of=chosen["patches"],
            losses_of=chosen["losses"],
        )

    @property
    def judged(self) -> tuple[str, ...]:
        """The data sets that are no archives."""
        return tuple(name for name, plan in self.datasets.items() if plan.task != "archive")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The grid, data set by data set."""
        return tuple(
            Cell(dataset, backbone, detector, seed)
            for dataset in self.judged
            for backbone in self.backbones
            for detector in self.detectors
            for seed in self.seeds
        )


def _each(tables: Config, kind: str) -> dict[str, dict[str, Any]]:
    found = tables.get(kind, {})
    if not found or not all(isinstance(of, dict) for of in found.values()):
        raise ConfigError(f"A study needs a table [{kind}.NAME] for each {_NOUNS[kind]}.")
    for name in found:
        if not name or name.startswith(".") or any(sign in name for sign in '/\\:*?"<>|@'):
            raise ConfigError(f"The name of [{kind}.{name}] cannot be that of a folder; choose letters and digits.")
    return found


_NOUNS = {"data": "data set", "backbone": "backbone", "detector": "detector"}


def _data(name: str, given: Mapping[str, Any], folder: Path) -> DataPlan:
    section = resolve_keywords(f"data.{name}", given, _DATA)
    if section["path"] is None:
        raise ConfigError(f"[data.{name}] needs a path, in any form of DATA.")
    path = folder / Path(section["path"]).expanduser()
    return DataPlan(name, section["title"] or name, path, section["task"], tuple(section["normal"]))


def _backbones(
    name: str, given: Mapping[str, Any], shared: Config, datasets: Mapping[str, DataPlan], folder: Path
) -> list[BackbonePlan]:
    """The frozen backbone, or for each data set that it is trained on a trained one."""
    own = {key: value for key, value in given.items() if key in _BACKBONE}
    sections = {key: value for key, value in given.items() if key not in _BACKBONE}
    section = resolve_keywords(f"backbone.{name}", own, _BACKBONE)
    objectives = (*OBJECTIVES, ADAPTOR)
    allowed = ("finetune", "gate", *map(section_of, objectives), *SECTIONS) if section["objective"] else SECTIONS
    check_names(sections, allowed, kind="key", owner=f"[backbone.{name}]")
    config = _joined(shared if section["objective"] else _without(shared, "finetune"), sections)
    network = {key: section[key] for key in ("name", "weights") if section[key] is not None}
    if "weights" in network:
        network["weights"] = str(folder / Path(network["weights"]).expanduser())
    config = _joined(config, {"backbone": network} if network else {})
    title = section["title"] or name
    if section["objective"] is None:
        if section["on"] is not None or section["trials"]:
            raise ConfigError(f"[backbone.{name}] is not trained without an objective; leave out on and trials.")
        return [BackbonePlan(name, title, None, None, config, 0, None, {})]
    check_names([section["objective"]], objectives, kind="objective", owner="inlier")
    on = [section["on"]] if isinstance(section["on"], str) else section["on"]
    if not on:
        raise ConfigError(f"[backbone.{name}] needs on, the data sets whose photos it is trained on.")
    check_names(on, datasets, kind="data set", owner=f"on of [backbone.{name}]")
    config = _joined(config, {"finetune": {"objective": section["objective"]}})
    return [
        BackbonePlan(
            f"{name}@{of}",
            f"{title} on {datasets[of].title}",
            section["objective"],
            of,
            config,
            section["trials"],
            section["metric"],
            section["space"],
        )
        for of in on
    ]


def _detector(name: str, given: Mapping[str, Any], shared: Config) -> DetectorPlan:
    own = {key: value for key, value in given.items() if key in _DETECTOR}
    sections = {key: value for key, value in given.items() if key not in _DETECTOR}
    section = resolve_keywords(f"detector.{name}", own, _DETECTOR)
    detector = section["detector"] or name
    check_names([detector], DETECTORS, kind="detector", owner="inlier")
    check_names(sections, SECTIONS, kind="key", owner=f"[detector.{name}]")
    config = _joined(_without(shared, "finetune"), sections)
    return DetectorPlan(name, _joined(config, {"fit": {"detector": detector}}), section["trials"], section["space"])


def _check(backbones: Mapping[str, BackbonePlan], detectors: Mapping[str, DetectorPlan], device: str) -> None:
    """Refuses now what would be refused hours later."""
    for backbone in backbones.values():
        if backbone.objective is not None:
            resolve_adaptation(backbone.config, device=device)
            if backbone.trials and backbone.objective not in OBJECTIVE_SPACES:
                raise ConfigError(f"The objective {backbone.objective} has nothing to search; leave trials out.")
            if backbone.trials:
                read_space(backbone.objective, OBJECTIVE_SPACES[backbone.objective], backbone.space)
        else:
            resolve(backbone.config, device=device)
    for detector in detectors.values():
        name = resolve(detector.config, device=device)["fit"]["detector"]
        read_space(name, DETECTOR_SPACES[name], detector.space)


def _joined(config: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """Sections, with keywords of others laid over."""
    names = dict.fromkeys((*config, *changes))
    return {name: {**config.get(name, {}), **changes.get(name, {})} for name in names}


def _without(config: Config, section: str) -> Config:
    return {name: keywords for name, keywords in config.items() if name != section}
