"""How the documentation is built: Sphinx, from these pages and the docstrings, with nothing fetched."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import inlier

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))

project = "inlier"
author = "The inlier authors"
project_copyright = author
release = installed_version("inlier")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_nb",
    "generated",
]
exclude_patterns = ["images/*.md", "_build"]
nitpicky = True
nitpick_ignore_regex = [
    # No other project's index is fetched, and private names have no page.
    (r"py:.*", r"(?!inlier\.).*"),
    (r"py:.*", r"inlier\.(?:.*\.)?_.*"),
    # What only the inside hands on.
    (r"py:.*", r"inlier\.(?:features|decision|sharding)\..*"),
]

html_theme = "furo"
html_title = f"inlier {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
templates_path: list[str] = []
pygments_style = "tango"
pygments_dark_style = "monokai"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5c6b",
        "color-brand-content": "#0b5c6b",
        "color-brand-visited": "#5b4a8a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6fc7d6",
        "color-brand-content": "#6fc7d6",
        "color-brand-visited": "#b3a4e0",
    },
    "sidebar_hide_name": False,
    "navigation_with_keys": True,
}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive: list[str] = []
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
nb_execution_mode = "off"

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True
copybutton_line_continuation_character = "\\"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False

README_SECTIONS = {
    "": "index.md",
    "results": "results.md#results",
    "few-photos": "results.md#few-photos",
    "duplicates-leaks-speed": "duplicates-results.md",
}
"""Heading of the README -> where the site shows it; the sections are the README's own text, included."""


def _rewrite_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Leads links to the README, which is no page of the site, to the pages that include its sections."""

    def to_page(found: re.Match[str]) -> str:
        target = README_SECTIONS[found["anchor"] or ""]
        return f"]({'../' * docname.count('/')}{target})"

    content[0] = re.sub(r"\]\((?:\.\./)+README\.md(?:#(?P<anchor>[\w-]+))?\)", to_page, content[0])


def _resolve_public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Leads a type's name in its home, ``inlier.model.Model``, to where it is documented, ``inlier.Model``."""
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in inlier.__all__:
        return None
    domain = env.get_domain("py")
    source = node.get("refdoc", env.docname)
    return domain.resolve_xref(env, source, app.builder, "obj", f"inlier.{name}", node, content)


def setup(app: Sphinx) -> None:
    """Registers what the pages need beside the extensions."""
    app.connect("source-read", _rewrite_links)
    app.connect("missing-reference", _resolve_public_name)
