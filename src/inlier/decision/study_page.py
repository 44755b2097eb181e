"""The page of a whole study: what the thesis's figures and tables show, of any grid of cells, in one HTML file.

The figures are SVG written by the template, as on the evaluation page; only the maps are drawn by a script.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier.decision.pages import write_page
from inlier.decision.study_figures import (
    TASKS,
    Names,
    auroc_bars,
    by_dataset,
    flagged_shares,
    forest,
    gains_over_frozen,
    layer_boxes,
    linked_maps,
    pair_matrices,
    read_names,
    roc_curves,
)

_SECTIONS = {
    "data": "What was measured",
    "bars": "How well each cell tells them apart",
    "gains": "What adapting the backbone brings",
    "pairs": "Which cells really differ",
    "losses": "What each backbone’s loss says",  # noqa: RUF001
    "maps": "How each backbone sees the photos",
    "galleries": "Where the models err",
    "boxes": "Which layers to use",
    "tables": "Every result",
    "patches": "How large a patch should be",
    "confusions": "What is flagged, class by class",
    "rocs": "False alarms against anomalies found",
    "source": "Where these numbers come from",
}
_TABLES = ("cells", "rows", "pairs", "losses", "boxes", "patches", "confusions", "rocs")


def write_study_page(path: Path, *, title: str, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write the page of a study; what the report holds nothing of is left out.

    Args:
        path: The HTML file. Its links lead to tables named ``cells.csv``, ``rows.csv`` … and to the cells' folders
            beside it.
        title: Heading of the page.
        report: What ``study.json`` holds.
        pictures: WebP files by the keys that the report's galleries and patches name; where one is missing, its
            place stays empty.

    Raises:
        ValueError: If the maps do not show the same photos.
    """
    names = read_names(report)
    gains = gains_over_frozen(report, names)
    shown = _shown(report, names, gains)
    sentences = [*_gain_sentences(gains, names), *_best_sentences(report, names), *_test_sentences(report)]

    def picture(key: str | None) -> str:
        return base64.b64encode(pictures.get(key or "", b"")).decode("ascii")

    write_page(
        path,
        "study.html",
        styles=("page.css", "study.css"),
        script="study.js",
        libraries=("map_panel.js",) if shown["maps"] else (),
        values={
            "title": title,
            "report": report,
            "names": names,
            "verdict": sentences[0] if sentences else title,
            "sentences": sentences[1:],
            "size": _size(report),
            "headings": {key: heading for key, heading in _SECTIONS.items() if shown[key]},
            "files": [f"{name}.csv" for name in _TABLES if report[name]],
            "picture": picture,
            "duration": duration,
            **shown,
        },
    )


def _shown(report: Mapping[str, Any], names: Names, gains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each section draws, in their order; empty or None where it is left out."""
    return {
        "data": report["datasets"] or report["backbones"],
        "bars": auroc_bars(report, names),
        "gains": forest(gains, names),
        "pairs": pair_matrices(report, names),
        "losses": _losses(report, names),
        "maps": linked_maps(report, names),
        "galleries": _galleries(report, names),
        "boxes": layer_boxes(report, names),
        "tables": _tables(report, names),
        "patches": report["patches"],
        "confusions": flagged_shares(report, names),
        "rocs": roc_curves(report, names),
        "source": True,
    }


def _size(report: Mapping[str, Any]) -> str:
    counts = (("datasets", "data set"), ("backbones", "backbone"), ("detectors", "detector"), ("seeds", "seed"))
    grid = [_count(len(report[key]), noun) for key, noun in counts if report[key]]
    cells = f"{_count(len(report['cells']), 'cell')}, {duration(report['seconds'])}."
    return f"{' × '.join(grid)}: {cells}" if grid else cells  # noqa: RUF001


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """A span of time as readers say it."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return _count(round(seconds), "second")
    minutes = round(seconds / 60)
    if minutes < 100:
        return _count(minutes, "minute")
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _best_sentences(report: Mapping[str, Any], names: Names) -> list[str]:
    """The best cell of each task by its test score; of each task, means over data sets, else each data set's rows."""
    sentences = []
    for task, title in TASKS.items():
        sets = [of["name"] for of in report["datasets"] if of["task"] == task]
        means = [of for of in report["means"] if of["task"] == task and of["test"] is not None]
        if means:
            where = f" of {names.datasets[sets[0]]}" if len(sets) == 1 else f", on average over {len(sets)} data sets"
            sentences.append(_best_sentence(title.partition(":")[0], where, means, names))
    if not sentences:
        rows = [of for of in report["rows"] if of["test"] is not None]
        sentences = [_best_sentence(names.datasets[n], "", of, names) for n, of in by_dataset(rows, names).items()]
    return sentences


def _best_sentence(name: str, where: str, entries: Sequence[Mapping[str, Any]], names: Names) -> str:
    best = max(entries, key=lambda of: of["test"]["mean"])
    look = names.backbones[best["backbone"]]
    subject = f"{name}: {best['detector']} on {look.title}"
    reached = f"an AUROC of {_interval(best['test'])} on the test photos{where}"
    if len(entries) == 1:
        return f"{subject} reaches {reached}."
    sentence = f"{subject} is the best of {len(entries)}, with {reached}."
    frozen = [of for of in entries if names.backbones[of["backbone"]].is_frozen]
    if look.is_frozen or not frozen:
        return sentence
    other = max(frozen, key=lambda of: of["test"]["mean"])
    return f"{sentence} With a frozen backbone, {other['detector']} is best, with {_interval(other['test'])}."


def _interval(test: Mapping[str, float | None]) -> str:
    if test["low"] is None or test["high"] is None:
        return f"{test['mean']:.3f}"
    return f"{test['mean']:.3f} ({test['low']:.3f} to {test['high']:.3f})"


def _gain_sentences(gains: Sequence[Mapping[str, Any]], names: Names) -> list[str]:
    """Whether a fine-tuned backbone beats a frozen one; nothing where none was compared."""
    if not gains:
        return []
    ahead = [of for of in gains if of["is_real"] and of["gain"]["value"] > 0]
    num_behind = sum(of["is_real"] and of["gain"]["value"] < 0 for of in gains)
    tests = _count(len(gains), "paired test")
    if not ahead:
        reason = f"none of {tests} speaks for it"
        if num_behind:
            reason += f", and {num_behind} {'is' if num_behind == 1 else 'are'} against it"
        if len(gains) == 1:
            reason = f"the one paired test {'speaks against' if num_behind else 'does not speak for'} it"
        return [f"No fine-tuned backbone is shown to beat the frozen one: {reason}."]
    best = max(ahead, key=lambda of: of["gain"]["value"])
    low, value, high = (f"{100 * best['gain'][key]:.1f}".replace("-", "−") for key in ("low", "value", "high"))  # noqa: RUF001
    behind = f" and falls behind it in {num_behind}" if num_behind else ""
    return [
        f"A fine-tuned backbone beats the frozen one in {len(ahead)} of {tests}{behind}.",
        f"It gains most with {best['title']} under {best['detector']} on {names.datasets[best['dataset']]}: "
        f"{value} points of AUROC ({low} to {high}).",
    ]


def _test_sentences(report: Mapping[str, Any]) -> list[str]:
    if not report["pairs"]:
        return []
    num_real = sum(pair["is_real"] for pair in report["pairs"])
    are = "is" if num_real == 1 else "are"
    return [f"{num_real} of {_count(len(report['pairs']), 'paired test')} {are} real after Holm’s adjustment."]  # noqa: RUF001


def _losses(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """A row for each backbone and data set, with its loss on normal and on anomalous photos."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for of in report["losses"]:
        row = found.setdefault((of["backbone"], of["dataset"]), {**of, "normal": None, "anomalous": None})
        row["anomalous" if of["is_anomalous"] else "normal"] = of
    return [
        {
            "title": names.backbones[backbone].title,
            "color": names.backbones[backbone].color,
            "trained_on": names.datasets.get(row["trained_on"], row["trained_on"]),
            "dataset": names.datasets[dataset],
            **{key: row[key] for key in ("objective", "normal", "anomalous")},
            "ratio": _ratio(row, "loss"),
            "frozen_ratio": _ratio(row, "frozen_loss"),
        }
        for (backbone, dataset), row in found.items()
    ]


def _ratio(row: Mapping[str, Any], key: str) -> float | None:
    """How many times larger the loss is on anomalous photos; None where one is unknown."""
    if not row["normal"] or not row["anomalous"]:
        return None
    normal, anomalous = row["normal"][key], row["anomalous"][key]
    return anomalous / normal if normal and anomalous is not None else None


def _galleries(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    found = []
    for name, entries in by_dataset(report["galleries"], names).items():
        models = [{**of, **names.describe(of)} for of in entries if of["most_normal_flagged"] or of["least_anomalous"]]
        found += [{"dataset": names.datasets[name], "models": models}] if models else []
    return found


def _tables(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """A table of each task: its rows, the best of each data set marked, and their cells."""
    tasks = {of["name"]: of["task"] for of in report["datasets"]}
    found = []
    for task, number in zip(TASKS, ("C.1", "C.2"), strict=True):
        rows = []
        for entries in by_dataset((of for of in report["rows"] if tasks.get(of["dataset"]) == task), names).values():
            best = max((of["test"]["mean"] for of in entries if of["test"]), default=None)
            is_best = [len(entries) > 1 and bool(of["test"]) and of["test"]["mean"] == best for of in entries]
            rows += [_row(of, names) | {"is_best": marked} for of, marked in zip(entries, is_best, strict=True)]
        cells = by_dataset((of for of in report["cells"] if tasks.get(of["dataset"]) == task), names).values()
        shown = [_row(of, names) for entries in cells for of in sorted(entries, key=lambda of: _order(of, names))]
        if rows or shown:
            measures = [key for key in ("pixel_auroc", "aupro_03") if any(cell[key] for cell in shown)]
            found.append({"task": task, "number": number, "rows": rows, "cells": shown, "measures": measures})
    return found


def _row(entry: Mapping[str, Any], names: Names) -> dict[str, Any]:
    trained_on = names.backbones[entry["backbone"]].trained_on
    return {**entry, **names.describe(entry), "where": names.datasets[entry["dataset"]], "trained_on": trained_on}


def _order(cell: Mapping[str, Any], names: Names) -> tuple[tuple[int, int], int]:
    return names.order(cell), cell["seed"]
