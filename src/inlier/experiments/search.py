"""tune(): a search for settings, its winner fitted as by hand, and judged once on test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from inlier.build import parse_bytes
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError
from inlier.experiments.detector_search import DetectorTask
from inlier.experiments.memory import release_promptly
from inlier.experiments.outcome import SECONDS, Conclusion, Outcome, Run, Second, Task
from inlier.experiments.search_report import RECORD, add_test, describe, recall_test, write_report
from inlier.experiments.spaces import suggest, to_sections
from inlier.experiments.tuning import (
    Direction,
    Search,
    Trial,
    fact,
    finished_trials,
    importances,
    once,
    open_study,
    run_trials,
    tell,
)
from inlier.features.store import DEFAULT_BUDGET, FeatureStore
from inlier.outputs import check_folder
from inlier.scale import HERE, Workers, map_items, reached
from inlier.workflow import Progress, no_progress

AMPLE_BYTES = 2 * 2**30
"""Memory budget from which on a process need not be sparing."""

BASELINE = "baseline"
"""Fact of a search: how the settings did that it began from."""

DATABASE, FEATURES = "search.db", "features"
"""What a folder of a search holds while it is under way."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be searched, for how long, and with what.

    Attributes:
        config: Sections of keywords, which are the settings that trials begin from; ``space`` among them narrows,
            widens or fixes parameters (``spaces.read_space``). With a section ``finetune`` that names an objective a
            backbone's training is searched, else a detector.
        data: Photos.
        out: Folder of the search.
        metric: ``auroc``, ``synthetic``, or for a backbone ``loss``; None: the first where dev has normal and anomalous
            photos, else the second.
        second: What is to be small beside it, so that the report shows a front; None: nothing.
        num_trials: Trials in all, of all workers and of earlier runs.
        timeout: Seconds after which none is begun; None: no limit.
        storage: SQLAlchemy URL; None: an SQLite file in the folder.
        study: Name in that database; None: told from the detector and the photos.
        cache: Folder of the features; None: in the folder of the search.
        cache_budget: Bytes that it may hold.
        on: Where trials run. Other machines need a database that they reach, and must find the folder, the features and
            the photos under the same paths.
        device: Where the backbone runs.
        workers: Threads that decode.
        command: What the user asked, to be kept beside the numbers.
        is_concluded: Whether the winner is fitted, and judged on test.
        deadline: When no further trial is begun, in seconds since 1970; ``tune`` sets it.
    """

    config: Config
    data: Manifest
    out: Path
    metric: str | None = None
    second: Second | None = None
    num_trials: int = 100
    timeout: float | None = None
    storage: str | None = None
    study: str | None = None
    cache: Path | None = None
    cache_budget: int = DEFAULT_BUDGET
    on: Workers = HERE
    device: str = "cpu"
    workers: int = 2
    command: str = ""
    is_concluded: bool = True
    deadline: float | None = field(default=None, repr=False)

    @property
    def store(self) -> FeatureStore:
        """Where features are kept."""
        return FeatureStore(self.cache or self.out / FEATURES, budget_bytes=self.cache_budget)


def check_target(directory: Path) -> None:
    """Raises InlierError if a search cannot be written to this folder."""
    marker = RECORD if (directory / RECORD).exists() else DATABASE
    check_folder(directory, marker=marker, content="a search")


def tune(request: Request, *, progress: Progress = no_progress) -> tuple[dict[str, Any], list[tuple[Photo, str]]]:
    """Searches for the settings that tell photos of dev apart best, and judges the winner once on test.

    For a detector features are read once, and a trial fits and judges it on them, within the memory budget of the
    section ``fit``, which here holds for the whole process. A search that is interrupted, and asked for again with the
    same photos and settings, goes on. The winner is fitted as ``fit`` or ``finetune`` does, and measured on test as
    ``evaluate`` does, beside the settings that the search began from; once, as long as no trial is added.

    Returns:
        What ``tuning.json`` holds, and the photos that could not be read, each with the reason.

    Raises:
        ConfigError: The configuration, the space, the database or the cluster cannot be used, or the search was begun
            otherwise.
        ManifestError: There are no photos to learn from or to judge by.
        InlierError: Trial after trial fails.
        MissingExtraError: Optuna is not installed, or Ray where it is asked for.
    """
    check_target(request.out)
    with reached(request.on) as (num_nodes, num_workers):
        if num_nodes > 1 and (request.storage or "sqlite").startswith("sqlite"):
            raise ConfigError(
                f"The cluster has {num_nodes} nodes, and SQLite is for one: give --storage a database that all reach, "
                "such as postgresql+psycopg://USER@HOST/NAME."
            )
        return _tune(replace(request, on=replace(request.on, processes=num_workers)), progress)


def _tune(request: Request, progress: Progress) -> tuple[dict[str, Any], list[tuple[Photo, str]]]:
    if request.timeout is not None:
        request = replace(request, deadline=time.time() + request.timeout)
    request.out.mkdir(parents=True, exist_ok=True)
    is_tight = _is_tight(request.config)
    task, prepared = _apart(_prepare, request) if is_tight else _prepare(request, progress)
    search = _search(request, task)
    with open_study(search) as study:
        _run_all(request, task, prepared, search, study, progress)
        trials, weights = finished_trials(study), importances(study, seed=search.seed)
        baseline = fact(study, BASELINE)
    report = describe(task, search, trials, weights, baseline, second=request.second, command=request.command)
    unreadable: list[tuple[Photo, str]] = []
    is_known = recall_test(report, request.out)
    if request.is_concluded and not is_known and (report["best"] is not None or baseline["value"] is not None):
        config = task.resolve(settings(report))
        asked = (task, config, request.out, report["is_default"])
        concluded = _apart(_conclude, *asked) if is_tight else _conclude(*asked, progress)
        add_test(report, concluded)
        unreadable = list(concluded.unreadable)
    write_report(request.out, report)
    return report, unreadable


def work(request: Request, task: Task, prepared: Any) -> None:
    """Runs trials of a search until there are enough, the default settings first; any number of processes may."""
    search = _search(request, task)
    if _is_tight(request.config):
        release_promptly()
    with open_study(search) as study, task.open(prepared) as run:
        _work(request, task, run, search, study, lambda steps: None)


def _run_all(request: Request, task: Task, prepared: Any, search: Search, study: Any, progress: Progress) -> None:
    """Runs the trials: here, or if memory is tight or more workers are asked for, in these; then this one looks on."""
    advance = progress("Searching", request.num_trials)
    if request.on.is_here and not _is_tight(request.config):
        with task.open(prepared) as run:
            _work(request, task, run, search, study, advance)
        return
    told = 0

    def look() -> None:
        nonlocal told
        told = tell(study, search, told, advance)

    make, on = partial(_worker, request, task, prepared), replace(request.on, is_apart=True)
    with closing(map_items(make, range(on.processes), on=on, in_order=False, on_wait=look)) as workers:
        for _ in workers:
            look()


def _worker(request: Request, task: Task, prepared: Any) -> Callable[[int], None]:
    return lambda number: work(request, task, prepared)


def _work(request: Request, task: Task, run: Run, search: Search, study: Any, advance: Callable[[int], None]) -> None:
    once(study, BASELINE, lambda: _baseline(run, task))
    run_trials(search, study, lambda trial: _judge(request, task, run, trial), advance=advance)


def task_of(request: Request) -> Task:
    """What is searched: the training of a backbone where an objective is named, else a detector."""
    if "objective" in request.config.get("finetune", {}):
        from inlier.experiments.backbone_search import BackboneTask  # with it comes much that a detector needs not

        return BackboneTask.of(request.config, request.data, request.metric, request.device, request.workers)
    return DetectorTask.of(
        request.config, request.data, request.metric, request.store, request.device, request.workers, request.command
    )


def settings(report: Mapping[str, Any]) -> Config:
    """What to change of the settings that a search began from: nothing where these were best."""
    found: Config = {} if report["is_default"] else report["best"]["settings"]
    return found


def configure(task: Task, values: Any) -> Config:
    """The resolved configuration that proposed values are."""
    return task.resolve(to_sections(task.space, values))


def _search(request: Request, task: Task) -> Search:
    without_test = Manifest(tuple(photo for photo in request.data.photos if photo.split != "test"))
    photos = without_test.fingerprint()
    about = {
        "photos": photos,
        "settings": json.dumps({name: of for name, of in task.default.items() if name != "decide"}, sort_keys=True),
        "space": repr(task.space),
        "metric": task.metric,
        "second objective": request.second,
    }
    if request.second is not None and task.kind != "detector":
        raise ConfigError("A second objective is for detectors: what a backbone costs does not depend on its training.")
    seconds: tuple[Direction, ...] = ("minimize",) if request.second else ()
    return Search(
        storage=request.storage or f"sqlite:///{(request.out / DATABASE).absolute()}",
        name=request.study or f"{task.name} on {photos[:12]}",
        about=about,
        directions=(task.direction, *seconds),
        seed=task.seed,
        num_trials=request.num_trials,
        deadline=None if request.deadline is None else time.monotonic() + request.deadline - time.time(),
    )


def _is_tight(config: Config) -> bool:
    """Whether a detector is searched in so little memory that networks are best kept out of the way."""
    budget = config.get("fit", {}).get("memory_budget")
    is_detector = "objective" not in config.get("finetune", {})
    return is_detector and budget is not None and parse_bytes(str(budget)) < AMPLE_BYTES


def _prepare(request: Request, progress: Progress = no_progress) -> tuple[Task, Any]:
    task = task_of(request)
    return task, task.prepare(progress)


def _conclude(task: Task, config: Config, out: Path, is_default: bool, progress: Progress = no_progress) -> Conclusion:
    return task.conclude(config, out, is_default=is_default, progress=progress)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own, whose memory goes with it."""
    with closing(map_items(partial(_starred, function), [arguments], on=Workers(is_apart=True))) as calls:
        return next(calls)


def _starred(function: Callable[..., Any]) -> Callable[[Sequence[Any]], Any]:
    return lambda arguments: function(*arguments)


def _judge(request: Request, task: Task, run: Run, trial: Trial) -> Sequence[float]:
    """Runs one trial; of two values none can be pruned by."""
    config = configure(task, suggest(trial, task.space))
    outcome = run(config, trial.report if request.second is None else None)
    trial.note(**outcome.facts())
    assert outcome.value is not None  # only what was never run has none
    second = () if request.second is None else (outcome.facts()[SECONDS[request.second]],)
    return (outcome.value, *second)


def _baseline(run: Run, task: Task) -> dict[str, Any]:
    """How the settings do that the search begins from."""
    try:
        outcome = run(task.default, None)
    except ConfigError:  # they do not fit in the memory budget
        outcome = Outcome()
    return outcome.facts() | {"value": outcome.value}
