"""Style, scripts and templates of the review pages, read once from the package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.responses import HTMLResponse

from inlier.service import assets
from inlier.service.refusals import Refusal

_TYPES = {
    "htmx.min.js": "text/javascript",
    "review.js": "text/javascript",
    "review.css": "text/css",
    "icon.svg": "image/svg+xml",
}


@cache
def read_asset(name: str) -> tuple[bytes, str]:
    """Content and media type of a file that pages need; the style begins with the palette of all pages of inlier.

    Raises:
        Refusal: 404: there is none of this name.
    """
    if name not in _TYPES:
        raise Refusal(404, "There is nothing at this address.")
    content = files("inlier.service").joinpath("static", name).read_bytes()
    if name == "review.css":
        content = files("inlier.decision").joinpath("templates", "page.css").read_bytes() + content
    return content, _TYPES[name]


@cache
def address_of(name: str) -> str:
    """Where a browser finds such a file; the address changes with the content, so that it may be kept for long."""
    content, _ = read_asset(name)
    return f"/review/static/{name}?{hashlib.sha256(content).hexdigest()[:12]}"


def render(template: str, *, kind: str, reviewer: str, **values: Any) -> HTMLResponse:
    """A page, or a part of one; text is escaped.

    Args:
        template: Its name.
        kind: Which page it is: marked in the navigation, and the class of its body.
        reviewer: Who looks.
        values: What else the template shows.
    """

    def is_here(page: str) -> bool:
        return page == kind

    return assets.render(template, static=address_of, is_here=is_here, kind=kind, reviewer=reviewer, **values)
