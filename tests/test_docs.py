"""The documents say what is true: commands and options exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from inlier.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, click.Command] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def examples() -> list[tuple[str, str]]:
    """Page and line of every command of ours in a console block."""
    return [
        (page.name, line.split("#")[0].strip())
        for page in PAGES
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
        for line in block.splitlines()
        if line.startswith("inlier ")
    ]


def test_every_command_is_in_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"inlier {name}" not in readme and f"`{name}`" not in readme] == ["demo"]
    assert "make demo" in readme  # which runs it


@pytest.mark.parametrize(("page", "line"), examples())
def test_examples_use_commands_and_options_that_exist(page: str, line: str) -> None:
    _, name, *rest = shlex.split(line)
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_walk_names_files_that_exist() -> None:
    named = re.findall(r"`([a-z_]+/?[a-z_]*\.py)`", (ROOT / "docs" / "walk.md").read_text(encoding="utf-8"))
    assert len(named) > 12
    for name in named:
        assert (ROOT / "src" / "inlier" / name).exists() or (ROOT / name).exists(), name
