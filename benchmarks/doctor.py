"""What ``inlier doctor`` finds: labels that were made wrong, splits that were made to leak, and six sets as they are.

    python benchmarks/doctor.py DATA_ROOT [--only labels,leaks,sets] [--readme docs/doctor.md]

DATA_ROOT holds data sets, one a folder. Three measurements, each with a table:

- *labels*: of the normal photos of ``camera-roll``, which shows eight parts, 5 % are given another of the eight labels
  at random, as often as ``--seeds`` says; once these photos alone are searched for suspicious labels, once the whole
  set. Shares of those changed that are found, and of those found that were changed, are means over seeds.
- *leaks*: the photos of ``magnetic-tile``, several exposures of each tile, are put into splits at random without regard
  to their ``group``, which is then hidden. A torn tile counts as found if a cluster shows photos of it in two splits.
- *sets*: every set as it is, by all that doctor checks.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.data.images import read_image
from inlier.data.intake.hashing import perceptual_hashes
from inlier.data.intake.similarity import clusters, find_pairs, thumbnail
from inlier.data.layouts import SPLITS
from inlier.data.manifest import Manifest, Photo
from inlier.diagnosis import Diagnosis, diagnose
from inlier.embedding import Embedder
from inlier.findings import Finding, count, suspicious_labels
from inlier.model import package_versions
from near_duplicates import check_markers, command, put_between, table

LABELLED, GROUPED = "camera-roll", "magnetic-tile"
FLIPPED = 0.05
RATIOS = (0.6, 0.15, 0.25)
MIN_SIDE = 224
BATCH = 8
UNTOLD = ("few-photos", "near-duplicates", "exact-duplicates")
"""What is not listed beside leaks: it says how large a set is, or lies within one split."""


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--only", default="labels,leaks,sets", help="measurements, separated by commas")
    parser.add_argument("--sets", default="", help="names of the sets to look at, separated by commas; all by default")
    parser.add_argument("--seeds", type=int, default=10, help="how often labels are changed")
    parser.add_argument("--split-seeds", type=int, default=3, help="how often photos are put into random splits")
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if arguments.readme:
        check_markers(arguments.readme, *(f"doctor {name}" for name in chosen))
    folders = sorted(path for path in arguments.data_root.iterdir() if path.is_dir())
    wanted = [path for path in folders if not arguments.sets or path.name in arguments.sets.split(",")]
    for name in chosen:
        if name == "labels":
            text = of_labels(arguments.data_root / LABELLED, arguments.seeds)
        elif name == "leaks":
            text = of_leaks(arguments.data_root / GROUPED, arguments.split_seeds)
        else:
            text = of_sets(wanted)
        print(f"{text}\n", flush=True)
        if arguments.readme:
            put_between(arguments.readme, f"doctor {name}", text)


def of_labels(folder: Path, num_seeds: int) -> str:
    """How many wrong labels are found among the normal photos alone, and among all."""
    data = Manifest.read(folder)
    normal = data.normal().photos
    labels = len({photo.label for photo in normal})
    others = len({photo.label for photo in data.photos}) - labels
    rows = []
    for scope, photos in (
        (f"the {labels} parts", normal),
        (f"the {labels} parts and {others} kinds of anything else", data.photos),
    ):
        embeddings, kin = look(photos)
        changed = [change_labels(photos, seed) for seed in range(num_seeds)]
        found = [suspicious(relabelled, embeddings, kin) for relabelled, _ in changed]
        right = [len(of & flipped) for of, (_, flipped) in zip(found, changed, strict=True)]
        recall = np.mean([hits / len(flipped) for hits, (_, flipped) in zip(right, changed, strict=True)])
        precision = np.mean([hits / max(len(of), 1) for hits, of in zip(right, found, strict=True)])
        listed = np.mean([len(of) for of in found])
        unchanged = len(suspicious(photos, embeddings, kin))
        rows.append([scope, f"{100 * recall:.0f} %", f"{100 * precision:.0f} %", f"{listed:.0f}", f"{unchanged}"])
    number = round(FLIPPED * len(normal))
    titles = ("labels compared", "found of those changed", "changed among those listed", "listed", "without any change")
    backbone = Embedder({}, None, "cpu").facts()["name"]
    how = f"{number} of {len(normal):,} photos changed, seeds 0 to {num_seeds - 1}, backbone {backbone}."
    return f"{table(titles, rows)}\n\n{how} {origin([(folder.name, data)])}"


def look(photos: Sequence[Photo]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings, shape (N, D), and for each photo the number of all that look like it, shape (N,)."""
    embedder = Embedder({}, None, "cpu")
    small = []
    for start in range(0, len(photos), BATCH):
        pixels = [read_image(photo.path, min_side=MIN_SIDE) for photo in photos[start : start + BATCH]]
        embedder.see(pixels)
        small += [thumbnail(of) for of in pixels]
    pairs = find_pairs(np.stack([perceptual_hashes(of) for of in small]), small.__getitem__)
    kin = np.arange(len(photos))
    for cluster in clusters(pairs, len(photos)):
        kin[cluster] = cluster[0]
    return embedder.embeddings(), kin


def change_labels(photos: Sequence[Photo], seed: int) -> tuple[list[Photo], set[Path]]:
    """The photos with some normal ones under another label of normal photos, and which these are."""
    rng = np.random.default_rng(seed)
    normal = [place for place, photo in enumerate(photos) if not photo.is_anomalous]
    labels = sorted({photos[place].label for place in normal})
    relabelled = list(photos)
    for place in rng.choice(normal, round(FLIPPED * len(normal)), replace=False).tolist():
        others = [label for label in labels if label != photos[place].label]
        relabelled[place] = replace(photos[place], label=others[rng.integers(len(others))])
    return relabelled, {one.path for one, other in zip(photos, relabelled, strict=True) if one.label != other.label}


def suspicious(photos: Sequence[Photo], embeddings: NDArray[np.float32], kin: NDArray[np.int64]) -> set[Path]:
    """The photos whose labels are suspicious."""
    groups = np.unique([photo.group or f"\0{number}" for number, photo in enumerate(photos)], return_inverse=True)[1]
    found = suspicious_labels(photos, embeddings, [groups, kin])
    return {case.photo.path for finding in found for cluster in finding.clusters for case in cluster}


def of_leaks(folder: Path, num_seeds: int) -> str:
    """How many of the groups that random splits tear are found from the pixels alone."""
    data = Manifest.read(folder)
    group = {photo.path: photo.group for photo in data.photos}
    rows = []
    for seed in range(num_seeds):
        splits = np.random.default_rng(seed).choice(SPLITS, len(data.photos), p=RATIOS).tolist()
        photos = [replace(photo, split=to, group="") for photo, to in zip(data.photos, splits, strict=True)]
        parts: defaultdict[str, set[str]] = defaultdict(set)
        for photo in photos:
            parts[group[photo.path]].add(photo.split)
        torn = {name for name, of in parts.items() if name and len(of) > 1}
        leaks = list(leaking_clusters(diagnose(photos, embedder=None)))
        found = {name for cluster in leaks for name in torn_in(cluster, group)}
        listed = {photo.path for cluster in leaks for photo in cluster}
        num_right = sum(group[path] in torn for path in listed)
        num_pure = sum(len({group[photo.path] for photo in cluster}) == 1 for cluster in leaks)
        numbers = (len(torn), len(found & torn), len(listed), num_right)
        rows.append([str(seed), *(f"{number:,}" for number in numbers), f"{num_pure} of {len(leaks)}"])
    titles = (
        "seed",
        "torn tiles",
        "found",
        "photos listed",
        "of them of torn tiles",
        "clusters that hold one tile only",
    )
    return f"{table(titles, rows)}\n\n{origin([(folder.name, data)])}"


def leaking_clusters(found: Diagnosis) -> Iterator[list[Photo]]:
    """The photos of each leak."""
    for finding in found.findings:
        if finding.severity == "leak":
            yield from ([case.photo for case in cluster] for cluster in finding.clusters)


def torn_in(cluster: Sequence[Photo], group: dict[Path, str]) -> Iterator[str]:
    """The groups that a cluster shows in more than one split."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for photo in cluster:
        splits[group[photo.path]].add(photo.split)
    return (name for name, of in splits.items() if len(of) > 1)


def of_sets(folders: Sequence[Path]) -> str:
    """What doctor says of sets as they are."""
    rows, read = [], []
    for folder in folders:
        data = Manifest.read(folder)
        read.append((folder.name, data))
        found = diagnose(data.photos, embedder=Embedder({}, None, "cpu"))
        leaks = Counter()
        for finding in found.findings:
            if finding.severity == "leak":
                leaks[finding.kind] += len(finding.clusters)
        told = [short(of) for of in found.findings if of.severity != "leak" and of.kind not in UNTOLD]
        leaks_shown = ", ".join(f"{number} of {kind}" for kind, number in leaks.items())
        rows.append([folder.name, f"{len(data):,}", leaks_shown or "none", "; ".join(told) or "none"])
        print(f"{folder.name}: done", file=sys.stderr, flush=True)
    return f"{table(('set', 'photos', 'clusters that leak', 'other findings'), rows)}\n\n{origin(read)}"


def short(finding: Finding) -> str:
    """A finding in few words."""
    if finding.kind == "shortcut":
        name, _, area = finding.message.partition(" alone tells anomalous photos from normal ones: ")
        return f"shortcut `{name}`: {area.rstrip('.')}"
    if finding.kind == "quality":
        return finding.message.rstrip(".")
    photos = sum(map(len, finding.clusters))
    return f"{finding.kind}: {count(photos, 'photo')}"


def origin(sets: Sequence[tuple[str, Manifest]]) -> str:
    """The command, versions and fingerprints behind a table."""
    versions: dict[str, Any] = package_versions()
    prints = ", ".join(f"{name} `{data.fingerprint()[:8]}`" for name, data in sets)
    return f"`{command()}`, pillow {versions['pillow']}, torch {versions['torch']}. Data fingerprints: {prints}."


if __name__ == "__main__":
    main()
