"""What the grid, the photo and the disagreements show: the values of their templates."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from inlier.outputs import as_text
from inlier.reviewing.decisions import Counts, Decision, Disagreement, ReviewPhoto, Word
from inlier.reviewing.ordering import Query
from inlier.service.review.forms import COLUMNS, Grid
from inlier.service.review.workbench import Workbench

QUEUE_NAMES = {
    "doubtful": "Most doubtful first",
    "labels": "Labels that look wrong",
    "disagreements": "Disagreements",
    "all": "All, in order",
}
VERDICTS = ("reject", "uncertain", "accept", "unreadable")

MAX_CARDS = 40
"""Disagreements on one page."""

GRID_KEYS = (
    (("←", "→", "↑", "↓"), "go from photo to photo"),
    (("space",), "change between normal and anomalous"),
    (("a",), "normal, and on to the next"),
    (("r",), "anomalous, and on to the next"),
    (("1", "…", "9"), "name the class; 0 takes it back"),
    (("↵",), "take all photos as they are marked, and show the next"),
    (("u",), "take back the last page"),
    (("o",), "open the photo"),
    (("h",), "heat: a line round what is unlike normal photos"),
    (("?",), "these keys"),
)
ASKED = {"reject": "anomalous", "accept": "normal"}
WORDS: dict[bool | None, str] = {True: "anomalous", False: "normal", None: ""}
"""is_anomalous -> what a reviewer says; the opposite of ``forms.WORDS``."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A photo in the grid.

    Attributes:
        photo: Which.
        name: Its file with its folder.
        p: Its p-value as text; "" if there is none.
        word: What is marked already: ``normal``, ``anomalous`` or "" where the reviewer must look.
        label: The class that is marked already.
        remark: Why its label looks wrong.
    """

    photo: ReviewPhoto
    name: str
    p: str
    word: str
    label: str
    remark: str


def grid_view(bench: Workbench, grid: Grid, *, reviewer: str, message: str = "") -> dict[str, Any]:
    """Values of the grid.

    Args:
        bench: What is worked on.
        grid: Which photos.
        reviewer: Who looks.
        message: What was just done.

    Raises:
        ReviewError: A photo to be shown again is not there.
    """
    size = grid.columns**2
    if grid.again:
        photos = [bench.review.photo(number) for number in grid.again]
    else:
        photos = bench.review.page(grid.query, reviewer=reviewer, size=size)
    labels = bench.review.facts.labels
    return {
        "grid": grid,
        "query": grid.query,
        "fields": _hidden(grid),
        "labels": labels,
        "tiles": [_tile(bench, photo, grid, reviewer, labels) for photo in photos],
        "page": new_page(),
        "progress": progress(bench.review.counts(grid.query, reviewer=reviewer)),
        "message": message,
        "thumb_px": 320 if grid.columns > COLUMNS[0] else 640,
        "empty_sentence": _empty_sentence(grid.query),
    }


def frame_view(bench: Workbench, grid: Grid) -> dict[str, Any]:
    """Values of what stands round the grid: its heading and its filters."""
    query = grid.query
    photos = bench.data.photos
    components = {*bench.model.facts.get("components", ()), *([query.component] if query.component else [])}
    options: list[tuple[str, str, Sequence[str]]] = [
        ("verdict", "Verdict", VERDICTS),
        ("component", "Taken for", sorted(components)),
        ("label", "Labelled", sorted({as_text(photo.label) for photo in photos if photo.label})),
        ("split", "Split", [of for of in ("train", "dev", "test") if any(photo.split == of for photo in photos)]),
    ]
    filters = [
        {"name": name, "title": title, "options": values, "value": getattr(query, name)}
        for name, title, values in options
        if values
    ]
    chosen = [f"{of['title'].lower()} {of['value']}" for of in filters if of["value"]]
    return {
        "heading": QUEUE_NAMES[query.queue],
        "filters_text": "".join(f" · {text}" for text in chosen),
        "queue_names": QUEUE_NAMES,
        "filters": filters,
        "sizes": COLUMNS,
        "keys": GRID_KEYS,
    }


def disagreements_view(bench: Workbench, *, reviewer: str, message: str = "") -> dict[str, Any]:
    """Values of the page on which reviewers settle what they differ on; nobody is named."""
    found: Sequence[Disagreement] = bench.review.disagreements()
    query = Query("disagreements")
    waiting = {photo.number for photo in bench.review.page(query, reviewer=reviewer, size=max(len(found), 1))}
    order = sorted(found, key=lambda of: (of.photo not in waiting, of.photo))[:MAX_CARDS]
    sentence = "The reviewers agree on every photo that several have decided."
    if found:
        verb = "photo is" if len(found) == 1 else "photos are"
        sentence = f"{len(found)} {verb} judged differently. Look once more, and settle what you can."
        if len(found) > MAX_CARDS:
            sentence += f" Here are the first {MAX_CARDS}."
    return {
        "cards": [_card(bench, of, reviewer, is_settled=of.photo not in waiting) for of in order],
        "labels": bench.review.facts.labels,
        "sentence": sentence,
        "message": message,
    }


def progress(counts: Counts) -> dict[str, int]:
    """How far a reviewer is, and how many photos a minute; 0 where that is not known."""
    pace = round(60 / counts.seconds_per_photo) if counts.seconds_per_photo else 0
    return {"total": counts.total, "decided": counts.decided, "left": counts.left, "per_minute": pace}


def new_page() -> str:
    """A name for a page, which no other page has."""
    return secrets.token_urlsafe(16)


def short_name(path: str) -> str:
    """A photo's name with its folder, which says enough of where it is from."""
    return "/".join(Path(path).parts[-2:])


def standing(history: Sequence[Decision]) -> Word | None:
    """What a reviewer's decisions come to: the last word on either question; None if none stands."""
    stands = [of for of in history if not of.undone]
    if not stands:
        return None
    flags = [of.is_anomalous for of in stands if of.is_anomalous is not None]
    labels = [of.label for of in stands if of.label is not None]
    return Word(flags[-1] if flags else None, labels[-1] if labels else None)


def differ(history: Sequence[Decision]) -> bool:
    """Whether reviewers say different things of a photo, from all decisions on it."""
    words = [standing([of for of in history if of.reviewer == name]) for name in {of.reviewer for of in history}]
    flags = {word.is_anomalous for word in words if word} - {None}
    labels = {word.label for word in words if word} - {None}
    return len(flags) > 1 or len(labels) > 1


def _tile(bench: Workbench, photo: ReviewPhoto, grid: Grid, reviewer: str, labels: Sequence[str]) -> Tile:
    word, label = ASKED.get(photo.verdict, ""), grid.query.component or ""
    if grid.again or grid.query.decided or grid.query.queue == "disagreements":
        history = bench.review.history(photo.number, reviewer=reviewer)
        said = history[-1] if grid.again and history else standing(history)
        if said is not None:
            word = WORDS[said.is_anomalous]
            label = said.label or ""
    p = "" if photo.p_value is None else f"{photo.p_value:.2g}"
    label = label if label in labels else ""
    return Tile(photo, short_name(photo.path), p, word, label, photo.suspicion_reason)


def _hidden(grid: Grid) -> dict[str, str]:
    """The grid's address as fields of a form."""
    named = {field.name: getattr(grid.query, field.name) for field in fields(Query)}
    named |= {"columns": str(grid.columns), "decided": "1" if grid.query.decided else None}
    return {name: value for name, value in named.items() if value}


def _empty_sentence(query: Query) -> str:
    if query.queue == "labels":
        return "No label that looks wrong is waiting for you."
    if query.queue == "disagreements":
        return "There is nothing on which reviewers differ and you have not settled."
    if any((query.verdict, query.component, query.label, query.split)):
        return "You have decided all photos that match these filters."
    return "You have decided all photos."


def _card(bench: Workbench, of: Disagreement, reviewer: str, *, is_settled: bool) -> dict[str, Any]:
    """A photo on which reviewers differ; their words only for who has said his own."""
    photo = bench.review.photo(of.photo)
    own = of.words.get(reviewer)
    counts = Counter(said_in_words(word) for word in of.words.values())
    return {
        "photo": photo,
        "name": short_name(photo.path),
        "words": counts.most_common() if own else [],
        "word": WORDS[own.is_anomalous] if own else "",
        "label": (own.label or "") if own else "",
        "is_settled": is_settled and own is not None,
        "page": new_page(),
    }


def said_in_words(word: Word) -> str:
    """A word as a reader sees it: "anomalous, crack"."""
    said = [WORDS[word.is_anomalous]] if word.is_anomalous is not None else []
    said += [word.label] if word.label is not None else []
    return ", ".join(said) or "nothing"
