"""Camera rolls -> a data set: one photo after another, duplicates, groups and splits, and the tables that say so.

Everything that is read is hostile, originals are never touched, and nothing is written outside the data set. A run that
is cut short at any point is continued by giving it again, and ends with the same bytes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from inlier.data.intake.assembly import assemble
from inlier.data.intake.dataset import WORK, finish, read_about, read_kept, read_ledger, roll_forward, write_next
from inlier.data.intake.grouping import parse_group_by
from inlier.data.intake.journal import Journal
from inlier.data.intake.preparing import PHOTOS, Prepared, Preparer
from inlier.data.intake.settings import Settings
from inlier.data.intake.sources import Source, find_sources
from inlier.data.intake.workers import alone, map_in_processes, wait_for_workers
from inlier.data.layouts import SPLITS
from inlier.data.manifest import NORMAL_LABELS
from inlier.data.tables import first_five
from inlier.data.text.reading import check_reader
from inlier.errors import InlierError, ManifestError
from inlier.outputs import as_text, check_folder, number_of

Progress = Callable[[str, int], Callable[[int], None]]

CRASHED = "the decoder crashed on it"
_TOGETHER = 64
"""Results that are kept at once: what a kill costs."""


@dataclass(frozen=True)
class Ingestion:
    """What became of the files that a run was given.

    Attributes:
        counts: How many files were `given`, and of these `new`; of the new ones how many were `kept`, `duplicate`,
            `rejected` and `dropped`; how many `photos` the data set holds, and how many in `train`, `dev`, `test`.
        unreadable: Name and reason of files of this run that were meant to be photos; the first ten.
        num_unreadable: How many they are.
        notes: What a user should know.
    """

    counts: dict[str, int]
    unreadable: list[tuple[str, str]]
    num_unreadable: int
    notes: list[str]


def ingest(
    paths: Sequence[Path],
    directory: Path,
    settings: Settings,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    normal: Sequence[str] = (),
    workers: int = 2,
    ray: str | None = None,
    facts: dict[str, Any] | None = None,
    progress: Progress = lambda task, total: lambda steps: None,
) -> Ingestion:
    """Makes a data set of photos, or adds to it those that are new.

    Args:
        paths: Folders, photos, zip archives and manifests.
        directory: The data set; new, empty, or of an earlier run with the same settings, perhaps an interrupted one.
        settings: What it is made with.
        include: Globs of the files to take; none: all.
        exclude: Globs of files to leave.
        normal: Labels of normal photos; if given, the manifest says of every labelled photo whether it is anomalous.
        workers: Processes that decode; 0: none but this one, or of a cluster one for each CPU.
        ray: Address of a Ray cluster whose nodes find sources and data set under the same paths; None: no cluster.
        facts: What ``dataset.json`` says besides settings and counts: command and versions.
        progress: Shows a task with its number of steps; 0 if that is not known.

    Raises:
        InlierError: The data set was made with other settings, is being written to, or cannot be written.
        ManifestError: A path does not exist, or there is nothing in them.
        ConfigError: The cluster cannot be used.
        MissingExtraError: Photos are grouped by numbers, and what reads them is not installed.
    """
    if parse_group_by(settings.group_by).kind == "digits":
        check_reader()
    work = directory / WORK
    check_folder(directory, marker=WORK if work.exists() else "dataset.json", content="a data set of inlier ingest")
    sources = find_sources(paths, include=include, exclude=exclude, skip=directory, normal=normal or NORMAL_LABELS)
    first = next(sources, None)
    if first is None:
        raise ManifestError("There are no files in what was given, or --include and --exclude leave none.")
    try:
        (directory / PHOTOS).mkdir(parents=True, exist_ok=True)
        with alone(directory, f"Another ingest is writing to {as_text(directory)}; wait until it is done."):
            wait_for_workers(directory / PHOTOS)
            roll_forward(directory)
            if about := read_about(directory):
                settings.check_same(about["settings"], as_text(directory))
            work.mkdir(exist_ok=True)
            with closing(Journal(work / "journal.sqlite")) as journal:
                _recall(journal, directory, settings, has_photos=about is not None)
                journal.add_sources(_judged(chain([first], sources), normal, progress("Finding files", 0)))
                _prepare(journal, directory, settings, workers, ray, progress)
                result = _conclude(journal, directory, settings, facts or {}, progress)
            if not roll_forward(directory):
                finish(directory)
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            raise  # a bug of ours, and not of the disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InlierError(
            f"{as_text(directory)} cannot be written: {reason}. What was done is kept: given again, ingest goes on."
        ) from error
    return result


def _recall(journal: Journal, directory: Path, settings: Settings, *, has_photos: bool) -> None:
    """Tells the journal what earlier runs left.

    Raises:
        InlierError: One that was interrupted had other settings.
    """
    unfinished = journal.fact("settings")
    if unfinished is not None:
        settings.check_same(json.loads(unfinished), as_text(directory))
    journal.remember("settings", json.dumps(settings.to_dict()))
    if has_photos:
        journal.add_ledger(read_ledger(directory))
        journal.add_kept(read_kept(directory))


def _judged(sources: Iterable[Source], normal: Sequence[str], advance: Callable[[int], None]) -> Iterator[Source]:
    """The sources; where the user names normal labels, every label says whether a photo is anomalous."""
    labels = {label.casefold() for label in normal}
    for source in sources:
        advance(1)
        if labels and source.label and source.is_anomalous is None:
            source = replace(source, is_anomalous=source.label.casefold() not in labels)
        yield source


def _prepare(
    journal: Journal, directory: Path, settings: Settings, workers: int, ray: str | None, progress: Progress
) -> None:
    scratch = directory / WORK / "scratch"
    scratch.mkdir(exist_ok=True)
    reads_numbers = parse_group_by(settings.group_by).kind == "digits"
    preparer = Preparer(directory, scratch, settings.longest_side, settings.keep_gps, reads_numbers)
    num_pending = journal.num_pending()
    advance = progress("Reading photos", num_pending)
    done: list[tuple[Source, Prepared]] = []
    try:
        for source, result in map_in_processes(
            preparer,
            journal.pending(),
            workers=workers if num_pending >= _TOGETHER else 0,
            ray=ray if num_pending >= _TOGETHER else None,
            presence=directory / PHOTOS,
            on_crash=lambda source: Prepared(error=CRASHED),
        ):
            done.append((source, result))
            if len(done) == _TOGETHER:
                journal.put(done)
                done.clear()
            advance(1)
    finally:
        journal.put(done)


def _conclude(
    journal: Journal, directory: Path, settings: Settings, facts: dict[str, Any], progress: Progress
) -> Ingestion:
    """Decides and writes, where there is anything new, and sums up."""
    notes: list[str] = []
    if journal.count("new") or read_about(directory) is None:
        num_torn = assemble(journal, directory, settings, progress=progress)
        journal.settle()
        notes = _notes(journal, num_torn)
        counts = _counts(journal, "decisions WHERE outcome = 'kept'")
        held = {name: counts[name] for name in ("photos", *SPLITS)}
        write_next(journal, directory, {**facts, "settings": settings.to_dict(), "counts": held})
    else:
        counts = _counts(journal, "kept WHERE 1")
    unreadable = "sources JOIN ledger ON source = name WHERE outcome = 'rejected' AND sources.is_photo"
    first = journal.database.execute(f"SELECT name, reason FROM {unreadable} ORDER BY position LIMIT 10").fetchall()
    return Ingestion(counts, first, journal.count(unreadable), notes)


def _counts(journal: Journal, photos: str) -> dict[str, int]:
    new = "new JOIN sources USING (position) JOIN ledger ON source = name WHERE outcome = ?"
    return {
        "given": journal.count("sources"),
        "new": journal.count("new"),
        **{outcome: journal.count(new, outcome) for outcome in ("kept", "duplicate", "rejected", "dropped")},
        "photos": journal.count(photos),
        **{split: journal.count(f"{photos} AND split = ?", split) for split in SPLITS},
    }


def _notes(journal: Journal, num_torn: int) -> list[str]:
    """What a user should know."""
    notes = []
    new = "new JOIN sources USING (position) JOIN ledger ON source = name"
    if number := journal.count(f"{new} WHERE outcome = 'duplicate' AND ledger.label NOT IN ('', kept_label)"):
        notes.append(
            f"{number_of(number, 'duplicate')} with another label than the photo that was kept; which label is right? "
            "duplicates.csv lists both."
        )
    if number := journal.count(f"{new} WHERE reason LIKE 'its mask%'"):
        notes.append(f"{number_of(number, 'photo')} without a mask, which cannot be read; rejected.csv says why.")
    if number := journal.count(f"{new} WHERE reason LIKE 'the mask of its region%'"):
        notes.append(
            f"{number_of(number, 'photo')} without a region, whose mask cannot be read; rejected.csv says why."
        )
    labels = (
        "SELECT DISTINCT label FROM decisions JOIN photos ON photo = place WHERE outcome = 'kept' AND anomalous = ''"
    )
    unjudged = [label for (label,) in journal.database.execute(f"{labels} AND label != '' ORDER BY label")]
    if unjudged and not any(label.casefold() in NORMAL_LABELS for label in unjudged):
        notes.append(
            f"No label is good, normal or ok ({first_five(unjudged)}), so other commands will take every photo for an "
            f"anomaly; tell them, or ingest, which are normal: --normal {unjudged[0]}"
        )
    if num_torn:
        notes.append(
            f"{number_of(num_torn, 'pair')} of near-duplicates in different splits, for their sources say so: a leak. "
            "`inlier doctor` lists them; --resplit gives new splits."
        )
    return notes
