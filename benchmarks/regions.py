"""Whether to look at the part alone helps: image AUROC with and without the automatic foreground, on real sets.

    python benchmarks/regions.py DATA_ROOT [--only piston,solar-panel] [--max-photos 200] [--write docs/regions.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Each detector is fitted on the normal photos of
``train`` twice, as it is and with ``--regions foreground``, from the same features, and measured on the labelled
photos of ``test``, with 95 % intervals that resample groups. The gain is a paired difference; it is called real if its
p-value, corrected over the table, is at most 0.05. "not found" is the share of the test photos without a region, "of a
photo" the mean share of a photo that the regions found take.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.manifest import Manifest, Photo
from inlier.decision.compare import compare_aurocs, holm
from inlier.detectors.crossfit import score_photos
from inlier.detectors.regional import Regional
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import package_versions, transform_of
from inlier.outputs import write_whole
from inlier.reading import Reader, normal_groups

DETECTORS = ("combined", "patchcore", "photo-neighbors")
BEGIN, END = "<!-- regions -->", "<!-- /regions -->"


def main() -> None:
    """Measures every set, and prints or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--max-photos", type=int, default=10_000, help="of each kind and split")
    parser.add_argument("--backbone", default=None, help="a name, or a BACKBONE folder")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help=f"put the table between {BEGIN} and {END} of this file")
    arguments = parser.parse_args()
    found = sorted(path.name for path in arguments.root.iterdir() if path.is_dir())
    rows: list[dict[str, Any]] = []
    for name in arguments.only.split(",") if arguments.only else found:
        rows += measure(name, Manifest.read(arguments.root / name), arguments.backbone, arguments.max_photos)
        print(table(rows), flush=True)
    if arguments.json:
        record = {"versions": package_versions(), "arguments": vars(arguments), "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=2, default=str) + "\n")
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        write_whole(arguments.write, f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


def measure(name: str, data: Manifest, backbone_name: str | None, max_photos: int) -> list[dict[str, Any]]:
    """One row for each detector, of one set."""
    train = _some(data.select("train").normal().photos, max_photos)
    labelled = data.select("test").photos
    test = [
        photo for flag in (False, True) for photo in _some([p for p in labelled if p.is_anomalous is flag], max_photos)
    ]
    section = {"backbone": {"name": backbone_name}} if backbone_name else {}
    configs = {of: resolve(section | {"fit": {"detector": of}}, device="cpu") for of in DETECTORS}
    layers = sorted({layer for config in configs.values() for layer in build_detector(config).layers})
    first = configs[DETECTORS[0]]
    backbone = build_backbone(first, layers)
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        reader = Reader(backbone, transform_of(first, backbone), cache, normal_groups(data))
        to_learn, _ = reader.read(Manifest(tuple(train)), lambda steps: None)
        to_judge, _ = reader.read(Manifest(tuple(test)), lambda steps: None)
        is_anomalous = np.array([bool(photo.is_anomalous) for photo in reader.photos[len(to_learn) :]])
        return [
            {
                "set": name,
                "detector": of,
                "photos": len(to_judge),
                **_compared(config, to_learn, to_judge, is_anomalous),
            }
            for of, config in configs.items()
        ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, with p-values corrected over all of them."""
    lines = [
        "| set | detector | photos | AUROC, whole photos | AUROC, foreground | gain | real | not found | of a photo |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    measured = [row for row in rows if "gain" in row]
    corrected = dict(zip(map(id, measured), holm([row["p_value"] for row in measured]), strict=True))
    for row in rows:
        if "gain" not in row:
            lines.append(
                f"| {row['set']} | {row['detector']} | {row['photos']} | {_shown(row['whole'])} | - | - | - | - | - |"
            )
            continue
        value, low, high = row["gain"]
        verdict = "yes" if corrected[id(row)] <= 0.05 else "no"
        areas = f"{_shown(row['whole'])} | {_shown(row['foreground'])} | {value:+.3f} ({low:+.3f} to {high:+.3f})"
        shares = f"{verdict} | {row['not_found']:.0%} | {row['share']:.0%}"
        lines.append(f"| {row['set']} | {row['detector']} | {row['photos']} | {areas} | {shares} |")
    return "\n".join(lines)


def _compared(config: Any, to_learn: FeatureSet, to_judge: FeatureSet, is_anomalous: np.ndarray) -> dict[str, Any]:
    """Both ways on the same features."""
    whole = score_photos(build_detector(config).fit(to_learn), to_judge).values
    regional = build_detector(config | {"regions": {"kind": "foreground"}})
    assert isinstance(regional, Regional)
    try:
        regional.fit(to_learn)
    except ConfigError:
        one, _ = compare_aurocs(np.stack([whole, whole]), is_anomalous, to_judge.groups)
        return {"whole": _interval(one[0])}
    scores = np.stack([whole, score_photos(regional, to_judge).values])
    singles, (difference,) = compare_aurocs(scores, is_anomalous, to_judge.groups)
    regions = torch.cat([regional.foreground_(maps) for maps in to_judge.batches()]).flatten(1)
    is_found = regions.any(dim=1)
    gain = _interval(difference.gain)
    return {
        "whole": _interval(singles[0]),
        "foreground": _interval(singles[1]),
        "gain": gain if difference.ahead == 1 else [-gain[0], -gain[2], -gain[1]],
        "p_value": difference.p_value,
        "not_found": float((~is_found).float().mean()),
        "share": float(regions[is_found].mean()) if is_found.any() else 0.0,
    }


def _interval(of: Any) -> list[float]:
    return [of.value, of.low, of.high]


def _shown(interval: Sequence[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*interval)


def _some(photos: Sequence[Photo], number: int) -> list[Photo]:
    """Photos spread evenly over the names."""
    ordered = sorted(photos, key=lambda photo: str(photo.path))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(number, len(ordered))).round().astype(int))
    return [ordered[place] for place in places] if ordered else []


if __name__ == "__main__":
    main()
