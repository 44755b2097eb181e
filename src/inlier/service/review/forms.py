"""What a browser sends: addresses and forms -> queries, choices and regions; anything else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from urllib.parse import parse_qs, urlencode

from fastapi import Request

from inlier.errors import InlierError
from inlier.reviewing.decisions import Choice
from inlier.reviewing.ordering import QUEUES, Query
from inlier.reviewing.regions import KINDS, Region

MAX_FORM_BYTES = 1 << 18
MAX_FIELDS = 500
COLUMNS = (4, 5, 6)
"""Photos side by side, and rows of them, that a grid may have."""

WORDS = {"normal": False, "anomalous": True}
"""What a reviewer says of a photo -> is_anomalous."""

_PAGE = re.compile(r"[A-Za-z0-9_-]{8,64}")
_NUMBER = re.compile(r"\d{1,9}")
_MAX_TEXT = 200


class FormError(InlierError):
    """What the browser sent is no such form, or names what is not there."""


@dataclass(frozen=True, slots=True)
class Form:
    """Fields of an address or a form.

    Attributes:
        values: Name -> its values, in order.
    """

    values: Mapping[str, Sequence[str]]

    def one(self, name: str) -> str:
        """The value of a field; "" if it is not there.

        Raises:
            FormError: It stands there more than once.
        """
        found = self.values.get(name, ())
        if len(found) > 1:
            raise FormError(f"The field {name} may stand there once only; reload the page.")
        return found[0] if found else ""

    def numbers(self, name: str) -> list[int]:
        """The numbers of photos in a field, each once.

        Raises:
            FormError: One is no number, or stands there twice.
        """
        texts = self.values.get(name, ())
        if not all(_NUMBER.fullmatch(text) for text in texts) or len({*texts}) < len(texts):
            raise FormError(f"The field {name} must hold numbers of photos, each once; reload the page.")
        return [int(text) for text in texts]


@dataclass(frozen=True, slots=True)
class Grid:
    """What a grid shows, as its address has it.

    Attributes:
        query: Which photos.
        columns: How many side by side; as many rows.
        again: Photos to be shown whatever the query says, such as those of a page that was taken back.
    """

    query: Query
    columns: int = COLUMNS[0]
    again: tuple[int, ...] = ()

    @property
    def address(self) -> str:
        """The part of its address behind the question mark; without ``again``, which is over after one page."""
        named = {field.name: getattr(self.query, field.name) for field in fields(Query)}
        named |= {"columns": self.columns, "decided": "1" if self.query.decided else None}
        return urlencode({name: value for name, value in named.items() if value not in (None, "")})

    def with_photos(self, numbers: Sequence[int]) -> str:
        """The address of a grid that shows these photos again."""
        return f"{self.address}&{urlencode({'again': numbers}, doseq=True)}" if numbers else self.address


async def read_form(request: Request) -> Form:
    """The fields of a form posted in the plain way of browsers.

    Raises:
        FormError: It is too large, or no such form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/x-www-form-urlencoded"):
        raise FormError("A form must come as application/x-www-form-urlencoded.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise FormError(f"A form may have {MAX_FORM_BYTES >> 10} KiB at most.")
    try:
        return Form(parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError as error:
        raise FormError(f"The form cannot be read; it may have {MAX_FIELDS} fields at most.") from error


def read_address(request: Request) -> Form:
    """The fields of an address."""
    return Form({name: request.query_params.getlist(name) for name in request.query_params})


def grid_of(form: Form) -> Grid:
    """What a grid's address or form asks for.

    Raises:
        FormError: A queue or a number of columns that there is not.
    """
    queue = next((queue for queue in QUEUES if queue == (form.one("queue") or QUEUES[0])), None)
    if queue is None:
        raise FormError(f"There is no such queue; there are {', '.join(QUEUES)}.")
    columns = form.one("columns") or str(COLUMNS[0])
    if columns not in map(str, COLUMNS):
        raise FormError(f"A grid has {', '.join(map(str, COLUMNS))} columns.")
    asked = {name: _text(form, name) or None for name in ("verdict", "component", "label", "split")}
    again = form.numbers("again")
    if len(again) > COLUMNS[-1] ** 2:
        raise FormError(f"A grid has {COLUMNS[-1] ** 2} photos at most.")
    return Grid(Query(queue, **asked, decided=form.one("decided") == "1"), int(columns), tuple(again))


def page_of(form: Form) -> str:
    """The page's number, by which it is known when it comes twice.

    Raises:
        FormError: There is none.
    """
    page = form.one("page")
    if not _PAGE.fullmatch(page):
        raise FormError("The page has no number of its own; reload it.")
    return page


def choices_of(form: Form, *, labels: Sequence[str]) -> list[Choice]:
    """What the reviewer said of each photo of the form.

    Args:
        form: Fields ``photo``, and ``word-N`` and ``label-N`` for photo N.
        labels: Classes that may be named.

    Raises:
        FormError: A word or a class that there is not, or no photo.
    """
    numbers = form.numbers("photo")
    if not 0 < len(numbers) <= COLUMNS[-1] ** 2:
        raise FormError(f"A page has 1 to {COLUMNS[-1] ** 2} photos; reload it.")
    choices = []
    for number in numbers:
        word, label = form.one(f"word-{number}"), form.one(f"label-{number}")
        if word not in ("", *WORDS):
            raise FormError(f"A photo is {' or '.join(WORDS)}, or nothing is said of it; reload the page.")
        if label not in ("", *labels):
            raise FormError("The class is none of this review; reload the page.")
        choices.append(Choice(number, WORDS.get(word), label or None))
    return choices


def region_of(form: Form) -> Region:
    """The region of a form: corners as JSON in ``polygon``, or a rectangle in percent of the photo.

    Raises:
        FormError: It is none.
    """
    try:
        kind = next(kind for kind in KINDS if kind == form.one("kind"))
        corners = json.loads(form.one("polygon")) if form.one("polygon") else _rectangle(form)
        return Region(kind, _text(form, "region-label"), tuple((float(x), float(y)) for x, y in corners))
    except (StopIteration, TypeError, ValueError, RecursionError) as error:
        raise FormError(
            "A region needs a kind and at least three corners inside the photo; for a rectangle give left, top, right "
            "and bottom in percent, left before right and top before bottom."
        ) from error


def _rectangle(form: Form) -> list[tuple[float, float]]:
    left, top, right, bottom = (float(form.one(side)) / 100 for side in ("left", "top", "right", "bottom"))
    if not (left < right and top < bottom):
        raise ValueError("a rectangle without an inside")
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _text(form: Form, name: str) -> str:
    """A short line of text.

    Raises:
        FormError: It is longer, or has characters that cannot be seen.
    """
    text = form.one(name).strip()
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise FormError(f"The field {name} holds one line of {_MAX_TEXT} characters at most.")
    return text
