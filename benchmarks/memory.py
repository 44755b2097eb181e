"""What fitting takes of memory, as ``inlier.experiments.memory`` tells it beforehand, and as it is measured.

    python benchmarks/memory.py [--photos 200 1000] [--only patchcore] [--readme README.md] [--out FILE.json]

Each configuration is fitted in a process of its own, on random maps of the shapes that the default backbone gives for
photos of 224 px (stages 1 to 4, bfloat16), and judges 64 photos then. Measured is the most resident memory (VmHWM of
Linux) less what the process has once everything is imported and the maps are on disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlier.model import package_versions
from near_duplicates import check_markers, command, put_between, table

SHAPES = {1: (24, 56, 56), 2: (40, 28, 28), 3: (112, 14, 14), 4: (320, 7, 7)}
NUM_JUDGED = 64
WITHIN = 0.2
"""How far a prediction may be from what is measured, as a share of that."""

PATCHCORE = (
    "layers=[2,3]",
    "layers=[2,3] patch_size=1",
    "layers=[2,3] patch_size=29",
    "layers=[3,4] patch_size=29",
    "layers=[3,4] coreset_ratio=0.2 max_bank_rows=20000",
    "layers=[3] coreset_ratio=0.001",
    "layers=[4] patch_size=1 coreset_ratio=1.0 max_bank_rows=20000",
    "layers=[2,3,4] max_bank_rows=1000",
    "layers=[2,3] max_bank_rows=500 fit.memory_budget=512MiB",
    "layers=[2,3] coreset_ratio=0.1 max_bank_rows=2000 fit.memory_budget=128MiB",
    "layers=[1,2] max_bank_rows=500 fit.memory_budget=512MiB",
    "layers=[1,2,3] coreset_ratio=0.001 max_bank_rows=300 fit.memory_budget=1GiB",
    "layers=[1,2,3,4] patch_size=1 max_bank_rows=200 fit.memory_budget=512MiB",
    "layers=[1,2,3,4] max_bank_rows=200 distance=euclidean fit.memory_budget=2GiB",
)
STUDENT = (
    "layers=[2,3]",
    "layers=[2,3,4]",
    "layers=[2,3,4] batch_size=4",
    "layers=[2,3,4] batch_size=32",
    "layers=[2,3,4] width=32",
    "layers=[2,3,4] width=256",
    "layers=[1,2,3]",
    "layers=[1,2,3] batch_size=4 width=64",
    "layers=[1,2,3] batch_size=32 width=64",
    "layers=[1,2,3,4] batch_size=8",
    "layers=[3,4] batch_size=32 width=256",
    "layers=[2,3,4] loss=per-position",
)
OTHERS = (
    "photo-neighbors",
    "photo-neighbors layers=[1,2,3,4] power=1.0",
    "photo-neighbors layers=[2,3] power=6.0",
    "photo-subspace",
    "photo-subspace layers=[2,3,4] power=3.0",
    "subspace",
    "subspace layers=[3,4] patch_size=29",
    "subspace layers=[1,2]",
    "baseline",
    "baseline method=one-class-svm",
    "combined",
    "combined members=['reverse-distillation','photo-neighbors'] reverse-distillation.num_samples=96",
)
NUM_SAMPLES = 96
"""Photos that a student sees here; its memory does not depend on them."""


def main() -> None:
    """Measures each configuration, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--only", default="", help="detectors whose name begins so")
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**arguments.one)))
        return
    if arguments.readme:
        check_markers(arguments.readme, "memory")
    jobs = [
        {"overrides": overrides, "num_photos": num_photos}
        for overrides in configurations()
        if overrides[0].startswith(f"fit.detector={arguments.only}")
        for num_photos in arguments.photos
    ]
    results = []
    for job in jobs:
        results.append(job | run(job))
        print(row_of(results[-1]), file=sys.stderr, flush=True)
    text = f"{to_markdown(results)}\n\n`{command()}`, torch {package_versions()['torch']}."
    print(text)
    if arguments.readme:
        put_between(arguments.readme, "memory", text)
    if arguments.out:
        arguments.out.write_text(json.dumps({"versions": package_versions(), "results": results}, indent=2) + "\n")


def configurations() -> list[list[str]]:
    """Overrides of each configuration, the detector first."""
    lines = [f"patchcore {line}" for line in PATCHCORE]
    lines += [f"reverse-distillation num_samples={NUM_SAMPLES} {line}" for line in STUDENT]
    found = []
    for detector, *settings in (line.split() for line in [*lines, *OTHERS]):
        named = [of if "." in of.partition("=")[0] else f"{detector}.{of}" for of in settings]
        found.append([f"fit.detector={detector}", *named])
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What ``measure`` says in a process of its own.

    Raises:
        CalledProcessError: It failed.
    """
    words = [sys.executable, __file__, "--one", json.dumps(job)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(overrides: Sequence[str], num_photos: int) -> dict[str, Any]:
    """Bytes predicted and measured, and seconds, of fitting on random maps and judging others."""
    from inlier.experiments.memory import current_bytes, peak_bytes, predict_peak_bytes, release_promptly, reset_peak

    release_promptly()
    import torch

    from inlier.build import build_detector, resolve
    from inlier.config import read_config
    from inlier.detectors.crossfit import score_photos
    from inlier.features.cache import FeatureCache

    config = resolve(read_config(None, overrides), device="cpu")
    detector = build_detector(config)
    generator = torch.Generator().manual_seed(0)
    shapes = {layer: SHAPES[layer] for layer in detector.layers}
    with tempfile.TemporaryDirectory() as folder, FeatureCache(dtype=torch.bfloat16, directory=Path(folder)) as cache:
        for place in range(num_photos + NUM_JUDGED):
            maps = {layer: torch.rand(1, *shape, generator=generator) for layer, shape in shapes.items()}
            cache.append(maps, groups=[str(place)])
        features = cache.features()
        began, base = time.process_time(), current_bytes()
        reset_peak()
        detector.fit(features.select(range(num_photos)))
        of_fit = peak_bytes() - base
        reset_peak()
        score_photos(detector, features.select(range(num_photos, num_photos + NUM_JUDGED)))
        measured = max(of_fit, peak_bytes() - base)
    predicted = predict_peak_bytes(config, shapes=shapes, num_photos=num_photos, num_judged=NUM_JUDGED)
    seconds = time.process_time() - began
    return {"predicted": predicted, "measured": measured, "of_fit": of_fit, "base": base, "seconds": seconds}


def row_of(result: dict[str, Any]) -> list[str]:
    """The cells of a configuration."""
    detector, *settings = (override.partition("=") for override in result["overrides"])
    section = f"{detector[2]}."
    named = [f"{key.removeprefix(section)} {value}" for key, _, value in settings if not key.endswith("num_samples")]
    return [
        detector[2],
        ", ".join(named),
        str(result["num_photos"]),
        *(f"{result[key] / 2**20:.0f}" for key in ("predicted", "measured")),
        f"{result['predicted'] / result['measured']:.2f}",
    ]


def to_markdown(results: Sequence[dict[str, Any]]) -> str:
    """A row for each configuration, and how many predictions are near."""
    ratios = [result["predicted"] / result["measured"] for result in results]
    near = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    titles = ("detector", "settings", "photos", "predicted MiB", "measured MiB", "ratio")
    return (
        f"{table(titles, [row_of(result) for result in results])}\n\n{near} of {len(ratios)} predictions are within "
        f"{100 * WITHIN:.0f} % of what was measured; the ratio is {min(ratios):.2f} to {max(ratios):.2f}."
    )


if __name__ == "__main__":
    main()
