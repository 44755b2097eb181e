"""The inspection report: one HTML file that shows every photo, worst first, with the reasons for its score.

Each photo's pictures and numbers stand in an inert block of JSON of their own. The page reads only the blocks
of the cards near the window, and reads them one by one, so that thousands of photos open like a few.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inlier.decision.heatmap import OPACITY, RAMP
from inlier.decision.pages import write_page
from inlier.records import Verdict

_ORDER = ("reject", "uncertain", "accept", "unreadable")


@dataclass(frozen=True)
class EvidenceView:
    """One reason for a score, as pictures: a place in the photo beside the normal place most like it.

    Attributes:
        crop: WebP of the place in the photo; None where the reason is the photo as a whole.
        reference_crop: WebP of the most similar normal place, or of the most similar normal photo.
        distance: How far apart the two are in the detector's feature space, >= 0.
        reference: Name of the normal photo.
    """

    crop: bytes | None
    reference_crop: bytes
    distance: float
    reference: str


@dataclass(frozen=True)
class Card:
    """What the report shows of one photo.

    Attributes:
        verdict: Its outcome.
        photo: WebP of the photo; None if it could not be read.
        heatmap: WebP of the photo under its anomaly map; None where there is none to show.
        evidence: The reasons for its score, strongest first.
        remarks: What else is known of it, each a few words.
    """

    verdict: Verdict
    photo: bytes | None
    heatmap: bytes | None = None
    evidence: tuple[EvidenceView, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.photo is None and self.verdict.verdict != "unreadable":
            raise ValueError(
                f"photo of Card must be given unless it is unreadable, got None for {self.verdict.path!r}."
            )


def write_report(
    path: Path,
    cards: Iterable[Card],
    *,
    title: str,
    counts: Mapping[str, int],
    num_calibration: int,
    false_alarm_rate: float,
    uncertain_rate: float,
    heat_scale: tuple[float, float] | None,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
) -> None:
    """Write the report; cards are taken one at a time and none is kept.

    Args:
        path: The HTML file.
        cards: The photos, worst first, unreadable ones last.
        title: Heading of the page.
        counts: Number of cards of each verdict; a verdict without cards may be missing.
        num_calibration: Number of calibration photos behind the p-values.
        false_alarm_rate: A photo is rejected where its p-value is at most this.
        uncertain_rate: A photo is uncertain where its p-value is at most this.
        heat_scale: The scores at which heat begins and is full in every heatmap; None without heatmaps.
        facts: What else a reader should know of the run, by name: model, data, versions.
        notes: Sentences that a reader must not miss, such as a calibration set too small for the rate.

    Raises:
        ValueError: If a count is of no known verdict.
    """
    if unknown := sorted(counts.keys() - set(_ORDER)):
        raise ValueError(f"counts of write_report must be of {', '.join(_ORDER)}, got {', '.join(unknown)}.")
    shares = {verdict: counts.get(verdict, 0) for verdict in _ORDER}
    write_page(
        path,
        "report.html",
        styles=("page.css", "report.css"),
        script="report.js",
        values={
            "title": title,
            "counts": shares,
            "total": sum(shares.values()),
            "num_calibration": num_calibration,
            "false_alarm_rate": false_alarm_rate,
            "uncertain_rate": uncertain_rate,
            "heat_scale": heat_scale,
            "heat_ramp": RAMP,
            "heat_opacity": OPACITY,
            "facts": facts,
            "notes": notes,
            "cards": ((card.verdict, _card_json(card, num_calibration)) for card in cards),
        },
    )


def explain(p_value: float, *, num_calibration: int) -> str:
    """A p-value in plain words: how rare a photo this unusual is among normal ones.

    Args:
        p_value: In (0, 1].
        num_calibration: Number of calibration photos behind it; 0 if there are none.
    """
    if not num_calibration:
        return "There are no normal photos to compare it with."
    if p_value * (num_calibration + 1) < 1.5:  # 1 / (n + 1), the smallest there is: k = 0 in (1 + k) / (n + 1)
        return f"None of {num_calibration} normal photos looks this unusual."
    if p_value <= 0.35:
        return f"About 1 in {round(1 / p_value)} normal photos looks this unusual."
    if p_value < 0.95:
        return f"About {round(10 * p_value)} in 10 normal photos look at least this unusual."
    return "Almost every normal photo looks at least this unusual."


def _card_json(card: Card, num_calibration: int) -> str:
    """A card as JSON that may stand inside a script element: no `<` that could close it."""
    verdict = card.verdict
    p_value = verdict.p_value
    content = {
        "path": verdict.path,
        "verdict": verdict.verdict,
        "error": verdict.error,
        "score": None if verdict.score is None else f"{verdict.score:.4g}",
        "p": None if p_value is None else f"{p_value:.3g}",
        "meaning": None if p_value is None else explain(p_value, num_calibration=num_calibration),
        "component": _component(verdict),
        "remarks": [*card.remarks, *([verdict.error] if verdict.error and verdict.verdict != "unreadable" else [])],
        "photo": _base64(card.photo),
        "heatmap": _base64(card.heatmap),
        "evidence": [
            {
                "crop": _base64(view.crop),
                "reference_crop": _base64(view.reference_crop),
                "distance": f"{view.distance:.3g}",
                "reference": view.reference,
            }
            for view in card.evidence
        ],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _component(verdict: Verdict) -> str | None:
    if verdict.component is None or verdict.component_probability is None:
        return verdict.component
    return f"{verdict.component} ({100 * verdict.component_probability:.0f} %)"


def _base64(picture: bytes | None) -> str | None:
    return None if picture is None else base64.b64encode(picture).decode("ascii")
