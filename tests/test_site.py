"""The documentation site: builds without a warning, needs no network, and holds every command and public name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import inlier

pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install 'inlier[docs]')")
DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "tutorial-python.ipynb"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "-d", folder / "trees"]
    ran = subprocess.run([*command, DOCS, folder / "html"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed (pip install 'inlier[docs]')")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_pages_fetch_nothing(site: Path) -> None:
    fetched = re.compile(
        r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*stylesheet[^>]*//"""
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []
    sheets = [
        path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8"))
    ]
    assert sheets == []


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    import typer

    from inlier.cli.main import app

    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        section = text.partition(f'id="inlier-{name}"')[2]
        section = section[: section.index("</section>")]
        options = [option for of in command.params for option in of.opts if option.startswith("--")]
        assert [option for option in options if option not in section and option != "--help"] == [], name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    names = [name for name in inlier.__all__ if not name.startswith("__")]
    assert [name for name in names if f'id="inlier.{name}"' not in text] == []


def test_the_notebook_is_shown_as_it_was_run(site: Path, notebook: Any) -> None:
    text = (site / "tutorial-python.html").read_text(encoding="utf-8")
    assert text.count("<img") >= 2 and "image_auroc" in text
    assert NOTEBOOK.stat().st_size < 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)


@pytest.mark.real
@pytest.mark.slow
def test_the_notebook_runs_anew(notebook: Any, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install 'inlier[docs]')")
    place = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources=place)
    ran = client.execute()
    printed = "".join(output.get("text", "") for cell in ran.cells for output in cell.get("outputs", ()))
    assert "image_auroc" in printed and "unrelated-" in printed
