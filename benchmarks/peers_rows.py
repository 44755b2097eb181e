"""What ``peers.py`` measures: each row of its tables, every measurement in a process of its own, the sides in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from footprint import time_cold
from inlier.data.manifest import Photo
from inlier.decision.compare import Difference, compare_aurocs
from inlier.decision.intervals import bootstrap
from inlier.decision.metrics import image_auroc
from intake import write_photos

OWN = {"inlier": None, "inlier-bfloat16": "bfloat16"}
"""inlier's sides, and the precision that each asks for; None: what it has by itself."""

RATIOS = (0.01, 0.1)
BATCH, STUDENT_BATCH = 32, 16
BULK_SETTINGS = ((32, 0), (1, 0), (32, 2))
"""Batch, and processes that read beside the one that scores: of the peers; inlier has its own."""

PHONE_SETTINGS = ((8, 0), (8, 2))

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    repeats: int = 3
    num_train: int = 100
    num_test: int = 1_000_000
    num_single: int = 100
    num_phone: int = 64
    marks: tuple[int, ...] = (50, 100, 200, 400)
    peer_steps: int = 16
    own_steps: int = 200
    cold_repeats: int = 7


QUICK = Plan(1, 8, 16, 5, 3, (3,), 2, 4, 1)


@dataclass(frozen=True)
class Bench:
    """All that a measurement needs.

    Attributes:
        plan: How much is measured.
        sides: Name -> the words that start its runner.
        scratch: A folder for jobs and models.
        shared: What every job says.
        learned: Photos to learn from.
        tested: Photos to inspect.
        threads: Cores for each side.
        models: Folders of those fitted so far.
    """

    plan: Plan
    sides: dict[str, list[str]]
    scratch: Path
    shared: Record
    learned: Sequence[Photo]
    tested: Sequence[Photo]
    threads: int
    models: set[Path] = field(default_factory=set)

    def ask(self, side: str, **job: Any) -> Record:
        """Does a job in a process of its own.

        Raises:
            SystemExit: It failed; what it said last is shown.
        """
        given, got = self.scratch / "job.json", self.scratch / "result.json"
        given.write_text(json.dumps(self.shared | {"precision": OWN.get(side)} | job), encoding="utf-8")
        environment = os.environ | {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        began = time.perf_counter()
        done = subprocess.run(
            [*self.sides[side], str(given), str(got)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{side} failed at {job['kind']}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        result: Record = json.loads(got.read_text(encoding="utf-8"))
        wall = time.perf_counter() - began
        print(f"{side} {job['kind']} {job.get('ratio', '')}: {wall:.1f} s", file=sys.stderr, flush=True)
        return {"side": side, "kind": job["kind"], "process_seconds": wall} | result

    def learn(self, side: str, ratio: float | None, *, kind: str = "fit") -> Record:
        """Fits on the photos, and keeps the model: of inlier a calibrated one, without a ratio its default."""
        kept = kind == "fit_calibrated" or side not in OWN
        job = {"photos": paths(self.learned), "groups": groups(self.learned), "batch": BATCH, "ratio": ratio}
        result = self.ask(side, kind=kind, save=str(self.folder(side, ratio)) if kept else None, **job)
        if kept:
            self.models.add(self.folder(side, ratio))
        return result | {"ratio": ratio}

    def model(self, side: str, ratio: float | None) -> str:
        """The folder of a fitted model, fitted now unless it was before."""
        if self.folder(side, ratio) not in self.models:
            self.learn(side, ratio, kind="fit_calibrated" if side in OWN else "fit")
        return str(self.folder(side, ratio))

    def folder(self, side: str, ratio: float | None) -> Path:
        """Where a model is kept."""
        return self.scratch / (side if ratio is None else f"{side}-{ratio:g}")

    def turns(self) -> Iterator[tuple[int, str]]:
        """Each side once, then again."""
        return ((repeat, side) for repeat in range(self.plan.repeats) for side in self.sides)


def measure_fit(bench: Bench) -> Iterator[Record]:
    """Fitting, at both ratios; inlier's also with the calibration that the others have not."""
    for ratio in RATIOS:
        for repeat, side in bench.turns():
            yield {"repeat": repeat} | bench.learn(side, ratio)
            if side in OWN:
                yield {"repeat": repeat} | bench.learn(side, ratio, kind="fit_calibrated")


def measure_bulk(bench: Bench) -> Iterator[Record]:
    """Photos from files in bulk, by the library and by the command, and how well anomalous ones are told apart."""
    for ratio in RATIOS:
        for repeat, side in bench.turns():
            result = bench.ask(
                side, kind="bulk", model=bench.model(side, ratio), photos=paths(bench.tested), settings=BULK_SETTINGS
            )
            about = {"repeat": repeat, "ratio": ratio, "num_photos": len(bench.tested)}
            yield about | {"auroc": auroc(bench, result.pop("scores"))} | result
            if side == "inlier":
                run = {"batch": None, "workers": None, "seconds": time_command(bench, ratio)}
                yield about | {"side": "command", "kind": "bulk", "runs": [run]}


def measure_quality(bench: Bench) -> Iterator[Record]:
    """How well anomalous photos are told apart: inlier's default and its PatchCore beside each of the others."""
    flags = np.array([bool(photo.is_anomalous) for photo in bench.tested])
    for ratio in RATIOS:
        banks = {side: ratio for side in bench.sides if OWN.get(side) is None}
        ways = {"default": ("inlier", None), **{side: (side, of) for side, of in banks.items()}}
        scores = {
            way: bench.ask(
                side,
                kind="bulk",
                model=bench.model(side, of),
                photos=paths(bench.tested),
                settings=BULK_SETTINGS[:1],
            )["scores"]
            for way, (side, of) in ways.items()
        }
        names = list(scores)
        areas, differences = compare_aurocs(np.array([scores[name] for name in names]), flags, groups(bench.tested))
        ahead = [gain for of in differences for gain in both_ways(names, of)]
        for name, area in zip(names, areas, strict=True):
            others = {behind: gain for owner, behind, gain in ahead if owner == name}
            yield {"side": name, "kind": "quality", "ratio": ratio, "auroc": area.to_json(), "ahead": others}


def both_ways(names: Sequence[str], found: Difference) -> tuple[tuple[str, str, dict[str, float]], ...]:
    """Of two models: which, of which, and by how much it is ahead, seen from either."""
    ahead, behind, gain = names[found.ahead], names[found.behind], found.gain.to_json()
    lost = {"value": -gain["value"], "low": -gain["high"], "high": -gain["low"]}
    return (ahead, behind, gain), (behind, ahead, lost)


def measure_one(bench: Bench) -> Iterator[Record]:
    """One photo at a time, with the model in memory."""
    for repeat, side in bench.turns():
        photos = paths(bench.tested[:: -(-len(bench.tested) // bench.plan.num_single)])
        yield {"repeat": repeat} | bench.ask(side, kind="one", model=bench.model(side, RATIOS[0]), photos=photos)


def measure_phone(bench: Bench) -> Iterator[Record]:
    """Photos of 12 megapixels in bulk."""
    write_photos(bench.scratch / "phone", bench.plan.num_phone)
    photos = [str(path) for path in sorted((bench.scratch / "phone").iterdir())]
    for repeat, side in bench.turns():
        result = bench.ask(
            side, kind="bulk", model=bench.model(side, RATIOS[0]), photos=photos, settings=PHONE_SETTINGS
        )
        yield {
            "repeat": repeat,
            "num_photos": len(photos),
            **{key: of for key, of in result.items() if key != "scores"},
        }


def measure_distill(bench: Bench) -> Iterator[Record]:
    """Steps of reverse distillation in turns, then trainings of several lengths with what they reach."""
    plan = bench.plan
    job = {"kind": "distill", "photos": paths(bench.learned), "groups": groups(bench.learned), "batch": STUDENT_BATCH}
    steps = {"inlier": plan.own_steps, "anomalib": plan.peer_steps}
    for repeat in range(plan.repeats):
        for side, num_steps in steps.items():
            yield {"repeat": repeat} | bench.ask(side, marks=[num_steps], others=[], **job)
    for side in steps:
        result = bench.ask(side, marks=plan.marks, others=paths(bench.tested), **job)
        for mark in result["marks"]:
            mark["auroc"] = auroc(bench, mark.pop("scores"))
        yield {"repeat": None} | result


def measure_cold(bench: Bench) -> Iterator[Record]:
    """From the start of ``inlier inspect`` of one photo to its end, and the least that it can take."""
    model, photo = Path(bench.model("inlier", RATIOS[0])), bench.tested[0].path
    yield from time_cold(model, photo, bench.scratch, repeats=bench.plan.cold_repeats)


MEASURES = {
    "fit": measure_fit,
    "bulk": measure_bulk,
    "quality": measure_quality,
    "one": measure_one,
    "phone": measure_phone,
    "distill": measure_distill,
    "cold": measure_cold,
}


def time_command(bench: Bench, ratio: float) -> float:
    """Seconds of ``inlier inspect``, from its start to the report."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as out:
        words = [sys.executable, "-m", "inlier", "inspect", bench.model("inlier", ratio), *paths(bench.tested)]
        began = time.perf_counter()
        subprocess.run([*words, "--out", f"{out}/inspection", "--quiet"], check=True)
        return time.perf_counter() - began


def auroc(bench: Bench, scores: Sequence[float]) -> dict[str, float]:
    """The image AUROC, and its interval over groups."""
    flags = np.array([bool(photo.is_anomalous) for photo in bench.tested])
    found = bootstrap(image_auroc, np.array(scores, dtype=np.float64), flags, groups(bench.tested))
    return found.to_json()


def paths(photos: Sequence[Photo]) -> list[str]:
    """Where they lie."""
    return [str(photo.path.absolute()) for photo in photos]


def groups(photos: Sequence[Photo]) -> list[str]:
    """What must not be torn apart."""
    return [photo.group for photo in photos]
