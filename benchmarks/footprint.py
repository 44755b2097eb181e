"""How much memory ``inlier fit`` takes of more and more photos, and how long a command takes to start.

    python benchmarks/footprint.py [--photos 1000 3000 10000 30000 100000] [--budget 1GiB] [--detector patchcore]
        [--folder FOLDER] [--figure docs/images/footprint.png] [--json FILE.json] [--write docs/performance.md]

Different photos of 64 x 64 px are made in a temporary folder, which are enlarged to 224 px, so that they cost memory as
large ones do. ``inlier fit`` learns from the first so many of them, with the memory budget given. Its memory is sampled
every 50 ms, over all its processes: resident memory (pages of mapped files included, which the system takes back when
others need them), and memory of its own (without them); the most of the largest process is what Linux says. Its base,
which does not depend on the budget, is what fitting 16 photos takes. Beside it, what the temporary files take on disk.

``--cold-repeats N`` times commands from their start to their end, as often, in turn, after once to warm up: Python with
``import torch``; that and building the network and loading its weights, the least that any command that looks at photos
has to do; ``inlier --help``; ``inlier inspect`` of one photo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from inlier.features.weights import load_weights
from inlier.model import package_versions
from intake import machine, processes_of, write_tiny
from near_duplicates import check_markers, command, put_between, table

BASE_PHOTOS = 16
INTERVAL = 0.05
"""Seconds between looks at memory; the disk is looked at every hundredth time."""

LOOKS = 100
NETWORK, TRUNK = "tf_efficientnet_lite0", "trunk.pth"
BARE = f"""
import sys, timm, torch
network = timm.create_model("{NETWORK}", features_only=True, out_indices=(2, 3))
network.load_state_dict(torch.load(sys.argv[1], weights_only=True), strict=False)
"""
"""Without a classifier, whose weights the file has besides."""

Record = dict[str, Any]


def main() -> None:
    """Measures, prints the tables, and draws the curve."""
    arguments = parse()
    if arguments.write:
        check_markers(arguments.write, "footprint")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        scratch = Path(folder)
        records, model, photo = measure_curve(scratch, arguments)
        export_trunk(scratch / TRUNK)
        cold = list(time_cold(model, photo, scratch, repeats=arguments.cold_repeats))
    about = {
        "command": command(),
        "machine": machine(),
        "versions": package_versions(),
        "budget": arguments.budget,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(about | {"fit": records, "cold": cold}, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        draw(records, arguments.budget, arguments.figure)
    parts = [curve_table(records), cold_table(cold), f"`{about['command']}`, {about['machine']}."]
    if arguments.figure and arguments.write:
        parts.insert(0, f"![Peak memory over the number of photos]({from_page(arguments.figure, arguments.write)})")
    text = "\n\n".join(part for part in parts if part)
    print(text)
    if arguments.write:
        put_between(arguments.write, "footprint", text)


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--budget", default="1GiB")
    parser.add_argument("--detector", default="patchcore")
    parser.add_argument("--cold-repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; 110 kB a photo")
    parser.add_argument("--figure", type=Path, help="draw the curve into this file")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    return parser.parse_args()


def measure_curve(scratch: Path, arguments: argparse.Namespace) -> tuple[list[Record], Path, Path]:
    """What fitting takes for each number of photos, the base first; and a model and a photo, for what follows."""
    photos = scratch / "photos"
    write_tiny(photos, max(*arguments.photos, BASE_PHOTOS))
    found = sorted(photos.rglob("*.jpg"))
    records = []
    for number in (BASE_PHOTOS, *sorted(arguments.photos)):
        manifest, model = photos / f"{number}.csv", scratch / f"model-{number}"
        lines = ["path", *(str(path.relative_to(photos)) for path in found[:number])]
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = ["fit", str(manifest), "--out", str(model), "--detector", arguments.detector, "--quiet"]
        words += ["--memory-budget", arguments.budget, "--set", "fit.augment=0"]
        records.append({"num_photos": number} | watched([sys.executable, "-m", "inlier", *words], scratch))
        print(json.dumps(records[-1]), file=sys.stderr, flush=True)
    return records, scratch / f"model-{BASE_PHOTOS}", found[0]


def watched(words: Sequence[str], scratch: Path) -> Record:
    """Seconds of a command, and the most that its processes had in memory and its temporary files on disk, in bytes.

    Raises:
        CalledProcessError: It failed.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        began = time.perf_counter()
        process = subprocess.Popen(words, start_new_session=True, env=os.environ | {"TMPDIR": temporary})
        ended, most = threading.Event(), {"resident": 0, "own": 0, "disk": 0}
        watch = threading.Thread(target=look, args=(process.pid, Path(temporary), ended, most))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watch.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(words))
    most["resident"] = max(most["resident"], usage.ru_maxrss << 10)  # which misses nothing, of the largest process
    return {"seconds": seconds} | most


def look(session: int, temporary: Path, ended: threading.Event, most: dict[str, int]) -> None:
    """Notes the most that the processes of a session have together, and their files, until told to end."""
    num_looks = 0
    while not ended.wait(INTERVAL):
        kinds = [memory_of(process) for process in processes_of(session)]
        most["resident"] = max(most["resident"], sum(of.get("VmRSS", 0) for of in kinds))
        most["own"] = max(most["own"], sum(of.get("RssAnon", 0) + of.get("RssShmem", 0) for of in kinds))
        if num_looks % LOOKS == 0:
            most["disk"] = max(most["disk"], disk_of(temporary))
        num_looks += 1


def memory_of(process: Path) -> dict[str, int]:
    """Bytes of a process by kind; none if it has ended."""
    try:
        lines = [line.split() for line in (process / "status").read_text().splitlines()]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[2:] == ["kB"]}


def disk_of(folder: Path) -> int:
    """Bytes that the files below a folder take; files that go meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_blocks * 512  # as POSIX counts blocks
            except OSError:
                continue
    return total


def time_cold(model: Path, photo: Path, scratch: Path, *, repeats: int) -> Iterator[Record]:
    """Seconds of commands from start to end, in turn, after each was run once.

    Args:
        model: Inspects the photo.
        photo: Any.
        scratch: Holds ``TRUNK``, and takes what the commands write.
        repeats: How often each is timed.
    """
    python = [sys.executable, "-m", "inlier"]
    for repeat in range(-1, repeats):
        out = scratch / f"cold-{repeat}"
        commands = {
            "torch": [sys.executable, "-c", "import torch"],
            "bare": [sys.executable, "-c", BARE, str(scratch / TRUNK)],
            "help": [*python, "--help"],
            "inspect": [*python, "inspect", str(model), str(photo), "--out", str(out), "--quiet"],
        }
        for name, words in commands.items():
            began = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            if repeat >= 0:
                yield {"repeat": repeat, "side": name, "seconds": time.perf_counter() - began}


def export_trunk(path: Path) -> None:
    """Writes the weights that all sides have, by timm's names; of the classifier, which nobody asks, random ones."""
    network = timm.create_model(NETWORK, pretrained=False)
    load_weights("efficientnet_lite0", network, weights=None)
    torch.save(network.state_dict(), path)


def curve_table(records: Sequence[Record]) -> str:
    """A row for each number of photos, the base first."""
    base = records[0]
    rows = [
        [
            f"{of['num_photos']:,}",
            *(f"{of[key] / 2**20:,.0f}" for key in ("resident", "own")),
            f"{(of['resident'] - base['resident']) / 2**20:,.0f}",
            f"{of['disk'] / 2**20:,.0f}",
            f"{of['seconds']:,.0f}",
            f"{of['num_photos'] / of['seconds']:,.0f}",
        ]
        for of in records
    ]
    titles = ("photos", "most resident, MiB", "of its own, MiB", "above the base, MiB", "on disk, MiB", "s", "photos/s")
    return table(titles, rows)


def cold_table(records: Sequence[Record]) -> str:
    """What each command takes, and how many times the least that any must."""
    names = {
        "torch": "`import torch`",
        "bare": "`import torch`, build the network, load its weights",
        "help": "`inlier --help`",
        "inspect": "`inlier inspect` of one photo",
    }
    bare = seconds_of(records, "bare")
    rows = [
        [title, spread(seconds_of(records, name), digits=2), spread(ratios(seconds_of(records, name), bare), digits=2)]
        for name, title in names.items()
    ]
    return table(("from a cold start", "s", "times the second row"), rows) if bare else ""


def seconds_of(records: Sequence[Record], side: str) -> list[float]:
    """Of one command, in the order of its repeats."""
    return [of["seconds"] for of in records if of["side"] == side]


def ratios(values: Sequence[float], of: Sequence[float]) -> list[float]:
    """Each value by that measured beside it."""
    return [value / beside for value, beside in zip(values, of, strict=True)]


def spread(values: Sequence[float], *, digits: int = 1) -> str:
    """The median, with the least and the greatest where there are several."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    found = f"{middle:,.{digits}f}"
    return found if len(ordered) == 1 else f"{found} ({ordered[0]:,.{digits}f} to {ordered[-1]:,.{digits}f})"


def from_page(figure: Path, page: Path) -> str:
    """A figure's place as a link of a page."""
    return Path(os.path.relpath(figure, page.parent)).as_posix()


def draw(records: Sequence[Record], budget: str, path: Path) -> None:
    """The curve over the number of photos, with the base and the budget above it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from inlier.build import parse_bytes

    base, *curve = records
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    numbers = [of["num_photos"] for of in curve]
    axes.plot(numbers, [of["resident"] / 2**20 for of in curve], "o-", color="#1f5fa8", label="resident")
    axes.plot(numbers, [of["own"] / 2**20 for of in curve], "o-", color="#7fb2e5", label="of its own")
    ceiling = (base["resident"] + parse_bytes(budget)) / 2**20
    axes.axhline(ceiling, color="#b3261e", linestyle="--", label=f"base and budget of {budget}")
    axes.axhline(base["resident"] / 2**20, color="#777777", linestyle=":", label=f"base ({base['num_photos']} photos)")
    axes.set(xscale="log", xlabel="photos", ylabel="peak memory of inlier fit, MiB", ylim=(0, 1.1 * ceiling))
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
