"""How near to the limits of this machine an inspection is: operations and bytes counted, and steps timed alone.

    python benchmarks/limits.py DATA [--photos 128] [--repeats 5] [--write docs/performance.md]

A PatchCore over strides 8 and 16 looks at photos of ``test``, with banks of 784 and of 7,840 rows, as in
``benchmarks/peers.py``. Multiplications and additions of network and neighbours are counted; how many this machine does
a second at most is measured by matrix products that are large and square, in float32 and in bfloat16, on the same
threads. Counted too is what they read and write, each number once: of each convolution inputs, outputs and weights; of
neighbours patches, bank and distances, these written and read. How many bytes go through memory is measured by copying
what no cache holds. Each step is timed alone, over all photos, in the batches that it gets; the whole is
``inspect_photos``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

COPIED = 256 * 2**20
"""Bytes that tell what goes through memory."""

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
    bandwidth = copied(arguments.repeats)
    shown = [*(f"{name} {of / 1e9:,.0f} GFLOP/s" for name, of in peaks.items()), f"memory {bandwidth / 1e9:,.0f} GB/s"]
    parts = [f"At most: {', '.join(shown)}."]
    for ratio in RATIOS:
        settings = {"layers": [2, 3], "coreset_ratio": ratio, "max_bank_rows": 1_000_000}
        model, _ = fit({"fit": {"detector": "patchcore", "augment": 0}, "patchcore": settings}, learned)
        rows = measure(model, looked_at, peaks, bandwidth, arguments.repeats)
        titles = (
            f"a photo, bank of {100 * ratio:g} %",
            "MFLOP",
            "at the peak, ms",
            "MB",
            "through memory, ms",
            "alone, ms",
        )
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


def copied(repeats: int) -> float:
    """Bytes read and written a second, the best of some."""
    one, other = torch.zeros(COPIED // 4), torch.empty(COPIED // 4)
    return 2 * COPIED / timed(lambda: other.copy_(one), 2 * repeats).min()


def bytes_of_network(model: Model, images: torch.Tensor) -> float:
    """What the convolutions of a batch read and write, in float32, a photo."""
    numbers: list[int] = []

    def count(convolution: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        numbers.append(inputs[0].numel() + output.numel() + convolution.weight.numel())

    network = model.backbone
    hooks = [of.register_forward_hook(count) for of in network.modules() if isinstance(of, torch.nn.Conv2d)]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return 4 * sum(numbers) / len(images)


def measure(
    model: Model, photos: Sequence[Photo], peaks: dict[str, float], bandwidth: float, repeats: int
) -> list[list[str]]:
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
    num_patches, depth = len(patches[0]) // len(batches[0].photos), bank.shape[1]
    reduced = "bfloat16" if BFLOAT16 else "float32"
    numbers = (num_patches + len(bank)) * depth + 2 * num_patches * len(bank)
    network = Count(of_network, bytes_of_network(model, batches[0].images), peaks["float32"])
    neighbors = Count(2 * num_patches * len(bank) * depth, numbers * DTYPES[reduced].itemsize, peaks[reduced])
    steps: list[tuple[str, Callable[[], object], Count | None]] = [
        ("decoding, one thread", lambda: [*load_batches(photos, model.transform, workers=0)], None),
        ("network", lambda: [model.backbone.extract(of.images) for of in batches], network),
        ("patches", lambda: [detector._embed(of) for of in maps], None),
        (f"neighbours, {len(bank):,} rows", lambda: [index.nearest(of) for of in patches], neighbors),
        ("all of the detector", lambda: [detector.predict(of) for of in maps], None),
        ("inspect_photos", lambda: [*inspect_photos(model, photos)], None),
    ]
    rows = []
    for name, run, count in steps:
        milliseconds = 1000 * timed(run, repeats) / len(photos)
        rows.append([name, *(count.cells(bandwidth) if count else [""] * 4), spread(milliseconds)])
    return rows


class Count(NamedTuple):
    """What a step has to do for a photo.

    Attributes:
        operations: Multiplications and additions.
        num_bytes: Read and written.
        peak: Operations a second that the machine does at most.
    """

    operations: float
    num_bytes: float
    peak: float

    def cells(self, bandwidth: float) -> list[str]:
        """Of the table: MFLOP, milliseconds for these, MB, and milliseconds for those."""
        least = (1000 * self.operations / self.peak, 1000 * self.num_bytes / bandwidth)
        return [f"{self.operations / 1e6:,.0f}", f"{least[0]:.1f}", f"{self.num_bytes / 1e6:,.1f}", f"{least[1]:.1f}"]


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
