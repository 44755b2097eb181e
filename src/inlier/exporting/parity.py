"""The gate: an exported model is asked about photos that the model itself has judged, before it gets its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.manifest import Manifest, Photo
from inlier.data.synthetic import COMPONENTS, UNRELATED, draw_component, draw_unrelated
from inlier.decision.metrics import image_auroc
from inlier.errors import ManifestError, ModelError
from inlier.exporting.graph import score_spread
from inlier.exporting.portable import DECISIONS, Opinion, Portable
from inlier.model import Model
from inlier.records import Inspection
from inlier.workflow import inspect_photos

TOLERANCE = 1e-3
"""How far a score may be off, as a share of the calibration scores' standard deviation; a map, of the heat scale's."""

MAX_AUROC_DROP = 0.005
"""What a quantised export may lose on ``dev``."""

MAX_PHOTOS = 64
"""Photos that the gate looks at."""

NUM_GENERATED = 12
"""Photos that it draws where none are given."""

_PROBABILITY = 0.01


@dataclass(frozen=True, slots=True)
class Compared:
    """One photo, judged twice.

    Attributes:
        photo: Which.
        model: What the model said.
        export: What the exported file said.
    """

    photo: Photo
    model: Inspection
    export: Opinion

    @property
    def difference(self) -> float:
        """Of the scores, >= 0."""
        assert self.model.verdict.score is not None  # unreadable photos are not compared
        return abs(self.model.verdict.score - self.export.score)

    @property
    def is_same(self) -> bool:
        """Whether the verdicts are equal."""
        return self.model.verdict.verdict == self.export.decision


@dataclass(frozen=True, slots=True)
class Parity:
    """What the gate found.

    Attributes:
        num_photos: How many it compared.
        source: Where they are from, in words.
        spread: Of the scores of the calibration, their standard deviation.
        largest_difference: Of two scores of one photo.
        num_different: Photos whose verdict is another: ties of a float32 export, and all of a quantised one.
        auroc: On labelled photos, of the model and of the export; None where it was not asked for.
    """

    num_photos: int
    source: str
    spread: float
    largest_difference: float
    num_different: int
    auroc: tuple[float, float] | None = None


def check_parity(model: Model, export: Portable, photos: Sequence[Photo], *, source: str) -> Parity:
    """Compares a float32 export with its model.

    A score may be off by ``TOLERANCE`` times the spread of the calibration scores. Verdict and p-value must be those
    of some score within this tolerance of the model's: they may differ only where the score ties, so far, with a
    calibration score at which they change. The map may be off by as small a share of the heat scale, and the component
    must be the same unless two are as probable.

    Raises:
        ModelError: They do not agree, or none of the photos can be read.
    """
    spread = score_spread(model)
    largest, num_photos, num_different = 0.0, 0, 0
    for compared in compare(model, export, photos):
        if reason := _disagreement(model, compared, TOLERANCE * spread):
            raise ModelError(f"The export does not agree with the model, and was not kept: {reason}")
        largest, num_photos = max(largest, compared.difference), num_photos + 1
        num_different += not compared.is_same
    if not num_photos:
        raise ModelError(f"The export was not kept: none of the photos {source} could be read to compare it on.")
    return Parity(num_photos, source, spread, largest, num_different)


def check_accuracy(model: Model, export: Portable, photos: Sequence[Photo], *, source: str) -> Parity:
    """Compares a quantised export with its model, by what both are worth on labelled photos.

    Raises:
        ManifestError: There are no normal, or no anomalous ones, among those that can be read.
        ModelError: AUROC is lower by more than ``MAX_AUROC_DROP``.
    """
    labelled = [photo for photo in photos if photo.is_anomalous is not None]
    found = [
        (bool(of.photo.is_anomalous), of.model.verdict.score or 0.0, of.export.score, of.is_same)
        for of in compare(model, export, labelled)
    ]
    table = np.array(found, dtype=np.float64).reshape(-1, 4)
    is_anomalous, scores, exported, is_same = table[:, 0] > 0, table[:, 1], table[:, 2], table[:, 3] > 0
    if is_anomalous.all() or not is_anomalous.any():
        raise ManifestError(
            "An int8 export is judged by the split dev, which needs normal and anomalous photos with labels; "
            "export without --int8, or give --data with such photos."
        )
    before, after = (image_auroc(of, is_anomalous) for of in (scores, exported))
    if not after >= before - MAX_AUROC_DROP:
        raise ModelError(
            f"The int8 export is worth less, and was not kept: its AUROC on dev is {after:.4f}, and the model's "
            f"{before:.4f}; {MAX_AUROC_DROP:g} may be lost. Export without --int8."
        )
    largest = float(np.abs(scores - exported).max())
    return Parity(len(found), source, score_spread(model), largest, int((~is_same).sum()), (before, after))


def score_shift(model: Model, export: Portable, photos: Sequence[Photo]) -> float:
    """What to add to the scores of a quantised export, for normal photos to score as they did for the calibration.

    Rounding adds to every distance. The median difference puts the scores of normal photos back where they were; no
    order of photos, and so no AUROC, changes. The photos must not be those that the model was fitted on: how far these
    are from themselves tells nothing of others.
    """
    off = [of.model.verdict.score - of.export.score for of in compare(model, export, photos) if of.model.verdict.score]
    return float(np.median(off)) if off else 0.0


def compare(model: Model, export: Portable, photos: Sequence[Photo]) -> Iterator[Compared]:
    """Each photo that can be read, judged by both from the same pixels."""
    for photo, inspection in zip(photos, inspect_photos(model, photos), strict=True):
        if inspection.pixels is not None:
            yield Compared(photo, inspection, export.judge(inspection.pixels))


def gate_photos(data: Manifest) -> tuple[list[Photo], str]:
    """Photos for the gate, spread over those of ``dev``, else the normal ones of ``train``; and the words for them.

    Raises:
        ManifestError: There are neither.
    """
    for photos, source in (
        (data.select("dev").photos, "of dev"),
        (data.select("train").normal().photos, "of train"),
        (data.select("train").photos, "of train"),
    ):
        if photos:
            places = np.unique(np.linspace(0, len(photos) - 1, min(MAX_PHOTOS, len(photos))).round().astype(int))
            return [photos[place] for place in places], source
    raise ManifestError("The data hold no photos of the splits dev and train to compare the export on.")


def draw_photos(folder: Path) -> list[Photo]:
    """Generated photos, of several sizes, for a gate that is given none; written to a folder."""
    drawn = []
    for seed in range(NUM_GENERATED):
        size = (240 + 40 * (seed % 4), 320 + 16 * (seed % 5))
        image: NDArray[np.uint8] = draw_component(COMPONENTS[seed % len(COMPONENTS)], seed=seed, size=size).image
        if seed % 4 == 3:
            image = draw_unrelated(UNRELATED[seed % len(UNRELATED)], seed=seed, size=size)
        path = folder / f"generated-{seed:02d}.png"
        Image.fromarray(image).save(path, compress_level=1)
        drawn.append(Photo(path, "dev"))
    return drawn


def _disagreement(model: Model, compared: Compared, tolerance: float) -> str | None:
    """A sentence on what is not the same; None if nothing."""
    ours, theirs = compared.model.verdict, compared.export
    name = compared.photo.path.name
    assert ours.score is not None
    if not compared.difference <= tolerance:
        return (
            f"the score of {name} is {theirs.score:.6g} and not {ours.score:.6g}; they may differ by {tolerance:.2g}, "
            f"{TOLERANCE:g} of the spread of the calibration scores."
        )
    around = np.array([ours.score - tolerance, ours.score + tolerance])
    above, below = model.calibration.p_values(around)
    if not np.float32(below) <= np.float32(theirs.p_value) <= np.float32(above):
        return f"the p-value of {name} is {theirs.p_value:.4g} and not {ours.p_value:.4g}."
    first, last = model.calibration.decide(around, **model.config["decide"])
    if not DECISIONS.index(first) <= DECISIONS.index(theirs.decision) <= DECISIONS.index(last):
        return f"the verdict on {name} is {theirs.decision} and not {ours.verdict}."
    return _other_map(model, compared) or _other_component(compared)


def _other_map(model: Model, compared: Compared) -> str | None:
    ours, theirs = compared.model.anomaly_map, compared.export.anomaly_map
    name = compared.photo.path.name
    if (ours is None) != (theirs is None) or (ours is not None and theirs is not None and ours.shape != theirs.shape):
        return f"the anomaly map of {name} is missing or of another size."
    if ours is None or theirs is None:
        return None
    scale = model.calibration.heat_scale() if len(model.calibration.map_maxima) else (0.0, float(np.abs(ours).max()))
    off = float(np.abs(ours - theirs).max())
    if not off <= TOLERANCE * (scale[1] - scale[0]):
        return f"the anomaly map of {name} is off by {off:.2g}, with heat from {scale[0]:.3g} to {scale[1]:.3g}."
    return None


def _other_component(compared: Compared) -> str | None:
    ours, theirs = compared.model.verdict, compared.export
    if ours.component is None and theirs.component is None:
        return None
    off = abs((ours.component_probability or 0.0) - (theirs.component_probability or 0.0))
    if off <= TOLERANCE or (ours.component == theirs.component and off <= _PROBABILITY):
        return None
    return f"the component of {compared.photo.path.name} is {theirs.component} and not {ours.component}."
