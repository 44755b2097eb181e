"""Image and pixel metrics of several configurations on real photos, all in one run.

    python benchmarks/quality.py DATA_ROOT --out results [--split dev] [--only piston,solar-panel] [--readme README.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Each configuration is fitted on the normal
photos of ``train``, calibrated as ``inlier fit`` does it, and measured on the split (``test`` unless told
otherwise), with 95 % intervals resampled by group. Where anomalous labels begin with ``far-`` and ``near-``, the
two kinds are measured apart. The table is written as Markdown and JSON, and into the README if asked.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlier.data.manifest import Manifest
from inlier.evaluation import evaluate
from inlier.model import package_versions
from inlier.workflow import fit

PUBLISHED = {"layers": [2, 3], "distance": "euclidean", "pooling": "max", "is_reweighted": True, "coreset_ratio": 0.1}
CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "default (combined)": {},
    "patchcore, cosine": {"fit": {"detector": "patchcore"}},
    "photo-neighbors, whitened": {"fit": {"detector": "photo-neighbors"}},
    "patchcore, as published": {"fit": {"detector": "patchcore"}, "patchcore": PUBLISHED},
    "pooled cosine, 5 nearest": {
        "fit": {"detector": "photo-neighbors"},
        "photo-neighbors": {"is_whitened": False, "power": 1.0},
    },
}


def main() -> None:
    """Measures every configuration on every set, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--configurations", default="", help="beginnings of their names, separated by semicolons")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readme", type=Path, help="put the table between its markers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    table = ""
    for name, manifest in data_sets(arguments.root, arguments.only):
        for title, sections in CONFIGURATIONS.items():
            if title.startswith(tuple(arguments.configurations.split(";"))):
                row = measure(name, manifest, title, sections, arguments.size, arguments.split, arguments.seed)
                print(json.dumps({key: value for key, value in row.items() if key != "metrics"}), flush=True)
                rows.append(row)
        table = to_markdown(rows)  # after each set, so that an interrupted run has what was measured
        record = {"arguments": vars(arguments), "versions": package_versions(), "rows": rows}
        (arguments.out / "quality.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (arguments.out / "quality.md").write_text(table)
    if arguments.readme:
        text = arguments.readme.read_text()
        marked = f"<!-- results -->\n\n{table}\n<!-- /results -->"
        arguments.readme.write_text(re.sub(r"<!-- results -->.*<!-- /results -->", lambda _: marked, text, flags=re.S))
    print(table)


def data_sets(root: Path, only: str) -> list[tuple[str, Manifest]]:
    """Name and photos of each set; of one with far and near anomalies two sets, each with all normal photos."""
    found = []
    names = only.split(",") if only else sorted(path.name for path in root.iterdir() if path.is_dir())
    for folder in (root / name for name in names):
        data = Manifest.read(folder)
        kinds = [kind for kind in ("far-", "near-") if any(photo.label.startswith(kind) for photo in data.photos)]
        for kind in kinds:
            chosen = (p for p in data.photos if p.is_anomalous is not True or p.label.startswith(kind))
            found.append((f"{folder.name}, {kind.strip('-')}", Manifest(tuple(chosen))))
        if not kinds:
            found.append((folder.name, data))
    return found


def measure(
    name: str,
    data: Manifest,
    title: str,
    sections: Mapping[str, Mapping[str, Any]],
    size: int,
    split: str,
    seed: int,
) -> dict[str, Any]:
    """Fits, evaluates, and keeps what the table needs."""
    chosen = split if any(photo.is_anomalous for photo in data.select(split).photos) else "test"  # no dev anomalies
    began = time.perf_counter()
    model, _ = fit({**sections, "input": {"size": size}, "fit": {**sections.get("fit", {}), "seed": seed}}, data)
    seconds = time.perf_counter() - began
    metrics = evaluate(model, data, split=chosen, seed=seed, command="benchmarks/quality.py").metrics
    return {
        "set": name,
        "configuration": title,
        "fit_seconds": round(seconds, 1),
        **_short(metrics),
        "metrics": metrics,
    }


def _short(metrics: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        key: metrics[key] and round(metrics[key]["value"], 3) for key in ("image_auroc", "pixel_auroc", "aupro_03")
    }
    verdicts = [of["verdicts"] for of in metrics["classes"].values() if not of["is_anomalous"]]
    rejected = sum(of.get("reject", 0) for of in verdicts) / max(1, metrics["num_normal"])
    return {**values, "trivial": metrics["trivial"], "normal_rejected": round(rejected, 3)}


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """A table: sets downwards, configurations across; image AUROC with interval, and the pixel metrics of the first."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    titles = list(dict.fromkeys(row["configuration"] for row in rows))
    cells = {(row["set"], row["configuration"]): row for row in rows}
    head = ["set", "photos", "trivial", *titles, "pixel AUROC / AUPRO", "normal rejected"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for name in sets:
        first = cells[name, titles[0]]
        metrics = first["metrics"]
        trivial = first["trivial"]
        auroc = [_cell(cells[name, title]["metrics"]["image_auroc"]) for title in titles]
        pixel = " / ".join(_cell(metrics[key]) for key in ("pixel_auroc", "aupro_03")) if metrics["pixel_auroc"] else ""
        photos = f"{metrics['num_normal']} + {metrics['num_anomalous']}"
        share = f"{100 * first['normal_rejected']:.1f} %"
        lines.append("| " + " | ".join([name, photos, f"{trivial['auroc']:.2f}", *auroc, pixel, share]) + " |")
    means = []
    for title in titles:
        values = [cells[name, title]["metrics"]["image_auroc"]["value"] for name in sets]
        means.append(f"**{sum(values) / len(values):.3f}**")
    lines.append("| mean | | | " + " | ".join(means) + " | | |")
    first_metrics = rows[0]["metrics"]
    versions = first_metrics["versions"]
    prints = ", ".join(f"{name} `{cells[name, titles[0]]['metrics']['data_fingerprint'][:8]}`" for name in sets)
    lines += [
        "",
        f"Image AUROC with 95 % interval, split {first_metrics['split']}, seed {first_metrics['seed']}, torch "
        f"{versions['torch']}, by `python benchmarks/quality.py DATA_ROOT --readme README.md` in one run. "
        "*Photos* are normal + anomalous ones; *trivial* is the AUROC of the best of six statistics such as "
        "brightness; *pixel* and *normal rejected* (asked: at most 5 % on average) are those of the default. "
        f"Data fingerprints: {prints}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.2f}–{interval['high']:.2f})" if interval else ""  # noqa: RUF001


if __name__ == "__main__":
    main()
