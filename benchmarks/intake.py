"""How fast ``inlier ingest`` is, and how much memory it takes, on photos of 12 megapixels as phones take them.

    python benchmarks/intake.py [--photos 200] [--repeats 3] [--scale 0] [--folder FOLDER] [--readme README.md]

Photos of 4000 x 3000 px are made in a temporary folder: generated components, enlarged, with noise as fine as a
sensor's; JPEG of quality 90, a quarter of them stored sideways. All are read once, so that they are in the page cache.
Then in turn, as often as ``--repeats`` says:

- a plain loop in this process, which is timed without its start: decode, turn upright, resize to 512 px, save,
- ``inlier ingest`` with one worker a core, from the start of the command to its end: that hashes, finds duplicates,
  measures quality, groups, splits and writes tables besides; into a new folder each time,
- the same command again, which finds nothing new.

Memory is measured in runs of their own, over a quarter of the photos (at least 64) and over all: the proportional set
size of all processes of the command together, sampled every 50 ms (the resident size, which counts shared pages several
times, where the kernel does not tell).

``--scale N`` ingests N different photos of 64 x 64 px too, once, with memory sampled every 250 ms, and once more.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from inlier.data.synthetic import COMPONENTS, draw_component
from inlier.model import package_versions
from inlier.outputs import number_of
from near_duplicates import check_markers, command, put_between, table

SIZE = (4000, 3000)
DRAWN_SIZE = (375, 500)
NOISE = 7.0
"""Standard deviation of 255: the files then have 3 to 5 MB, as a phone's."""

LONGEST_SIDE, PLAIN_QUALITY, SOURCE_QUALITY = 512, 95, 90
SIDEWAYS = 6
TINY_PX, GRAIN = 64, 8
PER_FOLDER = 10_000
FEW = 64
"""Photos below which ingest starts no workers."""

INTERVAL, LONG_INTERVAL = 0.05, 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """A finished command: how long it took, and the most memory that its processes had together, in bytes."""

    seconds: float
    peak: int


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=int, default=0, help="how many tiny photos to ingest besides")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; photos take 4 MB each")
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    arguments = parser.parse_args()
    if arguments.readme:
        check_markers(arguments.readme, "intake")
    tables = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        if arguments.photos:
            tables += measure_large(Path(scratch), arguments.photos, arguments.repeats)
        if arguments.scale:
            tables.append(measure_many(Path(scratch), arguments.scale))
    text = "\n\n".join([*tables, f"`{command()}`, {machine()}."])
    print(text)
    if arguments.readme:
        put_between(arguments.readme, "intake", text)


def measure_large(scratch: Path, number: int, repeats: int) -> list[str]:
    """The tables of speed and of memory."""
    photos = scratch / "photos"
    write_photos(photos, number)
    part = scratch / "part"
    part.mkdir()
    for path in sorted(photos.iterdir())[: max(number // 4, FEW)]:
        os.link(path, part / path.name)
    num_bytes = sum(len(path.read_bytes()) for path in photos.iterdir())  # read, so that no run is the first to do it
    plain, ours, again = [], [], []
    for _ in range(repeats):
        with fresh(scratch) as out:
            plain.append(plain_loop(photos, out))
        with fresh(scratch) as out:
            ours.append(ingest(photos, out).seconds)
            again.append(ingest(photos, out).seconds)
    peaks = {}
    for of in (part, photos):
        with fresh(scratch) as out:
            peaks[len(list(of.iterdir()))] = ingest(of, out, interval=INTERVAL).peak
    ratios = np.array(plain) / np.array(ours)
    title = f"{number} photos, 12 megapixels, {num_bytes / number / 1e6:.1f} MB each"
    speed = [
        ["plain loop", spread(number / np.array(plain)), ""],
        ["`inlier ingest`", spread(number / np.array(ours)), spread(ratios)],
        ["`inlier ingest` again, nothing new", "", f"{spread(100 * np.array(again) / np.array(ours))} % of its time"],
    ]
    memory = [[f"{count} photos", f"{peak / 1e6:.0f} MB"] for count, peak in peaks.items()]
    return [
        table((title, "photos/s", "times the plain loop"), speed),
        table(("`inlier ingest`", "peak memory of all processes"), memory),
    ]


def measure_many(scratch: Path, number: int) -> str:
    """The table of many tiny photos."""
    photos = scratch / "tiny"
    began = time.perf_counter()
    write_tiny(photos, number)
    print(f"{number} photos made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    with fresh(scratch) as out:
        runs = {"first run": ingest(photos, out, interval=LONG_INTERVAL)}
        runs["nothing new"] = ingest(photos, out, interval=LONG_INTERVAL)
    rows = [
        [name, f"{run.seconds:,.0f}", f"{number / run.seconds:,.0f}", f"{run.peak / 1e6:.0f} MB"]
        for name, run in runs.items()
    ]
    return table((f"{number:,} photos of {TINY_PX} px", "s", "files/s", "peak memory of all processes"), rows)


@contextmanager
def fresh(scratch: Path) -> Iterator[Path]:
    """A folder that does not exist yet, and then not any more."""
    out = scratch / "out"
    yield out
    shutil.rmtree(out)


def plain_loop(photos: Path, out: Path) -> float:
    """Seconds that it takes to make small photos as one would write it down."""
    out.mkdir()
    began = time.perf_counter()
    for path in sorted(photos.iterdir()):
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file).convert("RGB")
        ratio = LONGEST_SIDE / max(photo.size)
        size = round(photo.width * ratio), round(photo.height * ratio)
        photo.resize(size, Image.Resampling.LANCZOS).save(out / path.name, quality=PLAIN_QUALITY)
    return time.perf_counter() - began


def ingest(photos: Path, out: Path, *, interval: float = 0) -> Run:
    """Runs the command; memory is sampled if an interval in seconds is given.

    Raises:
        CalledProcessError: It failed.
    """
    words = [sys.executable, "-m", "inlier", "ingest", str(photos), "--out", str(out), "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen([*words, "--workers", str(num_cores())], start_new_session=True)
    ended = threading.Event()
    peaks = [0]
    watch = threading.Thread(target=watch_memory, args=(process.pid, interval, ended, peaks))
    if interval:
        watch.start()
    status = process.wait()
    seconds = time.perf_counter() - began
    ended.set()
    if interval:
        watch.join()
    if status:
        raise subprocess.CalledProcessError(status, words)
    return Run(seconds, peaks[0])


def watch_memory(session: int, interval: float, ended: threading.Event, peaks: list[int]) -> None:
    """Notes the most that the processes of a session have together, in bytes, until told to end."""
    while not ended.wait(interval):
        peaks[0] = max(peaks[0], sum(memory_of(process) for process in processes_of(session)))


def processes_of(session: int) -> Iterator[Path]:
    """The processes of a session: the command, and all that it started."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()  # a name may hold anything
            except OSError:
                continue  # it has ended
            if int(fields[3]) == session:
                yield process


def memory_of(process: Path) -> int:
    """Bytes of a process, shared pages by its share in them; 0 if it has ended."""
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def write_photos(folder: Path, number: int) -> None:
    """Makes large photos that differ in subject, view, light and noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    grain = rng.normal(0, NOISE, (SIZE[1], SIZE[0], 1)).astype(np.float32)
    for place in range(number):
        drawn = draw_component(COMPONENTS[place % len(COMPONENTS)], seed=place, size=DRAWN_SIZE).image
        enlarged = np.asarray(Image.fromarray(drawn).resize(SIZE, Image.Resampling.BICUBIC))
        noisy = enlarged + np.roll(grain, rng.integers(SIZE[1]), axis=0)
        exif = Image.Exif()
        exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Made", "Up"
        exif[ExifTags.Base.DateTime] = (
            f"2024:01:{1 + place // 1440 % 28:02d} {place // 60 % 24:02d}:{place % 60:02d}:00"
        )
        exif[ExifTags.Base.Orientation] = SIDEWAYS if place % 4 == 0 else 1
        photo = Image.fromarray(to_bytes(noisy))
        photo.save(folder / f"IMG_{place:05d}.jpg", quality=SOURCE_QUALITY, exif=exif)


def write_tiny(folder: Path, number: int) -> None:
    """Makes tiny photos of random blotches, 10,000 a folder."""
    rng = np.random.default_rng(0)
    for place in range(number):
        target = folder / f"{place // PER_FOLDER:04d}"
        if place % PER_FOLDER == 0:
            target.mkdir(parents=True)
        blotches = Image.fromarray(rng.integers(256, size=(GRAIN, GRAIN, 3), dtype=np.uint8))
        encoded = io.BytesIO()
        blotches.resize((TINY_PX, TINY_PX), Image.Resampling.BICUBIC).save(encoded, "JPEG")
        (target / f"{place:07d}.jpg").write_bytes(encoded.getvalue())


def to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Clipped to uint8."""
    return np.clip(values, 0, 255).astype(np.uint8)


def spread(values: Sequence[float] | NDArray[np.float64]) -> str:
    """The median, with the least and the greatest."""
    return f"{np.median(values):.1f} ({np.min(values):.1f} to {np.max(values):.1f})"


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """What it ran on."""
    versions = package_versions()
    cores = f"{number_of(num_cores(), 'core')} ({platform.machine()})"
    return f"{cores}, Python {versions['python']}, pillow {versions['pillow']}"


if __name__ == "__main__":
    main()
