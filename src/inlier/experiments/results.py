"""Reads the folders of single results for a tracker: a model, a backbone, numbers, verdicts."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier import adapted, folders, model
from inlier.errors import InlierError
from inlier.experiments.run import Metric, Run, bullets, flat, interval, known, name_part, new_run, numbers, versions
from inlier.outputs import as_text, number_of


def learned_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """A MODEL or a BACKBONE, which have the same marker."""
    return _backbone(folder) if record.get("kind") == adapted.KIND.name else _model(folder)


def _model(folder: Path) -> Run:
    loaded = model.Model.load(folder)  # nothing less than the whole knows its identity
    config, facts = loaded.config, loaded.facts
    photos = number_of(facts.get("num_fitted", 0), "normal photo")
    detector, backbone = config["fit"]["detector"], config["backbone"]["name"]
    note = f"**{detector}** on {backbone}, learned from {photos}, calibrated on {facts.get('num_calibration')}."
    tags = known(
        identity=loaded.identity,
        data_fingerprint=facts.get("data_fingerprint"),
        detector=detector,
        backbone=backbone,
        calibration=facts.get("calibration"),
    )
    return new_run(
        folder,
        "model",
        folders.HEADER,
        params=flat(config),
        metrics=tuple(numbers(facts)),
        tags=tags | versions(facts),
        note=note + bullets(loaded.notes),
        artifacts=(folder / folders.HEADER,),
        model=folder,
    )


def _backbone(folder: Path) -> Run:
    header = folders.read_header(folder, adapted.KIND)
    facts = header["facts"]
    gate = facts.get("gate") or {}
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        history = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    told = ("objective", "data_fingerprint", "num_photos", "num_labelled", "seed")
    tags = {"identity": header["identity"], "network": header.get("network")} | {key: facts.get(key) for key in told}
    tags |= {f"gate.{key}": gate.get(key) for key in ("verdict", "sentence")}
    note = f"**{header.get('network')}** adapted to {number_of(facts.get('num_photos', 0), 'photo')} by "
    return new_run(
        folder,
        "backbone",
        folders.HEADER,
        params=flat(header["config"]),
        metrics=(*_curves(history), *_gate(gate, step=len(history))),
        tags=known(**tags) | versions(facts),
        note=f"{note}{facts.get('objective')}. {gate.get('sentence') or ''}".rstrip(),
    )


def _curves(history: Sequence[Mapping[str, float]]) -> Iterator[Metric]:
    for row in history:
        of_step = {name: value for name, value in row.items() if name != "step"}
        yield from numbers(of_step, step=int(row["step"]))


def _gate(gate: Mapping[str, Any], *, step: int) -> Iterator[Metric]:
    for measure in gate.get("measures", ()):
        prefix = f"gate.{measure['kind'].replace(' ', '_')}."
        yield from numbers({key: measure.get(key) for key in ("frozen", "adapted", "gain")}, prefix, step)


def evaluation_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """What ``inlier evaluate`` wrote, with its ``metrics.json``."""
    where = f"{len(record['folds'])} folds" if "folds" in record else f"the split {record.get('split')}"
    photos = f"{record.get('num_normal')} normal and {record.get('num_anomalous')} anomalous photos of {where}"
    decide = ("split", "seed", "false_alarm_rate", "uncertain_rate")
    tags = known(
        command=record.get("command"),
        model=record.get("model"),
        data_fingerprint=record.get("data_fingerprint"),
        fitted_on=record.get("fitted_on"),
        trivial_statistic=(record.get("trivial") or {}).get("statistic"),
    )
    return new_run(
        folder,
        "evaluation",
        "metrics.json",
        params=known(**{key: record.get(key) for key in decide}),
        metrics=tuple(evaluation_metrics(record)),
        tags=tags | versions(record),
        note=f"Image AUROC **{interval(record.get('image_auroc'))}** on {photos}." + bullets(record.get("notes") or ()),
    )


def evaluation_metrics(record: Mapping[str, Any], prefix: str = "") -> Iterator[Metric]:
    """All that ``metrics.json`` measures; of the classes as ``class.LABEL.NAME``."""
    asked = ("seed", "false_alarm_rate", "uncertain_rate", "num_thresholds")
    yield from numbers({key: value for key, value in record.items() if key not in asked}, prefix)
    yield from numbers({"trivial_auroc": (record.get("trivial") or {}).get("auroc")}, prefix)
    for name, over in (record.get("over_folds") or {}).items():
        yield from numbers({f"{name}_folds_{key}": value for key, value in (over or {}).items()}, prefix)
    for label, of in (record.get("classes") or {}).items():
        of_class = f"{prefix}class.{name_part(label)}."
        yield from numbers(of, of_class)
        yield from numbers({f"num_{name}": number for name, number in (of.get("verdicts") or {}).items()}, of_class)


def comparison_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """What ``inlier compare`` wrote, with its ``comparison.json``."""
    metrics = [*numbers({key: record.get(key) for key in ("num_normal", "num_anomalous", "num_unreadable")})]
    for of in record["models"]:
        metrics += numbers(of, f"model.{name_part(of['name'])}.")
    for pair in record["pairs"]:
        prefix = f"pair.{name_part(pair['ahead'])} over {name_part(pair['behind'])}."
        metrics += numbers({key: pair.get(key) for key in ("gain", "p_value", "p_holm")}, prefix)
    tags = known(command=record.get("command"), data_fingerprint=record.get("data_fingerprint"))
    identities = {f"model.{name_part(of['name'])}": str(of.get("identity")) for of in record["models"]}
    return new_run(
        folder,
        "comparison",
        "comparison.json",
        params=known(split=record.get("split"), seed=record.get("seed")),
        metrics=tuple(metrics),
        tags=tags | identities | {"verdict": record["verdict"]} | versions(record),
        note=record["verdict"] + bullets(record.get("notes") or ()),
    )


def inspection_run(folder: Path, record: Mapping[str, Any]) -> Run:
    """What ``inlier inspect`` wrote, with its ``inspection.json``.

    Raises:
        InlierError: It is not finished.
    """
    counts = record.get("counts")
    if counts is None:
        raise InlierError(f"The inspection in {as_text(folder)} is not finished; give its command again.")
    photos, facts = sum(counts.values()), record.get("facts") or {}
    shares = {f"share_{name}": number / photos for name, number in counts.items()}
    shown = ", ".join(f"{number} {name}" for name, number in counts.items())
    return new_run(
        folder,
        "inspection",
        "inspection.json",
        params=flat(record.get("decide") or {}),
        metrics=(
            *numbers({"num_photos": photos} | {f"num_{name}": number for name, number in counts.items()}),
            *numbers(shares),
        ),
        tags=known(model=record.get("model"), fitted_on=facts.get("data_fingerprint")) | versions(facts),
        note=f"{number_of(photos, 'photo')}: {shown}.",
    )
