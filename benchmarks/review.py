"""Whether a review mends a polluted bank: how soon the wrong photos are found, and what a refit restores.

    python benchmarks/review.py DATA_ROOT --out results [--draws 3] [--readme docs/review.md]

The bank of ``camera-roll``, the normal photos of ``train``, is polluted with 20 photos of ``dev`` that show other
things and are sorted under classes of the bank. Three kinds of these: ``mixed``, any of them; ``near``, other parts in
the same photographic style; ``alike``, all of one class, so that they speak for each other. A model is fitted on that
bank, and a review prepared as ``inlier review`` does. A reviewer who is always right looks through the first 100 photos
of train in the queue of suspicious labels, and the model is refitted. Of each draw it is written how many of the 20
stand among the first 40, 60 and 100, and the image AUROC on ``test`` of a model of the clean bank, of the polluted one,
and after the refit, with 95 % intervals, and what each differs by, by the paired test of ``inlier compare``. All
photos of this set stand alone, so that intervals by group are intervals by photo.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlier.data.manifest import Manifest, Photo
from inlier.decision.compare import compare_aurocs
from inlier.decision.intervals import Interval
from inlier.detectors.crossfit import score_photos
from inlier.features.cache import FeatureCache
from inlier.features.store import FeatureStore
from inlier.model import Model, package_versions
from inlier.reading import Reader, normal_groups
from inlier.reviewing.decisions import Choice
from inlier.reviewing.ordering import Query
from inlier.reviewing.preparing import prepare
from inlier.reviewing.refitting import refit
from inlier.reviewing.regions import location_key
from inlier.workflow import fit
from near_duplicates import check_markers, command, put_between, table

KINDS = ("mixed", "near", "alike")
NUM_FOREIGN, LOOKED_AT = 20, (40, 60, 100)


def main() -> None:
    """Measures every draw, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("out/review"))
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    parser.add_argument("--detectors", default="combined,patchcore")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--most", type=int, default=0, help="photos of each class and split at most; 0: all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.readme:
        check_markers(arguments.readme, "review")
    data = few(Manifest.read(arguments.root / "camera-roll"), arguments.most)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder) / "features")
        for detector in arguments.detectors.split(","):
            clean = fit({"fit": {"detector": detector}}, without_dev(data), store=store)[0]
            for kind in arguments.kinds.split(","):
                for draw in range(arguments.draws):
                    found = measure(data, clean, kind, draw, Path(folder) / f"{detector}-{kind}-{draw}.db", store)
                    rows.append({"detector": detector, "kind": kind, "draw": draw, **found})
                    print(json.dumps(rows[-1]), flush=True)
    record = {
        "arguments": {
            name: str(value) for name, value in vars(arguments).items() if name not in ("root", "out", "readme")
        },
        "versions": package_versions(),
        "data_fingerprint": data.fingerprint(),
        "rows": rows,
    }
    (arguments.out / "review.json").write_text(json.dumps(record, indent=2) + "\n")
    text = to_markdown(rows, record["data_fingerprint"])
    (arguments.out / "review.md").write_text(text)
    if arguments.readme:
        put_between(arguments.readme, "review", text)
    print(text)


def few(data: Manifest, most: int) -> Manifest:
    """At most so many photos of each class and split, for a trial; 0: all."""
    seen: Counter[tuple[str, str]] = Counter()
    photos = []
    for photo in data.photos:
        seen[photo.split, photo.label] += 1
        if not most or seen[photo.split, photo.label] <= most:
            photos.append(photo)
    return Manifest(tuple(photos))


def without_dev(data: Manifest, foreign: Sequence[Photo] = ()) -> Manifest:
    """The bank alone, with what pollutes it: dev is where that came from, and calibrates nothing here."""
    return Manifest((*data.normal().select("train").photos, *foreign))


def pollute(data: Manifest, kind: str, draw: int) -> list[Photo]:
    """Photos of dev that show other things, sorted under classes of the bank."""
    rng = np.random.default_rng(draw)
    others = [photo for photo in data.select("dev").photos if photo.is_anomalous]
    if kind == "near":
        others = [photo for photo in others if photo.label.startswith("near-")]
    elif kind == "alike":
        label = ("far-objects", "far-misc_web", "far-animals")[draw % 3]
        others = [photo for photo in others if photo.label == label]
    chosen = rng.permutation(len(others))[:NUM_FOREIGN].tolist()
    classes = sorted({photo.label for photo in data.normal().select("train").photos})
    labels = rng.choice(classes, size=len(chosen)).tolist()
    return [
        replace(others[place], split="train", label=label, is_anomalous=False)
        for place, label in zip(chosen, labels, strict=True)
    ]


def measure(data: Manifest, clean: Model, kind: str, draw: int, database: Path, store: FeatureStore) -> dict[str, Any]:
    """One bank polluted, reviewed and refitted."""
    foreign = pollute(data, kind, draw)
    bank = without_dev(data, foreign)
    config = {"fit": {"detector": clean.config["fit"]["detector"]}}
    polluted = fit(config, bank)[0]
    review = prepare(polluted, bank, f"sqlite:///{database}", store=store)
    paths = {location_key(photo.path) for photo in foreign}
    queue = review.page(Query("labels"), reviewer="ada", size=LOOKED_AT[-1])
    found = {f"found_{n}": sum(photo.path in paths for photo in queue[:n]) for n in LOOKED_AT}
    review.decide([Choice(of.number, of.path in paths) for of in queue], reviewer="ada", page="1")
    corrected = refit(polluted, bank, review, store=store).model if found[f"found_{LOOKED_AT[-1]}"] else polluted
    review.close()
    return {"num_foreign": len(foreign), **found, **compare(data, (clean, polluted, corrected), store)}


def compare(data: Manifest, models: Sequence[Model], store: FeatureStore) -> dict[str, Any]:
    """AUROC on test of the clean, the polluted and the corrected model, over all, far and near foreign photos."""
    test = data.select("test")
    scores, photos = [], []
    for model in models:
        with FeatureCache(dtype=getattr(torch, model.backbone.precision)) as cache:
            reader = Reader(model.backbone, model.transform, cache, normal_groups(test), store=store)
            features, _ = reader.read(test, lambda steps: None)
            scores.append(score_photos(model.detector, features).values.astype(np.float64))
            photos = reader.photos
    of_all = np.array(scores)  # (3, N)
    flags = np.array([bool(photo.is_anomalous) for photo in photos], dtype=np.bool_)
    is_near = np.array([photo.label.startswith("near-") for photo in photos], dtype=np.bool_)
    found: dict[str, Any] = {}
    for scope, chosen in (("all", flags | ~flags), ("far", ~is_near), ("near", ~flags | is_near)):
        groups = [photo.group for photo, is_chosen in zip(photos, chosen, strict=True) if is_chosen]
        areas, differences = compare_aurocs(of_all[:, chosen], flags[chosen], groups)
        gains = {(of.behind, of.ahead): of for of in differences} | {(of.ahead, of.behind): of for of in differences}
        found[scope] = {
            "clean": areas[0].to_json(),
            "polluted": areas[1].to_json(),
            "corrected": areas[2].to_json(),
            **{
                name: _signed(gains[before, after].gain, gains[before, after].ahead == after)
                for name, before, after in (("lost", 0, 1), ("restored", 1, 2), ("left", 0, 2))
            },
        }
    return found


def _signed(gain: Interval, is_gain: bool) -> dict[str, float]:
    return (
        gain.to_json() if is_gain else Interval(-gain.value + 0.0, low=-gain.high + 0.0, high=-gain.low + 0.0).to_json()
    )


def to_markdown(rows: Sequence[Mapping[str, Any]], fingerprint: str) -> str:
    """A table of what is found, and one of what is restored; AUROC as a share, differences in points."""
    found = [
        [*_named(row), *(f"{row[f'found_{number}']} of {row['num_foreign']}" for number in LOOKED_AT)] for row in rows
    ]
    areas = []
    for row in rows:
        for scope in ("all", "far", "near"):
            of = row[scope]
            values = [f"{of[name]['value']:.3f}" for name in ("clean", "polluted", "corrected")]
            areas.append([*_named(row), scope, *values, _points(of["lost"]), _points(of["restored"])])
    head = ["detector", "foreign photos", "draw"]
    versions = package_versions()
    source = f"`{command()}`, torch {versions['torch']}. Data fingerprint: camera-roll `{fingerprint[:8]}`."
    return "\n\n".join(
        [
            table([*head, *(f"of the first {number}" for number in LOOKED_AT)], found),
            table([*head, "against", "clean", "polluted", "corrected", "lost", "restored"], areas),
            source,
        ]
    )


def _named(row: Mapping[str, Any]) -> list[str]:
    return [row["detector"], row["kind"], str(row["draw"])]


def _points(of: Mapping[str, float]) -> str:
    return f"{100 * of['value']:+.1f} ({100 * of['low']:+.1f} to {100 * of['high']:+.1f})"


if __name__ == "__main__":
    main()
