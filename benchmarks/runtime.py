"""What a runtime and a precision cost and gain: photos a second, how far features are off, and AUROC.

    python benchmarks/runtime.py [DATA_ROOT] [--max-photos 150] [--only piston,bottle] [--write docs/runtime.md]

Speed is that of the default network alone, at several batch sizes, each pair measured in turns, medians of
``--repeats`` rounds. With DATA_ROOT, which holds one folder a data set in any form that inlier reads, the detectors
learn from and judge the same photos through every pair, and the AUROC of each is compared with that of float32 in
PyTorch. Which pair is the default (``best_runtime``, ``best_precision``) was decided by this table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.decision.metrics import image_auroc
from inlier.detectors.crossfit import score_photos
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.runtime import Precision, Runtime, best_precision, best_runtime, open_trunk
from inlier.model import package_versions
from inlier.reading import Reader, normal_groups
from near_duplicates import check_markers, put_between

PAIRS: tuple[tuple[Runtime, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
BATCHES = (1, 8, 32)
DETECTORS = ("combined", "patchcore")


def main() -> None:
    """Measures speed, then quality, and prints or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="folder of data sets; without it, speed alone")
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--max-photos", type=int, default=150, help="of each kind and split")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the results between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "runtime")
    torch.set_num_threads(arguments.threads)
    pairs = [pair for pair in PAIRS if pair[0] == "torch" or best_runtime("cpu") == "openvino"]
    speeds = measure_speed(pairs, arguments.repeats)
    table = speed_table(speeds)
    print(table, flush=True)
    found: list[dict[str, Any]] = []
    if arguments.root:
        sets = (
            arguments.only.split(",")
            if arguments.only
            else sorted(p.name for p in arguments.root.iterdir() if p.is_dir())
        )
        for name in sets:
            found += measure_quality(name, Manifest.read(arguments.root / name), pairs, arguments.max_photos)
            print(quality_table(found[-len(DETECTORS) :], pairs), flush=True)
        table += "\n\n" + quality_table(found, pairs)
    if arguments.json:
        record = {"versions": package_versions(), "speed": speeds, "quality": found}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.write:
        put_between(arguments.write, "runtime", table)


def measure_speed(pairs: Sequence[tuple[Runtime, Precision]], repeats: int) -> list[dict[str, Any]]:
    """Photos a second of each pair and batch size, measured in turns."""
    backbone = Backbone("efficientnet_lite0", layers=(2, 3))
    images = torch.rand(max(BATCHES), 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        wanted = backbone(images)
        trunks = [
            open_trunk(backbone.network, images, name=backbone.name, runtime=of, precision=precision)
            for of, precision in pairs
        ]
        seconds: dict[tuple[int, int], list[float]] = {}
        for _ in range(repeats + 1):  # the first round warms up
            for size in BATCHES:
                for place, (trunk, _) in enumerate(trunks):
                    begin = time.perf_counter()
                    for start in range(0, max(BATCHES), size):
                        trunk(images[start : start + size])
                    seconds.setdefault((place, size), []).append(time.perf_counter() - begin)
        return [
            {
                "runtime": used,
                "precision": precision,
                "photos_per_second": {
                    size: max(BATCHES) / statistics.median(seconds[place, size][1:]) for size in BATCHES
                },
                "error": max(_off(given, ours) for given, ours in zip(trunk(images), wanted, strict=True)),
            }
            for place, ((trunk, used), (_, precision)) in enumerate(zip(trunks, pairs, strict=True))
        ]


def measure_quality(
    name: str, data: Manifest, pairs: Sequence[tuple[Runtime, Precision]], max_photos: int
) -> list[dict[str, Any]]:
    """AUROC of each detector through each pair, on the same photos of one set."""
    train = Manifest(tuple(_some(data.select("train").normal().photos, max_photos)))
    judged = [photo for photo in data.select("test").photos if photo.is_anomalous is not None]
    normal, anomalous = ([p for p in judged if p.is_anomalous is kind] for kind in (False, True))
    test = Manifest((*_some(normal, max_photos), *_some(anomalous, max_photos)))
    rows: dict[str, dict[str, Any]] = {of: {"set": name, "detector": of, "auroc": {}, "off": {}} for of in DETECTORS}
    for runtime, precision in pairs:
        section = {"backbone": {"runtime": runtime, "precision": precision}}
        configs = {of: resolve(section | {"fit": {"detector": of}}, device="cpu") for of in DETECTORS}
        layers = sorted({layer for config in configs.values() for layer in build_detector(config).layers})
        backbone = build_backbone(configs[DETECTORS[0]], layers)
        transform = Transform(configs[DETECTORS[0]]["input"]["size"], backbone.mean, backbone.std)
        with FeatureCache(dtype=getattr(torch, precision)) as cache:
            reader = Reader(backbone, transform, cache, normal_groups(Manifest((*train.photos, *test.photos))))
            to_learn, _ = reader.read(train, lambda steps: None)
            to_judge, _ = reader.read(test, lambda steps: None)
            is_anomalous = np.array([bool(photo.is_anomalous) for photo in reader.photos[len(to_learn) :]])
            for of, config in configs.items():
                scores = _scores(config, to_learn, to_judge)
                rows[of]["auroc"][f"{runtime} {precision}"] = image_auroc(scores, is_anomalous)
        rows[DETECTORS[0]]["num_judged"] = rows[DETECTORS[1]]["num_judged"] = len(is_anomalous)
    return list(rows.values())


def _scores(config: dict[str, Any], to_learn: FeatureSet, to_judge: FeatureSet) -> np.ndarray:
    return score_photos(build_detector(config).fit(to_learn), to_judge).values


def _some(photos: Sequence[Photo], number: int) -> list[Photo]:
    """Photos spread evenly over the names."""
    ordered = sorted(photos, key=lambda photo: str(photo.path))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(int))
    return [ordered[place] for place in places] if ordered else []


def _off(given: Tensor, wanted: Tensor) -> float:
    return float((given - wanted).norm() / wanted.norm())


def speed_table(speeds: Sequence[dict[str, Any]]) -> str:
    """Photos a second, and how far features are off."""
    sizes = " | ".join(f"batch {size}" for size in BATCHES)
    lines = [f"| photos/s | {sizes} | features off by |", f"| --- |{' ---: |' * (len(BATCHES) + 1)}"]
    for row in speeds:
        shown = " | ".join(f"{row['photos_per_second'][size]:.0f}" for size in BATCHES)
        default = (
            " (default)" if (row["runtime"], row["precision"]) == (best_runtime("cpu"), best_precision("cpu")) else ""
        )
        lines.append(f"| {row['runtime']} {row['precision']}{default} | {shown} | {row['error']:.2g} |")
    return "\n".join(lines)


def quality_table(rows: Sequence[dict[str, Any]], pairs: Sequence[tuple[Runtime, Precision]]) -> str:
    """AUROC through float32 in PyTorch, and what the other pairs add."""
    names = [f"{runtime} {precision}" for runtime, precision in pairs]
    lines = [f"| set | detector | photos | {' | '.join(names)} |", f"| --- | --- | ---: |{' ---: |' * len(names)}"]
    for row in rows:
        first = row["auroc"][names[0]]
        others = " | ".join(f"{row['auroc'][name] - first:+.4f}" for name in names[1:])
        lines.append(f"| {row['set']} | {row['detector']} | {row['num_judged']} | {first:.4f} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
