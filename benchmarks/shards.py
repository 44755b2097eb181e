"""What is lost when PatchCore learns in shards: covering radius and AUROC, against one exact coreset over everything.

    python benchmarks/shards.py DATA_ROOT --out results [--only magnetic-tile,piston] [--shards 1,2,4,8,16]
        [--bank-rows 5000,1000] [--max-photos 400] [--split test] [--write docs/updating.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Features are read once; then every number of
shards learns from the same normal photos of ``train``, whole groups to a shard, and merges in a tree. The covering
radius is the largest distance of any patch of these photos to the bank. Beside it stands the AUROC on the split, with
95 % intervals over groups, and its difference from that of the exact bank. A bank of at most so many rows is measured
for each of ``--bank-rows``: a small one is chosen twice, a large one joined from the shards' shares. The table is
written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlier.build import build_backbone, build_detector, resolve
from inlier.config import merge
from inlier.data.manifest import Manifest
from inlier.data.splits import group_folds
from inlier.data.transforms import Transform
from inlier.decision.compare import compare_aurocs
from inlier.detectors.crossfit import score_photos
from inlier.detectors.protocol import Mergeable, mergeable
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import package_versions
from inlier.reading import Reader, normal_groups
from near_duplicates import check_markers, command, put_between

SECTIONS: dict[str, dict[str, Any]] = {"fit": {"detector": "patchcore"}, "patchcore": {}}


def main() -> None:
    """Measures every set, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/shards"))
    parser.add_argument("--only", default="magnetic-tile,piston", help="names of sets, separated by commas")
    parser.add_argument("--shards", default="1,2,4,8,16", help="numbers of shards, separated by commas")
    parser.add_argument("--bank-rows", default="5000,1000", help="rows of the bank at most, separated by commas")
    parser.add_argument("--max-photos", type=int, default=400, help="normal photos to learn from, of each set")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="put the table between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "shards")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in arguments.only.split(","):
        rows += measure(name, Manifest.read(arguments.root / name), arguments)
        record = {"arguments": vars(arguments), "versions": package_versions(), "rows": rows}
        (arguments.out / "shards.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (arguments.out / "shards.md").write_text(to_markdown(rows))  # after each set: an interrupted run has these
    text = to_markdown(rows) + f"\n`{command()}`, torch {package_versions()['torch']}; {fingerprints(rows)}."
    print(text)
    if arguments.write:
        put_between(arguments.write, "shards", text)


def fingerprints(rows: Sequence[dict[str, Any]]) -> str:
    """Which data were measured."""
    of_sets = {row["set"]: row["data_fingerprint"][:12] for row in rows}
    return "data " + ", ".join(f"{name} {of}" for name, of in of_sets.items())


def measure(name: str, data: Manifest, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each size of the bank and number of shards."""
    config = resolve(merge(SECTIONS, "fit", seed=arguments.seed), device="cpu")
    backbone = build_backbone(config, build_detector(config).layers)
    normal = sorted(data.normal().select("train").photos, key=lambda photo: str(photo.path))
    order = np.random.default_rng(arguments.seed).permutation(len(normal))[: arguments.max_photos]
    train = Manifest(tuple(normal[place] for place in sorted(order)))
    judged = Manifest(tuple(p for p in data.select(arguments.split).photos if p.is_anomalous is not None))
    rows = []
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        transform = Transform(config["input"]["size"], backbone.mean, backbone.std)
        groups = normal_groups(train) | normal_groups(judged)
        reader = Reader(backbone, transform, cache, groups)
        of_train, _ = reader.read(train, lambda steps: None)
        of_judged, _ = reader.read(judged, lambda steps: None)
        flags = np.array([bool(reader.photos[index].is_anomalous) for index in of_judged.indices])
        for bank_rows in (int(text) for text in arguments.bank_rows.split(",")):
            sized = merge(config, "patchcore", max_bank_rows=bank_rows)
            exact = measure_one(sized, [of_train], of_train, of_judged)
            for num_shards in (int(text) for text in arguments.shards.split(",")):
                if num_shards <= len(set(of_train.groups)):
                    shards = split(of_train, num_shards, seed=arguments.seed)
                    found = measure_one(sized, shards, of_train, of_judged)
                    row = compare(exact, found, flags, of_judged.groups, seed=arguments.seed)
                    about = {"set": name, "num_photos": len(of_train), "max_bank_rows": bank_rows, "shards": num_shards}
                    rows.append(about | row | {"data_fingerprint": data.fingerprint()})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def split(features: FeatureSet, num_shards: int, *, seed: int) -> list[FeatureSet]:
    """The photos in shards of about equal size, whole groups each."""
    if num_shards == 1:
        return [features]
    folds = group_folds(features.groups, num_folds=num_shards, seed=seed)
    return [features.select(np.flatnonzero(folds == shard).tolist()) for shard in range(num_shards)]


def measure_one(
    config: dict[str, dict[str, Any]], shards: Sequence[FeatureSet], train: FeatureSet, judged: FeatureSet
) -> dict[str, Any]:
    """Learns from the shards (from one as ``fit`` does); seconds, covering radius, rows, and scores."""
    began = time.perf_counter()
    if len(shards) == 1:
        detector = build(config).fit(shards[0])
    else:
        detector = merged([(build(config).fit_part(shard), len(shard)) for shard in shards]).finish()
    seconds = time.perf_counter() - began
    state = detector.state_dict()
    worst = build(merge(config, "patchcore", pooling="max")).load_state_dict(state)
    return {
        "seconds": seconds,
        "num_rows": len(state["memory_bank_"]),
        "radius": float(score_photos(worst, train).values.max()),  # the largest distance of any patch
        "scores": score_photos(detector, judged).values,
    }


def build(config: dict[str, dict[str, Any]]) -> Mergeable:
    """The detector, which has learned nothing."""
    return mergeable(build_detector(config), name="patchcore")


def merged(parts: list[tuple[Mergeable, int]]) -> Mergeable:
    """The parts merged in a tree, each given with how many photos it has learned."""
    while len(parts) > 1:
        pairs = [parts[place : place + 2] for place in range(0, len(parts), 2)]
        parts = [
            (pair[0][0].merge(pair[1][0], num_photos=pair[0][1]), pair[0][1] + pair[1][1]) if pair[1:] else pair[0]
            for pair in pairs
        ]
    return parts[0][0]


def compare(
    exact: dict[str, Any], found: dict[str, Any], flags: np.ndarray, groups: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """How far the bank of the shards is from the exact one."""
    scores = np.stack([exact["scores"], found["scores"]])
    (of_exact, of_found), (difference,) = compare_aurocs(scores, flags, groups, seed=seed)
    sign = 1 if difference.ahead == 1 else -1
    ends = sorted((sign * difference.gain.low, sign * difference.gain.high))
    return {
        "num_rows": found["num_rows"],
        "seconds": round(found["seconds"], 2),
        "radius": round(found["radius"], 4),
        "radius_ratio": round(found["radius"] / exact["radius"], 4),
        "auroc": [round(value, 4) for value in (of_found.value, of_found.low, of_found.high)],
        "gain": [round(value, 4) + 0.0 for value in (of_found.value - of_exact.value, *ends)],
    }


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the docs."""
    lines = [
        "| set | photos | rows at most | shards | rows | radius / exact | AUROC (95 %) | difference (95 %) | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for row in rows:
        auroc, low, high = row["auroc"]
        gain, least, most = row["gain"]
        lines.append(
            f"| {row['set']} | {row['num_photos']} | {row['max_bank_rows']:,} | {row['shards']} | "
            f"{row['num_rows']:,} | {row['radius_ratio']:.3f} | {auroc:.3f} ({low:.3f} to {high:.3f}) | "
            f"{gain:+.4f} ({least:+.4f} to {most:+.4f}) | {row['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
