"""What helps where normal photos are few: altered copies of them, and a background that nobody sorted.

    python benchmarks/few_photos.py DATA_ROOT --out results [--only piston,solar-panel] [--numbers 1,5,20]

For each data set some normal photos of ``train`` are drawn, several times over; a detector is fitted on them plain,
with altered copies (``inlier fit --augment 7``), before a background (``--background``), and with both, and measured
on the photos of ``test``. The background is either the set's own archive, all photos of ``train`` and ``dev`` without
their labels, polluted with anomalies, or a foreign one: the photos of the next set in the alphabet. Of each way the
mean gain in image AUROC over the plain fit is written, its 95 % interval over sets (each set's draws averaged, then a
t interval), and the worst set, as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.data.views import View, hand_held_views
from inlier.decision.metrics import image_auroc
from inlier.detectors.crossfit import score_photos
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import package_versions
from inlier.reading import Reader, normal_groups
from inlier.workflow import VIEWS_OF_FEW

DETECTORS = ("combined", "photo-neighbors", "patchcore")
WAYS = ("plain", "augment", "own background", "foreign background", "augment, own background")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Features of one set.

    Attributes:
        name: Its folder.
        normal: The normal photos that are drawn, each followed by its altered copies.
        draws: For each draw the photos in its order, as numbers among those of ``normal``.
        archive: All photos of ``train`` and ``dev``, as nobody sorted them.
        test: The photos of ``test`` that are labelled.
        is_anomalous: Of each of these whether it is, shape (N,).
        fingerprint: Of the data.
    """

    name: str
    normal: FeatureSet
    draws: tuple[tuple[int, ...], ...]
    archive: FeatureSet
    test: FeatureSet
    is_anomalous: NDArray[np.bool_]
    fingerprint: str


def main() -> None:
    """Measures every way on every set, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/few-photos"))
    parser.add_argument("--only", default="", help="names of sets, separated by commas")
    parser.add_argument("--numbers", default="1,5,20", help="numbers of normal photos, separated by commas")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--detectors", default=",".join(DETECTORS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = (
        arguments.only.split(",") if arguments.only else sorted(p.name for p in arguments.root.iterdir() if p.is_dir())
    )
    config = resolve({}, device="cpu")
    backbone = build_backbone(config, build_detector(config).layers)
    rows: list[dict[str, Any]] = []
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        numbers = [int(number) for number in arguments.numbers.split(",")]
        sets = [read(arguments.root / name, backbone, cache, arguments.draws, max(numbers)) for name in names]
        for place, data in enumerate(sets):
            foreign = sets[(place + 1) % len(sets)].archive
            for number in numbers:
                for draw in range(arguments.draws):
                    for detector in arguments.detectors.split(","):
                        areas = measure(data, foreign, number, draw, detector)
                        rows.append({"set": data.name, "number": number, "draw": draw, "detector": detector, **areas})
                        print(json.dumps(rows[-1]), flush=True)
    prints = {data.name: data.fingerprint for data in sets}
    record = {"arguments": vars(arguments), "versions": package_versions(), "fingerprints": prints, "rows": rows}
    (arguments.out / "few-photos.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    (arguments.out / "few-photos.md").write_text(to_markdown(rows))
    print(to_markdown(rows))


def read(folder: Path, backbone: Backbone, cache: FeatureCache, num_draws: int, num_drawn: int) -> DataSet:
    """Reads a set into the cache, and draws normal training photos, which are read with altered copies."""
    data = Manifest.read(folder)
    reader = Reader(backbone, Transform(224, backbone.mean, backbone.std), cache, normal_groups(data))

    def read_photos(photos: Iterable[Photo], *, views: Sequence[View] = ()) -> FeatureSet:
        return reader.read(Manifest(tuple(photos)), lambda steps: None, views=views)[0]

    train = sorted(data.normal().select("train").photos, key=lambda photo: str(photo.path))
    orders = [np.random.default_rng(draw).permutation(len(train))[:num_drawn].tolist() for draw in range(num_draws)]
    drawn = sorted({place for order in orders for place in order})
    normal = read_photos((train[place] for place in drawn), views=hand_held_views(VIEWS_OF_FEW))
    others = read_photos(photo for place, photo in enumerate(train) if place not in drawn)
    unsorted = read_photos(p for p in data.photos if p.split == "dev" or (p.split == "train" and p.is_anomalous))
    judged = [read_photos(p for p in data.select("test").photos if p.is_anomalous is flag) for flag in (False, True)]
    return DataSet(
        name=folder.name,
        normal=normal,
        draws=tuple(tuple(drawn.index(place) for place in order) for order in orders),
        archive=FeatureSet(cache, normal.originals().indices + others.indices + unsorted.indices),
        test=FeatureSet(cache, judged[0].indices + judged[1].indices),
        is_anomalous=np.repeat([False, True], [len(of) for of in judged]),
        fingerprint=data.fingerprint(),
    )


def measure(data: DataSet, foreign: FeatureSet, number: int, draw: int, detector: str) -> dict[str, float]:
    """Image AUROC of each way, learned from the same photos."""
    stride = 1 + VIEWS_OF_FEW
    chosen = data.draws[draw][:number]
    copies = data.normal.select([stride * photo + view for photo in chosen for view in range(stride)])
    plain = copies.originals()
    rest = set(plain.indices)
    own = FeatureSet(data.archive.cache, tuple(index for index in data.archive.indices if index not in rest))
    ways = {
        "plain": plain,
        "augment": copies,
        "own background": plain.before(own),
        "foreign background": plain.before(foreign),
        "augment, own background": copies.before(own),
    }
    config = resolve({"fit": {"detector": detector}}, device="cpu")
    areas = {}
    for way, features in ways.items():
        if detector == "patchcore" and "background" in way:
            continue  # it takes no notice of one
        scores = score_photos(build_detector(config).fit(features), data.test).values
        areas[way] = image_auroc(scores, data.is_anomalous)
    return areas


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The mean AUROC of the plain fit, and the gain of each other way with its interval and its worst set."""
    lines = [
        "| normal photos | detector | plain | " + " | ".join(WAYS[1:]) + " |",
        "| --- | --- | --- |" + " --- |" * (len(WAYS) - 1),
    ]
    for number in dict.fromkeys(row["number"] for row in rows):
        for detector in dict.fromkeys(row["detector"] for row in rows):
            of = [row for row in rows if (row["number"], row["detector"]) == (number, detector)]
            cells = [_gain(of, way) for way in WAYS[1:]]
            plain = np.mean([row["plain"] for row in of])
            lines.append("| " + " | ".join([str(number), detector, f"{plain:.3f}", *cells]) + " |")
    return "\n".join(lines) + "\n"


def _gain(rows: Sequence[Mapping[str, Any]], way: str) -> str:
    """Mean gain over sets in points, its t interval, and the worst set."""
    of_set: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if way in row:
            of_set[row["set"]].append(100 * (row[way] - row["plain"]))
    if not of_set:
        return ""
    gains = {name: float(np.mean(values)) for name, values in of_set.items()}
    worst = min(gains, key=lambda name: gains[name])
    values = np.array(list(gains.values()))
    if len(values) < 2:
        return f"{values.mean():+.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    low, high = values.mean() - half, values.mean() + half
    return f"{values.mean():+.1f} ({low:+.1f} to {high:+.1f}); worst {gains[worst]:+.1f} {worst}"


if __name__ == "__main__":
    main()
