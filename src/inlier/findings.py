"""What may be wrong with a data set: one function for each check, from what is known of the photos to findings."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inlier.data.images import open_image, orientation, read_mask
from inlier.data.layouts import SPLITS
from inlier.data.manifest import Photo
from inlier.data.remote import Location
from inlier.data.tables import first_five
from inlier.decision.calibration import num_needed
from inlier.decision.intervals import MIN_GROUPS, bootstrap
from inlier.decision.metrics import image_auroc
from inlier.outputs import number_of

Severity = Literal["leak", "warning", "note"]

FEWEST_OF_LABEL = 5
"""Test photos of a label below which a share of them says next to nothing."""

LARGEST_MASK_SHARE = 0.9
"""Share of a photo above which a mask marks no place any more, and may be inverted."""

SHORTCUT_AUROC, SHORTCUT_LOW = 0.8, 0.7
"""AUROC from which one statistic is called a shortcut, and what the lower end of its interval must exceed."""

NUM_NEIGHBORS = 10
"""Photos that vote on a label; a label with fewer photos neither votes nor is judged."""

OTHER_VOTES, OWN_VOTES = 8, 1
"""Votes from which a label is suspicious: so many for one other, and at most so many for its own."""

KEPT_APART = 0.7
"""Share of its photos that must be found by their neighbours before a label is believed to show in an embedding."""

_NUM_RESAMPLES = 200
_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Case:
    """A photo that a finding is about.

    Attributes:
        photo: Its row.
        remark: What is the matter with this one, where that differs from photo to photo.
    """

    photo: Photo
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a data set, or worth knowing.

    Attributes:
        kind: The check that found it.
        severity: A ``leak`` makes test results too good, a ``warning`` should be looked at, a ``note`` is harmless.
        message: One sentence with counts.
        clusters: The photos, those together that belong together.
    """

    kind: str
    severity: Severity
    message: str
    clusters: tuple[tuple[Case, ...], ...] = ()


def repeated_paths(photos: Sequence[Photo]) -> list[Finding]:
    """Photos that stand in more than one row; a leak where the rows are of different splits."""
    rows: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        rows[os.path.normpath(str(photo.path))].append(photo)
    repeated = [[Case(photo) for photo in of] for of in rows.values() if len(of) > 1]
    return _by_split("repeated-path", repeated, "{} listed more than once", "path", alone="warning")


def torn_groups(photos: Sequence[Photo]) -> list[Finding]:
    """Groups of which photos are in more than one split."""
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for photo in photos:
        if photo.group:
            groups[photo.group].append(Case(photo, f"group {photo.group}"))
    return _by_split("group-in-two-splits", _torn(groups.values()), "{}", "group", alone="note")


def exact_duplicates(clusters: Iterable[Sequence[Photo]]) -> list[Finding]:
    """Files that hold the same bytes, from the photos of each such file; a warning if labels contradict each other."""
    cases = [[Case(photo) for photo in photos] for photos in clusters]
    alone: Severity = "warning" if any(_num_labels(cluster) > 1 for cluster in cases) else "note"
    return _by_split("exact-duplicates", cases, "{} of files with the same bytes", "cluster", alone=alone)


def near_duplicates(clusters: Iterable[Sequence[Photo]]) -> list[Finding]:
    """Photos that show the same picture or nearly so, from the photos of each cluster."""
    cases = [[Case(photo) for photo in photos] for photos in clusters]
    return _by_split("near-duplicates", cases, "{} of photos that look the same", "cluster", alone="note")


def unreadable(
    photos: Sequence[tuple[Photo, str]], masks: Sequence[tuple[Photo, str]], regions: Sequence[tuple[Photo, str]] = ()
) -> list[Finding]:
    """Photos, masks of defects and masks of regions that cannot be read, each with the reason."""
    return [
        Finding("unreadable", "warning", f"{number_of(len(of), noun)} cannot be read.", _singles(of))
        for noun, of in (("photo", photos), ("mask", masks), ("region", regions))
        if of
    ]


def few_photos(photos: Sequence[Photo], *, false_alarm_rate: float) -> list[Finding]:
    """What there is too little of, for a calibration at this rate and for a test.

    Raises:
        ValueError: The rate is not in (0, 1).
    """
    normal = [photo for photo in photos if photo.is_anomalous is not True and photo.split != "test"]
    needed = num_needed(false_alarm_rate)
    sentences: list[tuple[Severity, str]] = []
    if len(normal) < needed:
        sentences.append((
            "warning",
            f"train and dev have {number_of(len(normal), 'normal photo')}; at a false-alarm rate of "
            f"{false_alarm_rate:g} at least {needed} are needed before one can be rejected.",
        ))  # fmt: skip
    elif 0 < (num_dev := sum(photo.split == "dev" for photo in normal)) < needed:
        sentences.append((
            "note",
            f"dev has {number_of(num_dev, 'normal photo')}, too few to calibrate at {false_alarm_rate:g} by themselves "
            f"({needed}); photos of train must help.",
        ))  # fmt: skip
    num_groups = len({photo.group or str(photo.path) for photo in normal})
    if num_groups < min(MIN_GROUPS, len(normal)):
        sentences.append((
            "warning",
            f"The {len(normal)} normal photos of train and dev are of {number_of(num_groups, 'group')} only; what "
            f"holds for so few parts may not hold for others ({MIN_GROUPS} or more say something).",
        ))  # fmt: skip
    return [Finding("few-photos", *of) for of in (*sentences, *_missing_in_test(photos))]


def _missing_in_test(photos: Sequence[Photo]) -> list[tuple[Severity, str]]:
    test = [photo for photo in photos if photo.split == "test"]
    if not test:
        return [("note", "test has no photos; nothing can be measured.")]
    sentences: list[tuple[Severity, str]] = [
        ("warning", f"test has no {condition} photos; how well the two are told apart cannot be measured.")
        for condition, flag in (("normal", False), ("anomalous", True))
        if not any(photo.is_anomalous is flag for photo in test)
    ]
    counts = Counter(photo.label for photo in test if photo.label)
    if few := sorted((number, label) for label, number in counts.items() if number < FEWEST_OF_LABEL):
        named = first_five([f"{label} ({number})" for number, label in few])
        sentences.append(
            ("warning", f"Labels with fewer than {FEWEST_OF_LABEL} photos in test, whose results say little: {named}.")
        )
    return sentences


def mask_fault(photo: Photo, size: tuple[int, int]) -> str:
    """What is wrong with the mask of a photo; "" if nothing is, or there is none.

    Args:
        photo: Its row.
        size: Width and height of the photo, upright.

    Raises:
        ImageReadError: The mask cannot be read.
    """
    if photo.mask is None:
        return ""
    share, other_shape = _share(photo.mask, size)
    if other_shape:
        return f"the mask is {other_shape}"
    if share == 0:
        return "the mask marks nothing, though the photo is anomalous" if photo.is_anomalous else ""
    if photo.is_anomalous is False:
        return f"the mask marks {share:.1%}, though the photo is normal"
    return f"the mask covers {share:.1%} of the photo" if share > LARGEST_MASK_SHARE else ""


def roi_fault(photo: Photo, size: tuple[int, int]) -> str:
    """What is wrong with the mask of a photo's region; see ``mask_fault``."""
    if photo.roi is None:
        return ""
    share, other_shape = _share(photo.roi, size)
    if other_shape:
        return f"the region is {other_shape}"
    if share == 0:
        return "the region is empty"
    return "the region is all of the photo" if share == 1 else ""


def _share(mask: Location, size: tuple[int, int]) -> tuple[float, str]:
    """The share of its pixels that a mask marks, and in what its shape differs from the photo's; "" for nothing."""
    with open_image(mask) as file:
        width, height = file.size
        if file.format != "TIFF" and orientation(file) >= 5:  # TIFF turns its size itself
            width, height = height, width
    # Each side was rounded to whole pixels when the one was made from the other.
    rounding = 1 / min(width, height) + 1 / min(size)
    if abs(np.log(width * size[1] / (height * size[0]))) > rounding:
        return 0.0, f"{width} x {height} px, the photo {size[0]} x {size[1]} px: of another shape"
    return float(read_mask(mask, size=(height, width)).mean()), ""


def mismatched_masks(faults: Sequence[tuple[Photo, str]]) -> list[Finding]:
    """Masks that do not fit their photos, from what ``mask_fault`` says of each."""
    found = [(photo, fault) for photo, fault in faults if fault]
    message = f"{number_of(len(found), 'mask')} do not fit." if len(found) > 1 else "1 mask does not fit."
    return [Finding("mask-mismatch", "warning", message, _singles(found))] if found else []


def odd_regions(faults: Sequence[tuple[Photo, str]]) -> list[Finding]:
    """Masks of regions that do not fit their photos or leave nothing out, from what ``roi_fault`` says of each."""
    found = [(photo, fault) for photo, fault in faults if fault]
    message = f"{number_of(len(found), 'region')} cannot be meant as {'it is' if len(found) == 1 else 'they are'}."
    return [Finding("region-mismatch", "warning", message, _singles(found))] if found else []


def quality(flags: Sequence[tuple[Photo, tuple[str, ...]]]) -> list[Finding]:
    """Photos that are blurred, dark and the like, from the flags of each."""
    found = [(photo, ", ".join(of)) for photo, of in flags if of]
    counts = Counter(flag for _, of in flags for flag in of)
    named = ", ".join(f"{number} {flag}" for flag, number in counts.most_common())
    message = f"{number_of(len(found), 'photo')} of poor quality: {named}."
    return [Finding("quality", "note", message, _singles(found))] if found else []


def shortcuts(photos: Sequence[Photo], statistics: Mapping[str, NDArray[np.float64]]) -> list[Finding]:
    """Statistics that alone tell anomalous photos from normal ones, over all splits and within each.

    Splits count where they have ``MIN_GROUPS`` photos of either kind. The interval is the bootstrap's, by group.

    Args:
        photos: N photos, labelled or not.
        statistics: Values of shape (N,), finite, by name.
    """
    scopes = {"all photos": [*range(len(photos))]}
    scopes |= {split: [i for i, photo in enumerate(photos) if photo.split == split] for split in SPLITS}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for scope, members in scopes.items():
        rows = [i for i in members if photos[i].is_anomalous is not None]
        flags = np.array([photos[i].is_anomalous for i in rows], dtype=np.bool_)
        if min(np.count_nonzero(flags), np.count_nonzero(~flags)) < MIN_GROUPS:
            continue
        groups = [photos[i].group for i in rows]
        for name, values in statistics.items():
            if area := _shortcut(values[rows], flags, groups):
                found[name].append(f"{area} on {scope}")
    return [
        Finding("shortcut", "warning", f"{name} alone tells anomalous photos from normal ones: AUROC {', '.join(of)}.")
        for name, of in found.items()
    ]


def _shortcut(values: NDArray[np.float64], flags: NDArray[np.bool_], groups: Sequence[str]) -> str:
    """AUROC and interval in the direction that separates; "" if they do not make a shortcut."""
    area = image_auroc(values, flags)
    if max(area, 1 - area) < SHORTCUT_AUROC:
        return ""
    of = bootstrap(image_auroc, values if area > 0.5 else -values, flags, groups, num_resamples=_NUM_RESAMPLES)
    return f"{of.value:.2f} ({of.low:.2f} to {of.high:.2f})" if of.low > SHORTCUT_LOW else ""


def suspicious_labels(
    photos: Sequence[Photo], embeddings: NDArray[np.float32], kin: Sequence[NDArray[np.int64]]
) -> list[Finding]:
    """Photos that lie deep among those of another label, the surest first.

    Of the 10 nearest photos by cosine, at least 8 have one other label and at most one has the photo's own. Photos of
    one group, or that look the same, do not judge one another. Labels count that have 10 photos, and that seven in ten
    of their photos would be given by their neighbours: where an embedding does not show a label (a scratch on a part
    that is whole otherwise), neighbours say nothing about it.

    Args:
        photos: N photos.
        embeddings: Shape (N, D).
        kin: Arrays of shape (N,); photos that have the same number in any of them do not judge one another.
    """
    counts = Counter(photo.label for photo in photos if photo.label)
    names = sorted(label for label, number in counts.items() if number >= NUM_NEIGHBORS)
    if len(names) < 2:
        return []
    rows = np.array([row for row, photo in enumerate(photos) if photo.label in names])
    own = np.array([names.index(photos[row].label) for row in rows.tolist()])
    votes = _votes(embeddings[rows], own, len(names), [of[rows] for of in kin])  # (N, L)
    voted = votes.argmax(axis=1)
    is_shown = np.array([(voted[own == label] == label).mean() >= KEPT_APART for label in range(len(names))])
    each = np.arange(len(rows))
    is_odd = (votes[each, voted] >= OTHER_VOTES) & (votes[each, own] <= OWN_VOTES) & is_shown[own] & is_shown[voted]
    odd = sorted(np.flatnonzero(is_odd).tolist(), key=lambda i: (votes[i, own[i]] - votes[i, voted[i]], i))
    cases = [
        (photos[rows[i]], f"{votes[i, voted[i]]} of its {NUM_NEIGHBORS} nearest are {names[voted[i]]}") for i in odd
    ]
    message = f"{number_of(len(odd), 'photo')} lie{'s' * (len(odd) == 1)} deep among photos of another label."
    return [Finding("suspicious-label", "warning", message, _singles(cases))] if odd else []


def _votes(
    embeddings: NDArray[np.float32], own: NDArray[np.int64], num_labels: int, kin: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """How many of a photo's nearest have each label, shape (N, L); in chunks."""
    votes = np.zeros((len(embeddings), num_labels), dtype=np.int64)
    for part, nearest, closeness in nearest_photos(embeddings, kin):
        np.add.at(votes, (np.repeat(part, nearest.shape[1]), own[nearest].ravel()), np.isfinite(closeness).ravel())
    return votes


def nearest_photos(
    embeddings: NDArray[np.float32], kin: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """The ``NUM_NEIGHBORS`` nearest of each photo by cosine, in no order, for as many at a time as there is room for.

    Args:
        embeddings: Shape (N, D).
        kin: Arrays of shape (N,); photos that have the same number in any of them are no neighbours.

    Yields:
        B photos, shape (B,); their neighbours, shape (B, K); the cosine of each, -inf where a photo has too few.
    """
    rows = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    num_neighbors = min(NUM_NEIGHBORS, len(rows) - 1)
    step = max(1, _CHUNK_BYTES // (4 * len(rows)))
    for start in range(0, len(rows), step):
        part = np.arange(start, min(start + step, len(rows)))
        closeness = rows[part] @ rows.T  # (B, N)
        closeness[part - start, part] = -np.inf
        for of in kin:
            closeness[of[part, None] == of] = -np.inf
        nearest = np.argpartition(-closeness, num_neighbors - 1, axis=1)[:, :num_neighbors]
        yield part, nearest, np.take_along_axis(closeness, nearest, axis=1)


def _by_split(kind: str, clusters: Sequence[Sequence[Case]], what: str, noun: str, *, alone: Severity) -> list[Finding]:
    """A leak for the clusters of which photos are in several splits, and a finding for those of one."""
    torn = _torn(clusters)
    whole = [cluster for cluster in clusters if len({case.photo.split for case in cluster}) == 1]
    found = []
    kinds: tuple[tuple[Sequence[Sequence[Case]], Severity, str, str, str], ...] = (
        (torn, "leak", "is", "are", "in more than one split"),
        (whole, alone, "lies", "lie", "within one split"),
    )
    for of, severity, one, several, where in kinds:
        if of:
            num_mixed = sum(_num_labels(cluster) > 1 for cluster in of) if kind.endswith("duplicates") else 0
            mixed = f"; {num_mixed} under more than one label" if num_mixed else ""
            verb = one if len(of) == 1 else several
            num_photos = number_of(sum(map(len, of)), "photo")
            message = f"{what.format(number_of(len(of), noun))} {verb} {where} ({num_photos}{mixed})."
            found.append(Finding(kind, severity, message, tuple(map(_mixed, of))))
    return found


def _mixed(cluster: Sequence[Case]) -> tuple[Case, ...]:
    """The photos of a cluster, a first one of each split before the others, so that a leak is seen at a glance."""
    seen: Counter[str] = Counter()
    ranks = []
    for case in cluster:
        ranks.append(seen[case.photo.split])
        seen[case.photo.split] += 1
    order = sorted(range(len(cluster)), key=lambda i: (ranks[i], SPLITS.index(cluster[i].photo.split)))
    return tuple(cluster[i] for i in order)


def _num_labels(cluster: Sequence[Case]) -> int:
    return len({case.photo.label for case in cluster if case.photo.label})


def _torn(clusters: Iterable[Sequence[Case]]) -> list[Sequence[Case]]:
    return [cluster for cluster in clusters if len({case.photo.split for case in cluster}) > 1]


def _singles(cases: Iterable[tuple[Photo, str]]) -> tuple[tuple[Case, ...], ...]:
    return tuple((Case(photo, remark),) for photo, remark in cases)
