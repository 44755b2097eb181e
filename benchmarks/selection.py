"""Does the choice by altered copies agree with the one that photos of real damage would make?

    python benchmarks/selection.py DATA_ROOT --out results [--split dev] [--only piston,solar-panel] [--max-photos 60]

DATA_ROOT holds one folder a data set, in any form that inlier reads. For each set, ``inlier.selection.select`` compares
the candidates by CutPaste copies of normal photos, as ``inlier fit --select synthetic`` does. The same candidates then
learn from the normal photos of ``train``, and are measured on real anomalies of the split, which the choice has not
seen. Regret is the real AUROC of the best candidate minus that of the chosen one; beside it stand the regret of never
choosing (the default), that of taking whatever has the highest AUROC on copies, and that of a candidate drawn at
random. Means over sets have a 95 % interval
from Student's t over sets, which are few. The tables are written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from inlier.build import build_backbone, build_detector
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.decision.metrics import image_auroc
from inlier.detectors.combined import Combined
from inlier.detectors.crossfit import score_photos
from inlier.features.cache import FeatureCache
from inlier.model import package_versions
from inlier.reading import Reader, normal_groups
from inlier.selection import Selection, Trial, select
from quality import by_kind

MEANS = {
    "regret_chosen": "of the choice",
    "regret_default": "of the default",
    "regret_highest": "of the highest AUROC on copies",
    "regret_random": "of a candidate drawn at random",
}


def main() -> None:
    """Measures every set, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/selection"))
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--candidates", default="", help="JSON list of names or tables; empty: the default ones")
    parser.add_argument("--max-photos", type=int, default=400, help="normal photos, for the choice and to learn from")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    section: dict[str, Any] = {"max_photos": arguments.max_photos}
    if arguments.candidates:
        section["candidates"] = json.loads(arguments.candidates)
    config = {"fit": {"seed": arguments.seed}, "select": section}
    rows: list[dict[str, Any]] = []
    table = ""
    names = (
        arguments.only.split(",") if arguments.only else sorted(p.name for p in arguments.root.iterdir() if p.is_dir())
    )
    for name in names:
        found = measure(name, Manifest.read(arguments.root / name), config, arguments.split)
        print("\n".join(json.dumps(row) for row in found), flush=True)
        rows += found
        table = to_markdown(rows)  # after each set, so that an interrupted run has what was measured
        record = {"arguments": vars(arguments), "versions": package_versions(), "means": means(rows), "rows": rows}
        (arguments.out / "selection.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (arguments.out / "selection.md").write_text(table)
    print(table)


def measure(name: str, data: Manifest, config: dict[str, dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """One row, or one for each kind of anomaly: AUROC on copies and on real anomalies, and how far the two agree."""
    asked = split if any(photo.is_anomalous for photo in data.select(split).photos) else "test"  # no dev anomalies
    selection = select(config, data)
    photos, scores = real_scores(selection, data, asked, config["select"]["max_photos"], config["fit"]["seed"])
    is_anomalous = np.array([bool(photo.is_anomalous) for photo in photos])
    synthetic = [trial.auroc.value for trial in selection.trials]
    rows = []
    for kind, part in by_kind(data):
        kept = set(part.photos)
        is_asked = np.array([photo in kept for photo in photos])
        real = [image_auroc(scores[trial.name][is_asked], is_anomalous[is_asked]) for trial in selection.trials]
        row = {
            "set": f"{name}, {kind}" if kind else name,
            "split": asked,
            "num_normal": selection.num_photos,
            "candidates": [trial.name for trial in selection.trials],
            "synthetic": [round(value, 4) for value in synthetic],
            "real": [round(value, 4) for value in real],
            "gain_low": [trial.gain and round(trial.gain.low, 4) for trial in selection.trials],
            "kendall": round(float(stats.kendalltau(synthetic, real).statistic), 3),
            "chosen": selection.trials[selection.chosen].name,
            "reason": selection.reason,
            "best": selection.trials[int(np.argmax(real))].name,
            "data_fingerprint": data.fingerprint(),
        }
        regrets = max(real) - np.array(real)
        row["regret_chosen"] = float(regrets[selection.chosen])
        row["regret_default"] = float(regrets[0])
        row["regret_highest"] = float(regrets[np.argmax(synthetic)])
        row["regret_random"] = float(regrets.mean())
        rows.append(row)
    return rows


def real_scores(
    selection: Selection, data: Manifest, split: str, max_photos: int, seed: int
) -> tuple[list[Photo], dict[str, NDArray[np.float32]]]:
    """The labelled photos of the split, and their scores by each candidate, fitted on normal photos of ``train``."""
    normal = sorted(data.select("train").normal().photos, key=lambda photo: str(photo.path))
    drawn = sorted(np.random.default_rng(seed).permutation(len(normal))[:max_photos])
    train = Manifest(tuple(normal[place] for place in drawn))
    labelled = sorted((p for p in data.select(split).photos if p.is_anomalous is not None), key=lambda p: str(p.path))
    trunks: dict[str, list[Trial]] = {}
    for trial in selection.trials:
        trunks.setdefault(repr((trial.config["backbone"], trial.config["input"])), []).append(trial)
    scores: dict[str, NDArray[np.float32]] = {}
    for trials in trunks.values():
        detectors = {trial.name: build_detector(trial.config) for trial in trials}
        backbone = build_backbone(trials[0].config, Combined([*detectors.values()]).layers)
        transform = Transform(trials[0].config["input"]["size"], backbone.mean, backbone.std)
        with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
            reader = Reader(backbone, transform, cache, normal_groups(data))
            learned, _ = reader.read(train, lambda steps: None)
            asked, _ = reader.read(Manifest(tuple(labelled)), lambda steps: None)
            gone = {photo for photo, _ in reader.unreadable}
            for name, detector in detectors.items():
                scores[name] = score_photos(detector.fit(learned), asked).values
    return [photo for photo in labelled if photo not in gone], scores


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over sets, with the 95 % interval of Student's t where there are several."""
    found = {}
    for key in (*MEANS, "kendall"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else float("nan")
        mean = float(values.mean())
        found[key] = {"value": mean, "low": mean - half, "high": mean + half}
    return found


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table with one row a set: AUROC on copies / on real anomalies of each candidate, and what was chosen."""
    names = list(dict.fromkeys(name for row in rows for name in row["candidates"]))
    head = ["set", *names, "Kendall", "chosen", "best", "regret", "regret of the default"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        pairs = dict(zip(row["candidates"], zip(row["synthetic"], row["real"], strict=True), strict=True))
        cells = [f"{pairs[name][0]:.3f} / {pairs[name][1]:.3f}" if name in pairs else "" for name in names]
        ends = [f"{row['kendall']:.2f}", row["chosen"], row["best"]]
        ends += [f"{row['regret_chosen']:.3f}", f"{row['regret_default']:.3f}"]
        lines.append("| " + " | ".join([f"{row['set']} ({row['split']})", *cells, *ends]) + " |")
    found = means(rows)
    told = [f"{MEANS[key]} {_interval(found[key])}" for key in MEANS]
    lines += [
        "",
        "AUROC on altered copies of normal photos / on real anomalies. Mean regret over sets, with 95 % interval: "
        f"{'; '.join(told)}. Mean of Kendall's tau: {_interval(found['kendall'])}.",
    ]
    return "\n".join(lines) + "\n"


def _interval(of: dict[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.3f} to {of['high']:.3f})"


if __name__ == "__main__":
    main()
