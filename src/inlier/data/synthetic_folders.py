"""Generated photos on disk: a data set with masks and a manifest, or a camera roll that nobody sorted."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.drawing.family import find_blueprint
from inlier.data.synthetic import (
    COMPONENTS,
    DEFECTS,
    SIZE,
    UNRELATED,
    Scene,
    draw_component,
    draw_unrelated,
)
from inlier.data.tables import COLUMNS

UNREADABLE = "unreadable"
"""Label of a file that looks like a photo and cannot be decoded."""

_PHOTOS_PER_VISIT = 6
_JPEG_QUALITY = 88
_DATASET_STREAM, _CAMERA_ROLL_STREAM = 1, 2
_ORIENTATION, _TO_BE_TURNED_CLOCKWISE = 0x0112, 6

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Shot:
    """A photo to be taken: of what, in which visit, by which seed.

    Attributes:
        subject: A component, or one of ``UNRELATED``.
        defect: What is wrong with the component, if anything.
        group: Name of the visit.
        visit: Its number.
        seed: The photo's own seed.
    """

    subject: str
    defect: str | None
    group: str
    visit: int
    seed: int

    @property
    def is_unrelated(self) -> bool:
        return self.subject in UNRELATED

    @property
    def label(self) -> str:
        return f"unrelated-{self.subject}" if self.is_unrelated else self.defect or self.subject

    def take(self, size: tuple[int, int]) -> Scene:
        if self.is_unrelated:
            return Scene(draw_unrelated(self.subject, seed=self.seed, size=size), np.zeros(size, np.bool_))
        return draw_component(self.subject, seed=self.seed, defect=self.defect, visit=self.visit, size=size)


def write_dataset(
    directory: Path,
    *,
    num_train: int,
    num_dev: int,
    num_test: int,
    num_defective: int,
    num_unrelated: int,
    components: Sequence[str] = COMPONENTS,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    on_photo: Progress | None = None,
) -> Path:
    """Draw a data set: ``photos/<label>/NNNN.jpg``, ``masks/<label>/NNNN.png`` and ``manifest.csv``.

    A normal photo's label is its component, a defective one's its defect, an unrelated one's
    ``unrelated-<kind>``; components, defects and kinds take turns. A group is one visit: six photos of one
    split, whatever their label, that share the engine's tint, wear and dirt and the colour of the light.
    Equal arguments give equal bytes, given the same versions of numpy and Pillow.

    Args:
        directory: Where to write; made if missing.
        num_train: How many normal photos to fit on.
        num_dev: How many normal photos in the split ``dev``.
        num_test: How many normal photos in the split ``test``.
        num_defective: How many defective photos, half in ``dev``, and half and the odd one in ``test``.
        num_unrelated: How many unrelated pictures, divided likewise.
        components: Kinds to draw, see ``draw_component``.
        size: Height and width of every photo in pixels.
        seed: Another seed gives other photos; 0 or more.
        on_photo: Called after each photo with how many are done, and how many there will be.

    Returns:
        The manifest's path.

    Raises:
        ValueError: A negative number, no components, or what ``draw_component`` refuses.
    """
    rng = _stream(seed, _DATASET_STREAM)
    shares = {
        "train": (num_train, 0, 0),
        "dev": (num_dev, num_defective // 2, num_unrelated // 2),
        "test": (num_test, num_defective - num_defective // 2, num_unrelated - num_unrelated // 2),
    }
    shots: list[tuple[str, _Shot]] = []
    for split, counts in shares.items():
        shots += [(split, shot) for shot in _plan(rng, components, *counts, visits=f"{split}-visit")]
    rows = []
    for number, (split, shot) in enumerate(shots):
        photo, mask = _write_shot(shot, directory, f"{number:04d}", size)
        is_anomalous = shot.is_unrelated or shot.defect is not None
        rows.append((photo, split, shot.label, int(is_anomalous), shot.group, mask))
        if on_photo:
            on_photo(number + 1, len(shots))
    return _write_manifest(directory, rows)


def _stream(seed: int, purpose: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    return np.random.default_rng([seed, purpose])


def _write_shot(shot: _Shot, directory: Path, name: str, size: tuple[int, int]) -> tuple[str, str]:
    """Where photo and mask are from ``directory``; "" for no mask."""
    scene = shot.take(size)
    photo = f"photos/{shot.label}/{name}.jpg"
    _save(scene.image, directory / photo)
    if not shot.defect:
        return photo, ""
    mask = f"masks/{shot.label}/{name}.png"
    _save(255 * scene.mask.astype(np.uint8), directory / mask)
    return photo, mask


def _plan(
    rng: np.random.Generator,
    components: Sequence[str],
    num_normal: int,
    num_defective: int,
    num_unrelated: int,
    *,
    visits: str,
) -> list[_Shot]:
    """Shots in random order, cut into visits that are named ``visits`` and a number."""
    if min(num_normal, num_defective, num_unrelated) < 0:
        counts = f"{num_normal} normal, {num_defective} defective and {num_unrelated} unrelated"
        raise ValueError(f"numbers of photos must be 0 or more, got {counts}.")
    if not components:
        raise ValueError("components must name at least one component, got none.")
    for component in components:
        find_blueprint(component)  # refuses a name that does not exist before anything is written
    subjects: list[tuple[str, str | None]] = []
    for index in range(num_normal):
        subjects.append((components[index % len(components)], None))
    for index in range(num_defective):
        turn, which = divmod(index, len(components))
        subjects.append((components[which], DEFECTS[(turn + which) % len(DEFECTS)]))
    for index in range(num_unrelated):
        subjects.append((UNRELATED[index % len(UNRELATED)], None))
    rng.shuffle(subjects)
    first_visit = int(rng.integers(2**31))
    shots = []
    for index, (subject, defect) in enumerate(subjects):
        visit, seed = index // _PHOTOS_PER_VISIT, int(rng.integers(2**31))
        shots.append(_Shot(subject, defect, f"{visits}-{visit + 1:03d}", first_visit + visit, seed))
    return shots


def _save(pixels: NDArray[np.uint8], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)
    return path


def _write_manifest(directory: Path, rows: Sequence[Sequence[str | int]]) -> Path:
    manifest = directory / "manifest.csv"
    directory.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return manifest


def write_camera_roll(
    directory: Path,
    *,
    num_normal: int,
    num_defective: int,
    num_unrelated: int,
    components: Sequence[str] = COMPONENTS,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    on_photo: Progress | None = None,
) -> dict[str, str]:
    """Draw an unsorted folder, ``IMG_0001.jpg`` and on, with the trouble that real ones hold.

    Of the normal photos the first is stored lying on its side, to be turned by its EXIF orientation, and
    the second is a grey PNG. Two more files cannot be read: a JPEG cut off half-way, and a text named as a
    photo.

    Args:
        directory: Where to write; made if missing.
        num_normal: How many photos of whole components.
        num_defective: How many of damaged ones.
        num_unrelated: How many pictures of anything else.
        components: Kinds to draw, see ``draw_component``.
        size: Height and width of every photo in pixels.
        seed: Another seed gives other photos; 0 or more.
        on_photo: Called after each photo with how many are done, and how many there will be.

    Returns:
        What each file is, by name: a component, a defect, ``unrelated-<kind>`` or ``unreadable``.

    Raises:
        ValueError: A negative number, no components, or what ``draw_component`` refuses.
    """
    rng = _stream(seed, _CAMERA_ROLL_STREAM)
    shots = _plan(rng, components, num_normal, num_defective, num_unrelated, visits="visit")
    directory.mkdir(parents=True, exist_ok=True)
    cut_off, text = (rng.choice(len(shots) + 2, 2, replace=False) + 1).tolist()
    numbers = [number for number in range(1, len(shots) + 3) if number not in (cut_off, text)]
    truth = {f"IMG_{cut_off:04d}.jpg": UNREADABLE, f"IMG_{text:04d}.jpg": UNREADABLE}
    troubles = iter((_save_lying, _save_grey))
    for number, shot in zip(numbers, shots, strict=True):
        path = directory / f"IMG_{number:04d}.jpg"
        save = next(troubles, _save) if shot.label in components else _save
        truth[save(shot.take(size).image, path).name] = shot.label
        if on_photo:
            on_photo(len(truth) - 2, len(shots))
    _save_cut_off(draw_component(components[0], seed=seed, size=size).image, directory / f"IMG_{cut_off:04d}.jpg")
    (directory / f"IMG_{text:04d}.jpg").write_text("This is a note, not a photo.\n", encoding="utf-8")
    return dict(sorted(truth.items()))


def _save_lying(pixels: NDArray[np.uint8], path: Path) -> Path:
    """Turned to the left, with the order to be turned back."""
    exif = Image.Exif()
    exif[_ORIENTATION] = _TO_BE_TURNED_CLOCKWISE
    Image.fromarray(np.rot90(pixels)).save(path, quality=_JPEG_QUALITY, exif=exif)
    return path


def _save_grey(pixels: NDArray[np.uint8], path: Path) -> Path:
    grey = path.with_suffix(".png")
    Image.fromarray(pixels).convert("L").save(grey)
    return grey


def _save_cut_off(pixels: NDArray[np.uint8], path: Path) -> Path:
    _save(pixels, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
