"""What a million photos take, and a hundred million: core-hours, days, storage and money, from what a few take here.

    python benchmarks/planning.py [--photos 96] [--core-hour 0.05] [--terabyte-month 20] [--json FILE.json]
        [--write docs/planning.md]

Photos of 12 megapixels are made as phones take them. Each command runs on half of them and on all: the difference is
what photos cost, without the start of the command. Counted is the time of all processors (user and system, with
children), with one thread a process, as workers on a cluster compute. Prices are assumptions, and options.

- ``inlier ingest`` of the photos; ``inlier fit`` of the default detector on what it made; ``inlier inspect`` of that,
  and of the large photos.
- Decoding alone, as far as the network's input needs it: what a GPU would leave to the processors.
- Items a second that one process can give to workers that do nothing, which bounds how many one command can feed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inlier.data.images import read_image
from inlier.data.transforms import Transform
from inlier.inspection import PART_SIZE
from inlier.model import package_versions
from inlier.scale import Workers, map_items
from intake import machine, write_photos
from near_duplicates import check_markers, command, put_between, table

PLANS = (1_000_000, 100_000_000)
CORES = (16, 256)
NUM_ITEMS = 2000

Record = dict[str, Any]


def main() -> None:
    """Measures, and prints the plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--core-hour", type=float, default=0.05, help="price, in dollars")
    parser.add_argument("--terabyte-month", type=float, default=20.0, help="price, in dollars")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "planning")
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.photos)
    record = {"command": command(), "machine": machine(), "versions": package_versions(), "per_photo": found}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = to_markdown(found, arguments.core_hour, arguments.terabyte_month)
    text += f"\n\n`{record['command']}`, {record['machine']}."
    print(text)
    if arguments.write:
        put_between(arguments.write, "planning", text)


def measure(scratch: Path, number: int) -> Record:
    """Core-seconds and bytes of a photo, for each command."""
    half, whole = scratch / "half", scratch / "whole"
    write_photos(whole, number)
    half.mkdir()
    photos = sorted(whole.iterdir())
    for photo in photos[: number // 2]:
        os.link(photo, half / photo.name)
    num_more = number - number // 2
    found: Record = {"photo_bytes": sum(photo.stat().st_size for photo in photos) / number}

    def between(name: str, command: Callable[[Path, Path], list[str]]) -> None:
        taken = [core_seconds(command(of, scratch / f"{name}-{of.name}")) for of in (half, whole)]
        found[name] = (taken[1] - taken[0]) / num_more
        written = [bytes_of(scratch / f"{name}-{of.name}") for of in (half, whole)]
        found[f"{name}_bytes"] = (written[1] - written[0]) / num_more

    def made(of: Path) -> str:
        return str(scratch / f"ingest-{of.name}")

    model = str(scratch / "fit-whole")
    between("ingest", lambda of, out: ["ingest", str(of), "--out", str(out), "--split", "0.8,0.2,0"])
    between("fit", lambda of, out: ["fit", made(of), "--out", str(out), "--set", "fit.augment=0"])
    between("inspect", lambda of, out: ["inspect", model, made(of), "--out", str(out)])
    between("inspect_large", lambda of, out: ["inspect", model, str(of), "--out", str(out)])
    found["decode_large"] = decoding(photos)
    found["items_per_second"] = giving()
    return found


def core_seconds(words: Sequence[str]) -> float:
    """Time of all processors that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "inlier", *words, "--quiet"])
    if done.returncode:
        sys.exit(f"inlier {words[0]} ended with {done.returncode}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"{words[0]}: {taken:.1f} core-seconds", file=sys.stderr, flush=True)
    return taken


def bytes_of(folder: Path) -> int:
    """Of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def decoding(photos: Sequence[Path]) -> float:
    """Core-seconds of a photo until the network can take it."""
    transform = Transform(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    began = time.process_time()
    for photo in photos:
        transform.to_tensor(read_image(photo, min_side=transform.size))
    return (time.process_time() - began) / len(photos)


def _nothing() -> Callable[[Sequence[str]], int]:
    return len


def giving() -> float:
    """Parts of photos a second that one process gives to two others, which do nothing."""
    parts = [[f"photos/{number:09d}.jpg"] * PART_SIZE for number in range(NUM_ITEMS)]
    given = map_items(partial(_nothing), parts, on=Workers(2))
    next(given)
    began = time.perf_counter()
    num_given = sum(1 for _ in given)
    return num_given / (time.perf_counter() - began)


def to_markdown(found: Record, core_hour: float, terabyte_month: float) -> str:
    """What a photo takes, and what many do."""
    names = {
        "ingest": "`ingest`, from 12 megapixels",
        "fit": "`fit`, of what was ingested",
        "inspect": "`inspect`, of what was ingested",
        "inspect_large": "`inspect`, of 12 megapixels",
    }
    rows = [
        [title, f"{1000 * found[name]:.0f}", f"{found[f'{name}_bytes'] / 1000:.1f}"] for name, title in names.items()
    ]
    rows.append(["decoding 12 megapixels alone", f"{1000 * found['decode_large']:.0f}", ""])
    parts = [table(("a photo", "core-ms", "kB written"), rows)]
    rows = []
    for number in PLANS:
        for name, title in names.items():
            hours = number * found[name] / 3600
            times = [duration(hours / cores) for cores in CORES]
            rows.append([f"{number:,}", title, f"{hours:,.0f}", *times, f"{hours * core_hour:,.0f}"])
    titles = ("photos", "command", "core-hours", *(f"on {cores} cores" for cores in CORES), "dollars")
    parts.append(table(titles, rows))
    rows = []
    for number in PLANS:
        kept = [found["photo_bytes"], found["ingest_bytes"], found["inspect_bytes"]]
        sizes = [number * of / 1e12 for of in kept]
        rows.append([f"{number:,}", *(f"{of:,.2f}" for of in sizes), f"{sum(sizes) * terabyte_month:,.0f}"])
    titles = ("photos", "originals, TB", "data set, TB", "verdicts and heatmaps, TB", "dollars a month")
    parts.append(table(titles, rows))
    parts_given = found["items_per_second"]
    cores = [PART_SIZE * parts_given * found[name] for name in ("inspect_large", "inspect")]
    parts.append(
        f"One command gives {parts_given:,.0f} parts of {PART_SIZE} photos a second to workers here, so it could keep "
        f"{cores[0]:,.0f} cores busy with photos of 12 megapixels, and {cores[1]:,.0f} with those of a data set. "
        f"Prices: {core_hour:g} dollars a core-hour, {terabyte_month:g} a terabyte and month; both are assumptions."
    )
    return "\n\n".join(parts)


def duration(hours: float) -> str:
    """In the unit that reads best."""
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


if __name__ == "__main__":
    main()
