"""Reads any folder that a command wrote for a tracker, with the runs that it consists of; it stays the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inlier.errors import InlierError
from inlier.experiments.results import comparison_run, evaluation_metrics, evaluation_run, inspection_run, learned_run
from inlier.experiments.run import (
    Metric,
    Run,
    bullets,
    flat,
    interval,
    known,
    name_part,
    new_run,
    numbers,
    read_record,
    versions,
)
from inlier.folders import HEADER
from inlier.outputs import as_text, number_of


def read_run(folder: Path) -> Run:
    """What the folder that a command wrote has to tell.

    Args:
        folder: A MODEL or BACKBONE, or the results of ``evaluate``, ``compare``, ``inspect``, ``tune`` or ``study``.

    Raises:
        InlierError: It is none of these, not finished, or damaged.
    """
    for marker, read in _READERS.items():
        if (folder / marker).is_file():
            record = read_record(folder / marker)
            try:
                return read(folder, record)
            except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
                raise InlierError(f"{as_text(folder)} is damaged: {marker} is not as inlier writes it.") from error
    raise InlierError(
        f"{as_text(folder)} is no run folder, which is one that inlier fit, finetune, evaluate, compare, inspect, tune "
        f"or study wrote: it holds none of {', '.join(_READERS)}."
    )


def tuning_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """What ``inlier tune`` wrote, with its ``tuning.json``: a run for the search, and one for each trial."""
    best, baseline, trials = record.get("best") or {}, record.get("baseline") or {}, record.get("trials") or ()
    asked = ("name", "kind", "metric", "direction", "second", "seed", "memory_budget")
    tested = {f"test.{name}": of for name, of in (record.get("test") or {}).items()} | {
        f"test_of_default.{name}": of for name, of in (record.get("test_of_default") or {}).items()
    }
    metrics = [
        *numbers({f"best.{name}": value for name, value in best.items() if name != "number"}),
        *numbers({f"baseline.{name}": value for name, value in baseline.items()}),
        *numbers({f"num_{state}": number for state, number in (record.get("counts") or {}).items()}),
        *numbers({"seconds": record.get("seconds"), "test.gain": record.get("gain")} | tested),
        *_metrics_in(folder / "evaluation", "test."),
        *_best_so_far(trials, is_lower_better=record.get("direction") == "minimize"),
    ]
    run = new_run(
        folder,
        "tuning",
        "tuning.json",
        seconds=record.get("seconds"),
        params=known(**{key: record.get(key) for key in asked}) | flat(best.get("params") or {}, "best."),
        metrics=_once(metrics),
        tags=known(
            command=record.get("command"),
            data_fingerprint=record.get("data_fingerprint"),
            best_trial=best.get("number"),
        )
        | versions(record),
        note=_search_note(record, best, baseline),
        model=_model_in(folder),
    )
    files = (*run.artifacts, *_files_in(folder / "evaluation", "metrics.json"))
    return replace(run, artifacts=files, children=tuple(_trials(run, trials)))


def _search_note(record: Mapping[str, Any], best: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    counts = record.get("counts") or {}
    ended = ", ".join(f"{counts.get(state, 0)} {state}" for state in ("complete", "pruned", "failed"))
    whole = number_of(len(record.get("trials") or ()), "trial")
    lines = [f"Search of the settings of **{record.get('name')}** by {record.get('metric')} on dev, {whole}: {ended}."]
    if best.get("value") is not None:
        default = baseline.get("value")
        against = "" if default is None else f"; the default settings reach {default:.4f}"
        lines.append(f"Best is trial {best.get('number')} with **{best['value']:.4f}**{against}.")
    if auroc := (record.get("test") or {}).get("image_auroc"):
        lines.append(f"On test its image AUROC is **{interval(auroc)}**.")
    if gain := record.get("gain"):
        lines.append(f"Over the default that is a gain of {interval(gain)}.")
    return " ".join(lines) + bullets(record.get("notes") or ())


def _best_so_far(trials: Sequence[Mapping[str, Any]], *, is_lower_better: bool) -> Iterator[Metric]:
    best: float | None = None
    for trial in sorted(trials, key=lambda trial: int(trial["number"])):
        value = trial.get("value")
        if trial.get("state", "complete") != "complete" or value is None:
            continue
        best = value if best is None else min(best, value) if is_lower_better else max(best, value)
        yield from numbers({"best_so_far": best}, step=int(trial["number"]))


def _trials(search: Run, trials: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    """A run for each trial; those of one worker follow one another, as only how long each took is known."""
    next_of: defaultdict[str, float] = defaultdict(lambda: search.began)
    for trial in sorted(trials, key=lambda trial: int(trial["number"])):
        worker = str(trial.get("worker") or "")
        began = next_of[worker]
        next_of[worker] = ended = began + float(trial.get("seconds") or trial.get("fit_seconds") or 0.0)
        measured = ("value", "fit_seconds", "latency_ms", "peak_bytes", "predicted_bytes", "seconds")
        reduced = ", ".join(map(str, trial.get("reduced") or ()))
        yield Run(
            name=f"trial {trial['number']}",
            kind="trial",
            folder=search.folder,
            params=flat(trial.get("params") or {}),
            metrics=tuple(numbers({name: trial.get(name) for name in measured})),
            tags=known(number=trial["number"], state=trial.get("state"), worker=worker, reduced=reduced),
            began=began,
            ended=ended,
        )


def study_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """What ``inlier study`` wrote, with its ``study.json``: a run for the whole, and one for each cell."""
    cells = record.get("cells") or ()
    means = {
        f"mean.{'.'.join(name_part(of.get(key, '')) for key in ('task', 'detector', 'backbone'))}": of["test"]
        for of in record.get("means") or ()
        if of.get("test")
    }
    means = {name: of | {"value": of.get("mean", of.get("value"))} for name, of in means.items()}
    pairs = record.get("pairs") or ()
    counts = {"num_cells": len(cells), "seconds": record.get("seconds")}
    counts |= {"num_pairs": len(pairs), "num_real_pairs": sum(bool(of.get("is_real")) for of in pairs)} if pairs else {}
    of_sets = [str(of.get("name") if isinstance(of, Mapping) else of) for of in record.get("datasets") or ()]
    run = new_run(
        folder,
        "study",
        "study.json",
        seconds=record.get("seconds"),
        params=known(name=record.get("name"), seeds=record.get("seeds"), datasets=", ".join(of_sets)),
        metrics=tuple(numbers(counts | means)),
        tags=known(command=record.get("command")) | versions(record),
        note=_study_note(record, cells, of_sets),
    )
    return replace(run, children=tuple(_cell(run, cell) for cell in cells))


def _study_note(record: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], of_sets: Sequence[str]) -> str:
    lines = []
    for name in of_sets:
        of_set = [cell for cell in cells if cell.get("dataset") == name and (cell.get("dev") or {}).get("value")]
        if of_set:
            best = max(of_set, key=lambda cell: float(cell["dev"]["value"]))
            lines.append(f"{name}: best on dev is {best['name']}, which reaches {interval(best.get('test'))} on test")
    whole = f"Study **{record.get('name')}** of {number_of(len(cells), 'cell')}, each a run below."
    return whole + bullets([*lines, *(record.get("notes") or ())])


def _cell(study: Run, cell: Mapping[str, Any]) -> Run:
    """A cell: its numbers from its evaluations where these are there, else from the study's table."""
    folder = study.folder / str(cell.get("folder") or "")
    has_folder = folder != study.folder and folder.is_dir()
    rest = {key: of for key, of in cell.items() if key not in ("dev", "test", "seed")}
    metrics = [*numbers(rest), *numbers({f"{split}.image_auroc": cell.get(split) for split in ("dev", "test")})]
    files: list[Path] = []
    search: tuple[Run, ...] = ()
    if has_folder:
        for split in ("dev", "test"):
            metrics += _metrics_in(folder / split, f"{split}.")
            files += _files_in(folder / split, "metrics.json")
        if (folder / "search" / "tuning.json").is_file():
            search = (replace(read_run(folder / "search"), name=f"search of {cell['name']}"),)
    asked = ("dataset", "backbone", "detector", "seed")
    return Run(
        name=str(cell["name"]),
        kind="cell",
        folder=folder if has_folder else study.folder,
        params=known(**{key: cell.get(key) for key in asked}) | _config_in(folder / "model"),
        metrics=_once(metrics),
        tags=known(**{key: cell.get(key) for key in asked}),
        note=f"Image AUROC on dev {interval(cell.get('dev'))}, on test **{interval(cell.get('test'))}**.",
        artifacts=tuple(files),
        model=_model_in(folder) if has_folder else None,
        began=min([path.stat().st_mtime for path in files], default=study.began),
        ended=max([path.stat().st_mtime for path in files], default=study.ended),
        children=search,
    )


def _once(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The last of each name and step, which is that of the evaluation's own file."""
    return tuple({(name, step): (name, value, step) for name, value, step in metrics}.values())


def _metrics_in(folder: Path, prefix: str) -> list[Metric]:
    marker = folder / "metrics.json"
    return [*evaluation_metrics(read_record(marker), prefix)] if marker.is_file() else []


def _files_in(folder: Path, marker: str) -> tuple[Path, ...]:
    return new_run(folder, "", marker).artifacts if (folder / marker).is_file() else ()


def _model_in(folder: Path) -> Path | None:
    return folder / "model" if (folder / "model" / HEADER).is_file() else None


def _config_in(folder: Path) -> dict[str, str]:
    return flat(read_record(folder / HEADER).get("config") or {}) if (folder / HEADER).is_file() else {}


_READERS = {
    "study.json": study_run,
    "tuning.json": tuning_run,
    "comparison.json": comparison_run,
    "inspection.json": inspection_run,
    "metrics.json": evaluation_run,
    HEADER: learned_run,
}
"""What reads a folder, by the file that tells what it holds."""
