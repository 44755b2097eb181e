"""tune(): a search for settings, its winner fitted as by hand, and judged once on test."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inlier.build import parse_bytes
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError
from inlier.experiments.backbone_search import BackboneTask
from inlier.experiments.detector_search import DetectorTask
from inlier.experiments.memory import release_promptly
from inlier.experiments.outcome import SECONDS, Outcome, Run, Second, Task
from inlier.experiments.search_report import RECORD, add_test, describe, write_report
from inlier.experiments.spaces import suggest, to_sections
from inlier.experiments.tuning import (
    Direction,
    Search,
    Trial,
    finished_trials,
    importances,
    once,
    open_study,
    run_trials,
)
from inlier.features.store import DEFAULT_BUDGET, FeatureStore
from inlier.outputs import check_folder
from inlier.workflow import Progress, no_progress

AMPLE_BYTES = 2 * 2**30
"""Memory budget from which on a process need not be sparing."""

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
        num_processes: Workers on this machine, this process among them.
        device: Where the backbone runs.
        workers: Threads that decode.
        command: What the user asked, to be kept beside the numbers.
        is_concluded: Whether the winner is fitted, and judged on test.
        deadline: When no further trial is begun, on this machine's monotonic clock; ``tune`` sets it.
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
    num_processes: int = 1
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
    ``evaluate`` does, beside the settings that the search began from.

    Returns:
        What ``tuning.json`` holds, and the photos that could not be read, each with the reason.

    Raises:
        ConfigError: The configuration, the space or the database cannot be used, or the search was begun otherwise.
        ManifestError: There are no photos to learn from or to judge by.
        InlierError: Trial after trial fails.
        MissingExtraError: Optuna is not installed.
    """
    check_target(request.out)
    if request.timeout is not None:
        request = replace(request, deadline=time.monotonic() + request.timeout)
    task = task_of(request)
    search = _search(request, task)
    request.out.mkdir(parents=True, exist_ok=True)
    _save_memory(task)
    with open_study(search) as study:
        with task.open(progress) as run:
            baseline = once(study, "baseline", lambda: _baseline(run, task))
            others = _start_others(request)
            advance = progress("Searching", request.num_trials)
            try:
                run_trials(search, study, lambda trial: _judge(request, task, run, trial), advance=advance)
            finally:
                _await(others)
        trials, weights = finished_trials(study), importances(study, seed=search.seed)
    report = describe(task, search, trials, weights, baseline, second=request.second, command=request.command)
    unreadable: list[tuple[Photo, str]] = []
    if request.is_concluded and (report["best"] is not None or baseline["value"] is not None):
        config = task.resolve(settings(report))
        concluded = task.conclude(config, request.out, is_default=report["is_default"], progress=progress)
        add_test(report, concluded)
        unreadable = list(concluded.unreadable)
    write_report(request.out, report)
    return report, unreadable


def work(request: Request) -> None:
    """Runs trials of a search that another process has begun, until there are enough."""
    task = task_of(request)
    _save_memory(task)
    search = _search(request, task)
    with open_study(search) as study, task.open(no_progress) as run:
        run_trials(search, study, lambda trial: _judge(request, task, run, trial))


def task_of(request: Request) -> Task:
    """What is searched: the training of a backbone where an objective is named, else a detector."""
    if "objective" in request.config.get("finetune", {}):
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
        deadline=request.deadline,
    )


def _save_memory(task: Task) -> None:
    """Where memory is tight, has it given back as soon as it is free, which takes up to a third more time."""
    if parse_bytes(task.default["fit"]["memory_budget"]) < AMPLE_BYTES:
        release_promptly()


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


def _start_others(request: Request) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=work, args=(request,), daemon=True) for _ in range(request.num_processes - 1)]
    for other in others:
        other.start()
    return others


def _await(others: Sequence[Any]) -> None:
    """Workers end when there are enough trials; what hangs is ended."""
    for other in others:
        other.join(60)
        if other.is_alive():
            other.terminate()
