"""Greedy k-centre: the plain exact loop against inlier's, on the same rows, in one process.

    python benchmarks/coreset.py [DATA] [--rows 100000] [--ratio 0.1] [--threads 2] [--seed 0] [--out FILE.json]

With DATA, in any form that inlier reads, the rows are patches of its normal training photos as PatchCore embeds
them: strides 8 and 16 of the default backbone side by side, 152 wide. Without, they are drawn from a normal
distribution. The plain loop takes all distances from the differences, for every pick, into memory that it reuses.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.detectors.coreset import greedy_coreset
from inlier.features.backbone import Backbone
from inlier.features.patches import embed_patches
from inlier.model import package_versions

WIDTH = 152
IMAGE_SIZE = 224


def main() -> None:
    """Times both on the same rows, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="photos to take rows from; left out, they are generated")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(arguments.seed)
    data = Manifest.read(arguments.data) if arguments.data else None
    rows = patches(data, arguments.rows, generator) if data else torch.randn(arguments.rows, WIDTH, generator=generator)
    result = compare(rows, math.ceil(arguments.ratio * len(rows)))
    print(to_markdown(result))
    if arguments.out:
        origin = {
            "arguments": {name: value for name, value in vars(arguments).items() if name not in ("data", "out")},
            "data_fingerprint": data.fingerprint() if data else None,
            "versions": package_versions(),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(origin | result, indent=2) + "\n")


def patches(data: Manifest, num_rows: int, generator: torch.Generator) -> Tensor:
    """Patch embeddings of normal training photos, drawn without putting back, until there are enough."""
    backbone = Backbone("efficientnet_lite0", layers=(2, 3))
    photos = data.select("train").normal().photos
    cells = (IMAGE_SIZE // backbone.strides[0]) ** 2
    drawn = torch.randperm(len(photos), generator=generator)[: math.ceil(num_rows / cells)]
    transform = Transform(IMAGE_SIZE, backbone.mean, backbone.std)
    rows = [
        embed_patches(list(backbone.extract(batch.images).values()), patch_size=3, is_cosine=True).flatten(0, 2)
        for batch in load_batches([photos[place] for place in drawn.tolist()], transform)
        if batch.photos
    ]
    return torch.cat(rows)[:num_rows]


def plain_loop(rows: Tensor, num_rows: int) -> tuple[list[int], float]:
    """Algorithm 1 of Roth et al. (CVPR 2022) from the row nearest to the mean: the picks, and the covering radius."""
    picks = [int((rows - rows.mean(dim=0)).square().sum(dim=1).argmin())]
    squared = torch.full((len(rows),), torch.inf)
    differences = torch.empty_like(rows)
    while True:
        torch.sub(rows, rows[picks[-1]], out=differences)
        torch.minimum(squared, differences.square_().sum(dim=1), out=squared)
        if len(picks) == num_rows:
            return picks, math.sqrt(float(squared.max()))
        picks.append(int(squared.argmax()))


def compare(rows: Tensor, num_rows: int) -> dict[str, Any]:
    """Seconds and covering radius of both, the faster one measured three times, and how many picks they share."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        coreset = greedy_coreset(rows, num_rows)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    picks, radius = plain_loop(rows, num_rows)
    return {
        "num_rows": len(rows),
        "width": rows.shape[1],
        "num_picks": num_rows,
        "plain": {"seconds": time.perf_counter() - begin, "radius": radius},
        "inlier": {"seconds": sorted(seconds)[1], "all_seconds": seconds, "radius": coreset.radius},
        "num_shared_picks": len(set(picks) & set(coreset.indices.tolist())),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The numbers as a table."""
    plain, ours = result["plain"], result["inlier"]
    return "\n".join(
        [
            f"{result['num_picks']:,} of {result['num_rows']:,} rows of width {result['width']}, "
            f"{result['num_shared_picks']:,} picks shared:",
            "",
            "| | seconds | times faster | covering radius |",
            "| --- | ---: | ---: | ---: |",
            f"| plain exact loop | {plain['seconds']:.1f} | 1 | {plain['radius']:.6f} |",
            f"| inlier | {ours['seconds']:.2f} | {plain['seconds'] / ours['seconds']:.1f} | {ours['radius']:.6f} |",
        ]
    )


if __name__ == "__main__":
    main()
