"""Nearest neighbours of patches in larger and larger banks: exactly as ``FlatIndex`` does it, and beside it faiss.

    python benchmarks/neighbors.py DATA [--rows 1000 5000 30000 100000] [--repeats 5] [--write docs/performance.md]

The bank is filled with patches of normal photos of ``train``, looked at are those of photos of ``test``, all
embedded as PatchCore embeds them by default. Compared are milliseconds for the patches of a photo, on two threads; how
often the nearest row is the exact one; and by how much distances, from which scores come, are off.

faiss is no dependency: ``pip install faiss-cpu`` for this comparison; left out where it is not installed. Its exact
index, its inverted file with as many lists as the square root of the rows (a sixteenth of them are looked at), and its
graph (HNSW with 32 neighbours) are built once, which is timed too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from footprint import spread
from inlier.build import build_backbone, build_detector, resolve
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.detectors.neighbors import FlatIndex
from inlier.features.patches import embed_patches
from intake import machine
from near_duplicates import check_markers, command, put_between, table

NUM_LOOKED_AT = 16
SHARE_LOOKED_AT = 16

Search = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
"""Patches of a photo, shape (Q, D) -> distances and rows, shape (Q,) each."""


def main() -> None:
    """Measures each index at each size, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 5000, 30_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the table between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "neighbors")
    torch.set_num_threads(arguments.threads)
    data = Manifest.read(arguments.data)
    bank = torch.cat([of.flatten(0, 1) for of in embedded(data.select("train").normal().photos, max(arguments.rows))])
    looked_at = [of.flatten(0, 1) for of in embedded(data.select("test").photos, 0)][:NUM_LOOKED_AT]
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))
    rows = []
    for number in arguments.rows:
        chosen = bank[order[:number]].contiguous()
        found = {name: measure(made, looked_at, arguments.repeats) for name, made in indices(chosen, arguments.threads)}
        exact = next(iter(found.values()))
        for name, (built, seconds, distances, nearest) in found.items():
            same = float((nearest == exact[3]).mean())
            off = float((np.abs(distances - exact[2]) / exact[2].mean()).mean())
            shown = spread([1000 * of for of in seconds])
            rows.append([f"{len(chosen):,}", name, f"{built:.1f}", shown, f"{100 * same:.1f} %", f"{100 * off:.2f} %"])
    titles = ("rows", "index", "built in, s", "a photo, ms", "nearest row found", "distances off by")
    text = table(titles, rows) + f"\n\n`{command()}`, {len(looked_at[0])} patches a photo, {machine()}."
    print(text)
    if arguments.write:
        put_between(arguments.write, "neighbors", text)


def embedded(photos: tuple[Photo, ...], num_rows: int) -> Iterator[Tensor]:
    """Patches of each photo, shape (h * w, D), until there are as many; 0: of the first few photos."""
    config = resolve({"fit": {"detector": "patchcore"}}, device="cpu")
    detector: Any = build_detector(config)
    backbone = build_backbone(config, detector.layers)
    transform = Transform(config["input"]["size"], backbone.mean, backbone.std)
    num_left = num_rows or math.inf
    for batch in load_batches(photos if num_rows else photos[:NUM_LOOKED_AT], transform):
        if not batch.photos:
            continue
        maps = backbone.extract(batch.images)
        of_batch = embed_patches(
            [maps[layer] for layer in detector.layers], patch_size=detector.patch_size, is_cosine=True
        )
        yield from of_batch
        num_left -= of_batch[..., 0].numel()
        if num_left <= 0:
            return


def indices(bank: Tensor, num_threads: int) -> Iterator[tuple[str, Callable[[], Search]]]:
    """Names of the indices, and what builds each; the first is exact."""

    def flat() -> Search:
        index = FlatIndex(bank)

        def search(patches: Tensor) -> tuple[np.ndarray, np.ndarray]:
            distances, nearest = index.nearest(patches)
            return distances.numpy(), nearest.numpy()

        return search

    yield "FlatIndex", flat
    if importlib.util.find_spec("faiss") is None:
        return
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(num_threads)
    width, num_lists = bank.shape[1], round(math.sqrt(len(bank)))

    def made(index: Any) -> Search:
        index.train(bank.numpy())
        index.add(bank.numpy())

        def search(patches: Tensor) -> tuple[np.ndarray, np.ndarray]:
            squared, nearest = index.search(patches.numpy(), 1)
            return np.sqrt(np.maximum(squared[:, 0], 0)), nearest[:, 0]

        return search

    def inverted() -> Search:
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, num_lists)
        index.nprobe = max(1, num_lists // SHARE_LOOKED_AT)
        return made(index)

    yield "faiss, exact", lambda: made(faiss.IndexFlatL2(width))
    yield "faiss, inverted file", inverted
    yield "faiss, graph", lambda: made(faiss.IndexHNSWFlat(width, 32))


def measure(
    make: Callable[[], Search], looked_at: list[Tensor], repeats: int
) -> tuple[float, list[float], np.ndarray, np.ndarray]:
    """Seconds that building takes, those of a photo, round by round, and what was found."""
    began = time.perf_counter()
    search = make()
    built = time.perf_counter() - began
    found = [search(patches) for patches in looked_at]
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for patches in looked_at:
            search(patches)
        seconds.append((time.perf_counter() - began) / len(looked_at))
    distances, nearest = (np.concatenate(of) for of in zip(*found, strict=True))
    return built, seconds, distances, nearest


if __name__ == "__main__":
    main()
