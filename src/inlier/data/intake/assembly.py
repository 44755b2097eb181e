"""Results -> decisions: which photos are kept, which stand for others, and what groups and splits they are in.

Sources, results and settings decide, not the order in which workers were done or where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.intake.grouping import group_keys, parse_group_by
from inlier.data.intake.journal import Journal
from inlier.data.intake.linking import collapse, links_of_keys, name_groups, unite
from inlier.data.intake.photos import Photos, grey_reader, list_photos, sha256_of, thumbnail_reader
from inlier.data.intake.settings import Settings
from inlier.data.intake.similarity import Pairs, find_pairs, is_same_picture
from inlier.data.layouts import SPLITS
from inlier.data.splits import allot_splits
from inlier.errors import ImageReadError, InlierError

Progress = Callable[[str, int], Callable[[int], None]]

_MAX_SQUARE = 256


def assemble(journal: Journal, directory: Path, settings: Settings, *, progress: Progress) -> int:
    """Decides in the journal what becomes of the photos: the new ones, and the groups of those that are not.

    Args:
        journal: With all sources prepared.
        directory: The data set, where their photos are stored.
        settings: What it is made with.
        progress: Shows a task with its number of steps.

    Returns:
        How many pairs of near-duplicates that are kept lie in two splits, because these were given.

    Raises:
        InlierError: A photo of the data set cannot be read.
    """
    photos, drop = list_photos(journal, settings), set(settings.drop)
    is_dropped = np.array([not drop.isdisjoint(flags.split()) for flags in photos.flags], dtype=bool)
    try:
        advance = progress("Comparing", 0)
        reader = thumbnail_reader(journal, directory)
        pairs = find_pairs(photos.hashes, reader, since=photos.num_known, advance=advance)
        pairs = pairs.select(~(is_dropped[pairs.first] | is_dropped[pairs.second]))
        stands = _representatives(journal, directory, photos, pairs, settings)
    except ImageReadError as error:
        raise InlierError(
            f"A photo in {directory} cannot be read: {error}. Was it changed since it was written?"
        ) from error

    def name(photo: int) -> str:
        return f"near:{sha256_of(journal, photo)[:12]}"

    chosen = np.flatnonzero((stands == np.arange(len(photos))) & ~is_dropped)
    arranged = dict(zip(chosen.tolist(), _arrange(photos, pairs, stands, chosen, settings, name), strict=True))
    journal.decide(_decisions(photos, pairs, stands, is_dropped, arranged, settings))
    ends = zip(stands[pairs.first].tolist(), stands[pairs.second].tolist(), strict=True)
    return sum(arranged[one][1] != arranged[other][1] for one, other in ends)


def _representatives(
    journal: Journal, directory: Path, photos: Photos, pairs: Pairs, settings: Settings
) -> NDArray[np.int64]:
    """For each photo the one that stands for it, shape (N,)."""
    if settings.collapse == "bytes":
        return np.arange(len(photos))
    read = grey_reader(journal, directory)

    def is_one(pair: int) -> bool:
        if settings.collapse == "near":
            return True
        if not pairs.may_be_same[pair]:
            return False
        first, second = read(int(pairs.first[pair])), read(int(pairs.second[pair]))
        side = min(_MAX_SQUARE, max(first.size), max(second.size))
        return is_same_picture(_square(first, side), np.rot90(_square(second, side), int(pairs.turn[pair])))

    return collapse(pairs, photos.kinds, np.array(photos.worths), num_known=photos.num_known, is_one=is_one)


def _arrange(
    photos: Photos,
    pairs: Pairs,
    stands: NDArray[np.int64],
    chosen: NDArray[np.int64],
    settings: Settings,
    name: Callable[[int], str],
) -> list[tuple[str, str]]:
    """Group and split of each chosen photo.

    What shares a group, as given or by the settings, stays together first, then near-duplicates, the most alike first.
    """
    folders = [source.rpartition("/")[0] for source in photos.sources]
    group_by = parse_group_by(settings.group_by)
    keys = group_keys(group_by, photos.sources, folders, photos.cameras, photos.times, numbers=photos.numbers)
    if group_by.kind == "digits":  # photos of before are not read again: their groups say what they show
        held = photos.groups[: photos.num_known]
        keys[: photos.num_known] = [group if group.startswith("digits:") else "" for group in held]

    def links() -> Iterator[tuple[int, int]]:
        yield from links_of_keys(photos.groups, chosen)
        yield from links_of_keys(keys, chosen)
        for pair in np.argsort(-pairs.similarity, kind="stable").tolist():
            yield int(stands[pairs.first[pair]]), int(stands[pairs.second[pair]])

    units = unite(len(photos), links(), photos.splits)
    kinds = photos.kinds
    allotted = allot_splits(
        [str(units[photo]) for photo in chosen.tolist()],
        [kinds[photo] for photo in chosen.tolist()],
        [photos.splits[photo] for photo in chosen.tolist()],
        ratios=dict(zip(SPLITS, settings.ratios, strict=True)),
        seed=settings.seed,
    )
    splits = list(photos.splits)
    for photo, split in zip(chosen.tolist(), allotted, strict=True):
        splits[photo] = split
    groups = name_groups(units, chosen, given=photos.groups, keys=keys, splits=splits, name=name)
    return list(zip(groups, allotted, strict=True))


def _decisions(
    photos: Photos,
    pairs: Pairs,
    stands: NDArray[np.int64],
    is_dropped: NDArray[np.bool_],
    arranged: Mapping[int, tuple[str, str]],
    settings: Settings,
) -> Iterator[tuple[Any, ...]]:
    """A row for every photo, by the columns of ``DECISION``; places count from 1."""
    similarity = np.zeros(len(photos))
    for column in (pairs.first, pairs.second):
        np.maximum.at(similarity, column, pairs.similarity)
    for photo, by in enumerate(stands.tolist()):
        flags = photos.flags[photo]
        if is_dropped[photo]:
            reason = ", ".join(flag for flag in flags.split() if flag in settings.drop)
            yield photo + 1, photo + 1, "dropped", "", None, f"dropped: {reason}", "", "", flags
        elif by != photo:
            yield photo + 1, by + 1, "duplicate", settings.collapse, float(similarity[photo]), "", "", "", flags
        else:
            group, split = arranged[photo]
            yield photo + 1, photo + 1, "kept", "", None, "", split, group, flags


def _square(grey: Image.Image, side: int) -> NDArray[np.uint8]:
    return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))
