"""What the overview and the page of changes show: the values of their templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inlier.outputs import number_of
from inlier.reviewing.agreement import measure_agreement
from inlier.reviewing.ordering import Query
from inlier.service.review.forms import Grid
from inlier.service.review.views import VERDICTS, progress, short_name
from inlier.service.review.workbench import Workbench

MAX_PHOTOS = 24
"""Photos that the page of changes shows of a kind."""

_QUEUES = (
    ("doubtful", "Most doubtful first", "Photos near a threshold, where the model may be wrong either way."),
    ("labels", "Labels that look wrong", "Photos that the data call one thing, and that look like another."),
    ("disagreements", "Disagreements", "Photos on which reviewers differ, to be settled."),
)


def overview(bench: Workbench, *, reviewer: str) -> dict[str, Any]:
    """Values of the overview.

    Args:
        bench: What is worked on.
        reviewer: Who looks.
    """
    counts = bench.review.counts(Query("all"), reviewer=reviewer)
    of_all = progress(counts)
    by_verdict = [(name, counts.by_verdict[name]) for name in VERDICTS if name in counts.by_verdict]
    by_class = sorted((name, of) for name, of in counts.by_component.items() if name)
    reviewers = bench.review.reviewers()
    facts = bench.review.facts
    return {
        "notes": facts.notes,
        "title": short_name(facts.data),
        "progress": of_all,
        "minutes_left": _duration(of_all["left"] * (counts.seconds_per_photo or 0.0)),
        "queues": [_queue(bench, *of, reviewer=reviewer) for of in _QUEUES],
        "by_verdict": [
            {"name": name, "total": of.total, "left": of.left, "address": Grid(Query(verdict=name)).address}
            for name, of in by_verdict
        ],
        "by_class": [
            {"name": name, "total": of.total, "left": of.left, "address": Grid(Query(component=name)).address}
            for name, of in by_class
        ],
        "agreement": _agreement(bench) if len(reviewers) > 1 else None,
        "num_reviewers_sentence": f"{number_of(len(reviewers), 'reviewer')} so far.",
        "facts": {
            "data": facts.data,
            "model": facts.model,
            "model id": facts.identity,
            "begun": facts.made[:16].replace("T", " "),
            "data fingerprint": facts.fingerprint[:16],
        },
    }


def _agreement(bench: Workbench) -> dict[str, Any] | None:
    """How far the reviewers agree on what is anomalous; None before two have decided a photo."""
    of = measure_agreement(bench.review)
    if not of.num_photos:
        return None
    of_two = of.pairs[0] if len(of.pairs) == 1 else None
    kappa = of_two.kappa if of_two else of.kappa
    alike = f" They say the same on {of_two.num_alike} of them." if of_two else ""
    return {
        "name": "Cohen's kappa" if of_two else "Fleiss' kappa",
        "kappa": kappa and kappa.value,
        "low": kappa and kappa.low,
        "high": kappa and kappa.high,
        "sentence": f"{number_of(of.num_photos, 'photo')} decided by two or more.{alike}",
    }


def _queue(bench: Workbench, name: str, title: str, meaning: str, *, reviewer: str) -> dict[str, Any]:
    counts = bench.review.counts(Query(name), reviewer=reviewer)  # type: ignore[arg-type]
    return {"name": name, "title": title, "meaning": meaning, "left": counts.left, "total": counts.total}


def _duration(seconds: float) -> str:
    """Minutes or hours, in words; "" if there is nothing to tell."""
    minutes = round(seconds / 60)
    if seconds <= 0:
        return ""
    if minutes < 1:
        return "a minute"
    return number_of(minutes, "minute") if minutes < 90 else f"{seconds / 3600:.1f} hours"


def changes_view(bench: Workbench, *, may_replace: bool) -> dict[str, Any]:
    """Values of the page on what a refit would change.

    Args:
        bench: What is worked on.
        may_replace: Whether who looks may put a model in the place of the one in use.
    """
    status = bench.status
    return {
        "refit": status,
        "report": _report(bench, status.outcome.report) if status.outcome is not None else None,
        "may_replace": may_replace,
        "can_replace": bench.folder is not None,
        "is_current": bench.is_current,
        "identity": bench.model.identity,
        "reviewed": bench.review.facts.identity,
        "refits": bench.review.refits()[::-1],
    }


def _report(bench: Workbench, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a refit's report."""
    counts, learned, dev = report["counts"], report["learned"], report["dev"]
    numbers: list[tuple[str, str, str]] = [
        ("Learned from", str(learned["after"]), f"before {learned['before']}"),
        ("Joined", str(counts["num_joined"]), _more("of dev", counts["num_dev_joined"])),
        ("Left", str(counts["num_left"]), _more("of dev", counts["num_dev_left"])),
        ("Verdicts that flip", str(len(report["flips"])), f"of {report['num_compared']}"),
    ]
    if dev["gain"] is not None:
        before, after, gain = dev["before"], dev["after"], dev["gain"]
        numbers.append(("AUROC on dev", f"{after['value']:.3f}", f"before {before['value']:.3f}"))
        interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        numbers.append(("Gain, 95 % interval", f"{gain['value']:+.3f}", interval))
    groups = [
        ("Verdicts that flip", report["flips"]),
        ("Learned from now", report["joined"]),
        ("Learned from no more", report["left"]),
        ("Of another class now", report["relabelled"]),
    ]
    return {
        "sentence": dev["sentence"],
        "mind": dev.get("mind", ""),
        "numbers": [{"name": name, "value": value, "more": more} for name, value, more in numbers],
        "notes": report["notes"],
        "groups": [
            {"title": title, "total": len(rows), "photos": [_row(bench, row) for row in rows[:MAX_PHOTOS]]}
            for title, rows in groups
            if rows
        ],
    }


def _more(what: str, number: int) -> str:
    return f"and {number} {what}" if number else ""


def _row(bench: Workbench, row: Mapping[str, Any]) -> dict[str, Any]:
    """A photo of a report, with its number in the review, if it is there."""
    known = {"number": bench.places.get(row["path"]), "name": short_name(row["path"]), "before": None}
    return known | {name: row[name] for name in ("before", "after", "is_anomalous") if name in row}
