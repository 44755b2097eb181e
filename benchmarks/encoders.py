"""What larger encoders take: milliseconds a photo on a CPU, size of their weights, and memory at the peak.

    python benchmarks/encoders.py [--only dinov2,sam] [--repeats 3] [--threads 2] [--write docs/encoders.md]

Weights are random: time and memory do not depend on them, and none have to be fetched. Each encoder runs in a process
of its own, in every runtime, one photo at a time as the network takes large ones. Memory is what building the encoder
and computing a photo's features add at their peak to a process that has loaded PyTorch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from inlier.experiments.memory import MIB, current_bytes, peak_bytes, release_promptly, reset_peak
from inlier.features.backbone import Backbone, all_layers
from inlier.features.networks import layers_as_deep
from inlier.features.runtime import RUNTIMES, Runtime
from inlier.model import package_versions
from near_duplicates import check_markers, put_between

ENCODERS = (
    ("efficientnet_lite0", 224),
    ("vit_small_patch14_dinov2", 224),
    ("vit_small_patch14_dinov2", 518),
    ("vit_small_patch14_reg4_dinov2", 518),
    ("vit_base_patch14_dinov2", 224),
    ("vit_base_patch14_dinov2", 518),
    ("vit_large_patch14_dinov2", 518),
    ("vit_small_patch16_dinov3", 224),
    ("vit_small_patch16_dinov3", 512),
    ("vit_base_patch16_dinov3", 512),
    ("vit_base_patch16_224.mae", 224),
    ("vit_base_patch16_clip_224", 224),
    ("eva02_small_patch14_224", 224),
    ("samvit_base_patch16", 512),
    ("samvit_base_patch16", 1024),
)


def main() -> None:
    """Measures each encoder in its own process, and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="photos that are timed, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the results between the markers of this page")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "encoders")
    if arguments.one:
        name, size, runtime = arguments.one
        print(json.dumps(measure(name, int(size), runtime, arguments.repeats, arguments.threads)))
        return
    parts = arguments.only.split(",")
    rows = []
    for name, size in ENCODERS:
        if not any(part in name for part in parts):
            continue
        measured = {of: _in_own_process(name, size, of, arguments.repeats, arguments.threads) for of in RUNTIMES}
        rows.append({"name": name, "size": size, "runtimes": measured})
        print(_row(rows[-1]), flush=True)
    lines = table(rows)
    print(lines)
    if arguments.json:
        record = {"versions": package_versions(), "threads": arguments.threads, "encoders": rows}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.write:
        put_between(arguments.write, "encoders", lines)


def measure(name: str, size: int, runtime: Runtime, repeats: int, threads: int) -> dict[str, Any]:
    """Time and memory of one encoder in this process."""
    torch.set_num_threads(threads)
    release_promptly()
    torch.rand(8, 8) @ torch.rand(8, 8)
    before = current_bytes()
    reset_peak()
    layers = sorted(set(layers_as_deep(name, (2, 3))))
    backbone = Backbone(name, layers=layers, runtime=runtime, is_pretrained=False)
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    maps = backbone.extract(images)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        backbone.extract(images)
        seconds.append(time.perf_counter() - begin)
    return {
        "runs_in": backbone.runs_in,
        "layers": layers,
        "num_layers": len(all_layers(name)),
        "cells": list(maps[layers[0]].shape[2:]),
        "ms": 1000 * statistics.median(seconds),
        "weights_mib": sum(of.numel() * of.element_size() for of in backbone.parameters()) / MIB,
        "peak_mib": (peak_bytes() - before) / MIB,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = [
        "| encoder | photo | cells | layers | weights, MiB | ms, torch | ms, openvino | peak MiB, torch | openvino |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *map(_row, rows)])


def _row(row: dict[str, Any]) -> str:
    torch_one, other = row["runtimes"]["torch"], row["runtimes"]["openvino"]
    is_there = other["runs_in"] == "openvino"
    cells = " x ".join(map(str, torch_one["cells"]))
    blocks = f"{torch_one['layers'][-1]} of {torch_one['num_layers']}"
    times = f"{torch_one['ms']:.0f} | {other['ms']:.0f}" if is_there else f"{torch_one['ms']:.0f} | -"
    peaks = f"{torch_one['peak_mib']:.0f} | {other['peak_mib']:.0f}" if is_there else f"{torch_one['peak_mib']:.0f} | -"
    return (
        f"| `{row['name']}` | {row['size']} | {cells} | {blocks} | {torch_one['weights_mib']:.0f} | {times} | {peaks} |"
    )


def _in_own_process(name: str, size: int, runtime: str, repeats: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, str(size), runtime, "--repeats", str(repeats)]
    done = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
