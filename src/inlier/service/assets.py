"""Templates and style of the service's own pages, read once from the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from inlier.service.refusals import Refusal

_TYPES = {"service.css": "text/css", "icon.svg": "image/svg+xml"}
_ENVIRONMENT = Environment(
    loader=PackageLoader("inlier.service"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

static_router = APIRouter(include_in_schema=False)


@static_router.get("/static/{name}")
async def static_file(name: str) -> Response:
    """Style and icon: two files, each by its name."""
    if name not in _TYPES:
        raise Refusal(404, "There is nothing at this address.")
    return Response(_content(name), media_type=_TYPES[name], headers={"cache-control": "public, max-age=600"})


@cache
def _content(name: str) -> bytes:
    """The style begins with the palette of all pages of inlier."""
    content = files("inlier.service").joinpath("static", name).read_bytes()
    palette = files("inlier.decision").joinpath("templates", "page.css").read_bytes()
    return palette + content if name == "service.css" else content


def render(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page; text is escaped.

    Args:
        template: Its name.
        status: Of HTTP.
        values: What it shows.
    """
    text = _ENVIRONMENT.get_template(template).render(**values)
    return HTMLResponse(text.encode("utf-8", errors="xmlcharrefreplace"), status_code=status)
