"""What is lost when PatchCore learns in shards: covering radius and AUROC, against one exact coreset over everything.

    python benchmarks/shards.py DATA_ROOT --out results [--only magnetic-tile,piston] [--shards 1,2,4,8,16]
        [--bank-rows 5000,1000] [--budgets 128MiB,64MiB] [--max-photos 400] [--left-out 0.01] [--draws 5] [--split test]
        [--write docs/updating.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Features are read once; then every number of
shards learns from the same normal photos of ``train``, whole groups to a shard, and merges in a tree; and one stream
learns from them within each of ``--budgets``, where the others have room for all. The covering radius is the largest
distance of any patch of these photos to the bank. Beside it stands the AUROC on the split, with 95 % intervals over
groups, and its difference from that of the exact bank. A bank of at most so many rows is measured for each of
``--bank-rows``: a small one is chosen twice, a large one joined from the shards' shares. How much a difference says is
told by exact coresets that lack a share of ``--left-out`` of the photos, drawn ``--draws`` times: what their AUROC
differs by from that of all photos is chance. The tables are written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
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
from near_duplicates import check_markers, command, put_between, table

SECTIONS: dict[str, dict[str, Any]] = {"fit": {"detector": "patchcore"}, "patchcore": {}}


def main() -> None:
    """Measures every set, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/shards"))
    parser.add_argument("--only", default="magnetic-tile,piston", help="names of sets, separated by commas")
    parser.add_argument("--shards", default="1,2,4,8,16", help="numbers of shards, separated by commas")
    parser.add_argument("--bank-rows", default="5000,1000", help="rows of the bank at most, separated by commas")
    parser.add_argument("--budgets", default="128MiB,64MiB", help="memory of a stream, separated by commas")
    parser.add_argument("--max-photos", type=int, default=400, help="normal photos to learn from, of each set")
    parser.add_argument("--left-out", type=float, default=0.01, help="share of photos that an exact coreset may lack")
    parser.add_argument("--draws", type=int, default=5, help="how many such coresets")
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
            for about, shards in learned_from(of_train, arguments):
                within = merge(sized, "fit", memory_budget=about["budget"]) if "budget" in about else sized
                found = measure_one(within, shards, of_train, of_judged)
                row = compare(exact, found, flags, of_judged.groups, seed=arguments.seed)
                rows.append({"set": name, "max_bank_rows": bank_rows} | about | row)
                rows[-1]["data_fingerprint"] = data.fingerprint()
                print(json.dumps(rows[-1]), flush=True)
    return rows


def learned_from(train: FeatureSet, arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], list[FeatureSet]]]:
    """What to compare with the exact coreset: what a row of the table says of it, and the shards."""
    for num_shards in (int(text) for text in arguments.shards.split(",")):
        if num_shards <= len(set(train.groups)):
            about = {"num_photos": len(train), "shards": num_shards}
            yield about, split(train, num_shards, seed=arguments.seed)
    for text in arguments.budgets.split(","):
        yield {"num_photos": len(train), "shards": 1, "budget": text}, [train]
    generator = np.random.default_rng(arguments.seed)
    num_kept = len(train) - math.ceil(arguments.left_out * len(train))
    for _ in range(arguments.draws):
        kept = sorted(generator.permutation(len(train))[:num_kept].tolist())
        yield {"num_photos": num_kept, "shards": 1, "num_left_out": len(train) - num_kept}, [train.select(kept)]


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
        if "num_left_out" in row:
            continue
        auroc, low, high = row["auroc"]
        gain, least, most = row["gain"]
        lines.append(
            f"| {row['set']} | {row['num_photos']} | {row['max_bank_rows']:,} | {shown(row)} | "
            f"{row['num_rows']:,} | {row['radius_ratio']:.3f} | {auroc:.3f} ({low:.3f} to {high:.3f}) | "
            f"{gain:+.4f} ({least:+.4f} to {most:+.4f}) | {row['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n" + chance(rows)


def shown(row: dict[str, Any]) -> str:
    """How many shards, or what memory one stream had."""
    return f"one, in {row['budget']}" if "budget" in row else str(row["shards"])


def chance(rows: Sequence[dict[str, Any]]) -> str:
    """Within what AUROC changes when the exact coreset learns from a few photos less."""
    found: dict[tuple[str, int, int], list[float]] = {}
    for row in rows:
        if number := row.get("num_left_out"):
            found.setdefault((row["set"], row["max_bank_rows"], number), []).append(row["gain"][0])
    titles = ("set", "rows at most", "exact coresets", "each without", "difference")
    cells = [
        [name, f"{bank_rows:,}", f"{len(gains)}", f"{number} photos" if number > 1 else "1 photo", span(gains)]
        for (name, bank_rows, number), gains in found.items()
    ]
    return f"\n{table(titles, cells)}\n" if cells else ""


def span(gains: Sequence[float]) -> str:
    """From the least to the greatest."""
    return f"{min(gains):+.4f} to {max(gains):+.4f}"


if __name__ == "__main__":
    main()
