"""Self-contained pages: a template with its style and script inside, written whole or not at all.

A page names the hashes of its own style and script in a content security policy and allows nothing else: it
asks no server for anything, and text that slips in as markup, such as a file name, cannot run.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

_LOADER = PackageLoader("inlier.decision")
_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(
    path: Path,
    template: str,
    *,
    styles: Sequence[str],
    script: str | None,
    libraries: Sequence[str] = (),
    values: Mapping[str, object],
) -> None:
    """Write a template as one HTML file, piece by piece: an iterator among the values is never held whole.

    Args:
        path: The file to write; it appears under this name once it is complete.
        template: Name of the page's template.
        styles: Names of its style sheets, in order.
        script: Name of its script; None for a page without one.
        libraries: Names of scripts that stand before it, in order.
        values: What the template shows; text is escaped.
    """
    style = "".join(_source(name) for name in styles)
    code = "".join(_source(name) for name in (*libraries, *([] if script is None else [script])))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(code)}; "
        "base-uri 'none'; form-action 'none'"
    )
    pieces = _ENVIRONMENT.get_template(template).generate({**values, "style": style, "script": code, "policy": policy})
    unfinished = path.with_name(f"{path.name}.part")
    # A file name that is not valid text arrives as lone surrogates, which UTF-8 alone would refuse.
    with unfinished.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as file:
        file.writelines(pieces)
    os.replace(unfinished, path)


def _source(name: str) -> str:
    source, _, _ = _LOADER.get_source(_ENVIRONMENT, name)
    return source


def _allowed(text: str) -> str:
    """The policy's source expression for one inline element; none where the page has none."""
    if not text:
        return "'none'"
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
