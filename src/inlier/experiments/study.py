"""study(): the whole grid, each cell once, and what it shows; it goes on where it stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from inlier.decision.study_page import write_study_page
from inlier.errors import InlierError
from inlier.experiments.study_jobs import (
    Bench,
    backbone_key,
    cell_key,
    is_done,
    read_data,
    run_cell,
    train_backbone,
)
from inlier.experiments.study_pictures import Pictures, add_galleries, add_map, add_patches
from inlier.experiments.study_plan import BackbonePlan, Cell, Study
from inlier.experiments.study_tables import describe_study, write_tables
from inlier.features.arrangement import check_extra
from inlier.features.store import DEFAULT_BUDGET
from inlier.outputs import as_text, check_folder, write_whole
from inlier.scale import HERE, Workers, map_items
from inlier.workflow import Progress, no_progress

if sys.platform != "win32":
    import fcntl

RECORD, PAGE = "study.json", "study.html"
_LOCK = ".running"

Job = BackbonePlan | Cell


def run_study(
    plan: Study,
    out: Path,
    *,
    on: Workers = HERE,
    cache_budget: int = DEFAULT_BUDGET,
    device: str = "cpu",
    workers: int = 2,
    command: str = "",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Trains the backbones, fits and evaluates every cell, and writes tables, figures and one page of all of it.

    A backbone is trained as by ``finetune``, a cell fitted as by ``fit`` and measured as by ``evaluate``, on dev and on
    test; each leaves its folder, and one that is complete for what is asked now is not done again.

    Args:
        plan: What is to be done.
        out: Folder of the study.
        on: Where jobs are done. Machines other than this one must find the folder and the photos under the same paths.
        cache_budget: Bytes that features may take on disk.
        device: Where backbones run.
        workers: Threads that decode, for each job.
        command: What the user asked, to be kept beside the numbers.
        progress: Told how far it is.

    Returns:
        What ``study.json`` holds.

    Raises:
        ManifestError: A data set cannot be read, or lacks what a job needs.
        ConfigError: A job's configuration cannot be used.
        InlierError: The folder holds something else, or another process is at this study.
        MissingExtraError: Something is asked for that needs an extra.
    """
    check_target(out)
    if plan.map_of is not None:
        check_extra()
    fingerprints = {name: read_data(of).fingerprint() for name, of in plan.datasets.items()}
    bench = Bench(plan, out, fingerprints, device, workers, cache_budget, command)
    with _alone(out):
        _run_jobs(bench, on, progress)
        report, pictures = describe_study(bench), Pictures()
        add_patches(bench, report, pictures, progress)
        add_galleries(bench, report, pictures, progress)
        add_map(bench, report, progress)
        _write(out, report, pictures)
    return report


def check_target(directory: Path) -> None:
    """Raises InlierError if a study cannot be written to this folder."""
    marker = RECORD if (directory / RECORD).exists() else _LOCK
    check_folder(directory, marker=marker, content="a study")


def _run_jobs(bench: Bench, on: Workers, progress: Progress) -> None:
    """Backbones first, since cells need them; then cells, data set by data set."""
    backbones = [plan for plan in bench.study.backbones.values() if plan.objective is not None]
    cells: list[Job] = [*bench.study.cells]
    for name, jobs in (("Training backbones", [*backbones]), ("Running cells", cells)):
        left = [job for job in jobs if not _is_done(bench, job)]
        advance = progress(name, len(jobs))
        advance(len(jobs) - len(left))
        for _ in map_items(partial(_worker, bench, on), left, on=on, in_order=False):
            advance(1)


def _is_done(bench: Bench, job: Job) -> bool:
    if isinstance(job, Cell):
        return is_done(bench.cell_folder(job), cell_key(bench, job))
    return is_done(bench.backbone_folder(job.name), backbone_key(bench, job))


def _do(bench: Bench, job: Job) -> None:
    """Does a job; what users can mend then names it."""
    try:
        if isinstance(job, Cell):
            run_cell(bench, job, no_progress)
        else:
            train_backbone(bench, job, no_progress)
    except InlierError as error:
        raise type(error)(f"{job.name}: {error}") from error


def _worker(bench: Bench, on: Workers) -> Callable[[Job], None]:
    """What a process does with jobs; processes share the cores."""
    if not on.is_here:
        torch.set_num_threads(min(on.num_threads, torch.get_num_threads()))
    return partial(_do, bench)


def _write(out: Path, report: dict[str, Any], pictures: Pictures) -> None:
    try:
        write_tables(out, report)
        write_study_page(out / PAGE, title=report["name"], report=report, pictures=pictures)
        write_whole(out / RECORD, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps others from the same study; who is killed leaves nothing that keeps anyone."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error
    try:
        _lock(file, out)
        yield
    finally:
        os.close(file)


def _lock(file: int, out: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InlierError(f"Another process is running the study in {as_text(out)}.") from error
    except OSError:
        return  # a network drive without locks
