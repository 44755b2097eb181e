"""What patch size, pooling and layers do to PatchCore and to reverse distillation, on real photos, with figures.

    python benchmarks/ablation.py DATA_ROOT --out results [--only piston] [--split dev] [--figures docs/images]

Two tables of Sommerlund's thesis, which were taken on one private data set, are taken again on several:

- appendix D, table D.1: patch size and pooling of the map, with the third layer alone;
- figure 5.6: all combinations of layers, over patch sizes, distances and poolings, for PatchCore; and for reverse
  distillation all combinations of layers that contribute to the score of one trained student.

The split is ``dev`` (``test`` where a set has no anomalous photos there), since this is for choosing. At most
``--photos`` photos are learned from and twice as many judged, drawn by seed. With ``--figures`` the figures are drawn
as SVG, and beside them heatmaps of generated photos for several patch sizes (the thesis's figure D.1).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.images import read_image
from inlier.data.manifest import Manifest
from inlier.data.synthetic import draw_component
from inlier.data.transforms import Transform
from inlier.decision.calibration import Calibration
from inlier.decision.heatmap import heat_overlay
from inlier.decision.metrics import image_auroc
from inlier.detectors.anomaly_map import Pooling, pool_map
from inlier.detectors.crossfit import cross_scores, score_photos
from inlier.detectors.neighbors import nearest_rows
from inlier.detectors.patchcore import Distance, PatchCore
from inlier.detectors.reverse_distillation import ReverseDistillation
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.patches import embed_patches
from inlier.features.runtime import best_precision
from inlier.model import package_versions

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "inlier", "font.size": 9, "axes.grid": True,
                            "grid.color": "#dddddd", "axes.axisbelow": True})  # fmt: skip

PATCH_SIZES = (1, 3, 5, 9, 15, 29)
POOLINGS: tuple[Pooling, ...] = ("max", "top", "mean")
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
LAYERS = (1, 2, 3, 4)
COLOURS = {"max": "#b3321f", "top": "#8a5c00", "mean": "#2d6f63"}

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Features of one set.

    Attributes:
        name: Its folder.
        normal: Normal photos to learn from.
        judged: Other photos.
        is_anomalous: Of each of these whether it is, shape (N,).
        split: Where they are from.
        fingerprint: Of the data.
    """

    name: str
    normal: FeatureSet
    judged: FeatureSet
    is_anomalous: NDArray[np.bool_]
    split: str
    fingerprint: str


def main() -> None:
    """Measures both tables, and draws the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--photos", type=int, default=60, help="normal photos learned from at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = (
        arguments.only.split(",") if arguments.only else sorted(p.name for p in arguments.root.iterdir() if p.is_dir())
    )
    backbone = Backbone("efficientnet_lite0", layers=LAYERS, precision=best_precision("cpu"))
    patches: list[Row] = []
    layers: list[Row] = []
    prints = {}
    for name in names:
        with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
            data = read(arguments.root / name, backbone, cache, arguments.split, arguments.photos, arguments.seed)
            prints[name] = data.fingerprint
            patches += patch_sizes(data)
            layers += [*layers_of_patchcore(data), *layers_of_reverse_distillation(data, arguments.seed)]
        record = {"arguments": vars(arguments), "versions": package_versions(), "fingerprints": prints}
        record |= {"patch_size": patches, "layers": layers}
        (arguments.out / "ablation.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (arguments.out / "ablation.md").write_text(to_markdown(patches, layers))
        print(name, len(patches), len(layers), flush=True)
    if arguments.figures:
        draw_patch_sizes(patches, arguments.figures / "patch-size.svg")
        draw_layers(layers, arguments.figures / "layers.svg")
        draw_heatmaps(backbone, arguments.figures / "patch-size-heatmaps.webp")
    print(to_markdown(patches, layers))


def read(folder: Path, backbone: Backbone, cache: FeatureCache, split: str, num_photos: int, seed: int) -> DataSet:
    """Some normal photos of ``train``, and twice as many of the split, half of them anomalous."""
    data = Manifest.read(folder)
    transform = Transform(224, backbone.mean, backbone.std)
    chosen = split if any(photo.is_anomalous for photo in data.select(split).photos) else "test"
    rng = np.random.default_rng(seed)

    def append(photos: Sequence[Any], most: int) -> int:
        drawn = [photos[place] for place in sorted(rng.permutation(len(photos))[:most])]
        for start in range(0, len(drawn), 32):
            part = drawn[start : start + 32]
            images = torch.stack([transform.to_tensor(read_image(photo.path, min_side=224)) for photo in part])
            cache.append(backbone.extract(images), groups=[photo.group or str(photo.path) for photo in part])
        return len(drawn)

    num_normal = append(data.normal().select("train").photos, num_photos)
    of_split = data.select(chosen).photos
    counts = [append([photo for photo in of_split if photo.is_anomalous is flag], num_photos) for flag in (False, True)]
    everything = cache.features()
    return DataSet(
        folder.name,
        everything.select(range(num_normal)),
        everything.select(range(num_normal, num_normal + sum(counts))),
        np.repeat([False, True], counts),
        chosen,
        data.fingerprint(),
    )


def patchcore_aurocs(detector: PatchCore, data: DataSet) -> dict[Pooling, float]:
    """Image AUROC of each pooling, from patches that are compared once: what ``predict`` does, for all poolings."""
    scores: dict[Pooling, list[Tensor]] = {pooling: [] for pooling in POOLINGS}
    for maps in data.judged.batches():
        chosen = [maps[layer] for layer in detector.layers]
        patches = embed_patches(
            chosen, patch_size=detector.patch_size, is_cosine=detector.distance == "cosine"
        )  # (B, h, w, D)
        distances, _ = nearest_rows(patches.flatten(0, 2), detector.memory_bank_)
        for pooling, of in scores.items():
            of.append(pool_map(distances.view(patches.shape[:3]), pooling=pooling, top_ratio=detector.top_ratio))
    return {pooling: image_auroc(torch.cat(of).numpy(), data.is_anomalous) for pooling, of in scores.items()}


def patch_sizes(data: DataSet) -> list[Row]:
    """Table D.1: the third layer alone, as the thesis has it, for each patch size and pooling."""
    rows = []
    for distance, patch_size in product(DISTANCES, PATCH_SIZES):
        detector = PatchCore(layers=(3,), patch_size=patch_size, distance=distance, max_bank_rows=2000)
        detector.fit(data.normal)
        for pooling, area in patchcore_aurocs(detector, data).items():
            rows.append(
                {"set": data.name, "distance": distance, "patch_size": patch_size, "pooling": pooling, "auroc": area}
            )
    return rows


def layers_of_patchcore(data: DataSet) -> list[Row]:
    """Figure 5.6 for PatchCore: every combination of layers, over patch sizes, distances and poolings."""
    rows = []
    for chosen, distance, patch_size in product(subsets(LAYERS), DISTANCES, (1, 3)):
        detector = PatchCore(
            layers=chosen, patch_size=patch_size, distance=distance, coreset_ratio=0.01, max_bank_rows=1000
        ).fit(data.normal)
        for area in patchcore_aurocs(detector, data).values():
            rows.append({"detector": "patchcore", "set": data.name, "layers": chosen, "auroc": area})
    return rows


def layers_of_reverse_distillation(data: DataSet, seed: int) -> list[Row]:
    """Figure 5.6 for reverse distillation: which layers of one trained student contribute, over maps and poolings."""
    rows = []
    trained = ReverseDistillation(num_samples=3200, seed=seed).fit(data.normal)
    for chosen, combination, pooling in product(subsets(trained.layers), ("sum", "product"), POOLINGS):
        detector = ReverseDistillation(scoring_layers=chosen, combination=combination, pooling=pooling, seed=seed)
        detector.load_state_dict(trained.state_dict())
        area = image_auroc(score_photos(detector, data.judged).values, data.is_anomalous)
        rows.append({"detector": "reverse-distillation", "set": data.name, "layers": chosen, "auroc": area})
    return rows


def subsets(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of layers, in the order of their mean depth, as the thesis's figure orders them."""
    found = [of for number in range(1, len(layers) + 1) for of in combinations(layers, number)]
    return sorted(found, key=lambda of: (sum(of) / len(of), of))


def to_markdown(patches: Sequence[Row], layers: Sequence[Row]) -> str:
    """Both tables: means over sets."""
    lines = ["| distance | pooling | " + " | ".join(f"patch size {size}" for size in PATCH_SIZES) + " |",
             "| --- | --- |" + " --- |" * len(PATCH_SIZES)]  # fmt: skip
    for distance, pooling in product(DISTANCES, POOLINGS):
        of = [row for row in patches if (row["distance"], row["pooling"]) == (distance, pooling)]
        means = [np.mean([row["auroc"] for row in of if row["patch_size"] == size]) for size in PATCH_SIZES]
        lines.append(f"| {distance} | {pooling} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    lines += ["", "| detector | layers | median AUROC | quartiles |", "| --- | --- | --- | --- |"]
    for detector in dict.fromkeys(row["detector"] for row in layers):
        of = [row for row in layers if row["detector"] == detector]
        for chosen in sorted({tuple(row["layers"]) for row in of}, key=lambda of: (sum(of) / len(of), of)):
            low, middle, high = np.quantile([r["auroc"] for r in of if tuple(r["layers"]) == chosen], [0.25, 0.5, 0.75])
            lines.append(f"| {detector} | {' + '.join(map(str, chosen))} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines) + "\n"


def draw_patch_sizes(rows: Sequence[Row], path: Path) -> None:
    """AUROC against patch size: a thin line for each set, a thick one for the mean."""
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, len(DISTANCES), figsize=(7.5, 3.2), sharey=True, layout="constrained")
    for pane, distance in zip(panes, DISTANCES, strict=True):
        for pooling in POOLINGS:
            of = [row for row in rows if (row["distance"], row["pooling"]) == (distance, pooling)]
            lines = [
                [row["auroc"] for row in of if row["set"] == name] for name in dict.fromkeys(row["set"] for row in of)
            ]
            for line in lines:
                pane.plot(PATCH_SIZES, line, color=COLOURS[pooling], alpha=0.25, linewidth=0.8)
            pane.plot(
                PATCH_SIZES, np.mean(lines, axis=0), color=COLOURS[pooling], marker="o", label=pooling, markersize=4
            )
        pane.axhline(0.5, color="#888888", linestyle=":", linewidth=1)
        pane.set(
            title=f"{distance} distance", xlabel="patch size, cells of 16 pixels", xscale="log", xticks=PATCH_SIZES
        )
        pane.set_xticklabels(PATCH_SIZES)
        pane.minorticks_off()
    panes[0].set_ylabel("image AUROC")
    panes[-1].legend(title="pooling", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw_layers(rows: Sequence[Row], path: Path) -> None:
    """Box plots of AUROC over layers, a row for each detector, a column for each set."""
    from matplotlib import pyplot

    detectors, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("detector", "set"))
    figure, panes = pyplot.subplots(
        len(detectors), len(sets), figsize=(2.1 * len(sets) + 0.8, 2.9 * len(detectors)), sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (i, detector), (j, name) in product(enumerate(detectors), enumerate(sets)):
        of = [row for row in rows if (row["detector"], row["set"]) == (detector, name)]
        chosen = sorted({tuple(row["layers"]) for row in of}, key=lambda of: (sum(of) / len(of), of))
        pane = panes[i][j]
        pane.boxplot(
            [[row["auroc"] for row in of if tuple(row["layers"]) == layers] for layers in chosen],
            orientation="horizontal", widths=0.6, medianprops={"color": "#b3321f"}, flierprops={"markersize": 2},
        )  # fmt: skip
        pane.set_yticks(range(1, len(chosen) + 1), [" ".join(map(str, layers)) for layers in chosen], fontsize=7)
        pane.axvline(0.5, color="#888888", linestyle=":", linewidth=1)
        pane.tick_params(labelleft=j == 0)
        if i == 0:
            pane.set_title(name)
        if j == 0:
            pane.set_ylabel(f"{detector}\nlayers, by mean depth")
        pane.set_xlabel("image AUROC")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw_heatmaps(backbone: Backbone, path: Path) -> None:
    """Figure D.1 with generated photos: heatmaps for several patch sizes, each on a scale of its own normal photos."""
    from PIL import Image

    transform = Transform(224, backbone.mean, backbone.std)

    def embed(images: Sequence[NDArray[np.uint8]]) -> dict[int, Tensor]:
        return backbone.extract(torch.stack([transform.to_tensor(image) for image in images]))

    normal = [draw_component("cylinder-liner", seed=seed).image for seed in range(40)]
    defects: tuple[str | None, ...] = ("crack", "scuffing", "peel-off", None)
    shown = [draw_component("cylinder-liner", seed=100 + place, defect=of).image for place, of in enumerate(defects)]
    lines = []
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(embed(normal), groups=[str(seed) for seed in range(len(normal))])
        for patch_size in (1, 3, 9, 29):
            detector = PatchCore(layers=(3,), patch_size=patch_size)
            maxima = cross_scores(detector, cache.features(), num_folds=5, seed=0).map_maxima.astype(np.float64)
            scale = Calibration(np.empty(0), map_maxima=maxima).heat_scale()
            maps = detector.fit(cache.features()).predict(embed(shown)).anomaly_map
            assert maps is not None
            overlays = [heat_overlay(image, of.numpy(), scale=scale) for image, of in zip(shown, maps, strict=True)]
            lines.append(np.concatenate(overlays, axis=1))
    picture = Image.fromarray(np.concatenate([np.concatenate(shown, axis=1), *lines]))
    picture.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    picture.save(path, quality=85)


if __name__ == "__main__":
    main()
