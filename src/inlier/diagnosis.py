"""Looks once at every photo of a data set, and says what is in the set and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inlier import findings
from inlier.data.images import decode, open_file, open_image, read_image
from inlier.data.intake.hashing import perceptual_hashes
from inlier.data.intake.quality import measure_quality, quality_flags
from inlier.data.intake.similarity import Pairs, clusters, find_pairs, thumbnail
from inlier.data.layouts import SPLITS
from inlier.data.manifest import Manifest, Photo
from inlier.data.statistics import photo_statistics
from inlier.data.transforms import Transform
from inlier.decision.doctor_page import write_doctor_page
from inlier.decision.heatmap import encode
from inlier.embedding import Embedder
from inlier.errors import ImageReadError, InlierError, ManifestError
from inlier.findings import Case, Finding
from inlier.model import package_versions
from inlier.outputs import as_text
from inlier.workflow import Progress, no_progress

MAX_KEPT_THUMBNAILS = 25_000
"""Photos above which thumbnails are read again where two photos are compared, so that memory stays small."""

MAX_PICTURES, MAX_PICTURES_OF_FINDING = 400, 120
"""Thumbnails on a page, and of one finding; the other photos are listed by name."""

_SEVERITIES = ("leak", "warning", "note")
_BATCH, _AHEAD = 8, 16
_SQUARE = Transform(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_PICTURE_PX, _PICTURE_QUALITY = 128, 60


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """What is kept of a photo that could be read.

    Attributes:
        photo: Its row.
        digest: SHA-256 of the file.
        hashes: Shape (4,), uint64, of ``perceptual_hashes``.
        thumbnail: Shape (64, 64), uint8 grey; None where photos are too many to keep them.
        statistics: What can be told from it without looking at what it shows, by name.
        flags: Of ``quality_flags``.
        mask_fault: What is wrong with its mask, "" for nothing.
        mask_error: Why its mask cannot be read, "" if it can.
        roi_fault: What is wrong with the mask of its region, "" for nothing.
        roi_error: Why that cannot be read, "" if it can.
    """

    photo: Photo
    digest: bytes
    hashes: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8] | None
    statistics: dict[str, float]
    flags: tuple[str, ...]
    mask_fault: str
    mask_error: str
    roi_fault: str
    roi_error: str


@dataclass(frozen=True, eq=False, slots=True)
class Diagnosis:
    """What is in a data set, and what is wrong with it.

    Attributes:
        photos: All rows.
        findings: Leaks first.
        unreadable: The photos that could not be read, each with the reason.
    """

    photos: tuple[Photo, ...]
    findings: tuple[Finding, ...]
    unreadable: tuple[tuple[Photo, str], ...]

    @property
    def num_leaks(self) -> int:
        """Clusters of photos, groups and paths that lie in more than one split."""
        return sum(len(finding.clusters) for finding in self.findings if finding.severity == "leak")


def diagnose(
    photos: Sequence[Photo],
    *,
    embedder: Embedder | None,
    false_alarm_rate: float = 0.05,
    workers: int = 2,
    progress: Progress = no_progress,
) -> Diagnosis:
    """Looks at every photo once, and checks what can be checked.

    Args:
        photos: At least one; paths may be repeated, and groups torn.
        embedder: Shows whether labels lie where they should; None leaves that check out. It must have seen nothing.
        false_alarm_rate: What the photos must suffice for, in (0, 1).
        workers: Threads that decode, >= 0.
        progress: Told how far it is.

    Raises:
        ValueError: The rate is not in (0, 1).
    """
    photos = tuple(photos)
    found = [
        *findings.repeated_paths(photos),
        *findings.torn_groups(photos),
        *findings.few_photos(photos, false_alarm_rate=false_alarm_rate),
    ]
    unique = list({os.path.normpath(str(photo.path)): photo for photo in reversed(photos)}.values())[::-1]
    looks, unreadable = _look_at_all(unique, embedder, workers, progress("Reading photos", len(unique)))
    masks = [(look.photo, look.mask_error) for look in looks if look.mask_error]
    regions = [(look.photo, look.roi_error) for look in looks if look.roi_error]
    found += findings.unreadable(unreadable, masks, regions)
    found += findings.mismatched_masks([(look.photo, look.mask_fault) for look in looks])
    found += findings.odd_regions([(look.photo, look.roi_fault) for look in looks])
    found += findings.quality([(look.photo, look.flags) for look in looks])
    if looks:
        found += _compare(looks, embedder)
    found.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return Diagnosis(photos, tuple(found), tuple(unreadable))


def _compare(looks: Sequence[Look], embedder: Embedder | None) -> list[Finding]:
    """What shows only when photos are held against each other."""
    photos = [look.photo for look in looks]

    def named(clusters: Sequence[Sequence[int]]) -> list[list[Photo]]:
        return [[photos[i] for i in cluster] for cluster in clusters]

    found = _find_duplicates(looks)
    told = [
        *findings.exact_duplicates(named(found.equal)),
        *findings.near_duplicates(named(found.alike)),
        *findings.shortcuts(photos, _columns(looks)),
    ]
    if embedder is not None:
        groups = np.unique([photo.group or f"\0{i}" for i, photo in enumerate(photos)], return_inverse=True)[1]
        told += findings.suspicious_labels(photos, embedder.embeddings(), [groups, found.kin])
    return told


def report(found: Diagnosis, *, data: Path, command: str) -> dict[str, Any]:
    """A diagnosis as plain values, as the command prints them and the page shows them.

    Args:
        found: What ``diagnose`` found.
        data: The data set's name for the reader.
        command: What was asked for.
    """
    return {
        "data": as_text(data),
        "counts": _counts(found),
        "num_leaks": found.num_leaks,
        "findings": [_finding(of) for of in found.findings],
        "data_fingerprint": _fingerprint(found.photos),
        "command": as_text(command),
        "versions": package_versions(),
    }


def write_page(found: Diagnosis, result: dict[str, Any], out: Path, *, title: str) -> None:
    """Writes a report as one HTML file with thumbnails; the photos on it are decoded again, at most 400.

    Args:
        found: What ``diagnose`` found.
        result: What ``report`` made of it.
        out: The page.
        title: Its heading.

    Raises:
        InlierError: The page cannot be written.
    """
    pictures: dict[str, bytes] = {}
    for finding in found.findings:
        paths = [case.photo.path for cluster in finding.clusters for case in cluster][:MAX_PICTURES_OF_FINDING]
        for path in paths[: MAX_PICTURES - len(pictures)]:
            try:
                pixels = read_image(path, min_side=_PICTURE_PX)
            except ImageReadError:
                continue  # its finding says so
            pictures[as_text(path)] = encode(pixels, longest_side=_PICTURE_PX, quality=_PICTURE_QUALITY)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_doctor_page(out, title=as_text(title), report=result, pictures=pictures)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error


def check_target(out: Path) -> None:
    """Raises InlierError if no page can be written under this name, before the work that it costs."""
    shown = as_text(out)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise InlierError(f"The page is an .html file, and {shown} is none; choose another --html.")
    lowest = next(path for path in out.absolute().parents if path.exists())
    if not (lowest.is_dir() and os.access(lowest, os.W_OK | os.X_OK)):
        raise InlierError(f"Nothing can be written to {shown}: {as_text(lowest)} is no folder that may be written to.")


class _Seen(NamedTuple):
    look: Look
    pixels: NDArray[np.uint8]


_Unreadable = tuple[Photo, str]


@dataclass(frozen=True, eq=False, slots=True)
class _Duplicates:
    """Clusters of places among the photos that were looked at.

    Attributes:
        equal: Photos whose files hold the same bytes.
        alike: Photos that look the same, the surest first, those of one group and split left out.
        kin: For each photo the number of all that look like it.
    """

    equal: list[list[int]]
    alike: list[list[int]]
    kin: NDArray[np.int64]


def _look_at_all(
    photos: Sequence[Photo], embedder: Embedder | None, workers: int, advance: Callable[[int], None]
) -> tuple[list[Look], list[_Unreadable]]:
    looks: list[Look] = []
    unreadable: list[_Unreadable] = []
    with closing(_look_ahead(photos, workers)) as stream:
        while batch := list(islice(stream, _BATCH)):
            readable = [seen for seen in batch if isinstance(seen, _Seen)]
            looks += [seen.look for seen in readable]
            unreadable += [seen for seen in batch if not isinstance(seen, _Seen)]
            if embedder is not None and readable:
                embedder.see([seen.pixels for seen in readable])
            advance(len(batch))
    return looks, unreadable


def _look_ahead(photos: Sequence[Photo], workers: int) -> Generator[_Seen | _Unreadable, None, None]:
    """What is seen of each photo, in order; threads are at most 16 photos ahead."""
    keeps_thumbnail = len(photos) <= MAX_KEPT_THUMBNAILS
    if not workers:
        yield from (_look(photo, keeps_thumbnail) for photo in photos)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="look")
    pending: deque[Future[_Seen | _Unreadable]] = deque()
    try:
        for photo in photos:
            pending.append(pool.submit(_look, photo, keeps_thumbnail))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _look(photo: Photo, keeps_thumbnail: bool) -> _Seen | _Unreadable:
    try:
        with open_file(photo.path) as stream, open_image(stream) as file:
            stored = file.size
            pixels = np.array(decode(file, min_side=_SQUARE.size))
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]
            num_bytes = stream.tell()
    except ImageReadError as error:
        return photo, str(error)
    is_turned = (stored[0] > stored[1]) != (pixels.shape[1] > pixels.shape[0])  # only reduced pixels are upright
    width, height = stored[::-1] if is_turned else stored
    of_mask = _fault_of(findings.mask_fault, photo, (width, height))
    of_roi = _fault_of(findings.roi_fault, photo, (width, height))
    grey = thumbnail(pixels)
    statistics = {
        **photo_statistics(_SQUARE.to_square(pixels), aspect=width / height),
        "width": float(width),
        "height": float(height),
        "bytes a pixel": num_bytes / (width * height),
    }
    flags = quality_flags(measure_quality(pixels), width=width, height=height)
    kept = grey if keeps_thumbnail else None
    return _Seen(Look(photo, digest, perceptual_hashes(grey), kept, statistics, flags, *of_mask, *of_roi), pixels)


def _fault_of(check: Callable[[Photo, tuple[int, int]], str], photo: Photo, size: tuple[int, int]) -> tuple[str, str]:
    """What a check of a mask says, and why it could not be read."""
    try:
        return check(photo, size), ""
    except ImageReadError as error:
        return "", str(error)


def _find_duplicates(looks: Sequence[Look]) -> _Duplicates:
    copies: defaultdict[bytes, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        copies[look.digest].append(i)
    files = list(copies.values())
    seen = [looks[file[0]] for file in files]  # one of the photos that hold the same bytes speaks for all

    def read(i: int) -> NDArray[np.uint8]:
        kept = seen[i].thumbnail
        return thumbnail(read_image(seen[i].photo.path, min_side=_SQUARE.size)) if kept is None else kept

    def photos_of(pairs: Pairs) -> list[list[int]]:
        return [sorted(i for file in cluster for i in files[file]) for cluster in clusters(pairs, len(files))]

    pairs = find_pairs(np.stack([look.hashes for look in seen]), read)
    is_known = np.zeros(len(pairs.first), dtype=np.bool_)
    sure = np.zeros(len(looks))
    for pair, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        one, other = seen[i].photo, seen[j].photo
        is_known[pair] = bool(one.group) and (one.group, one.split) == (other.group, other.split)
        surer = pairs.similarity[pair] + (one.split != other.split)  # what makes it a leak counts most
        sure[files[i]] = np.maximum(sure[files[i]], surer)
        sure[files[j]] = np.maximum(sure[files[j]], surer)
    kin = np.arange(len(looks))
    for cluster in (*files, *photos_of(pairs)):
        kin[cluster] = min(cluster)
    return _Duplicates(
        equal=[file for file in files if len(file) > 1],
        alike=sorted(photos_of(pairs.select(~is_known)), key=lambda cluster: -sure[cluster].max()),
        kin=kin,
    )


def _columns(looks: Sequence[Look]) -> dict[str, NDArray[np.float64]]:
    """The statistics of all photos, and for each kind of file whether a photo is one."""
    columns = {name: np.array([look.statistics[name] for look in looks]) for name in looks[0].statistics}
    suffixes = [look.photo.path.suffix.lower() for look in looks]
    kinds = sorted(set(suffixes)) if len(set(suffixes)) > 1 else []
    return columns | {
        f"file name in {kind or 'nothing'}": np.array([float(of == kind) for of in suffixes]) for kind in kinds
    }


def _counts(found: Diagnosis) -> dict[str, Any]:
    """How many photos there are of each split, label and condition, and how many groups and masks."""
    counts = Counter((photo.split, photo.label, photo.is_anomalous) for photo in found.photos)
    ordered = sorted(counts, key=lambda of: (SPLITS.index(of[0]), of[2] is None, of[2] is True, of[1]))
    return {
        "num_photos": len(found.photos),
        "num_unreadable": len(found.unreadable),
        "num_groups": len({photo.group for photo in found.photos if photo.group}),
        "num_masks": sum(photo.mask is not None for photo in found.photos),
        "num_regions": sum(photo.roi is not None for photo in found.photos),
        "labels": [
            {
                "split": split,
                "label": as_text(label),
                "condition": {None: "unlabelled", False: "normal", True: "anomalous"}[flag],
                "num_photos": counts[split, label, flag],
            }
            for split, label, flag in ordered
        ],
    }


def _finding(of: Finding) -> dict[str, Any]:
    """Photos that stand for themselves as ``photos``, those that belong together as ``clusters``."""
    together = [[_case(case) for case in cluster] for cluster in of.clusters]
    is_single = all(len(cluster) == 1 for cluster in together)
    photos = {"photos": [cluster[0] for cluster in together]} if is_single else {"clusters": together}
    return {"kind": of.kind, "severity": of.severity, "message": as_text(of.message), **photos}


def _case(of: Case) -> dict[str, Any]:
    photo = of.photo
    return {
        "path": as_text(photo.path),
        "split": photo.split,
        "label": as_text(photo.label),
        "group": as_text(photo.group),
        "remark": as_text(of.remark),
    }


def _fingerprint(photos: tuple[Photo, ...]) -> str | None:
    """That of the manifest; None where there can be none, since a path is repeated or a group torn."""
    try:
        return Manifest(photos).fingerprint()
    except ManifestError:
        return None
