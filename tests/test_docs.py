"""The documentation is true: commands parse, links lead somewhere, defaults are shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from inlier.build import DETECTORS, resolve
from inlier.cli.main import app
from inlier.config import read_config
from inlier.experiments.spaces import DETECTOR_SPACES, read_space
from inlier.experiments.study_plan import Study

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = typer.main.get_command(app).commands


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def _blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            if fence[1] in languages:
                line = text.count("\n", 0, fence.start()) + 1
                found.append(Block(str(page.relative_to(ROOT)), line, fence[1], fence[2]))
    return found


def _invocations() -> dict[str, list[str]]:
    """The arguments of each documented command that begins with ``inlier``, by where it stands."""
    found = {}
    for block in _blocks("console", "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ")
            if (
                command.startswith("inlier ")
                and not command.startswith("inlier --")
                and (block.language == "bash" or line.startswith("$ "))
            ):
                found[f"{_name(block)}: {command}"] = shlex.split(command, comments=True)[1:]
    return found


def _name(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert f"inlier {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


INVOCATIONS = _invocations()


@pytest.mark.parametrize("arguments", INVOCATIONS.values(), ids=INVOCATIONS)
def test_every_documented_command_is_understood(arguments: list[str]) -> None:
    command, *rest = arguments
    COMMANDS[command].make_context(command, rest)  # parses, and runs nothing


def test_the_main_job_is_documented_as_commands() -> None:
    assert {command for command, *_ in INVOCATIONS.values()} >= {"fit", "inspect", "evaluate"}


def test_every_option_named_in_a_page_exists() -> None:
    known = {name for command in COMMANDS.values() for option in command.params for name in option.opts}
    for page in PAGES:
        for code in re.findall(r"`(--[^`]*)`", page.read_text(encoding="utf-8")):
            for option in re.findall(r"--[a-z][a-z0-9-]*", code):
                assert option in known, f"{page.name} names {option}"


@pytest.mark.parametrize("block", _blocks("toml"), ids=_name)
def test_documented_configurations_are_accepted(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "inlier.toml"
    path.write_text(block.text, encoding="utf-8")
    config = read_config(path)
    if "study" in config:
        assert Study.read(path).cells
        return
    if space := config.pop("space", None):
        name = config["fit"]["detector"]
        assert read_space(name, DETECTOR_SPACES[name], space)
    resolved = resolve(config, device="cpu")
    assert all(resolved[section][key] == value for section, of in config.items() for key, value in of.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(linked), f"{page.name} links to {target}"


def test_every_file_named_in_the_walk_exists() -> None:
    text = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_/]+\.py)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / "src" / "inlier" / name).exists()] == []


def test_help_shows_the_defaults_that_only_the_configuration_knows(
    inlier: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = inlier("fit", "--help")
    shown = " ".join(re.findall(r"\[default: \((.*?)\)\]", out))
    for default in ("combined", "efficientnet_lite0", "224", "2GiB", "0.05", "0.2", "good,normal,ok"):
        assert default in shown


def test_help_and_the_page_on_detectors_name_every_one() -> None:
    (option,) = (option for option in COMMANDS["fit"].params if option.name == "detector")
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert [name for name in DETECTORS if f"| `{name}` |" not in page] == []
    assert set(re.findall(r"[a-z-]+", option.help)) - {"or"} == set(DETECTORS)


def _anchors(page: Path) -> set[str]:
    if page.name == "commands.md":  # which the site makes from the program
        return {f"command-{name}" for name in COMMANDS}
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
