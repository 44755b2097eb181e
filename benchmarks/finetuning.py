"""What adapting a backbone brings: each objective against the frozen ImageNet weights, on real photos, in one run.

    python benchmarks/finetuning.py DATA_ROOT --out results [--only piston,solar-panel] [--seeds 3] [--readme README.md]

For each data set, objective and seed a backbone is adapted as ``inlier finetune`` does it, on the photos of ``train``
and, without their labels, of ``dev``; three detectors are fitted on the normal photos of ``train`` over the frozen and
over the adapted backbone, and measured on the photos of ``test``: by image AUROC, and by AUPRO where ``--by-pixels``
says so. A data set whose normal photos are of several classes is made hard: every second class, in the order of the
alphabet, is unknown; its photos are left out of ``train`` and are the anomalies of ``dev`` and ``test``, in place of
those that the set has.

A gain is the adapted backbone's figure less the frozen one's, in points, the mean over seeds. Its 95 % interval comes
from resamples of the photos, the same for both backbones and all seeds, stratified by label and drawn by group, and of
the seeds; that of the mean over sets from resampling all sets at once. *Rank* is what is left of the effective rank of
pooled maps on the photos measured on, the mean of layers, sets and seeds; *s* how long adapting took, the median. What
is measured is kept as it comes, and a run that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from inlier.adaptation import adapt
from inlier.build import build_backbone, build_detector, resolve
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.decision.intervals import draw_resamples
from inlier.decision.metrics import image_auroc
from inlier.decision.pixel_metrics import PixelScores, aupro, collect_pixels
from inlier.evaluation import true_pixels
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache
from inlier.features.separation import effective_rank
from inlier.model import package_versions
from inlier.reading import Reader, component_label, has_components, normal_groups

Config = dict[str, dict[str, Any]]

ALL_LAYERS = {"layer_decay": 1.0, "learning_rate": 2e-5, "num_samples": 800}
"""Instead of the coarsest layer alone: slower, hence fewer photos, so that the whole table takes under 90 minutes."""

RECIPES: dict[str, Config] = {
    "supcon (default)": {},
    "simclr": {"finetune": {"objective": "simclr"}},
    "adaptor": {"finetune": {"objective": "adaptor"}},
    "masked": {"finetune": {"objective": "masked", **ALL_LAYERS}},
    "reverse-distillation": {"finetune": {"objective": "reverse-distillation", **ALL_LAYERS}},
    "reverse-distillation, unguarded": {
        "finetune": {"objective": "reverse-distillation", "blend": 1.0, "least_rank_ratio": 0.0, **ALL_LAYERS},
        "reverse-distillation-objective": {"guard": "none"},
    },
}
ABLATIONS: dict[str, Config] = {
    "supcon, all layers": {"finetune": ALL_LAYERS},
    "supcon, all layers, half-way": {"finetune": {"blend": 0.5, **ALL_LAYERS}},
    "supcon, half-way everywhere": {"finetune": {"blend": 0.5}},
    "supcon, whole weights everywhere": {"finetune": {"blend": 1.0}},
    "simclr, altered copies apart": {"finetune": {"objective": "simclr"}, "simclr": {"is_altered": True}},
    "supcon, train alone": {"finetune": {"archive": "train"}},
}
DETECTORS: dict[str, Config] = {
    "combined (default)": {},
    "photo-neighbors": {"fit": {"detector": "photo-neighbors"}},
    "nearest neighbour": {"fit": {"detector": "baseline"}, "baseline": {"method": "nearest-neighbor"}},
}
FROZEN = "frozen"
SETS = "ball-screw,camera-roll,magnetic-tile,piston,solar-panel"
MAX_FITTED = 200
"""Normal photos that a detector is fitted on, evenly chosen: enough to compare backbones."""

MAX_NORMAL_PIXELS = 400_000
"""Of a set, evenly selected, so that AUPRO can be resampled a thousand times."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Photos of one set.

    Attributes:
        name: Its folder, and what was made of it.
        data: The photos of ``train`` and of the split to be measured on.
        by_pixels: Whether AUPRO counts in place of the image AUROC.
    """

    name: str
    data: Manifest
    by_pixels: bool


@dataclass(frozen=True, eq=False)
class Cell:
    """What one backbone gave: of each detector the scores, and where pixels count those of its maps.

    Attributes:
        scores: Detector -> shape (N,).
        pixels: Detector -> one a photo; empty where images count, or the detector has no map.
        is_anomalous: Shape (N,).
        groups: Of each photo.
        ranks: Effective rank of the pooled maps of layers 2, 3 and 4, shape (3,).
        seconds: That adapting took.
    """

    scores: Mapping[str, NDArray[np.float64]]
    pixels: Mapping[str, list[PixelScores]]
    is_anomalous: NDArray[np.bool_]
    groups: NDArray[np.str_]
    ranks: NDArray[np.float64]
    seconds: float

    def measure(self, detector: str, times: NDArray[np.int64] | None = None) -> float:
        """AUROC of the images, or AUPRO; each photo as often as a resample has it."""
        photos = np.arange(len(self.groups)) if times is None else np.repeat(np.arange(len(self.groups)), times)
        if self.pixels:
            return aupro([self.pixels[detector][place] for place in photos])
        return image_auroc(self.scores[detector][photos], self.is_anomalous[photos])


def main() -> None:
    """Measures every objective on every set, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/finetuning"))
    parser.add_argument("--only", default=SETS, help="names of sets, separated by commas")
    parser.add_argument("--by-pixels", default="ball-screw", help="sets measured by AUPRO")
    parser.add_argument("--recipes", default="", help="beginnings of their names, separated by semicolons")
    parser.add_argument("--ablations", action="store_true", help="measure variants of the default too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = RECIPES | (ABLATIONS if arguments.ablations else {})
    recipes = [title for title in known if title.startswith(tuple(arguments.recipes.split(";")))]
    sets = [
        read_set(arguments.root / name, by_pixels=name in arguments.by_pixels.split(","))
        for name in arguments.only.split(",")
    ]
    frozen: dict[str, Cell] = {}
    adapted: dict[str, dict[str, list[Cell]]] = {title: {} for title in recipes}
    for of in sets:  # all sets with the first recipe before the second, so that a part of the table is whole
        frozen[of.name] = cell(arguments.out, of, FROZEN, {}, 0, arguments.split, arguments.device)
    for title in recipes:
        for seed in range(arguments.seeds):
            for of in sets:
                twin = _twin(title, of)
                found = cell(arguments.out, of, twin, known[twin], seed, arguments.split, arguments.device)
                adapted[title].setdefault(of.name, []).append(found)
    tables = to_markdown(frozen, adapted, arguments.resamples)
    record = {
        "arguments": vars(arguments),
        "versions": package_versions(),
        "fingerprints": {of.name: of.data.fingerprint() for of in sets},
        "tables": tables,
    }
    (arguments.out / "finetuning.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    (arguments.out / "finetuning.md").write_text(tables)
    print(tables)
    if arguments.readme:
        put_into(arguments.readme, tables, sets)


def read_set(folder: Path, *, by_pixels: bool) -> DataSet:
    """A set as it is, or made hard if its normal photos are of several classes."""
    data = Manifest.read(folder)
    if not has_components(data.normal().select("train")):
        return DataSet(folder.name, data, by_pixels)
    classes = sorted({label for photo in data.normal().photos if (label := component_label(photo))})
    known = set(classes[::2])
    photos = [
        photo if photo.label in known else replace(photo, is_anomalous=True)
        for photo in data.photos
        if photo.label in known or (photo.label in classes and photo.split != "train")
    ]
    return DataSet(f"{folder.name}, {len(known)} of {len(classes)} classes known", Manifest(tuple(photos)), by_pixels)


def cell(out: Path, of: DataSet, recipe: str, config: Config, seed: int, split: str, device: str) -> Cell:
    """What one recipe gives on one set with one seed; read, if it was measured before."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{of.name} {recipe} {seed}".lower()).strip("-")
    path = out / "cells" / f"{name}.npz"
    if not path.exists():
        began = time.monotonic()
        if recipe == FROZEN:
            resolved = resolve({}, device=device, layers=(2, 3, 4))
            backbone = build_backbone(resolved, build_detector(resolved).layers).to(device)
        else:
            sections = config | {"finetune": config.get("finetune", {}) | {"seed": seed}}
            backbone = adapt(sections, of.data, device=device, is_judged=False)[0].backbone
        seconds = time.monotonic() - began
        path.parent.mkdir(exist_ok=True)
        _write(path, measure(of, backbone, split, seconds))
        print(f"{name}: {seconds:.0f} s", flush=True)
    return _read(path)


def measure(of: DataSet, backbone: Backbone, split: str, seconds: float) -> Cell:
    """Each detector, fitted on the normal photos of ``train`` and asked about those of the split."""
    photos = sorted((p for p in of.data.select(split).photos if p.is_anomalous is not None), key=lambda p: str(p.path))
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        transform = Transform(224, backbone.mean, backbone.std)
        reader = Reader(backbone, transform, cache, normal_groups(of.data.normal()))
        normal = sorted(of.data.normal().select("train").photos, key=lambda photo: str(photo.path))
        chosen = np.unique(np.linspace(0, len(normal) - 1, MAX_FITTED).round().astype(int))
        train = reader.read(Manifest(tuple(normal[place] for place in chosen)), lambda steps: None)[0]
        judged = reader.read(Manifest(tuple(photos)), lambda steps: None)[0]
        assert not reader.unreadable
        scores, pixels = {}, {}
        for name, config in DETECTORS.items():
            detector = build_detector(resolve(config, device="cpu")).fit(train)
            predictions = [detector.predict(maps) for maps in judged.batches()]
            scores[name] = torch.cat([p.score for p in predictions]).double().numpy()
            maps = [m.numpy() for p in predictions if p.anomaly_map is not None for m in p.anomaly_map]
            if of.by_pixels and maps:
                pairs = ((m, true_pixels(photo, m.shape)) for m, photo in zip(maps, photos, strict=True))
                pixels[name] = collect_pixels(pairs, max_normal_pixels=MAX_NORMAL_PIXELS)
        pooled = {layer: torch.cat([maps[layer].mean(dim=(2, 3)) for maps in judged.batches()]) for layer in (2, 3, 4)}
    ranks = np.array([effective_rank(F.normalize(of).numpy()) for of in pooled.values()])
    flags = np.array([bool(photo.is_anomalous) for photo in photos])
    return Cell(scores, pixels, flags, np.array([photo.group for photo in photos], dtype=np.str_), ranks, seconds)


def gains(
    frozen: Cell, adapted: Sequence[Cell], detector: str, num_resamples: int
) -> tuple[float, NDArray[np.float64]]:
    """The mean gain over seeds in points, and that of each resample of photos and seeds."""
    rng = np.random.default_rng(0)
    value = float(np.mean([of.measure(detector) for of in adapted]) - frozen.measure(detector))
    resampled = np.empty(num_resamples)
    for number, times in enumerate(draw_resamples(frozen.is_anomalous, frozen.groups, num_resamples, seed=0)):
        seeds = rng.integers(len(adapted), size=len(adapted))
        after = np.mean([adapted[seed].measure(detector, times) for seed in seeds])
        resampled[number] = after - frozen.measure(detector, times)
    return 100 * value, 100 * resampled


def to_markdown(frozen: Mapping[str, Cell], adapted: Mapping[str, Mapping[str, list[Cell]]], num_resamples: int) -> str:
    """One table a detector: the frozen figures, and each recipe's gains with their intervals, mean first."""
    blocks = []
    for detector in DETECTORS:
        sets = [name for name, of in frozen.items() if not of.pixels or detector in of.pixels]
        lines = [f"| {detector} | mean | {' | '.join(sets)} | rank | s |", "| --- | --- |" + " --- |" * (len(sets) + 2)]
        figures = [frozen[name].measure(detector) for name in sets]
        lines.append(f"| frozen | {np.mean(figures):.3f} | {' | '.join(f'{x:.3f}' for x in figures)} | | |")
        for title, of_sets in adapted.items():
            found = [gains(frozen[name], of_sets[name], detector, num_resamples) for name in sets]
            mean = (float(np.mean([value for value, _ in found])), np.mean([of for _, of in found], axis=0))
            seconds = np.median([of.seconds for name in sets for of in of_sets[name]])
            cells = [_shown(*of) for of in (mean, *found)]
            kept = np.mean([of.ranks / frozen[name].ranks for name in sets for of in of_sets[name]])
            lines.append(f"| {title} | {' | '.join(cells)} | {100 * kept:.0f} % | {seconds:.0f} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def put_into(readme: Path, tables: str, sets: Sequence[DataSet]) -> None:
    """Puts the tables between the markers of a page."""
    command = "`python benchmarks/finetuning.py DATA_ROOT --readme README.md`"
    prints = ", ".join(f"{of.name} `{of.data.fingerprint()[:8]}`" for of in sets)
    versions = package_versions()
    text = f"\n{tables}\n{command}, torch {versions['torch']}. Data fingerprints: {prints}.\n\n"
    begin, end = "<!-- finetuning results -->", "<!-- /finetuning results -->"
    page = readme.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: f"{begin}\n{text}{end}", page), encoding="utf-8")


def _twin(title: str, of: DataSet) -> str:
    """The recipe that gives the same: without labels each photo is a class of its own, and supcon is simclr."""
    is_twin = title == "simclr" and not has_components(of.data.normal().select("train"))
    return "supcon (default)" if is_twin else title


def _shown(value: float, resampled: NDArray[np.float64]) -> str:
    value, low, high = (round(float(of), 1) + 0.0 for of in (value, *np.quantile(resampled, (0.025, 0.975))))  # no -0.0
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _write(path: Path, of: Cell) -> None:
    arrays: dict[str, Any] = {"is_anomalous": of.is_anomalous, "groups": of.groups, "ranks": of.ranks}
    arrays["seconds"] = np.array(of.seconds)
    arrays |= {f"scores/{name}": scores for name, scores in of.scores.items()}
    for name, photos in of.pixels.items():
        for part in ("normal", "defect", "region_size"):
            values = [getattr(photo, part) for photo in photos]
            arrays[f"pixels/{name}/{part}"] = np.concatenate(values)
            arrays[f"pixels/{name}/{part}/ends"] = np.cumsum([len(value) for value in values])
    np.savez_compressed(path.with_suffix(".partial.npz"), **arrays)
    path.with_suffix(".partial.npz").replace(path)


def _read(path: Path) -> Cell:
    with np.load(path) as file:
        names = [key.removeprefix("scores/") for key in file if key.startswith("scores/")]
        has_pixels = [name for name in names if f"pixels/{name}/normal" in file]
        return Cell(
            {name: file[f"scores/{name}"] for name in names},
            {name: list(_photos(file, name)) for name in has_pixels},
            file["is_anomalous"],
            file["groups"],
            file["ranks"],
            float(file["seconds"]),
        )


def _photos(file: Any, name: str) -> Iterator[PixelScores]:
    parts = [
        np.split(file[f"pixels/{name}/{part}"], file[f"pixels/{name}/{part}/ends"][:-1])
        for part in ("normal", "defect", "region_size")
    ]
    for normal, defect, region_size in zip(*parts, strict=True):
        yield PixelScores(normal, defect, region_size)


if __name__ == "__main__":
    main()
