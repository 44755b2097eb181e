"""Decisions to and from other tools: tables, COCO, Label Studio."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from inlier.errors import InlierError, ReviewError
from inlier.outputs import as_text, write_whole
from inlier.reviewing.coco import from_coco, to_coco
from inlier.reviewing.decisions import Choice, Review
from inlier.reviewing.label_studio import from_label_studio, labelling_config, to_label_studio
from inlier.reviewing.matching import Said, match

Form = Literal["csv", "coco", "label-studio"]
FORMS: tuple[Form, ...] = get_args(Form)

_COLUMNS = (
    *("path", "reviewer", "anomalous", "label", "at"),
    *("given_label", "given_anomalous", "split", "score", "p_value", "verdict", "component", "sha256"),
)
_FLAGS = {"0": False, "1": True, "false": False, "true": True, "normal": False, "anomalous": True, "": None}


def export_review(review: Review, out: Path, *, form: Form) -> int:
    """Writes what was decided.

    ``csv``: a row for what each reviewer says of a photo now. ``coco``: the images with what they say together, and
    what they drew. ``label-studio``: tasks with predictions and annotations, and beside them, as ``.xml``, the
    labelling interface that they want.

    Args:
        review: What was decided.
        out: The file.
        form: One of ``FORMS``.

    Returns:
        How many photos have a decision.

    Raises:
        InlierError: Nothing can be written there.
    """
    _check_form(form)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if form == "csv":
            write_whole(out, _to_csv(review))
        elif form == "coco":
            write_whole(out, json.dumps(to_coco(review), indent=1) + "\n")
        else:
            write_whole(out, json.dumps(to_label_studio(review), indent=1) + "\n")
            write_whole(out.with_suffix(".xml"), labelling_config(review.facts.labels))
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error
    return len(review.words())


def import_decisions(review: Review, path: Path, *, form: Form, reviewer: str | None) -> int:
    """Takes over decisions and regions from a file; the same file again changes nothing.

    Args:
        review: Takes them, of each reviewer all or none.
        path: The file, as ``export_review`` or the other tool writes it. A table needs the column ``path`` or
            ``sha256``, and ``anomalous`` or ``label``.
        form: One of ``FORMS``.
        reviewer: Whose decisions they are; None: whom the file names.

    Returns:
        How many decisions were written.

    Raises:
        ReviewError: The file cannot be read as one of this form, names photos that are not in the review, or does not
            say who decided.
    """
    _check_form(form)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        said = _from_csv(text) if form == "csv" else _from_json(text, form)
    except OSError as error:
        raise ReviewError(f"{as_text(path)} cannot be read: {error.strerror}.") from error
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, csv.Error) as error:
        raise ReviewError(f"{as_text(path)} cannot be read as {form}: {_reason(error)}.") from error
    numbers = match(said, review.photos())
    choices: defaultdict[str, dict[int, Choice]] = defaultdict(dict)
    for number, of in zip(numbers, said, strict=True):
        who = reviewer or of.reviewer
        is_something = of.is_anomalous is not None or of.label is not None or bool(of.regions)
        if is_something and not who:
            raise ReviewError(f"{as_text(path)} does not say who decided; name the reviewer.")
        if of.is_anomalous is not None or of.label is not None:
            choices[who][number] = Choice(number, of.is_anomalous, of.label)
    page = f"import {hashlib.sha256(content).hexdigest()[:24]}"
    num_written = sum(review.decide([*of.values()], reviewer=who, page=page) for who, of in choices.items())
    for number, of in zip(numbers, said, strict=True):
        if of.regions:
            review.set_regions(number, of.regions, reviewer=reviewer or of.reviewer)
    return num_written


def form_of(path: Path) -> Form:
    """The form of a file: a table by its suffix, else a list is Label Studio's and an object COCO's.

    Raises:
        ReviewError: It is neither.
    """
    if path.suffix.lower() == ".csv":
        return "csv"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ReviewError(f"{as_text(path)} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ReviewError(f"{as_text(path)} must be a .csv file, or JSON of COCO or of Label Studio.") from error
    return "label-studio" if isinstance(content, list) else "coco"


def _to_csv(review: Review) -> str:
    words = review.words()
    latest = {(of.photo, of.reviewer): of.at for of in review.decisions() if not of.undone}
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for photo in review.photos():
        for reviewer, word in words.get(photo.number, {}).items():
            about = (photo.given_label, _cell(photo.given_anomalous), photo.split, _cell(photo.score))
            judged = (_cell(photo.p_value), photo.verdict, photo.component or "", photo.digest)
            said = (_cell(word.is_anomalous), word.label or "", latest[photo.number, reviewer])
            rows.writerow([photo.path, reviewer, *said, *about, *judged])
    return file.getvalue()


def _from_csv(text: str) -> list[Said]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    columns = rows.fieldnames or ()
    if not ({"path", "sha256"} & {*columns}) or not ({"anomalous", "label"} & {*columns}):
        raise ValueError("it needs the column path or sha256, and anomalous or label")
    said = []
    for number, row in enumerate(rows, 2):
        flag = (row.get("anomalous") or "").strip().lower()
        if flag not in _FLAGS:
            raise ValueError(f"anomalous must be 0 or 1 (or empty), and line {number} has {flag!r}")
        said.append(
            Said(
                path=row.get("path") or "",
                digest=row.get("sha256") or "",
                is_anomalous=_FLAGS[flag],
                label=row.get("label") or None,
                reviewer=row.get("reviewer") or "",
            )
        )
    return said


def _from_json(text: str, form: Form) -> Sequence[Said]:
    content = json.loads(text)
    return from_coco(content) if form == "coco" else from_label_studio(content)


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")


def _cell(value: bool | float | None) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else repr(value)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    return str(error).partition("\n")[0].rstrip(".")
