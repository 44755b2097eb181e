"""All of it on generated photos: fit, evaluate, inspect a camera roll, and what came of it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlier.data.layouts import find_photos
from inlier.data.manifest import Manifest, Photo
from inlier.data.synthetic_folders import write_camera_roll, write_dataset
from inlier.evaluation import evaluate, write_to_folder
from inlier.inspection import inspect_to_folder
from inlier.outputs import check_folder
from inlier.workflow import Progress, fit, no_progress

COMPONENTS = ("piston-crown", "cylinder-liner", "bolted-flange")
VERDICTS = ("accept", "uncertain", "reject", "unreadable")

_FOLDERS = ("camera-roll", "model", "evaluation", "inspection", "archive")
"""The last one tells a demonstration from anything else; it goes last, so that a broken-off one is known as such."""


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration found.

    Attributes:
        directory: Where photos, model, inspection and evaluation lie.
        metrics: Content of ``metrics.json``, on photos of other visits than those learned from.
        counts: What is in the photo -> verdict -> number of photos of the camera roll.
        notes: Sentences that a reader must not miss.
    """

    directory: Path
    metrics: dict[str, Any]
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]


def demonstrate(
    directory: Path, *, seed: int = 0, scale: float = 1.0, workers: int = 2, progress: Progress = no_progress
) -> Demonstration:
    """Generates an archive and a camera roll, and does with them what a user would.

    Args:
        directory: Made if need be; an earlier demonstration there is replaced.
        seed: Of the photos and of the model.
        scale: Of the number of photos; 1 makes some 700.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        InlierError: The folder holds something else.
    """
    check_folder(directory, marker=_FOLDERS[-1], content="a demonstration")
    for name in _FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)
    data, truth = _draw(directory, seed=seed, scale=scale, progress=progress)
    model, _ = fit({"fit": {"seed": seed}}, data, workers=workers, progress=progress)
    model.save(directory / "model")
    command = f"inlier demo --seed {seed} --scale {scale:g}"
    evaluation = evaluate(model, data, seed=seed, workers=workers, command=command, progress=progress)
    write_to_folder(evaluation, model, directory / "evaluation")
    photos = [Photo(path, "test") for path in find_photos([directory / "camera-roll"])]
    inspected = inspect_to_folder(model, photos, directory / "inspection", workers=workers, progress=progress)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("normal", "damaged", "unrelated", "broken file")}
    for name, verdict in inspected.verdicts():
        counts[_kind(truth[Path(name).name])][verdict] += 1
    counted = {kind: dict(of) for kind, of in counts.items()}
    return Demonstration(directory, evaluation.metrics, counted, inspected.notes)


def _draw(directory: Path, *, seed: int, scale: float, progress: Progress) -> tuple[Manifest, dict[str, str]]:
    """Draws an archive and a camera roll; returns the archive's manifest, and what is in each photo of the roll."""

    def share(number: int) -> int:
        return max(6, round(number * scale))

    manifest = write_dataset(
        directory / "archive",
        components=COMPONENTS,
        num_train=share(240),
        num_dev=share(100),
        num_test=share(100),
        num_defective=share(120),
        num_unrelated=share(60),
        seed=seed,
        on_photo=_bar(progress, "Drawing an archive"),
    )
    truth = write_camera_roll(
        directory / "camera-roll",
        components=COMPONENTS,
        num_normal=share(60),
        num_defective=share(24),
        num_unrelated=share(12),
        seed=seed,
        on_photo=_bar(progress, "Drawing a camera roll"),
    )
    return Manifest.read(manifest), truth


def _kind(label: str) -> str:
    """What a person would call a photo of this label."""
    if label in COMPONENTS:
        return "normal"
    if label.startswith("unrelated"):
        return "unrelated"
    return "broken file" if label == "unreadable" else "damaged"


def _bar(progress: Progress, task: str) -> Callable[[int, int], None]:
    """Progress for what tells how many photos are done and how many there will be."""
    steps: list[Callable[[int], None]] = []

    def on_photo(done: int, total: int) -> None:
        if not steps:
            steps.append(progress(task, total))
        steps[0](1)

    return on_photo
