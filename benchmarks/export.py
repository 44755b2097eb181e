"""What an exported model says, beside the model itself: verdicts, scores, sizes, time, and what eight bits cost.

    python benchmarks/export.py DATA_ROOT [--sets mvtec-bottle,piston] [--max-photos N] [--write docs/export.md]
        [--onnxruntime-web node_modules/onnxruntime-web]

DATA_ROOT holds one folder a data set in any form that inlier reads. Of each set a model is fitted with the defaults and
exported; then every photo of the set, of all splits, is judged by both. Time is that of a whole photo, from its file to
its verdict, one thread of decoding beside the network, in turns, medians of ``--repeats`` rounds over the same photos.
The int8 export is quantised by normal photos of ``train`` and judged on the labelled photos of ``test``. Where the npm
package is, the page judges every photo as well, in Chromium (``export_page.py``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from export_page import judge_in_browser, time_large_photo
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ManifestError, ModelError
from inlier.exporting.export import export
from inlier.exporting.graph import score_spread
from inlier.exporting.parity import MAX_AUROC_DROP, Compared, compare
from inlier.exporting.portable import Portable
from inlier.model import Model
from inlier.workflow import fit, inspect_photos
from near_duplicates import check_markers, put_between

SETS = "mvtec-bottle,piston"
MAX_TIMED = 40
RUNTIME = Path("node_modules/onnxruntime-web")


def main() -> None:
    """Measures each set, and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--sets", default=SETS, help="their names, separated by commas")
    parser.add_argument("--max-photos", type=int, default=0, help="of each kind and split; 0: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--onnxruntime-web", type=Path, default=RUNTIME, help="the npm package; for the page")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the results between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "export")
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.sets.split(","):
        data = _some(Manifest.read(arguments.root / name), arguments.max_photos)
        rows.append(measure(name, data, arguments.threads, arguments.repeats, arguments.onnxruntime_web))
        print(table(rows[-1:]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.write:
        put_between(arguments.write, "export", table(rows))


def measure(name: str, data: Manifest, num_threads: int, repeats: int, runtime: Path) -> dict[str, Any]:
    """A row: the float32 export on every photo, and the int8 export on labelled ones of test."""
    model, _ = fit({}, data)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        written = export(model, path, data=data)
        portable = Portable.load(path, num_threads=num_threads)
        found = [*compare(model, portable, data.photos)]
        timed = [of.photo for of in found][:: -(-len(found) // MAX_TIMED)]
        ways: dict[str, Callable[[], Iterable[Any]]] = {
            "model": lambda: inspect_photos(model, timed, batch_size=1, workers=1),
            "file": lambda: portable.inspect_photos(timed, workers=1),
        }
        row = {
            "set": name,
            "fingerprint": data.fingerprint()[:12],
            "num_photos": len(found),
            "num_different": sum(not of.is_same for of in found),
            "largest_difference": max(of.difference for of in found),
            "spread": score_spread(model),
            "bytes": written.num_bytes,
            "milliseconds": _times(ways, len(timed), repeats),
        }
        if runtime.is_dir():
            row |= {
                "page": _measure_page(path, found, runtime),
                "large": time_large_photo(path, runtime=runtime, repeats=5),
            }
        return row | {"int8": _measure_int8(model, data, Path(folder) / "small.onnx")}


def _measure_page(path: Path, found: list[Compared], runtime: Path) -> dict[str, Any]:
    """The page's verdicts beside the model's."""
    judged = judge_in_browser(path, [of.photo.path for of in found], runtime=runtime)
    pairs = [(card, of.model.verdict) for card, of in zip(judged["cards"], found, strict=True)]
    return {
        "num_different": sum(card["verdict"] != verdict.verdict for card, verdict in pairs),
        "largest_difference": max(abs(card["score"] - (verdict.score or 0.0)) for card, verdict in pairs),
        "seconds": judged["seconds"],
    }


def _measure_int8(model: Model, data: Manifest, path: Path) -> dict[str, Any]:
    """What eight bits cost on the photos of test, which the gate takes for dev here."""
    photos = [replace(p, split="dev") if p.split == "test" else p for p in data.photos if p.split != "dev"]
    try:
        written = export(model, path, data=Manifest(tuple(photos)), is_int8=True)
    except (ModelError, ManifestError) as error:
        return {"refused": str(error)}
    parity = written.parity
    return {
        "bytes": written.num_bytes,
        "auroc": parity.auroc,
        "num_different": parity.num_different,
        "num_photos": parity.num_photos,
    }


def _times(ways: dict[str, Callable[[], Iterable[Any]]], num_photos: int, repeats: int) -> dict[str, float]:
    """Milliseconds a photo of each way, in turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            for _ in run():
                pass
            seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(of[1:]) / num_photos for name, of in seconds.items()}


def _some(data: Manifest, number: int) -> Manifest:
    """At most so many photos of each kind and split, spread evenly; all of them for 0."""
    kinds: dict[tuple[str, bool | None], list[Photo]] = {}
    for photo in data.photos:
        kinds.setdefault((photo.split, photo.is_anomalous), []).append(photo)
    chosen = []
    for photos in kinds.values():
        places = np.linspace(0, len(photos) - 1, min(number or len(photos), len(photos))).round().astype(int)
        chosen += [photos[place] for place in np.unique(places)]
    return Manifest(tuple(chosen))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a set for float32, one for the page, one for int8."""
    lines = [
        "| set | photos | other verdicts | scores differ by at most | file | file, ms a photo | model, ms a photo |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        share = row["largest_difference"] / row["spread"]
        lines.append(
            f"| {row['set']} | {row['num_photos']} | {row['num_different']} | {share:.1g} spreads | "
            f"{row['bytes'] / 1e6:.1f} MB | {row['milliseconds']['file']:.0f} | {row['milliseconds']['model']:.0f} |"
        )
    lines += _page_table([row for row in rows if "page" in row])
    lines += [
        "",
        "| set | int8 | AUROC of the model | of the int8 file | other verdicts |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        of = row["int8"]
        if "refused" in of:
            lines.append(
                f"| {row['set']} | refused (more than {MAX_AUROC_DROP:g} lost, or nothing to judge by) | | | |"
            )
            continue
        before, after = of["auroc"]
        lines.append(
            f"| {row['set']} | {of['bytes'] / 1e6:.1f} MB | {before:.4f} | {after:.4f} | "
            f"{of['num_different']} of {of['num_photos']} |"
        )
    return "\n".join(lines)


def _page_table(rows: list[dict[str, Any]]) -> list[str]:
    """The page: one line a set, and what a large photo takes it."""
    if not rows:
        return []
    lines = [
        "",
        "| set | photos in the page | other verdicts than the model | scores differ by at most | ms a photo |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        of = row["page"]
        lines.append(
            f"| {row['set']} | {row['num_photos']} | {of['num_different']} | "
            f"{of['largest_difference'] / row['spread']:.1g} spreads | {1000 * of['seconds']:.0f} |"
        )
    large = rows[-1]["large"]
    return [
        *lines,
        "",
        f"To read a JPEG of 12 megapixels, {large['megabytes']:.1f} MB, takes the page {large['page']:.2f} s, with its "
        f"decoding for the eye, and Python {large['python']:.2f} s.",
    ]


if __name__ == "__main__":
    main()
