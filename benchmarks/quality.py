"""Image and pixel metrics of every detector on real photos, all in one run.

    python benchmarks/quality.py DATA_ROOT --out results [--split dev] [--only piston,solar-panel] [--readme README.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Each configuration is fitted on the normal
photos of ``train``, calibrated as ``inlier fit`` does it, and measured on the split (``test`` unless told
otherwise), with 95 % intervals resampled by group. Where anomalous labels begin with ``far-`` and ``near-``, the
two kinds are measured apart. What is measured is kept as it comes, and a run that was interrupted goes on with what
is missing. The tables are written as Markdown and JSON, and into the README if asked.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier.data.manifest import Manifest
from inlier.evaluation import evaluate
from inlier.model import package_versions
from inlier.workflow import fit

PUBLISHED = {"layers": [2, 3], "distance": "euclidean", "pooling": "max", "is_reweighted": True, "coreset_ratio": 0.1}
BASELINES = ("one-class-svm", "mahalanobis", "nearest-neighbor", "isolation-forest")
CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "combined (default)": {},
    "patchcore": {"fit": {"detector": "patchcore"}},
    "patchcore, as published": {"fit": {"detector": "patchcore"}, "patchcore": PUBLISHED},
    "photo-neighbors": {"fit": {"detector": "photo-neighbors"}},
    "subspace": {"fit": {"detector": "subspace"}},
    "photo-subspace": {"fit": {"detector": "photo-subspace"}},
    "reverse-distillation": {"fit": {"detector": "reverse-distillation"}},
    **{
        f"baseline, {method}": {"fit": {"detector": "baseline"}, "baseline": {"method": method}} for method in BASELINES
    },
}
KINDS = ("far-", "near-")

Row = dict[str, Any]


def main() -> None:
    """Measures every configuration on every set, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--configurations", default="", help="beginnings of their names, separated by semicolons")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = [title for title in CONFIGURATIONS if title.startswith(tuple(arguments.configurations.split(";")))]
    rows: list[Row] = []
    names = (
        arguments.only.split(",") if arguments.only else sorted(p.name for p in arguments.root.iterdir() if p.is_dir())
    )
    for name in names:
        data = Manifest.read(arguments.root / name)
        for title in chosen:
            kept = (
                arguments.out / "cells" / f"{name}, {title}, {arguments.split}, {arguments.size}, {arguments.seed}.json"
            )
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(json.dumps(measure(name, data, title, arguments.size, arguments.split, arguments.seed)))
            found = json.loads(kept.read_text())
            rows += found
            for row in found:
                print(row["set"], title, short(row["metrics"]), row["fit_seconds"], row["evaluate_seconds"], flush=True)
    tables = detectors_table(rows) + "\n" + default_table(rows) + "\n" + origin(rows)
    record = {"arguments": vars(arguments), "versions": package_versions(), "rows": rows}
    (arguments.out / "quality.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    (arguments.out / "quality.md").write_text(tables + "\n" + intervals_table(rows))
    if arguments.readme:
        text = arguments.readme.read_text()
        marked = f"<!-- results -->\n\n{tables}\n<!-- /results -->"
        arguments.readme.write_text(re.sub(r"<!-- results -->.*<!-- /results -->", lambda _: marked, text, flags=re.S))
    print(tables)


def measure(name: str, data: Manifest, title: str, size: int, split: str, seed: int) -> list[Row]:
    """Fits once, and evaluates: one row, or one for each kind of anomaly where there are several."""
    sections = CONFIGURATIONS[title]
    began = time.perf_counter()
    model, _ = fit({**sections, "input": {"size": size}, "fit": {**sections.get("fit", {}), "seed": seed}}, data)
    fitted = time.perf_counter()
    rows = []
    for kind, part in by_kind(data):
        has_dev = any(photo.is_anomalous for photo in part.select(split).photos)
        metrics = evaluate(model, part, split=split if has_dev else "test", seed=seed, command="benchmarks/quality.py")
        rows.append(
            {
                "set": f"{name}, {kind}" if kind else name,
                "configuration": title,
                "fit_seconds": round(fitted - began, 1),
                "evaluate_seconds": round(time.perf_counter() - fitted, 1),
                "num_fitted": model.facts["num_fitted"],
                "metrics": metrics.metrics,
            }
        )
    return rows


def by_kind(data: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The data themselves; or far and near anomalies apart, each with all normal photos."""
    kinds = [kind for kind in KINDS if any(photo.label.startswith(kind) for photo in data.photos)]
    if not kinds:
        yield "", data
    for kind in kinds:
        chosen = (photo for photo in data.photos if photo.is_anomalous is not True or photo.label.startswith(kind))
        yield kind.strip("-"), Manifest(tuple(chosen))


def short(metrics: Mapping[str, Any]) -> str:
    """The values of a row, for the one who waits."""
    return " ".join(
        f"{key} {metrics[key]['value']:.3f}" for key in ("image_auroc", "pixel_auroc", "aupro_03") if metrics[key]
    )


def detectors_table(rows: Sequence[Row]) -> str:
    """Detectors downwards, sets across, image AUROC; the best of each set is bold."""
    sets, titles, values = _grid(rows)
    lines = ["| image AUROC | " + " | ".join([*sets, "mean"]) + " |", "| --- |" + " --- |" * (len(sets) + 1)]
    columns = [[values[name, title] for title in titles] for name in sets]
    columns.append([sum(values[name, title] for name in sets) / len(sets) for title in titles])
    best = [max(column) for column in columns]
    for place, title in enumerate(titles):
        cells = (
            f"**{column[place]:.3f}**" if column[place] == top else f"{column[place]:.3f}"
            for column, top in zip(columns, best, strict=True)
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    trivial = [next(row for row in rows if row["set"] == name)["metrics"]["trivial"]["auroc"] for name in sets]
    lines.append("| best trivial statistic | " + " | ".join(f"{value:.3f}" for value in trivial) + " | |")
    return "\n".join(lines) + "\n"


def default_table(rows: Sequence[Row]) -> str:
    """The first configuration on every set, with intervals."""
    sets, titles, _ = _grid(rows)
    lines = [
        f"| {titles[0]} | photos | image AUROC | pixel AUROC | AUPRO | normal rejected |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in sets:
        metrics = _metrics(rows, name, titles[0])
        photos = f"{metrics['num_normal']} + {metrics['num_anomalous']}"
        verdicts = [of["verdicts"] for of in metrics["classes"].values() if not of["is_anomalous"]]
        rejected = sum(of.get("reject", 0) for of in verdicts) / max(1, metrics["num_normal"])
        cells = [_cell(metrics[key]) for key in ("image_auroc", "pixel_auroc", "aupro_03")]
        lines.append("| " + " | ".join([name, photos, *cells, f"{100 * rejected:.1f} %"]) + " |")
    return "\n".join(lines) + "\n"


def intervals_table(rows: Sequence[Row]) -> str:
    """Every detector on every set with its interval, and what it took."""
    lines = [
        "| set | configuration | image AUROC | pixel AUROC | AUPRO | fit, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [_cell(row["metrics"][key]) for key in ("image_auroc", "pixel_auroc", "aupro_03")]
        lines.append("| " + " | ".join([row["set"], row["configuration"], *cells, f"{row['fit_seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def origin(rows: Sequence[Row]) -> str:
    """What the tables come from, in a sentence."""
    sets, titles, _ = _grid(rows)
    first = rows[0]["metrics"]
    prints = ", ".join(f"{name} `{_metrics(rows, name, titles[0])['data_fingerprint'][:8]}`" for name in sets)
    return (
        f"Split {first['split']}, seed {first['seed']}, torch {first['versions']['torch']}, all by one command: "
        "`python benchmarks/quality.py DATA_ROOT --readme README.md`. *Photos* are normal + anomalous ones; ranges "
        "are 95 % intervals; *normal rejected* is asked to be at most 5 % on average; a *trivial statistic* is one of "
        f"six such as brightness, and the best of them is picked. Data fingerprints: {prints}.\n"
    )


def _grid(rows: Sequence[Row]) -> tuple[list[str], list[str], dict[tuple[str, str], float]]:
    sets = list(dict.fromkeys(row["set"] for row in rows))
    titles = list(dict.fromkeys(row["configuration"] for row in rows))
    values = {(row["set"], row["configuration"]): row["metrics"]["image_auroc"]["value"] for row in rows}
    return sets, titles, values


def _metrics(rows: Sequence[Row], name: str, title: str) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = next(
        row["metrics"] for row in rows if (row["set"], row["configuration"]) == (name, title)
    )
    return metrics


def _cell(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.2f}–{interval['high']:.2f})" if interval else ""  # noqa: RUF001


if __name__ == "__main__":
    main()
