"""What the page of one photo shows: the values of its template."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from PIL import Image

from inlier.decision.report import explain
from inlier.records import Box, Evidence
from inlier.reviewing.decisions import Decision, ReviewPhoto
from inlier.reviewing.regions import Region
from inlier.service.review.forms import Grid
from inlier.service.review.views import ASKED, WORDS, differ, new_page, short_name, standing
from inlier.service.review.workbench import Workbench

PHOTO_KEYS = (
    (("a", "r"), "normal, anomalous"),
    (("1", "…", "9"), "name the class; 0 takes it back"),
    (("↵",), "save"),
    (("h",), "heat on or off"),
    (("+", "-"), "zoom; 0 in the photo shows all of it"),
    (("←", "→", "↑", "↓"), "move the photo, when it has the focus"),
    (("d",), "draw a region; Esc ends, Backspace takes a corner back"),
    (("g",), "back to the grid"),
    (("?",), "these keys"),
)

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_MAX_SIMILAR = 6


def photo_view(bench: Workbench, number: int, grid: Grid, *, reviewer: str, message: str = "") -> dict[str, Any]:
    """Values of a photo's page.

    Args:
        bench: What is worked on.
        number: Of the photo.
        grid: Where the reviewer comes from.
        reviewer: Who looks.
        message: What was just done.

    Raises:
        ReviewError: There is no such photo.
    """
    photo = bench.review.photo(number)
    inspection = bench.pictures.inspection(photo.path)
    size = _viewed(inspection.pixels.shape[:2] if inspection.pixels is not None else (3, 4))
    everything = bench.review.history(number, reviewer=None)
    own = [of for of in everything if of.reviewer == reviewer]
    said = standing(own)
    is_disputed = said is not None and differ(everything)
    word = WORDS[said.is_anomalous] if said else ASKED.get(photo.verdict, "")
    p_value = photo.p_value
    num_calibration = len(bench.model.calibration.normal_scores)
    return {
        "photo": photo,
        "grid": grid,
        "name": short_name(photo.path),
        "size": size,
        "has_heat": inspection.anomaly_map is not None and len(bench.model.calibration.map_maxima) > 0,
        "meaning": "" if p_value is None else explain(p_value, num_calibration=num_calibration),
        "labels": bench.review.facts.labels,
        "word": word,
        "label": (said.label if said else None) or "",
        "page": new_page(),
        "message": message,
        "reasons": [_reason(bench, of, size) for of in inspection.evidence],
        "similar": _similar(bench, inspection.evidence, photo),
        "history": [_event(of, reviewer) for of in (everything if is_disputed else own)],
        "history_title": "What was said" if is_disputed else "What you said",
        "facts": _facts(photo),
        "keys": PHOTO_KEYS,
        **regions_view(bench, photo, reviewer=reviewer),
    }


def regions_view(bench: Workbench, photo: ReviewPhoto, *, reviewer: str, message: str = "") -> dict[str, Any]:
    """Values of the list of regions."""
    regions: Sequence[Region] = bench.review.regions(photo.number, reviewer=reviewer)
    kind = regions[-1].kind if regions else "defect"
    return {"photo": photo, "regions": regions, "last_kind": kind, "region_message": message}


def _viewed(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a drawing of this shape (H, W), the longer one 1000."""
    height, width = shape
    return max(1, round(1000 * width / max(width, height))), max(1, round(1000 * height / max(width, height)))


def _scaled(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a place in a drawing of this size."""
    left, top, right, bottom = box
    width, height = size
    values = left * width, top * height, (right - left) * width, (bottom - top) * height
    return tuple(round(value, 2) for value in values)  # type: ignore[return-value]


def _reason(bench: Workbench, of: Evidence, size: tuple[int, int]) -> dict[str, Any]:
    picture = bench.pictures.reference(of.reference)
    reference_size = None
    if picture is not None:
        with Image.open(io.BytesIO(picture.content)) as image:
            reference_size = image.size
    return {
        "is_whole": of.box == _WHOLE,
        "rect": _scaled(of.box, size),
        "reference": of.reference,
        "reference_size": reference_size,
        "reference_rect": _scaled(of.reference_box, reference_size) if reference_size else None,
        "reference_name": short_name(bench.model.references.names[of.reference]),
        "distance": f"{of.distance:.3g}",
    }


def _similar(bench: Workbench, evidence: Sequence[Evidence], photo: ReviewPhoto) -> list[dict[str, Any]]:
    """The normal photos that most places of the photo are most like, each once."""
    references = bench.model.references
    found: list[dict[str, Any]] = []
    for reference, _ in Counter(of.reference for of in evidence).most_common():
        if not references.thumbnails[reference] or len(found) == _MAX_SIMILAR:
            continue
        digest = references.digests[reference] if references.digests else ""
        if digest != photo.digest and digest not in {of["digest"] for of in found if digest}:
            number = bench.numbers.get(digest)
            name = short_name(references.names[reference])
            found.append({"reference": reference, "number": number, "name": name, "digest": digest})
    return found


def _event(of: Decision, reviewer: str) -> dict[str, Any]:
    said = [WORDS[of.is_anomalous]] if of.is_anomalous is not None else []
    said += [of.label] if of.label is not None else []
    who = "" if of.reviewer == reviewer else "another reviewer: "
    when = datetime.fromisoformat(of.at).strftime("%d %b %H:%M")
    return {"at": of.at, "shown_at": when, "who": who, "word": ", ".join(said) or "left open", "is_undone": of.undone}


def _facts(photo: ReviewPhoto) -> Mapping[str, str]:
    found = {
        "file": photo.path,
        "split": photo.split,
        "part or visit": photo.group,
        "label in the data": photo.given_label,
        "score": "" if photo.score is None else f"{photo.score:.4g}",
        "p-value": "" if photo.p_value is None else f"{photo.p_value:.3g}",
        "taken for": photo.component or "",
    }
    if photo.component and photo.component_probability is not None:
        found["taken for"] += f" ({100 * photo.component_probability:.0f} %)"
    return {name: fact for name, fact in found.items() if fact}
