"""How near to the limits of this machine the inspection of a photo is: operations counted, and steps timed alone.

    python benchmarks/limits.py DATA [--photos 128] [--repeats 5] [--write docs/performance.md]

A PatchCore over strides 8 and 16 looks at photos of ``test``, with banks of 784 and of 7,840 rows, as in
``benchmarks/peers.py``. Multiplications and additions of network and neighbours are counted; how many this machine does
a second at most is measured by matrix products that are large and square, in float32 and in bfloat16, on the same
threads. Each step is timed alone, over all photos, in the batches that it gets; the whole is ``inspect_photos``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from footprint import spread
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.detectors.neighbors import FlatIndex
from inlier.features.runtime import multiplies_bfloat16
from inlier.model import Model
from inlier.workflow import fit, inspect_photos
from intake import machine
from near_duplicates import check_markers, command, put_between, table

SIDE = 2048
"""Of the square matrices that tell what the machine can do."""

RATIOS = (0.01, 0.1)
NUM_LEARNED = 100


def main() -> None:
    """Counts, times, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "limits")
    torch.set_num_threads(arguments.threads)
    data = Manifest.read(arguments.data)
    learned = Manifest(data.select("train").normal().photos[:NUM_LEARNED])
    looked_at = data.select("test").photos[: arguments.photos]
    peaks = {name: peak(dtype, arguments.repeats) for name, dtype in DTYPES.items() if name == "float32" or BFLOAT16}
    parts = [", ".join(f"{name} {of / 1e9:,.0f} GFLOP/s" for name, of in peaks.items()).join(("At most: ", "."))]
    for ratio in RATIOS:
        settings = {"layers": [2, 3], "coreset_ratio": ratio, "max_bank_rows": 1_000_000}
        model, _ = fit({"fit": {"detector": "patchcore", "augment": 0}, "patchcore": settings}, learned)
        rows = measure(model, looked_at, peaks, arguments.repeats)
        titles = (f"a photo, bank of {100 * ratio:g} %", "MFLOP", "at the peak, ms", "alone, ms")
        parts.append(table(titles, rows))
    text = "\n\n".join([*parts, f"`{command()}`, {machine()}."])
    print(text)
    if arguments.write:
        put_between(arguments.write, "limits", text)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BFLOAT16 = multiplies_bfloat16()


def peak(dtype: torch.dtype, repeats: int) -> float:
    """Operations a second of a matrix product, the best of some."""
    one, other = (torch.rand(SIDE, SIDE).to(dtype) for _ in range(2))
    one @ other
    seconds = []
    for _ in range(2 * repeats):
        began = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(seconds)


def measure(model: Model, photos: Sequence[Photo], peaks: dict[str, float], repeats: int) -> list[list[str]]:
    """A row for each step, and one for the whole."""
    detector: Any = model.detector
    batches = list(load_batches(photos, model.transform, workers=0))
    maps = [model.backbone.extract(batch.images) for batch in batches]
    patches = [detector._embed(of).flatten(0, 2) for of in maps]
    bank = detector.state_dict()["memory_bank_"]
    index = FlatIndex(bank)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.backbone(batches[0].images[:1])
    of_network = counter.get_total_flops()
    of_neighbors = 2 * len(patches[0]) // len(batches[0].photos) * len(bank) * bank.shape[1]
    reduced = "bfloat16" if BFLOAT16 else "float32"
    steps: list[tuple[str, Callable[[], object], float, str]] = [
        ("decoding, one thread", lambda: [*load_batches(photos, model.transform, workers=0)], 0, ""),
        ("network", lambda: [model.backbone.extract(of.images) for of in batches], of_network, "float32"),
        ("patches", lambda: [detector._embed(of) for of in maps], 0, ""),
        (f"neighbours, {len(bank):,} rows", lambda: [index.nearest(of) for of in patches], of_neighbors, reduced),
        ("all of the detector", lambda: [detector.predict(of) for of in maps], 0, ""),
        ("inspect_photos", lambda: [*inspect_photos(model, photos)], 0, ""),
    ]
    rows = []
    for name, run, operations, kind in steps:
        seconds = timed(run, repeats) / len(photos)
        least = f"{1000 * operations / peaks[kind]:.1f}" if operations else ""
        counted = f"{operations / 1e6:,.0f}" if operations else ""
        rows.append([name, counted, least, spread(1000 * seconds)])
    return rows


def timed(run: Callable[[], object], repeats: int) -> np.ndarray:
    """Seconds, as often, after once to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)


if __name__ == "__main__":
    main()
