"""Compares models on the same labelled photos: which is better, by how much, and whether that is real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inlier.data.manifest import Manifest, Photo, Split
from inlier.decision.compare import LEVEL, Difference, compare_aurocs
from inlier.decision.comparison_page import write_comparison
from inlier.decision.intervals import MIN_GROUPS, Interval, num_effective_groups
from inlier.decision.metrics import shortcut_note
from inlier.errors import InlierError, ManifestError
from inlier.evaluation import Evaluation, evaluate, label_of
from inlier.model import Model, package_versions
from inlier.outputs import as_text, check_folder
from inlier.workflow import Progress, no_progress

_RECORD = "comparison.json"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came of comparing models.

    Attributes:
        metrics: What ``comparison.json`` holds: the models, each pair of them, and sentences.
        table: One row for each photo that all could read: path, label, is_anomalous, group, and a score of each model.
        unreadable: The other photos, each with the reason.
    """

    metrics: dict[str, Any]
    table: pa.Table
    unreadable: tuple[tuple[Photo, str], ...]


def compare(
    models: Mapping[str, Model],
    data: Manifest,
    *,
    split: Split = "test",
    seed: int = 0,
    workers: int = 2,
    command: str = "",
    progress: Progress = no_progress,
) -> Comparison:
    """Scores the labelled photos of a split with each model, and tests whether their image AUROCs differ.

    Every model is measured on the same photos; one that cannot be read for a model is left out for all. See
    ``decision/compare.py`` for the tests.

    Args:
        models: Two or more, fitted, by the names that the result calls them.
        data: Photos with labels.
        split: Which of them.
        seed: Of the resampling.
        workers: Threads that decode.
        command: What the user asked, to be kept beside the numbers.
        progress: Told how far it is.

    Raises:
        ValueError: There are fewer than two models.
        ManifestError: The split lacks normal or anomalous photos, or a mask cannot be read.
        InlierError: Of the normal or of the anomalous photos none could be read.
    """
    if len(models) < 2:
        raise ValueError(f"models of compare must be at least 2, got {len(models)}.")
    _check_labels([photo.is_anomalous for photo in data.select(split).photos], split)
    evaluations = {
        name: evaluate(
            model,
            data,
            split=split,
            seed=seed,
            workers=workers,
            progress=lambda task, total, name=name: progress(f"{task} {name}", total),  # type: ignore[misc]
        )
        for name, model in models.items()
    }
    unreadable = {photo: reason for of in evaluations.values() for photo, reason in of.unreadable}
    photos = [photo for photo in next(iter(evaluations.values())).photos if photo not in unreadable]
    is_anomalous = np.array([bool(photo.is_anomalous) for photo in photos], dtype=np.bool_)
    if not 0 < is_anomalous.sum() < len(photos):
        raise InlierError(f"Of the normal or of the anomalous photos of the split {split} none could be read.")
    scores = np.array([_scores(of, photos) for of in evaluations.values()])
    groups = [as_text(photo.group) for photo in photos]
    singles, differences = compare_aurocs(scores, is_anomalous, groups, seed=seed)
    names = list(models)
    metrics = {
        "split": split,
        "command": as_text(command),
        "data_fingerprint": data.fingerprint(),
        "seed": seed,
        "versions": package_versions(),
        "num_unreadable": len(unreadable),
        "num_normal": int((~is_anomalous).sum()),
        "num_anomalous": int(is_anomalous.sum()),
        "models": [
            _facts(name, model, auroc, evaluations[name])
            for (name, model), auroc in zip(models.items(), singles, strict=True)
        ],
        "pairs": [_pair(difference, names, len(differences)) for difference in differences],
        "verdict": verdict(singles, differences, names),
        "notes": _notes(models, evaluations, photos, singles),
    }
    return Comparison(metrics, _table(photos, groups, dict(zip(names, scores, strict=True))), tuple(unreadable.items()))


def write_to_folder(comparison: Comparison, directory: Path) -> None:
    """Writes ``comparison.json``, ``scores.parquet`` and ``comparison.html``.

    Raises:
        InlierError: The folder cannot be written.
    """
    check_target(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / _RECORD).write_text(text + "\n", encoding="utf-8")
        pq.write_table(comparison.table, directory / "scores.parquet")
        write_comparison(directory / "comparison.html", title="Comparison", metrics=comparison.metrics)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error


def check_target(directory: Path) -> None:
    """Raises InlierError if a comparison cannot be written to this folder."""
    check_folder(directory, marker=_RECORD, content="a comparison")


def model_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as much of the end of its path as tells it from the others, numbered where it recurs."""
    parts = [folder.absolute().parts for folder in folders]
    names: list[str] = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        name = as_text("/".join(own[-length:]))
        times = sum(earlier == own for earlier in parts[: len(names)])
        names.append(f"{name} ({times + 1})" if times else name)
    return names


def verdict(singles: Sequence[Interval], differences: Sequence[Difference], names: Sequence[str]) -> str:
    """One sentence on all models: of two that of the pair, of more what the best of them is better than."""
    if len(names) == 2:
        return sentence(differences[0], names, 1)
    if all(of.is_same for of in differences):
        return f"All {len(names)} models score every photo alike."
    if not any(of.is_real for of in differences):
        return f"No difference between the {len(names)} models was found."
    best = max(range(len(names)), key=lambda number: singles[number].value)
    worse = [of.behind for of in differences if of.is_real and of.ahead == best]
    if len(worse) == len(names) - 1:
        return f"{names[best]} is better than each of the other {len(worse)} models."
    rest = _listed([name for number, name in enumerate(names) if number not in (best, *worse)])
    better = f" It is better than {_listed([names[number] for number in worse])}; no" if worse else " No"
    highest = f"{names[best]} has the highest AUROC, {singles[best].value:.3f}."
    return f"{highest}{better} difference from {rest} was found."


def sentence(difference: Difference, names: Sequence[str], num_pairs: int) -> str:
    """What was found of a pair of models, in points: hundredths of AUROC."""
    ahead, behind, gain = names[difference.ahead], names[difference.behind], difference.gain
    if difference.is_same:
        return f"{ahead} and {behind} score every photo alike."
    interval = f"95 % interval {_points(gain.low)} to {_points(gain.high)}"
    corrected = f", Holm-corrected over {num_pairs} comparisons" if num_pairs > 1 else ""
    if difference.p_value <= 1 - LEVEL < difference.p_holm:
        corrected += f"; {_p(difference.p_value)} alone"
    sure = f"{interval} ({_p(difference.p_holm)}{corrected})."
    if difference.is_real:
        return f"{ahead} is better than {behind} by {_points(gain.value)} points, {sure}"
    lead = f"{ahead} is ahead by {_points(gain.value)} points" if gain.value > 0 else "neither is ahead"
    return f"No difference between {ahead} and {behind} was found: {lead}, {sure}"


def _points(auroc: float) -> str:
    return f"{round(100 * auroc, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _scores(evaluation: Evaluation, photos: Sequence[Photo]) -> list[float]:
    of_photo = dict(zip(evaluation.photos, evaluation.scores.tolist(), strict=True))
    return [of_photo[photo] for photo in photos]


def _facts(name: str, model: Model, auroc: Interval, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "name": name,
        "identity": model.identity,
        "detector": model.config["fit"]["detector"],
        "backbone": model.config["backbone"]["name"],
        "fitted_on": model.facts.get("data_fingerprint"),
        "image_auroc": auroc.to_json(),
        "aupro_03": evaluation.metrics["aupro_03"],
    }


def _pair(difference: Difference, names: Sequence[str], num_pairs: int) -> dict[str, Any]:
    return {
        "ahead": names[difference.ahead],
        "behind": names[difference.behind],
        "gain": difference.gain.to_json(),
        "p_value": difference.p_value,
        "p_holm": difference.p_holm,
        "is_real": difference.is_real,
        "delong": {"p_value": difference.delong_p},
        "bootstrap": {**difference.resampled.to_json(), "p_value": difference.bootstrap_p},
        "sentence": sentence(difference, names, num_pairs),
    }


def _table(photos: Sequence[Photo], groups: Sequence[str], scores: Mapping[str, Any]) -> pa.Table:
    return pa.table(
        {
            "path": [as_text(photo.path) for photo in photos],
            "label": [label_of(photo) for photo in photos],
            "is_anomalous": [bool(photo.is_anomalous) for photo in photos],
            "group": list(groups),
            **{f"score_{name}": of_model for name, of_model in scores.items()},
        }
    )


def _notes(
    models: Mapping[str, Model],
    evaluations: Mapping[str, Evaluation],
    photos: Sequence[Photo],
    singles: Sequence[Interval],
) -> list[str]:
    """What a reader must not miss: unfair leads, shortcuts, and too few photos."""
    shown = {as_text(photo.path) for photo in photos}
    notes = []
    for name, model in models.items():
        if num_seen := len(shown & {as_text(path) for path in model.references.names}):
            notes.append(f"{name} was fitted on {num_seen} of these photos, which flatters it.")
    if len({model.facts.get("data_fingerprint") for model in models.values()}) > 1:
        notes.append("The models were not fitted on the same photos: the difference is not one of method alone.")
    best = max(range(len(singles)), key=lambda number: singles[number].value)
    trivial = list(evaluations.values())[best].metrics["trivial"]
    if shortcut := shortcut_note(singles[best].to_json(), trivial):
        notes.append(shortcut)
    for kind, flag in (("normal", False), ("anomalous", True)):
        groups = [photo.group for photo in photos if photo.is_anomalous == flag]
        worth = num_effective_groups(np.array(groups, dtype=np.str_))
        if worth < MIN_GROUPS:
            as_many = f", worth {worth:.1f} independent ones by their groups" if worth < len(groups) - 0.05 else ""
            notes.append(f"Of {kind} photos there are {len(groups)}{as_many}: only a large difference can be found.")
    return notes


def _check_labels(flags: Sequence[bool | None], split: str) -> None:
    missing = [kind for kind, flag in (("normal", False), ("anomalous", True)) if flag not in flags]
    if missing:
        raise ManifestError(
            f"The split {split} has no {' and no '.join(missing)} photos, and models are compared on both kinds; "
            "--split names another."
        )
