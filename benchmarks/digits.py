"""Are scribbled digits read, and does leaving them out save false alarms without hiding cracks?

    python benchmarks/digits.py DATA_ROOT [--out out/digits] [--only piston,generated] [--photos 60] [--split test]
        [--write docs/digits.md]

Digits are written by code (``benchmarks/scribbles.py``) on normal photos of ``piston``, ``ball-screw``,
``magnetic-tile`` and ``camera-roll`` in DATA_ROOT, and on generated scenes: three hands, four colours of paint, upright
within 15 degrees or at any angle, a digit 15 to 40 % of the photo high. Nothing of a photo is written to disk.

Reading: how often the numbers read are just the one written, and how often a number is read on the photo before it was
scribbled on. Ignoring: a model with default settings is fitted and calibrated on the set's normal photos of ``train``
and ``dev``; each normal photo of the split is scored as it is, scribbled, with a crack, and with both, with and without
``--ignore-text``. Means have 95 % intervals by group; what is compared is measured on the same photos.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.images import read_image
from inlier.data.loader import Batch
from inlier.data.manifest import Manifest, Photo
from inlier.data.synthetic_folders import write_dataset
from inlier.data.text.reading import SIDE, Text, numbers_in, read_text
from inlier.data.text.strokes import paint_out
from inlier.decision.intervals import mean_interval
from inlier.model import Model, package_versions
from inlier.workflow import fit, inspect_batch
from near_duplicates import check_markers, command, put_between, table
from scribbles import COLOURS, crack, scribble

SETS = ("generated", "piston", "ball-screw", "magnetic-tile", "camera-roll")
TURNS = {"upright": 15.0, "any angle": 180.0}
CRACK_LENGTH = 0.35
HIDDEN = 0.5
"""Share of a crack's pixels from which it counts as painted out."""

Pixels = NDArray[np.uint8]
Row = dict[str, Any]


def main() -> None:
    """Measures every set, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/digits"))
    parser.add_argument("--only", default=",".join(SETS), help="names of sets, separated by commas")
    parser.add_argument("--photos", type=int, default=60, help="normal photos of each set that are written on")
    parser.add_argument("--fit-photos", type=int, default=0, help="normal photos to learn from at most; 0: all")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="put the tables between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "digits")
    arguments.out.mkdir(parents=True, exist_ok=True)
    read, ignored, prints = [], [], []
    for name in arguments.only.split(","):
        with TemporaryDirectory() as scratch:
            data = generated(Path(scratch)) if name == "generated" else Manifest.read(arguments.root / name)
            rows = measure(data, arguments)
            prints.append(f"{name} `{data.fingerprint()[:8]}`")
        read += [{"set": name, **row} for row in reading(rows)]
        ignored.append({"set": name, **ignoring(rows)})
        print(json.dumps([read[-2:], ignored[-1]], indent=1), flush=True)
        text = page(read, ignored, prints, arguments)
        record = {"arguments": vars(arguments), "versions": package_versions(), "reading": read, "ignoring": ignored}
        (arguments.out / "digits.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (arguments.out / "digits.md").write_text(text + "\n")
        if arguments.write:
            put_between(arguments.write, "digits", text)


def generated(folder: Path) -> Manifest:
    """Scenes without the chalk numbers that a fifth of them would bear."""
    with mock.patch("inlier.data.drawing.wear._chalk_number"):
        write_dataset(
            folder, num_train=120, num_dev=60, num_test=60, num_defective=0, num_unrelated=0,
            components=("piston-crown", "bolted-flange"),
        )  # fmt: skip
    return Manifest.read(folder)


def measure(data: Manifest, arguments: argparse.Namespace) -> list[Row]:
    """What was read in each photo, and how each of its versions was judged."""
    rng = np.random.default_rng(arguments.seed)
    normal = data.normal()
    model, _ = fit({}, fewer(normal, arguments.fit_photos, rng))
    photos = normal.select(arguments.split).photos
    chosen = sorted(rng.permutation(len(photos))[: arguments.photos].tolist())
    return [look(model, photos[place], rng) for place in chosen]


def fewer(data: Manifest, num_photos: int, rng: np.random.Generator) -> Manifest:
    """The normal photos to learn from and to calibrate on, so many at most of each."""
    kept: list[Photo] = []
    for split in ("train", "dev"):
        photos = data.select(split).photos
        order = rng.permutation(len(photos))[: num_photos or None]
        kept += [photos[place] for place in sorted(order.tolist())]
    return Manifest(tuple(kept))


def look(model: Model, photo: Photo, rng: np.random.Generator) -> Row:
    """One photo: read and judged as it is, scribbled, cracked, and both."""
    clean = read_image(photo.path, min_side=SIDE)
    began = time.process_time()
    texts = {"clean": read_text(clean)}
    row: Row = {"group": photo.group or str(photo.path), "seconds": time.process_time() - began, "read": {}}
    row["clean_numbers"] = numbers_in(texts["clean"])
    versions = {"clean": clean}
    for kind, most in TURNS.items():
        number = str(rng.integers(1, 21))
        scribbled, paint = scribble(
            clean, number, rng, height=rng.uniform(0.15, 0.4), turn=rng.uniform(-most, most),
            colour=str(rng.choice([*COLOURS])), cover=rng.uniform(0.6, 1),
        )  # fmt: skip
        found = read_text(scribbled)
        row["read"][kind] = {"number": number, "found": numbers_in(found), "clean": row["clean_numbers"]}
        if kind == "upright":
            versions["scribbled"], texts["scribbled"] = scribbled, found
            seed = int(rng.integers(2**32))
            versions["both"], gape = crack(scribbled, paint, np.random.default_rng(seed), length=CRACK_LENGTH)
            versions["cracked"], _ = crack(clean, paint, np.random.default_rng(seed), length=CRACK_LENGTH)
    for version in ("cracked", "both"):
        texts[version] = read_text(versions[version])
        hidden = paint_out(versions[version], texts[version])[1]
        row[f"{version}_hidden"] = float(hidden[gape].mean()) if gape.any() else 0.0
    for ignores in (False, True):
        judged = judge(model, versions, texts if ignores else {})
        row |= {f"{version}_{'ignored' if ignores else 'plain'}": value for version, value in judged.items()}
    return row


def judge(model: Model, versions: dict[str, Pixels], texts: dict[str, Sequence[Text]]) -> dict[str, Row]:
    """Score and rejection of each version, with its texts left out."""
    pixels = tuple(paint_out(of, texts.get(version, ()))[0] for version, of in versions.items())
    photos = tuple(Photo(Path(version), "test") for version in versions)
    images = torch.stack([model.transform.to_tensor(of) for of in pixels])
    outcomes = inspect_batch(model, Batch(images, photos, pixels, ()))
    verdicts = {str(photo.path): outcomes[photo].verdict for photo in photos}
    return {name: {"score": of.score, "is_rejected": of.verdict == "reject"} for name, of in verdicts.items()}


def reading(rows: Sequence[Row]) -> list[Row]:
    """How often digits are read, at the two kinds of angles, and how often there are none."""
    groups = [row["group"] for row in rows]
    found = []
    for kind in TURNS:
        cases = [row["read"][kind] for row in rows]
        # What a photo bears anyway, such as a stamped number, is no mistake of reading.
        fresh = [[number for number in case["found"] if number not in case["clean"]] for case in cases]
        is_right = [new == [case["number"]] for new, case in zip(fresh, cases, strict=True)]
        is_wrong = [bool(new) and not right for new, right in zip(fresh, is_right, strict=True)]
        found.append(
            {
                "angle": kind,
                "photos": len(rows),
                "right": mean(is_right, groups),
                "wrong": mean(is_wrong, groups),
                "false": mean([bool(row["clean_numbers"]) for row in rows], groups),
                "seconds": float(np.median([row["seconds"] for row in rows])),
            }
        )
    return found


def ignoring(rows: Sequence[Row]) -> Row:
    """False alarms and cracks found, with writing and without."""
    groups = [row["group"] for row in rows]

    def rejected(version: str, how: str) -> list[bool]:
        return [row[f"{version}_{how}"]["is_rejected"] for row in rows]

    def raised(how: str) -> list[bool]:
        return [row[f"both_{how}"]["score"] > row[f"scribbled_{how}"]["score"] for row in rows]

    pairs = zip(rejected("scribbled", "plain"), rejected("scribbled", "ignored"), strict=True)
    saved = np.array([float(plain) - float(ignored) for plain, ignored in pairs])
    cracks = zip(rejected("both", "ignored"), rejected("cracked", "plain"), strict=True)
    gained = np.array([float(ignored) - float(plain) for ignored, plain in cracks])
    names = ("clean", "scribbled", "cracked", "both")
    return {
        "photos": len(rows),
        **{f"{of}_{how}": mean(rejected(of, how), groups) for of in names for how in ("plain", "ignored")},
        **{f"raised_{how}": mean(raised(how), groups) for how in ("plain", "ignored")},
        **{f"{of}_hidden": mean([row[f"{of}_hidden"] >= HIDDEN for row in rows], groups) for of in ("both", "cracked")},
        "saved": mean_interval(saved, groups, lowest=-1.0).to_json(),
        "both_against_cracked": mean_interval(gained, groups, lowest=-1.0).to_json(),
        "rows": list(rows),
    }


def mean(values: Sequence[bool], groups: Sequence[str]) -> dict[str, float]:
    """A share with its interval."""
    return mean_interval(np.array(values, dtype=np.float64), groups).to_json()


def page(read: Sequence[Row], ignored: Sequence[Row], prints: Sequence[str], arguments: argparse.Namespace) -> str:
    """The tables as Markdown."""
    of_reading = table(
        (
            "set",
            "writing",
            "photos",
            "read rightly",
            "read as another number",
            "a number on the clean photo",
            "CPU seconds",
        ),
        [
            [row["set"], row["angle"], str(row["photos"])]
            + [share(row[name]) for name in ("right", "wrong", "false")]
            + [f"{row['seconds']:.2f}"]
            for row in read
        ],
    )
    of_alarms = table(
        ("set", "photos", "clean", "clean, ignored", "scribbled", "scribbled, ignored", "false alarms saved"),
        [
            [row["set"], str(row["photos"])]
            + [share(row[f"{of}_{how}"]) for of in ("clean", "scribbled") for how in ("plain", "ignored")]
            + [share(row["saved"])]
            for row in ignored
        ],
    )
    titles = ("set", "crack alone", "beside a digit, ignored", "difference", "raises the score", "raises it, ignored")
    of_cracks = table(
        (*titles, "crack painted out, beside a digit", "crack painted out, alone"),
        [
            [row["set"]]
            + [share(row[name]) for name in ("cracked_plain", "both_ignored", "both_against_cracked")]
            + [share(row[name]) for name in ("raised_plain", "raised_ignored", "both_hidden", "cracked_hidden")]
            for row in ignored
        ],
    )
    versions = package_versions()
    how = f"`{command()}`, {arguments.split}, torch {versions['torch']}. Data fingerprints: {', '.join(prints)}."
    return (
        f"Digits read:\n\n{of_reading}\n\nNormal photos rejected:\n\n{of_alarms}\n\n"
        f"Cracks: rejected, and what becomes of them:\n\n{of_cracks}\n\nShares with 95 % intervals. {how}"
    )


def share(of: dict[str, float]) -> str:
    """A share in percent with its interval."""
    return f"{100 * of['value']:.0f} % ({100 * of['low']:.0f} to {100 * of['high']:.0f})"


if __name__ == "__main__":
    main()
