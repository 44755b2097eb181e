"""How well near-duplicates are found: against true groups, on copies made for it, and among many hashes.

    python benchmarks/near_duplicates.py DATA_ROOT [--only magnetic-tile] [--photos 200] [--embedding] [--scale 100000]
        [--readme README.md]

DATA_ROOT holds data sets, one a folder. Photos are reduced to 512 px, as ``inlier ingest`` stores them; of files with
the same bytes one is looked at.

Where a set has groups, two photos should be in one cluster if they are of one group. Recall is the share of pairs of a
group that are in one cluster, precision the share of pairs in one cluster that are of a group. Clusters are transitive,
so one wrong pair may make many. The 95 % intervals are percentiles of 2,000 resamples of the groups. Beside it stand
the clusters of like hashes alone, and with ``--embedding`` those of like hashes whose embeddings by the default
backbone have a cosine above the limit that gives the best F1 *on these very photos*: more than that way can give
elsewhere.

Copies: some photos of each set are altered in eleven ways, saved as JPEG (quality 90 unless said) and added to the set,
one way at a time. *Found* is the share paired with the photo that they were made of, *same* the share taken for the
same picture, which is what ingest makes one photo of by default. Pairs of different photos so taken are counted, and
listed on standard error, to be looked at: sets from the web hold copies of their own.

``--scale N`` (0: skip) searches N random hashes with planted pairs at every distance, and N of one crowd: one picture
with up to 10 bits changed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.sparse import coo_array

from inlier.data.images import decode, open_image
from inlier.data.intake.hashing import RADIUS, TURNED_RADIUS, count_bits, find_candidates, perceptual_hashes
from inlier.data.intake.linking import unite
from inlier.data.intake.similarity import Pairs, clusters, find_pairs, is_same_picture, thumbnail
from inlier.data.manifest import Manifest, Photo
from inlier.embedding import Embedder
from inlier.model import package_versions

LONGEST_SIDE, STORED_QUALITY, COPY_QUALITY = 512, 95, 90
MAX_SQUARE = 256
NUM_RESAMPLES = 2000
NUM_LIMITS = 200
"""Limits of the cosine that are tried."""

BATCH = 16


@dataclass(frozen=True, slots=True)
class Stored:
    """A photo as ingest keeps it.

    Attributes:
        content: Bytes of the JPEG.
        thumbnail: Shape (64, 64), uint8.
        hashes: Shape (4,), uint64.
    """

    content: bytes
    thumbnail: NDArray[np.uint8]
    hashes: NDArray[np.uint64]

    def square(self, side: int) -> NDArray[np.uint8]:
        """The picture in grey, shape (side, side)."""
        grey = self.picture().convert("L")
        return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))

    def picture(self) -> Image.Image:
        """The picture in RGB."""
        return Image.open(io.BytesIO(self.content)).convert("RGB")


def main() -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--only", default="", help="names of sets, separated by commas; all by default")
    parser.add_argument("--photos", type=int, default=200, help="photos of a set that are copied")
    parser.add_argument("--embedding", action="store_true", help="compare with embeddings too")
    parser.add_argument("--scale", type=int, default=100_000, help="number of hashes to search; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readme", type=Path, help="put the tables between its markers")
    arguments = parser.parse_args()
    if arguments.readme:
        check_markers(arguments.readme, "near-duplicates")
    folders = sorted(path for path in arguments.data_root.iterdir() if path.is_dir())
    chosen = [path for path in folders if not arguments.only or path.name in arguments.only.split(",")]
    found, against_groups, of_copies, prints = [], [], [], []
    for folder in chosen:
        data = Manifest.read(folder)
        prints.append(f"{folder.name} `{data.fingerprint()[:8]}`")
        photos, stored = read_all(data)
        pairs = find(stored)
        found.append(describe(folder.name, photos, stored, pairs))
        if any(photo.group for photo in photos):
            against_groups += compare(folder.name, photos, stored, pairs, arguments.embedding, arguments.seed)
        of_copies.append(measure_copies(folder.name, photos, stored, arguments.photos, arguments.seed))
        print(f"{folder.name}: done", file=sys.stderr, flush=True)
    tables = [
        table(("set", "photos", "pairs", "clusters", "photos in them", "largest", "same, of different photos"), found),
        table(("set", "clusters by", "recall", "precision", "F1"), against_groups),
        table(("found / same, %", *COPIES, "same as another photo"), of_copies),
    ]
    if arguments.scale:
        tables.append(table(("hashes", "s", "pairs", "planted found"), measure_scale(arguments.scale, arguments.seed)))
    versions = package_versions()
    origin = f"`{command()}`, pillow {versions['pillow']}, torch {versions['torch']}."
    text = "\n\n".join([*filter(None, tables), f"{origin} Data fingerprints: {', '.join(prints)}."])
    print(text)
    if arguments.readme:
        put_between(arguments.readme, "near-duplicates", text)


def read_all(data: Manifest) -> tuple[list[Photo], list[Stored]]:
    """The photos of a set that have different bytes, each as it is stored."""
    kept: dict[bytes, Photo] = {}
    for photo in data.photos:
        kept.setdefault(hashlib.sha256(photo.path.read_bytes()).digest(), photo)
    return list(kept.values()), [store(photo.path.read_bytes()) for photo in kept.values()]


def store(content: bytes) -> Stored:
    """What ingest makes of a file."""
    with open_image(io.BytesIO(content)) as file:
        photo = decode(file, longest_side=LONGEST_SIDE)
    small = thumbnail(np.asarray(photo))
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=STORED_QUALITY, subsampling=0)
    return Stored(encoded.getvalue(), small, perceptual_hashes(small))


def find(stored: Sequence[Stored]) -> Pairs:
    """The near-duplicates among photos."""
    return find_pairs(np.stack([of.hashes for of in stored]), lambda photo: stored[photo].thumbnail)


def same(stored: Sequence[Stored], pairs: Pairs, which: Sequence[int]) -> list[int]:
    """Of some pairs those that ingest takes for one picture."""
    chosen = []
    for pair in which:
        first, second = stored[pairs.first[pair]], stored[pairs.second[pair]]
        if pairs.may_be_same[pair]:
            side = min(MAX_SQUARE, max(first.picture().size), max(second.picture().size))
            if is_same_picture(first.square(side), np.rot90(second.square(side), int(pairs.turn[pair]))):
                chosen.append(pair)
    return chosen


def describe(name: str, photos: Sequence[Photo], stored: Sequence[Stored], pairs: Pairs) -> list[str]:
    """How much was found in a set; different photos taken for one picture are listed on standard error."""
    found = clusters(pairs, len(photos))
    sizes = [len(cluster) for cluster in found]
    wrong = same(stored, pairs, range(len(pairs.first)))
    tell(name, [(photos[pairs.first[pair]], photos[pairs.second[pair]]) for pair in wrong])
    num_pairs = len(pairs.first)
    share = f"{len(wrong)} ({100 * len(wrong) / num_pairs:.1f} %)" if num_pairs else "0"
    numbers = (len(photos), num_pairs, len(found), sum(sizes), max(sizes, default=0))
    return [name, *(f"{number:,}" for number in numbers), share]


def tell(name: str, taken: Sequence[tuple[Photo, Photo]], what: str = "") -> None:
    """Lists different photos that are taken for one picture on standard error."""
    for one, other in taken:
        print(f"{name}: taken for one picture: {one.path} and {what}{other.path}", file=sys.stderr)


def compare(
    name: str, photos: Sequence[Photo], stored: Sequence[Stored], pairs: Pairs, has_embedding: bool, seed: int
) -> list[list[str]]:
    """Recall and precision of clusters by detail, by hashes alone, and by hashes and embeddings, against the groups."""
    alone = [photo.group or f"\0{number}" for number, photo in enumerate(photos)]
    groups = np.unique(alone, return_inverse=True)[1]
    candidates = find_candidates(np.stack([of.hashes for of in stored]))
    ways = {
        "hash and detail (ours)": labels(pairs.first, pairs.second, len(photos)),
        "hash alone": labels(candidates.first, candidates.second, len(photos)),
    }
    if has_embedding:
        rows = embed(stored)
        cosines = np.einsum("pd,pd->p", rows[candidates.first], rows[candidates.second])
        tried = {}
        for limit in np.unique(np.quantile(cosines, np.linspace(0, 1, NUM_LIMITS))) if len(cosines) else ():
            is_pair = cosines >= limit
            tried[float(limit)] = labels(candidates.first[is_pair], candidates.second[is_pair], len(photos))
        if tried:
            best = max(tried, key=lambda limit: f1(*rates(tried[limit], groups)))
            ways[f"hash and cosine >= {best:.3f} (best here)"] = tried[best]
    shown = []
    for way, cluster in ways.items():
        low, high = np.quantile(resample(cluster, groups, seed), (0.025, 0.975), axis=0)
        recall, precision = rates(cluster, groups)
        cells = [f"{x:.3f} ({a:.3f} to {b:.3f})" for x, a, b in zip((recall, precision), low, high, strict=True)]
        shown.append([f"{name}, {groups.max() + 1} groups", way, *cells, f"{f1(recall, precision):.3f}"])
    return shown


def labels(first: NDArray[np.int64], second: NDArray[np.int64], num_photos: int) -> NDArray[np.int64]:
    """The cluster of each photo, named by its first photo, shape (N,): whom pairs join, directly or through others."""
    return unite(num_photos, zip(first.tolist(), second.tolist(), strict=True), [""] * num_photos)


def rates(cluster: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[float, float]:
    """Recall and precision over pairs of photos."""
    recall, precision = _rates(cluster, groups, np.ones((1, groups.max() + 1)))[0]
    return float(recall), float(precision)


def resample(cluster: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Recall and precision of resamples of the groups, shape (R, 2)."""
    num_groups = int(groups.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLES)
    return _rates(cluster, groups, drawn.astype(np.float64))


def _rates(cluster: NDArray[np.int64], groups: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Recall and precision with each group so many times, `times` (R, G), shape (R, 2).

    A pair of one group counts as often as the group was drawn, one of two groups as often as both were together; as
    that is (G - 1) / G times on average, and not once, it is made up for.
    """
    number = np.unique(cluster, return_inverse=True)[1]
    counts = coo_array((np.ones(len(groups)), (number, groups))).tocsr()  # (C, G), photos of a group in a cluster
    squares = counts.multiply(counts)
    sizes = np.bincount(groups)
    right = times @ ((squares.sum(axis=0) - sizes) / 2)
    of_groups = times @ (sizes * (sizes - 1) / 2)
    across = ((counts @ times.T) ** 2 - squares @ (times.T**2)).sum(axis=0) / 2
    if len(times) > 1:
        across *= len(sizes) / max(len(sizes) - 1, 1)
    return np.stack([right / np.maximum(of_groups, 1), right / np.maximum(right + across, 1)], axis=1)


def f1(recall: float, precision: float) -> float:
    """Their harmonic mean; 0 where both are."""
    return 2 * recall * precision / max(recall + precision, 1e-12)


def embed(stored: Sequence[Stored]) -> NDArray[np.float32]:
    """Embeddings by the default backbone, of unit length, shape (N, D)."""
    embedder = Embedder({}, None, "cpu")
    for start in range(0, len(stored), BATCH):
        embedder.see([np.array(of.picture()) for of in stored[start : start + BATCH]])
    rows = embedder.embeddings()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure_copies(
    name: str, photos: Sequence[Photo], stored: Sequence[Stored], num_copied: int, seed: int
) -> list[str]:
    """For each way to copy how many are found, and how many taken for the same picture, in percent."""
    rng = np.random.default_rng(seed)
    originals = np.sort(rng.choice(len(photos), min(num_copied, len(photos)), replace=False)).tolist()
    pictures = {}
    for photo in originals:
        with open_image(photos[photo].path) as file:
            pictures[photo] = decode(file)
    cells, num_wrong = [], 0
    for way, (alter, quality) in COPIES.items():
        copies = [store(as_jpeg(alter(pictures[photo]), quality)) for photo in originals]
        everything = [*stored, *copies]
        pairs = find(everything)
        of_copy = np.flatnonzero((pairs.first < len(stored)) & (pairs.second >= len(stored)))
        source = np.array(originals)[pairs.second[of_copy] - len(stored)]
        is_right = pairs.first[of_copy] == source
        num_same = len(same(everything, pairs, of_copy[is_right].tolist()))
        wrong = same(everything, pairs, of_copy[~is_right].tolist())
        copied = [originals[pairs.second[pair] - len(stored)] for pair in wrong]
        taken = [(photos[pairs.first[pair]], photos[of]) for pair, of in zip(wrong, copied, strict=True)]
        tell(name, taken, f"a copy ({way}) of ")
        num_wrong += len(wrong)
        cells.append(f"{100 * is_right.sum() / len(originals):.0f} / {100 * num_same / len(originals):.0f}")
    return [name, *cells, str(num_wrong)]


def as_jpeg(picture: Image.Image, quality: int) -> bytes:
    """An encoded picture."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def scale(picture: Image.Image, factor: float) -> Image.Image:
    """Made smaller, to no less than the 16 px that are read."""
    return picture.resize([max(16, round(side * factor)) for side in picture.size], Image.Resampling.LANCZOS)


def crop(picture: Image.Image, share: float) -> Image.Image:
    """Less of width and height, cut off at the top and the left."""
    return picture.crop((round(share * picture.width), round(share * picture.height), *picture.size))


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "quality 40": (lambda picture: picture, 40),
    "75": (lambda picture: picture, 75),
    "90": (lambda picture: picture, 90),
    "size 0.5": (lambda picture: scale(picture, 0.5), COPY_QUALITY),
    "0.33": (lambda picture: scale(picture, 0.33), COPY_QUALITY),
    "turned 90°": (lambda picture: picture.transpose(Image.Transpose.ROTATE_90), COPY_QUALITY),
    "180°": (lambda picture: picture.transpose(Image.Transpose.ROTATE_180), COPY_QUALITY),
    "270°": (lambda picture: picture.transpose(Image.Transpose.ROTATE_270), COPY_QUALITY),
    "brightness 0.7": (lambda picture: ImageEnhance.Brightness(picture).enhance(0.7), COPY_QUALITY),
    "1.3": (lambda picture: ImageEnhance.Brightness(picture).enhance(1.3), COPY_QUALITY),
    "cropped 3 %": (lambda picture: crop(picture, 0.03), COPY_QUALITY),
}
"""How a photo is altered, and the JPEG quality that the copy is saved with."""


def measure_scale(number: int, seed: int) -> list[list[str]]:
    """Seconds and pairs among random hashes, with the share of planted pairs that is found, and in a crowd."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1 << 64, size=(number, 4), dtype=np.uint64)
    distances = [(0, bits) for bits in range(1, RADIUS + 1)] + [(1, bits) for bits in range(1, TURNED_RADIUS + 1)]
    places = rng.permutation(number)[: 2 * len(distances) * (number // 100)].reshape(len(distances), 2, -1)
    places.sort(axis=1)
    for (turn, bits), (first, second) in zip(distances, places, strict=True):
        hashes[second, turn] = hashes[first, 0] ^ flips(rng, len(first), bits)
    began = time.perf_counter()
    found = find_candidates(hashes)
    seconds = time.perf_counter() - began
    keys = found.first * number + found.second
    is_found = np.isin(places[:, 0] * number + places[:, 1], keys)
    crowd = np.tile(rng.integers(1 << 64, size=4, dtype=np.uint64), (number, 1))
    for turn in range(4):
        crowd[:, turn] ^= flips(rng, number, rng.integers(0, 11, size=number))
    began = time.perf_counter()
    num_pairs = len(find_candidates(crowd).first)
    planted = f"{100 * is_found.mean():.2f} % of {is_found.size:,}"
    return [
        [f"{number:,} random", f"{seconds:.1f}", f"{len(keys):,}", planted],
        [f"{number:,} of one crowd", f"{time.perf_counter() - began:.1f}", f"{num_pairs:,}", ""],
    ]


def flips(rng: np.random.Generator, number: int, bits: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Masks in which so many of 64 bits are set, at random, shape (number,)."""
    ranks = rng.random((number, 64)).argsort(axis=1).argsort(axis=1)
    masks = np.packbits(ranks < np.reshape(bits, (-1, 1)), axis=1).view(">u8")[:, 0].astype(np.uint64)
    assert (count_bits(masks) == bits).all()
    return masks


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; nothing without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)]
    return "\n".join(lines) if rows else ""


def command() -> str:
    """What was asked for, without the place of the data, and of what else lies elsewhere the name alone."""
    words = [_shown(word, before) for before, word in pairwise(sys.argv)]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _shown(word: str, before: str) -> str:
    path = Path(word)
    if not before.startswith("--") and path.is_dir() and not path.resolve().is_relative_to(Path.cwd()):
        return DATA_ROOT
    return path.name if path.is_absolute() else word


DATA_ROOT = "DATA_ROOT"


def check_markers(page: Path, *names: str) -> None:
    """Ends the program if a page lacks a place for results, before the work that they cost."""
    text = page.read_text(encoding="utf-8")
    if missing := [name for name in names if not _place(name).search(text)]:
        sys.exit(f"{page} has no place for {', '.join(missing)}: <!-- NAME results --> and <!-- /NAME results -->.")


def put_between(page: Path, name: str, text: str) -> None:
    """Puts results between the markers of a page."""
    marked = f"<!-- {name} results -->\n\n{text}\n\n<!-- /{name} results -->"
    page.write_text(_place(name).sub(lambda _: marked, page.read_text(encoding="utf-8")), encoding="utf-8")


def _place(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name} results -->.*?<!-- /{name} results -->", re.DOTALL)


if __name__ == "__main__":
    main()
