"""The jobs of a study, each of which leaves a folder and is not done twice: backbones to train, cells to fit."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inlier.adaptation import adapt
from inlier.adapted import describe
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.decision.intervals import MIN_GROUPS
from inlier.downstream import has_both, labelled_dev
from inlier.errors import InlierError, ManifestError
from inlier.evaluation import evaluate, write_to_folder
from inlier.experiments.search import Request, settings, tune
from inlier.experiments.study_plan import BackbonePlan, Cell, DataPlan, Study
from inlier.features.store import DEFAULT_BUDGET, FeatureStore
from inlier.outputs import as_text, write_whole
from inlier.workflow import Progress, fit

MODEL, SEARCH, DONE = "model", "search", "done.json"
SPLITS = ("dev", "test")


@dataclass(frozen=True, eq=False)
class Bench:
    """What the jobs of one study share.

    Attributes:
        study: What is to be done.
        out: Folder of the study.
        fingerprints: Of each data set.
        device: Where backbones run.
        workers: Threads that decode.
        cache_budget: Bytes that features may take on disk.
        command: What the user asked.
    """

    study: Study
    out: Path
    fingerprints: Mapping[str, str]
    device: str = "cpu"
    workers: int = 2
    cache_budget: int = DEFAULT_BUDGET
    command: str = ""
    _read: dict[str, Manifest] = field(default_factory=dict, repr=False)

    def data(self, name: str) -> Manifest:
        """The photos of a data set."""
        if name not in self._read:
            self._read[name] = read_data(self.study.datasets[name])
        return self._read[name]

    def backbone_folder(self, name: str) -> Path:
        """Where a trained backbone is."""
        return self.out / "backbones" / name

    def cell_folder(self, cell: Cell) -> Path:
        """Where a cell is."""
        return self.out / "cells" / cell.name

    @cached_property
    def store(self) -> FeatureStore:
        """Where features are kept for all cells."""
        return FeatureStore(self.out / "features", budget_bytes=self.cache_budget)


def read_data(plan: DataPlan) -> Manifest:
    """The photos of a data set.

    Raises:
        ManifestError: They cannot be read as one; the sentence names the data set.
    """
    try:
        return Manifest.read(plan.path, normal=plan.normal)
    except ManifestError as error:
        raise ManifestError(f"[data.{plan.name}]: {error}") from error


def is_done(folder: Path, key: str) -> bool:
    """Whether a job left its folder complete, for what is asked now."""
    try:
        found: bool = json.loads((folder / DONE).read_text(encoding="utf-8"))["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found


def backbone_key(bench: Bench, plan: BackbonePlan) -> str:
    """What a trained backbone depends on, as one text."""
    losses = bench.study.losses_of
    return _digest(asdict(plan), bench.fingerprints[plan.trained_on or ""], losses and bench.fingerprints[losses])


def cell_key(bench: Bench, cell: Cell) -> str:
    """What a cell depends on, as one text."""
    study = bench.study
    backbone, detector = study.backbones[cell.backbone], study.detectors[cell.detector]
    of_backbone = backbone_key(bench, backbone) if backbone.objective else asdict(backbone)
    return _digest(of_backbone, asdict(detector), bench.fingerprints[cell.dataset], cell.seed)


def train_backbone(bench: Bench, plan: BackbonePlan, progress: Progress) -> None:
    """Trains a backbone, as ``inlier finetune`` does, after a search for its settings if one is asked for."""
    assert plan.objective is not None and plan.trained_on is not None  # frozen ones need no job
    folder, began = bench.backbone_folder(plan.name), time.time()
    data, config = bench.data(plan.trained_on), plan.config
    _begin(folder, backbone_key(bench, plan))
    if plan.trials:
        config = _searched(bench, folder / SEARCH, config, plan.space, plan.trials, data, plan.metric, progress)
    checkpoints = folder / "training"
    options: dict[str, Any] = {"device": bench.device, "workers": bench.workers, "checkpoints": checkpoints}
    adapted, _ = adapt(
        config,
        data,
        is_judged=_can_be_judged(data),
        measured=_measured(bench),
        progress=progress,
        **options,
    )
    adapted.save(folder / MODEL)
    shutil.rmtree(checkpoints, ignore_errors=True)
    _finish(folder, backbone_key(bench, plan), began)


def run_cell(bench: Bench, cell: Cell, progress: Progress) -> None:
    """Fits and evaluates a cell, as ``inlier fit`` and ``evaluate`` do, after a search if one is asked for."""
    folder, began = bench.cell_folder(cell), time.time()
    data, detector = bench.data(cell.dataset), bench.study.detectors[cell.detector]
    _begin(folder, cell_key(bench, cell))
    config = cell_config(bench, cell)
    if detector.trials:
        config = _searched(bench, folder / SEARCH, config, detector.space, detector.trials, data, None, progress)
    model, _ = fit(
        config,
        data,
        device=bench.device,
        workers=bench.workers,
        checkpoints=folder / "training",
        store=bench.store,
        progress=progress,
    )
    model.save(folder / MODEL)
    shutil.rmtree(folder / "training", ignore_errors=True)
    for split in SPLITS:
        if has_both([photo for photo in data.select(split).photos if photo.is_anomalous is not None]):
            options: dict[str, Any] = {"seed": cell.seed, "workers": bench.workers, "command": bench.command}
            evaluation = evaluate(model, data, split=split, progress=progress, **options)  # type: ignore[arg-type]
            write_to_folder(evaluation, model, folder / split)
    _finish(folder, cell_key(bench, cell), began)


def cell_config(bench: Bench, cell: Cell) -> Config:
    """The sections that ``inlier fit`` would be given for a cell, before any search."""
    backbone, detector = bench.study.backbones[cell.backbone], bench.study.detectors[cell.detector]
    config: Config = {name: dict(keywords) for name, keywords in detector.config.items()}
    if backbone.objective is None:
        for name, keywords in backbone.config.items():
            config[name] = {**config.get(name, {}), **keywords}
    else:
        folder = bench.backbone_folder(backbone.name) / MODEL
        config["backbone"] = {"name": describe(folder)["network"], "weights": str(folder)}
    config["fit"] = {**config.get("fit", {}), "seed": cell.seed}
    return config


def _searched(
    bench: Bench,
    folder: Path,
    config: Config,
    space: Mapping[str, Any],
    num_trials: int,
    data: Manifest,
    metric: str | None,
    progress: Progress,
) -> Config:
    """The configuration with the best settings that a search found."""
    request = Request(
        config=config | ({"space": dict(space)} if space else {}),
        data=data,
        out=folder,
        metric=metric,
        num_trials=num_trials,
        cache=bench.store.directory,
        cache_budget=bench.cache_budget,
        device=bench.device,
        workers=bench.workers,
        command=bench.command,
        is_concluded=False,
    )
    report, _ = tune(request, progress=progress)
    found = settings(report)
    return {name: {**config.get(name, {}), **found.get(name, {})} for name in dict.fromkeys((*config, *found))}


def _measured(bench: Bench) -> dict[str, list[Photo]]:
    """Labelled photos of the set on which losses are measured, normal and anomalous ones: table 5.1 of the thesis."""
    name = bench.study.losses_of
    if name is None:
        return {}
    photos = [photo for photo in bench.data(name).photos if photo.split == "test" and photo.is_anomalous is not None]
    photos.sort(key=lambda photo: str(photo.path))
    kinds = {"normal": False, "anomalous": True}
    return {kind: [photo for photo in photos if photo.is_anomalous is flag] for kind, flag in kinds.items()}


def _can_be_judged(data: Manifest) -> bool:
    """Whether a gate has labelled photos, or groups of normal ones in plenty, to go by."""
    return has_both(labelled_dev(data)) or len(set(data.normal().groups)) >= MIN_GROUPS


def _begin(folder: Path, key: str) -> None:
    """Clears what was begun for something else; what was begun for the same goes on."""
    marker = folder / "begun.json"
    try:
        is_same = json.loads(marker.read_text(encoding="utf-8"))["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        is_same = False
    try:
        if not is_same:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole(marker, json.dumps({"key": key}))
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(folder)}: {error.strerror or error}.") from error


def _finish(folder: Path, key: str, began: float) -> None:
    write_whole(folder / DONE, json.dumps({"key": key, "seconds": round(time.time() - began, 3)}))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
