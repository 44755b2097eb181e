"""adapt(): phase one as one verb, from photos to an adapted backbone and the verdict on whether it helps."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.adapted import AdaptedBackbone
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.data.squares import Squares
from inlier.detectors.components import component_names
from inlier.downstream import Bench
from inlier.errors import ConfigError, ManifestError, ModelError
from inlier.features.backbone import Backbone
from inlier.finetuning.adaptor import fit_adaptors, light_pairs
from inlier.finetuning.finetune import finetune
from inlier.finetuning.parallel import in_processes, num_ranks, rank
from inlier.gate import judge
from inlier.model import package_versions
from inlier.objectives import ADAPTOR, build_objective, build_start, resolve_adaptation
from inlier.outputs import as_text, write_whole
from inlier.reading import component_label
from inlier.training import History
from inlier.workflow import Progress, no_progress

MIN_PHOTOS = 8
"""Photos below which a backbone learns these photos, not the domain."""

ENOUGH_FOR_ADAPTOR = 200
"""Photos that an adaptor is computed from, evenly chosen: plenty for covariances of cells, and a minute on a CPU."""

CHECKPOINT = "finetune.safetensors"
"""File, in the folder of checkpoints, from which a training goes on."""

_RUN = "run.json"
_SMALL_CROP = 0.1
"""Share of a photo's area below which a crop is enlarged rather than all photos kept larger."""


def adapt(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    *,
    is_judged: bool = True,
    device: str = "cpu",
    workers: int = 2,
    checkpoints: Path | None = None,
    measured: Mapping[str, Sequence[Photo]] | None = None,
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    progress: Progress = no_progress,
) -> tuple[AdaptedBackbone, list[tuple[Photo, str]]]:
    """Adapts a backbone to the photos of an archive, and judges whether that helps a detector.

    It learns from all photos of ``train``, normal or not, labelled or not; labels tell it at most which component a
    normal photo shows. With ``archive = "train+dev"`` in the section ``finetune`` it also learns from the photos of
    ``dev``, without their labels; the gate, which judges by these, then says so. It never looks at ``test``. Launched
    by torchrun, the processes share each batch; the first one alone judges.

    Args:
        config: Sections of keywords; what is left out takes its default.
        data: Photos.
        is_judged: Whether it is compared with what it was made from.
        device: Where the backbone runs.
        workers: Threads that decode, and make views.
        checkpoints: Folder where a training leaves how far it is, and goes on from when given the same again; the
            caller removes it. None: nothing is left.
        measured: Other photos, by a name, of which the final loss is measured, each as a class of its own: with the
            objective's own networks, before these are dropped and weights blended. The facts have it as ``losses``.
        report: Given each row of the training's history when it is known.
        progress: Told how far it is.

    Returns:
        The backbone, and the photos that could not be read, each with the reason.

    Raises:
        ManifestError: There are too few photos.
        ConfigError: The configuration cannot be used.
        WeightsError: The weights to begin with cannot be found.
        CollapseError: The embeddings became all alike.
        ModelError: The checkpoint is damaged, or of another training.
    """
    resolved = resolve_adaptation(config, device=device)
    section = resolved["finetune"]
    photos = photos_to_learn(data, section["archive"])
    if section["objective"] == ADAPTOR:
        photos = photos[:: math.ceil(len(photos) / ENOUGH_FOR_ADAPTOR)]
    fingerprint = Manifest(tuple(photo for photo in data.photos if photo.split != "test")).fingerprint()
    with in_processes():  # before anything is moved to a device, of which each process has its own
        backbone = build_start(resolved).to(device)
        if is_judged:
            Bench.of(resolved, (backbone,), workers, progress)  # refuses now what it would refuse after the training
        if checkpoints is not None:
            _check_run(checkpoints, resolved, fingerprint)
        advance = progress("Reading photos", len(photos))
        with Squares.read(photos, side=_side(resolved), workers=workers, advance=advance) as squares:
            _check_read(squares)
            labels = component_numbers(squares.photos)
            start = copy.deepcopy(backbone)
            losses: dict[str, dict[str, float]] = {}

            def measure(loss_of: Callable[[Squares], float]) -> None:
                for name, others in (measured or {}).items():
                    with Squares.read(others, side=_side(resolved), workers=workers, advance=lambda steps: None) as of:
                        if len(of) > 1:
                            losses[name] = {"loss": loss_of(of), "num_photos": len(of)}

            if section["objective"] == ADAPTOR:
                history = _compute_adaptor(resolved, backbone, squares, progress)
            else:
                history = _train(
                    resolved, backbone, start, squares, labels, workers, checkpoints, report, measure, progress
                )
            learned, unreadable = squares.photos, list(squares.unreadable)
        gate = None
        if is_judged and rank() == 0:
            gate = judge(resolved, data, start, backbone, adapted_to=learned, workers=workers, progress=progress)
        facts = {
            "objective": section["objective"],
            "data_fingerprint": fingerprint,
            "archive": section["archive"],
            "num_photos": len(learned),
            "num_labelled": sum(label >= 0 for label in labels),
            "num_unreadable": len(unreadable),
            "num_steps": len(history),
            "num_processes": num_ranks(),
            "seed": section["seed"],
            "device": torch.device(device).type,
            "versions": package_versions(),
            "gate": None if gate is None else gate.to_json(),
        } | ({"losses": losses} if losses else {})
    return AdaptedBackbone(backbone, resolved, facts, history), unreadable


def photos_to_learn(data: Manifest, archive: str) -> list[Photo]:
    """The photos that a backbone is adapted to, by name: those of dev are without their labels.

    Raises:
        ManifestError: They are too few.
    """
    splits = archive.split("+")
    photos = [photo for photo in data.photos if photo.split in splits]
    if len(photos) < MIN_PHOTOS:
        raise ManifestError(
            f"A backbone is adapted to at least {MIN_PHOTOS} photos, and {' and '.join(splits)} of the data have "
            f"{len(photos)}."
        )
    return sorted(photos, key=lambda photo: str(photo.path))


def component_numbers(photos: Sequence[Photo]) -> list[int]:
    """For each photo the number of its component; -1 for all but normal photos of train that are labelled with one."""
    labels = [
        component_label(photo) if photo.split == "train" and photo.is_anomalous is False else "" for photo in photos
    ]
    number = {name: place for place, name in enumerate(component_names(labels))}
    return [number.get(label, -1) for label in labels]


def _train(
    config: Config,
    backbone: Backbone,
    start: Backbone,
    squares: Squares,
    labels: Sequence[int],
    workers: int,
    checkpoints: Path | None,
    report: Callable[[Mapping[str, float]], None],
    measure: Callable[[Callable[[Squares], float]], None],
    progress: Progress,
) -> History:
    """Trains the backbone in place."""
    objective = build_objective(config, backbone, start)
    section = {key: value for key, value in config["finetune"].items() if key not in ("objective", "archive")}
    try:
        return finetune(
            backbone,
            objective,
            squares,
            labels,
            groups=[as_text(photo.group) for photo in squares.photos],
            checkpoint=None if checkpoints is None else checkpoints / CHECKPOINT,
            workers=workers,
            advance=progress("Adapting", section["num_samples"]),
            report=report,
            measure=measure,
            **section,
        )
    except ValueError as error:
        raise ConfigError(f"[finetune]: {error}") from error


def _compute_adaptor(config: Config, backbone: Backbone, squares: Squares, progress: Progress) -> History:
    """Puts an adaptor behind each layer; there is no training, and so no history of one."""
    advance = progress("Adapting", len(squares))
    pairs = light_pairs(
        squares,
        size=config["input"]["size"],
        mean=backbone.mean,
        std=backbone.std,
        seed=config["finetune"]["seed"],
    )

    def told() -> Iterator[Tensor]:
        for views in pairs:
            yield views
            advance(views.shape[1])

    try:
        backbone.adapt(fit_adaptors(backbone, told(), **config[ADAPTOR]))
    except ValueError as error:
        raise ConfigError(f"[{ADAPTOR}]: {error}") from error
    return []


def _side(config: Config) -> int:
    """Of the squares that photos are kept as: so large that no usual crop of a view has to be enlarged."""
    section = config["finetune"]
    side: int = config["input"]["size"]
    if section["objective"] != ADAPTOR:
        least = min((share for share in section["scale"] if 0 < share <= 1), default=1.0)
        side = math.ceil(section["size"] / math.sqrt(max(least, _SMALL_CROP)))
    return side


def _check_read(squares: Squares) -> None:
    if len(squares) < MIN_PHOTOS:
        why = f"; {len(squares.unreadable)} could not be read, the first because: {squares.unreadable[0][1]}"
        raise ManifestError(
            f"A backbone is adapted to at least {MIN_PHOTOS} photos, and {len(squares)} could be read{why}."
        )


def _check_run(checkpoints: Path, config: Config, fingerprint: str) -> None:
    """Notes what is trained here, or checks that it is what was begun.

    Raises:
        ModelError: It was begun with another configuration, or on other photos.
    """
    run = json.loads(json.dumps({"config": config, "data_fingerprint": fingerprint}))
    path = checkpoints / _RUN
    if (checkpoints / CHECKPOINT).exists():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError):
            begun = {}
        if begun != run:
            changed = "the photos" if begun.get("config") == run["config"] else "the configuration"
            raise ModelError(
                f"The training in {as_text(checkpoints)} was begun otherwise: {changed} changed since; leave --resume "
                "out to begin anew."
            )
    elif rank() == 0:
        os.makedirs(checkpoints, exist_ok=True)
        write_whole(path, json.dumps(run))
