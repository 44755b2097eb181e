"""What a study shows of photos: how each backbone arranges them, where models err, and what patch sizes see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import DEFAULT_BACKBONE, build_detector, resolve
from inlier.config import merge
from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.decision.heatmap import encode, heat_overlay
from inlier.decision.intervals import bootstrap
from inlier.decision.metrics import image_auroc
from inlier.detectors.anomaly_map import POOLINGS
from inlier.detectors.crossfit import score_photos
from inlier.detectors.patchcore import PatchCore
from inlier.downstream import has_both, labelled_dev
from inlier.experiments.study_jobs import MODEL, Bench, cell_config
from inlier.experiments.study_plan import Cell
from inlier.experiments.study_tables import scores_of
from inlier.features.cache import FeatureCache
from inlier.mapping import draw_map
from inlier.model import Model
from inlier.outputs import as_text
from inlier.reading import Reader, normal_groups
from inlier.workflow import Progress, backbone_to_share, inspect_photos, normal_photos

Pictures = dict[str, bytes]
"""Key -> WebP."""

NUM_SHOWN = 4
"""Photos that a gallery, or a row of patch sizes, shows."""

PATCH_SIZES = (1, 5, 15, 29)
PATCH_LAYERS = (3,)
"""As in the thesis's appendix D: sizes up to one that spans all 14 x 14 cells of the third layer."""

MAX_POINTS = 2_000
"""Photos that are arranged at most."""

_LONGEST_PX, _QUALITY = 240, 70


def add_map(bench: Bench, report: dict[str, Any], progress: Progress) -> None:
    """Arranges photos of one data set as each backbone sees them (thesis, figure 5.2), and writes ``map.html``."""
    name = bench.study.map_of
    if name is None:
        return
    backbones = list(bench.study.backbones.values())
    given: list[tuple[str, Path | None]] = []
    for plan in backbones:
        section = plan.config.get("backbone", {})
        weights = section.get("weights")
        if plan.objective is None:
            given.append((section.get("name", DEFAULT_BACKBONE), None if weights is None else Path(weights)))
        else:
            given.append((str((bench.backbone_folder(plan.name) / MODEL).absolute()), None))
    drawn = draw_map(
        {"fit": {"seed": bench.study.seeds[0]}},
        bench.data(name),
        bench.out / "map.html",
        backbones=given,
        max_points=MAX_POINTS,
        title=f"{bench.study.datasets[name].title}: how each backbone sees the photos",
        device=bench.device,
        workers=bench.workers,
        progress=progress,
    )
    labels = [(as_text(photo.label), photo.is_anomalous is True) for photo in drawn.photos]
    classes = sorted(set(labels), key=lambda of: (of[1], of[0]))
    number = {of: place for place, of in enumerate(classes)}
    report["map_classes"] = [{"label": label, "is_anomalous": flag} for label, flag in classes]
    report["maps"] = [
        {
            "backbone": plan.name,
            "points": [
                [round(float(x), 2), round(float(y), 2), number[of]] for (x, y), of in zip(places, labels, strict=True)
            ],
        }
        for plan, places in zip(backbones, drawn.places, strict=True)
    ]


def add_galleries(bench: Bench, report: dict[str, Any], pictures: Pictures, progress: Progress) -> None:
    """The normal photos that are most anomalous and the anomalous ones that are least, of the best cell on dev.

    Figures 5.3 to 5.5 of the thesis, for each data set and detector.
    """
    chosen = [cell for of in _by_detector(bench) if (cell := _best_on_dev(report, of)) is not None]
    advance = progress("Drawing", len(chosen))
    for cell in chosen:
        table = scores_of(bench, cell)
        if table is not None:
            model = Model.load(bench.cell_folder(cell) / MODEL, device=bench.device)
            rows = table.to_pylist()
            normal = sorted((of for of in rows if not of["is_anomalous"]), key=lambda of: (-of["score"], of["path"]))
            odd = sorted((of for of in rows if of["is_anomalous"]), key=lambda of: (of["score"], of["path"]))
            photos = {as_text(photo.path): photo for photo in bench.data(cell.dataset).photos}
            place = {"dataset": cell.dataset, "backbone": cell.backbone, "detector": cell.detector}
            report["galleries"].append(
                place
                | {
                    kind: _shown(model, shown[:NUM_SHOWN], photos, f"{cell.name} {kind}", pictures)
                    for kind, shown in (("most_normal_flagged", normal), ("least_anomalous", odd))
                }
            )
        advance(1)


def add_patches(bench: Bench, report: dict[str, Any], pictures: Pictures, progress: Progress) -> None:
    """What PatchCore finds, and where, with patches of several sizes (thesis, figure and table D.1), on dev."""
    name = bench.study.patches_of
    if name is None:
        return
    data = bench.data(name)
    labelled = labelled_dev(data)
    if not has_both(labelled):
        return
    backbone = next(iter(bench.study.backbones))
    cell = Cell(name, backbone, next(iter(bench.study.detectors)), bench.study.seeds[0])
    config = resolve(
        merge(cell_config(bench, cell), "fit", detector="patchcore"), device=bench.device, layers=PATCH_LAYERS
    )
    train = normal_photos(data).select("train")
    network = backbone_to_share(config, PATCH_LAYERS).to(bench.device)
    transform = Transform(config["input"]["size"], network.mean, network.std)
    groups = normal_groups(Manifest((*train.photos, *labelled)))
    rows, maps = [], []
    with FeatureCache(dtype=getattr(torch, network.precision)) as cache:
        reader = Reader(network, transform, cache, groups, bench.workers, bench.store)
        advance = progress("Reading photos", len(train) + len(labelled))
        learned, _ = reader.read(train, advance)
        judged, _ = reader.read(Manifest(tuple(labelled)), advance)
        photos = [reader.photos[index] for index in judged.indices]
        flags = np.array([photo.is_anomalous for photo in photos], dtype=np.bool_)
        shown = _spread(flags)
        advance = progress("Patch sizes", len(PATCH_SIZES))
        for size in PATCH_SIZES:
            detector = build_detector(merge(config, "patchcore", patch_size=size))
            assert isinstance(detector, PatchCore)
            detector.fit(learned.with_layers(PATCH_LAYERS))
            for pooling in POOLINGS:
                detector.pooling = pooling
                scores = score_photos(detector, judged.with_layers(PATCH_LAYERS)).values.astype(np.float64)
                auroc = bootstrap(image_auroc, scores, flags, [groups[photo] for photo in photos], seed=cell.seed)
                ends = {"auroc": auroc.value, "low": auroc.low, "high": auroc.high}
                rows.append({"patch_size": size, "pooling": pooling, **ends})
            found = detector.predict(judged.select(shown).with_layers(PATCH_LAYERS).read()).anomaly_map
            assert found is not None  # PatchCore has a place for everything
            maps.append(found.numpy())
            advance(1)
    report["patches"] = {
        "dataset": name,
        "rows": rows,
        "sizes": list(PATCH_SIZES),
        "photos": [_sizes_of(photos[place], [of[at] for of in maps], pictures) for at, place in enumerate(shown)],
    }


def _by_detector(bench: Bench) -> list[list[Cell]]:
    """Cells of the first seed that differ in their backbone only."""
    cells = [cell for cell in bench.study.cells if cell.seed == bench.study.seeds[0]]
    places = dict.fromkeys((cell.dataset, cell.detector) for cell in cells)
    return [[cell for cell in cells if (cell.dataset, cell.detector) == place] for place in places]


def _best_on_dev(report: dict[str, Any], cells: Sequence[Cell]) -> Cell | None:
    """The cell with the highest AUROC on dev; the first where there is none."""
    dev = {of["name"]: of["dev"]["value"] if of["dev"] else -1.0 for of in report["cells"]}
    return max(cells, key=lambda cell: dev[cell.name], default=None)


def _shown(
    model: Model, rows: Sequence[dict[str, Any]], photos: dict[str, Photo], key: str, pictures: Pictures
) -> list[dict[str, Any]]:
    """Photos with their heatmaps, which are kept among the pictures."""
    found = []
    inspections = inspect_photos(model, [photos[row["path"]] for row in rows])
    for number, (row, inspection) in enumerate(zip(rows, inspections, strict=True)):
        if inspection.pixels is None:
            continue
        picture, heatmap = f"{key} {number} photo", None
        pictures[picture] = encode(inspection.pixels, longest_side=_LONGEST_PX, quality=_QUALITY)
        if inspection.anomaly_map is not None:
            heatmap = f"{key} {number} heat"
            scale = model.calibration.heat_scale()
            overlay = heat_overlay(inspection.pixels, inspection.anomaly_map, scale=scale)
            pictures[heatmap] = encode(overlay, longest_side=_LONGEST_PX, quality=_QUALITY)
        told = {name: row[name] for name in ("label", "score", "p_value")}
        found.append({"picture": picture, "heatmap": heatmap, **told})
    return found


def _spread(flags: NDArray[np.bool_]) -> list[int]:
    """Photos to show: half of them normal and half anomalous, evenly from all."""

    def some(places: NDArray[np.intp]) -> list[int]:
        chosen = np.linspace(0, len(places) - 1, min(len(places), NUM_SHOWN // 2)).astype(int)
        return [int(place) for place in places[chosen]]

    return [*some(np.flatnonzero(~flags)), *some(np.flatnonzero(flags))]


def _sizes_of(photo: Photo, maps: Sequence[NDArray[np.float32]], pictures: Pictures) -> dict[str, Any]:
    """A photo under the map of each patch size, each on a scale of its own, as the thesis draws them."""
    pixels, keys = read_image(photo.path, min_side=_LONGEST_PX), []
    for size, of in zip(PATCH_SIZES, maps, strict=True):
        low, high = float(of.min()), float(of.max())
        keys.append(f"patch {size} {as_text(photo.path)}")
        overlay = heat_overlay(pixels, of, scale=(low, max(high, low + 1e-6)))
        pictures[keys[-1]] = encode(overlay, longest_side=_LONGEST_PX, quality=_QUALITY)
    return {"title": as_text(photo.label or photo.path.name), "cells": keys}
