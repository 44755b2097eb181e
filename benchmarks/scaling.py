"""Inspecting on more and more workers, and on a cluster that loses a node halfway: photos/s, and the same rows.

    python benchmarks/scaling.py [--photos 10000] [--workers 1 2] [--readme docs/scale.md] [--out FILE.json]

A model is fitted on generated photos; others, distinct ones, are inspected in one process, in several, and on two
Ray nodes of this machine with a CPU each, of which one is killed when half of the photos are done. A process has one
thread. Compared are the tables of verdicts, byte for byte; told is the memory of the process that leads (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from inlier.data.manifest import Manifest, Photo
from inlier.data.synthetic_folders import write_dataset
from inlier.experiments.memory import peak_bytes, reset_peak
from inlier.inspection import inspect_to_folder
from inlier.model import Model, package_versions
from inlier.scale import Workers, check_installed
from inlier.workflow import fit
from near_duplicates import check_markers, command, put_between, table

NODE = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False}
KINDS = 48
"""Drawn photos; each is altered by a few pixels as often as it takes, for drawing is slow."""


def main() -> None:
    """Inspects with each number of workers and on two nodes, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes, one thread each")
    parser.add_argument("--readme", type=Path, help="put the table between its markers")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    if arguments.readme:
        check_markers(arguments.readme, "scaling")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, photos = prepare(Path(folder), arguments.photos)
        runs = [run(model, photos, Path(folder) / f"on-{number}", Workers(number)) for number in arguments.workers]
        runs.append(run_on_cluster(model, photos, Path(folder) / "cluster"))
        first = runs[0]["table"]
        for one in runs:
            one["is_same"] = one.pop("table") == first
    report = {"command": command(), "versions": package_versions(), "cpus": os.cpu_count(), "runs": runs}
    text = f"{to_markdown(runs)}\n\n`{command()}`, {os.cpu_count()} CPUs, torch {package_versions()['torch']}."
    print(text)
    if arguments.readme:
        put_between(arguments.readme, "scaling", text)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(not all(one["is_same"] for one in runs))


def prepare(folder: Path, num_photos: int) -> tuple[Model, list[Photo]]:
    """A model, and distinct photos to inspect."""
    kinds = min(KINDS, num_photos)
    write_dataset(
        folder / "data",
        num_train=40,
        num_dev=20,
        num_test=kinds // 2,
        num_defective=kinds - kinds // 2,
        num_unrelated=0,
        components=("bolted-flange",),
        size=(320, 400),
    )
    data = Manifest.read(folder / "data")
    model, _ = fit({"fit": {"augment": 0}}, data)
    drawn = data.select("test").photos
    photos = []
    (folder / "photos").mkdir()
    for number in range(num_photos):
        with Image.open(drawn[number % len(drawn)].path) as file:
            pixels = np.array(file.convert("RGB"))
        pixels[:8, :8] = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
        photos.append(Photo(folder / "photos" / f"{number:06d}.jpg", "test"))
        Image.fromarray(pixels).save(photos[-1].path, quality=90)
    return model, photos


def run(
    model: Model,
    photos: Sequence[Photo],
    out: Path,
    on: Workers,
    at_half: Callable[[], None] = lambda: None,
    name: str = "",
) -> dict[str, Any]:
    """Seconds of an inspection, the most memory of this process meanwhile, and the table of verdicts."""
    num_done = 0

    def advance(steps: int) -> None:
        nonlocal num_done
        if num_done < len(photos) / 2 <= num_done + steps:
            at_half()
        num_done += steps

    reset_peak()
    began = time.perf_counter()
    result = inspect_to_folder(model, photos, out, workers=1, on=on, progress=lambda task, total: advance)
    seconds = time.perf_counter() - began
    paths = pq.read_table(out / "verdicts.parquet", columns=["path"])["path"].to_pylist()
    assert paths == [str(photo.path) for photo in photos] and result.num_scored == num_done == len(photos)
    done = {"name": name or f"{on.processes} process{'es' * (on.processes > 1)}", "photos": len(photos)}
    done |= {"seconds": seconds, "photos_per_second": len(photos) / seconds, "peak_bytes": peak_bytes()}
    print(done, file=sys.stderr, flush=True)
    return done | {"table": (out / "verdicts.parquet").read_bytes()}


def run_on_cluster(model: Model, photos: Sequence[Photo], out: Path) -> dict[str, Any]:
    """The same on two nodes, of which one is killed halfway."""
    check_installed()  # and keeps Ray quiet
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        node = cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

        def kill() -> None:
            cluster.remove_node(node, allow_graceful=False)

        return run(model, photos, out, Workers(0, ray="auto"), kill, "2 Ray nodes, one killed halfway")
    finally:
        ray.shutdown()
        cluster.shutdown()


def to_markdown(runs: Sequence[dict[str, Any]]) -> str:
    """A row for each run."""
    rows = [
        [
            one["name"],
            f"{one['photos']:,}",
            f"{one['seconds']:.0f}",
            f"{one['photos_per_second']:.1f}",
            f"{one['peak_bytes'] / 2**20:.0f}",
            "yes" if one["is_same"] else "NO",
        ]
        for one in runs
    ]
    return table(("on", "photos", "seconds", "photos/s", "MiB of who leads", "same rows"), rows)


if __name__ == "__main__":
    main()
