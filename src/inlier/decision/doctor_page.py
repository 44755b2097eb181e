"""The doctor's page: what is in a data set and what is wrong with it, with the photos concerned, in one HTML file."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier.decision.pages import write_page

ADVICE = {
    "exact-duplicates": "Keep one of each, under the label that is right.",
    "near-duplicates": "Give the photos of a cluster one group, and split again by group.",
    "group-in-two-splits": "Put all photos of a group in one split; until then the data are not read at all.",
    "repeated-path": "List each photo once; until then the data are not read at all.",
    "unreadable": "Fetch the files again, or take their rows out.",
    "few-photos": "Add photos, or expect less of the numbers.",
    "region-mismatch": "Draw these regions again; a photo without one is uncertain at best.",
    "mask-mismatch": "Export these masks again, and see whether photo or mask was turned, cropped or swapped.",
    "shortcut": "Anomalous and normal photos were taken or stored differently: take both alike, or judge by pixels.",
    "suspicious-label": "Look at them: labels may be wrong, and photos may show two things.",
    "quality": "Look whether the subject can be recognised; if not, take these photos out.",
}
"""What to do about each kind of finding."""

_SPLITS = ("train", "dev", "test")


def write_doctor_page(path: Path, *, title: str, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write what a diagnosis found as a page, leaks first.

    Args:
        path: The HTML file.
        title: Heading of the page.
        report: What ``inlier doctor --json`` prints.
        pictures: WebP thumbnails by path; photos without one are listed by name.
    """
    root = _shared_folder([photo["path"] for finding in report["findings"] for row in _rows(finding) for photo in row])
    severities = Counter(finding["severity"] for finding in report["findings"])
    write_page(
        path,
        "doctor.html",
        styles=("page.css", "doctor.css"),
        script=None,
        values={
            "title": title,
            "report": report,
            "root": root,
            "verdict": _verdict(report["num_leaks"], severities["warning"], severities["note"]),
            "splits": [split for split in _SPLITS if any(row["split"] == split for row in report["counts"]["labels"])],
            "labels": _table(report["counts"]["labels"]),
            "findings": [_shown(finding, pictures, root) for finding in report["findings"]],
        },
    )


def _verdict(num_leaks: int, num_warnings: int, num_notes: int) -> str:
    counts = ((num_leaks, "leak"), (num_warnings, "warning"), (num_notes, "note"))
    named = [f"{number} {noun}{'s' * (number > 1)}" for number, noun in counts if number]
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]])) or "Nothing wrong was found"


def _table(counts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each label and condition, with its photos by split."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for of in counts:
        rows.setdefault((of["condition"], of["label"]), {})[of["split"]] = of["num_photos"]
    order = ("normal", "anomalous", "unlabelled")
    return [
        {"condition": condition, "label": label, "by_split": by_split, "num_photos": sum(by_split.values())}
        for (condition, label), by_split in sorted(rows.items(), key=lambda row: (order.index(row[0][0]), row[0][1]))
    ]


def _rows(finding: Mapping[str, Any]) -> Sequence[Sequence[Mapping[str, Any]]]:
    """The clusters of a finding; photos that stand for themselves make one row."""
    if "clusters" in finding:
        clusters: Sequence[Sequence[Mapping[str, Any]]] = finding["clusters"]
        return clusters
    return [finding["photos"]] if finding["photos"] else []


def _shown(finding: Mapping[str, Any], pictures: Mapping[str, bytes], root: str) -> dict[str, Any]:
    """The finding with its rows cut in two: those of which there are pictures, and those only listed."""
    rows = [[_photo(photo, pictures, root) for photo in row] for row in _rows(finding)]
    if "clusters" in finding:
        drawn = [row for row in rows if any(photo["picture"] for photo in row)]
        listed = [row for row in rows if not any(photo["picture"] for photo in row)]
    else:
        drawn = [of for row in rows if (of := [photo for photo in row if photo["picture"]])]
        listed = [[photo] for row in rows for photo in row if not photo["picture"]]
    return {
        "severity": finding["severity"],
        "title": finding["kind"].replace("-", " ").capitalize(),
        "message": finding["message"],
        "advice": ADVICE[finding["kind"]],
        "is_clustered": "clusters" in finding,
        "drawn": drawn,
        "listed": listed,
    }


def _photo(photo: Mapping[str, Any], pictures: Mapping[str, bytes], root: str) -> dict[str, Any]:
    picture = pictures.get(photo["path"])
    name = os.path.relpath(photo["path"], root) if root else photo["path"]
    encoded = base64.b64encode(picture).decode("ascii") if picture else ""
    return {**photo, "name": name, "picture": encoded}


def _shared_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all; "" where there is none."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    return os.path.commonpath(folders) if folders else ""
