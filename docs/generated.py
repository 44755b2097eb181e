"""A Sphinx extension: references that are made from the program itself, so that they cannot go stale.

``inlier-commands`` lists every command with its arguments and options, as the command line declares them;
``inlier-settings`` lists every key of a configuration with its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from inlier.build import DETECTORS, resolve, resolve_selection
from inlier.cli.main import app as command_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx

COMMANDS: dict[str, Any] = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]


def usage(name: str) -> str:
    """How the command is called, on one line."""
    parameters = [of for of in COMMANDS[name].params if of.required or _is_argument(of)]
    words = [of.metavar if _is_argument(of) else f"{of.opts[0]} {_value(of)}" for of in parameters]
    words = [f"[{word}]" if not of.required else word for word, of in zip(words, parameters, strict=True)]
    return " ".join(["inlier", name, *words, "[OPTIONS]"])


def rows(name: str) -> list[tuple[str, str, str]]:
    """Of each argument and option its name, what it means, and its default, in Markdown."""
    found = []
    for of in COMMANDS[name].params:
        if of.name == "help" or getattr(of, "hidden", False):
            continue
        if _is_argument(of):
            shown = f"`{of.metavar}`"
        else:
            names = ", ".join(f"`{option}`" for option in (*of.opts, *of.secondary_opts))
            shown = names if of.is_flag else f"{names} `{_value(of)}`"
        found.append((shown, of.help or "", _default(of)))
    return found


def commands_page() -> list[str]:
    """The reference of all commands, lines of Markdown."""
    lines = []
    for name, command in COMMANDS.items():
        lines += [f"(command-{name})=", f"## `inlier {name}`", "", command.help.replace("\n", " "), ""]
        lines += ["```text", usage(name), "```", ""]
        lines += ["| | meaning | default |", "| --- | --- | --- |"]
        lines += [_row(cells) for cells in rows(name)]
        lines.append("")
    return lines


def settings_page() -> list[str]:
    """Every section of a configuration with its keys and defaults, lines of Markdown."""
    sections: dict[str, dict[str, Any]] = {}
    for detector in DETECTORS:
        for name, keys in resolve({"fit": {"detector": detector}}, device="cpu").items():
            sections.setdefault(name, keys)
    sections["fit"]["detector"] = "combined"
    sections["regions"] = resolve({"regions": {"kind": "foreground"}}, device="cpu")["regions"] | {"kind": "none"}
    sections["select"] = resolve_selection({})
    lines = []
    for name, keys in sections.items():
        lines += [f"## `[{name}]`", "", "| key | default |", "| --- | --- |"]
        lines += [_row((f"`{key}`", _code(value))) for key, value in keys.items()]
        lines.append("")
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _value(option: Any) -> str:
    """What stands behind an option: the placeholder that its author chose, or the kind of its value."""
    if option.metavar:
        return str(option.metavar)
    annotation = option.type_descriptor.annotation
    kinds = {"int": "N", "float": "X", "Path": "PATH"}
    return kinds.get(getattr(annotation, "__name__", ""), "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default in (None, False, [], ()):
        return ""
    return _code(parameter.default)


def _code(value: object) -> str:
    if value is None:
        return "not set"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`"


class _Page(SphinxDirective):
    """Puts generated Markdown where it stands."""

    pages: ClassVar[dict[str, list[str]]] = {}

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(self.pages[self.name]), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives; their pages are made now, before autodoc replaces the defaults of signatures."""
    for name, make in (("inlier-commands", commands_page), ("inlier-settings", settings_page)):
        _Page.pages[name] = make()
        app.add_directive(name, _Page)
    return {"parallel_read_safe": True}
