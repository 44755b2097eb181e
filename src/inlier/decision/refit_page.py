"""The page of a refit: which photos a model learned or forgot, which verdicts flip, what became of AUROC on dev."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inlier.decision.comparison_page import round_axis
from inlier.decision.pages import write_page

_SECTIONS = (
    ("joined", "Learned now", "Photos of train that reviewers call normal."),
    ("left", "Learned no more", "Photos of train that reviewers call anomalous."),
    ("dev_joined", "Calibrate now", "Photos of dev that reviewers call normal."),
    ("dev_left", "Calibrate no more", "Photos of dev that reviewers call anomalous."),
    ("relabelled", "Another class", "Photos whose class reviewers changed."),
)


def write_refit_page(path: Path, *, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write what a refit changed.

    Args:
        path: The HTML file.
        report: What ``refit.json`` holds.
        pictures: WebP thumbnails by path; photos without one are listed by name.
    """
    encoded = {name: base64.b64encode(picture).decode() for name, picture in pictures.items()}
    write_page(
        path,
        "refit.html",
        styles=("page.css", "evaluation.css", "comparison.css", "refit.css"),
        script=None,
        values={
            "title": "Refit",
            "report": report,
            "verdict": _verdict(report),
            "auroc": _axis(report["dev"]),
            "flips": [_with_picture(row, encoded) for row in report["flips"]],
            "sections": [
                {"title": title, "meaning": meaning, "photos": [_with_picture(row, encoded) for row in report[name]]}
                for name, title, meaning in _SECTIONS
                if report[name]
            ],
        },
    )


def _verdict(report: Mapping[str, Any]) -> str:
    counts, flips = report["counts"], len(report["flips"])
    parts = [
        f"{_photos(counts['num_joined'])} joined" if counts["num_joined"] else "",
        f"{_photos(counts['num_left'])} left" if counts["num_left"] else "",
        f"{_photos(counts['num_relabelled'])} changed class" if counts["num_relabelled"] else "",
    ]
    told = [part for part in parts if part] or ["The same photos to learn from, and others to calibrate on"]
    return f"{', '.join(told)}; {flips} verdict{'' if flips == 1 else 's'} {'flips' if flips == 1 else 'flip'}"


def _photos(number: int) -> str:
    return f"{number} photo{'' if number == 1 else 's'}"


def _axis(dev: Mapping[str, Any]) -> Any:
    """The stretch of AUROC that holds both intervals; None where there are none."""
    if dev["before"] is None:
        return None
    return round_axis(min(dev["before"]["low"], dev["after"]["low"], 0.9), 1.0)


def _with_picture(row: Mapping[str, Any], encoded: Mapping[str, str]) -> dict[str, Any]:
    parts: Sequence[str] = Path(row["path"]).parts[-2:]
    return {**row, "name": "/".join(parts), "picture": encoded.get(row["path"], "")}
