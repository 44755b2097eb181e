"""Whether to look at the part alone helps: image AUROC with and without the automatic regions, on real sets.

    python benchmarks/regions.py DATA_ROOT [--only piston,solar-panel] [--max-photos 200] [--write docs/regions.md]

DATA_ROOT holds one folder a data set, in any form that inlier reads. Each detector is fitted on the normal photos of
``train`` three times, as it is, with ``--regions foreground`` and with ``--regions grabcut``, from the same features,
and measured on the labelled photos of ``test``, with 95 % intervals that resample groups. The gain is a paired
difference to the detector as it is; it is called real if its p-value, corrected over the table, is at most 0.05. "not
found" is the share of the test photos without a region, "of a photo" the mean share of a photo that the regions found
take.

A second table is of drawn photos: parts cut out of generated components, in front of a generated table, so that it is
known which pixels are the part's. IoU is the mean over photos of what region and part share, over what either has, of
the regions that ``inspect`` looked at; the time is what ``inspect`` takes of the processor from file to verdict, the
median of the photos taken one by one; give ``OMP_NUM_THREADS=1``, or threads that wait are counted, too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.drawing.pictures import photograph, wooden_table
from inlier.data.manifest import Manifest, Photo
from inlier.data.synthetic import COMPONENTS, draw_component
from inlier.decision.compare import compare_aurocs, holm
from inlier.detectors.crossfit import score_photos
from inlier.detectors.grabcut import GrabCut
from inlier.detectors.regional import Regional
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import package_versions, transform_of
from inlier.reading import Reader, normal_groups
from inlier.workflow import fit, inspect_photos
from near_duplicates import check_markers, put_between

DETECTORS = ("combined", "patchcore", "photo-neighbors")
KINDS = ("foreground", "grabcut")
DRAWN_SIZE = (300, 400)


def main() -> None:
    """Measures every set and the drawn photos, and prints or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--max-photos", type=int, default=10_000, help="of each kind and split")
    parser.add_argument("--backbone", default=None, help="a name, or a BACKBONE folder")
    parser.add_argument("--num-drawn", type=int, default=40, help="photos that are drawn to learn from, and to judge")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--write", type=Path, help="put the results between the markers of this page")
    arguments = parser.parse_args()
    if arguments.write:
        check_markers(arguments.write, "regions")
    drawn = measure_drawn(arguments.num_drawn, arguments.backbone)
    print(drawn_table(drawn), flush=True)
    found = sorted(path.name for path in arguments.root.iterdir() if path.is_dir())
    rows: list[dict[str, Any]] = []
    for name in arguments.only.split(",") if arguments.only else found:
        rows += measure(name, Manifest.read(arguments.root / name), arguments.backbone, arguments.max_photos)
        print(table(rows), flush=True)
    if arguments.json:
        record = {"versions": package_versions(), "arguments": vars(arguments), "rows": rows, "drawn": drawn}
        arguments.json.write_text(json.dumps(record, indent=2, default=str) + "\n")
    if arguments.write:
        put_between(arguments.write, "regions", f"{table(rows)}\n\n{drawn_table(drawn)}")


def measure(name: str, data: Manifest, backbone_name: str | None, max_photos: int) -> list[dict[str, Any]]:
    """One row for each detector and kind of region, of one set."""
    train = _some(data.select("train").normal().photos, max_photos)
    labelled = data.select("test").photos
    test = [
        photo for flag in (False, True) for photo in _some([p for p in labelled if p.is_anomalous is flag], max_photos)
    ]
    section = {"backbone": {"name": backbone_name}} if backbone_name else {}
    configs = {
        of: resolve(section | {"fit": {"detector": of}, "regions": {"kind": "grabcut"}}, device="cpu")
        for of in DETECTORS
    }
    layers = sorted({layer for config in configs.values() for layer in build_detector(config).layers})
    first = configs[DETECTORS[0]]
    backbone = build_backbone(first, layers)
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        reader = Reader(backbone, transform_of(first, backbone), cache, normal_groups(data))
        to_learn, _ = reader.read(Manifest(tuple(train)), lambda steps: None)
        to_judge, _ = reader.read(Manifest(tuple(test)), lambda steps: None)
        is_anomalous = np.array([bool(photo.is_anomalous) for photo in reader.photos[len(to_learn) :]])
        about = {"set": name, "photos": len(to_judge)}
        return [
            about | {"detector": of} | row
            for of, config in configs.items()
            for row in _compared(config, to_learn, to_judge, is_anomalous)
        ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, with p-values corrected over all of them."""
    lines = [
        "| set | photos | detector | AUROC, all | `--regions` | AUROC, regions | gain | real | not found | "
        "of a photo |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    measured = [row for row in rows if "gain" in row]
    corrected = dict(zip(map(id, measured), holm([row["p_value"] for row in measured]), strict=True))
    for row in rows:
        start = f"| {row['set']} | {row['photos']} | {row['detector']} | {_shown(row['whole'])} | {row['kind']} |"
        if "gain" not in row:
            lines.append(f"{start} - | - | - | - | - |")
            continue
        value, low, high = row["gain"]
        verdict = "yes" if corrected[id(row)] <= 0.05 else "no"
        gain = f"{_shown(row['regions'])} | {value:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"{start} {gain} | {verdict} | {row['not_found']:.0%} | {row['share']:.0%} |")
    return "\n".join(lines)


def _compared(
    config: Any, to_learn: FeatureSet, to_judge: FeatureSet, is_anomalous: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Each kind of region beside none, on the same features."""
    plain = {name: section for name, section in config.items() if name != "regions"}
    whole = score_photos(build_detector(plain).fit(to_learn), to_judge).values
    alone, _ = compare_aurocs(np.stack([whole, whole]), is_anomalous, to_judge.groups)
    rows = []
    for kind in KINDS:
        row = {"kind": kind, "whole": _interval(alone[0])}
        regional = build_detector(config | {"regions": {"kind": kind}})
        assert isinstance(regional, Regional)
        try:
            regional.fit(to_learn)
        except ConfigError:
            rows.append(row)
            continue
        if isinstance(regional.foreground_, GrabCut):
            regional.foreground_ = regional.foreground_.remembering()
        scores = np.stack([whole, score_photos(regional, to_judge).values])
        singles, (difference,) = compare_aurocs(scores, is_anomalous, to_judge.groups)
        regions = torch.cat([regional.foreground_(maps) for maps in to_judge.batches()]).flatten(1)
        is_found = regions.any(dim=1)
        gain = _interval(difference.gain)
        rows.append(
            row
            | {
                "regions": _interval(singles[1]),
                "gain": gain if difference.ahead == 1 else [-gain[0], -gain[2], -gain[1]],
                "p_value": difference.p_value,
                "not_found": float((~is_found).float().mean()),
                "share": float(regions[is_found].mean()) if is_found.any() else 0.0,
            }
        )
    return rows


def measure_drawn(number: int, backbone_name: str | None) -> list[dict[str, Any]]:
    """One row for each value of ``--regions``, on photos of which the part's pixels are known."""
    section = {"backbone": {"name": backbone_name}} if backbone_name else {}
    rows = []
    with TemporaryDirectory() as folder:
        photos = [_draw(Path(folder), seed) for seed in range(2 * number)]
        data = Manifest(tuple(photos[:number]))
        for kind in ("none", "mask", *KINDS):
            model, _ = fit(section | {"fit": {"augment": 0}, "regions": {"kind": kind}}, data)
            [*inspect_photos(model, photos[:1])]
            seconds, shared = [], []
            for photo in photos[number:]:
                start = time.process_time()
                (inspection,) = inspect_photos(model, [photo])
                seconds.append(time.process_time() - start)
                with Image.open(photo.roi) as file:  # type: ignore[arg-type]
                    is_part = np.array(file) > 0
                region = np.ones_like(is_part) if inspection.region is None else _stretched(inspection.region)
                shared.append((region & is_part).sum() / (region | is_part).sum())
            rows.append({"kind": kind, "iou": float(np.mean(shared)), "seconds": float(np.median(seconds))})
    return rows


def drawn_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| `--regions`, drawn photos | IoU | CPU ms a photo |", "| --- | ---: | ---: |"]
    return "\n".join(lines + [f"| {row['kind']} | {row['iou']:.2f} | {1000 * row['seconds']:.0f} |" for row in rows])


def _draw(folder: Path, seed: int) -> Photo:
    """A lobed piece of a component in front of a table, and the mask of it."""
    rng = np.random.default_rng(seed)
    table, view = wooden_table(rng, DRAWN_SIZE)
    ground = photograph(table, view, rng)
    piece = draw_component(COMPONENTS[0], seed=seed, size=DRAWN_SIZE).image
    rows, columns = DRAWN_SIZE
    y, x = np.mgrid[:rows, :columns] / rows
    y, x = y - 0.5 + rng.uniform(-0.05, 0.05), x - 0.5 * columns / rows + rng.uniform(-0.08, 0.08)
    turn = np.arctan2(y, x)
    waves = sum(rng.uniform(0, 0.12) * np.sin(n * turn + rng.uniform(0, 6.3)) for n in (2, 3, 5))
    is_part = np.hypot(y, x) < rng.uniform(0.28, 0.36) * (1 + waves)
    photo, mask = folder / f"{seed:04d}.png", folder / f"{seed:04d}_roi.png"
    Image.fromarray(np.where(is_part[..., None], piece, ground)).save(photo)
    Image.fromarray(np.where(is_part, np.uint8(255), np.uint8(0))).save(mask)
    return Photo(photo, "train", roi=mask)


def _stretched(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    shape = Image.fromarray(region.astype(np.uint8) * 255)
    return np.array(shape.resize(DRAWN_SIZE[::-1], Image.Resampling.NEAREST)) > 0


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
