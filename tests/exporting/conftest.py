"""The generated photos' model, exported once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from inlier.data.manifest import Manifest
from inlier.exporting.export import Exported, export
from inlier.exporting.portable import Portable
from inlier.exporting.web import PACKAGE, VERSION
from inlier.model import Model


@pytest.fixture(scope="session")
def written(model: Model, data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What ``inlier export`` wrote of the model; a test that changes the file copies it first."""
    return export(model, tmp_path_factory.mktemp("exported") / "model.onnx", data=data)


@pytest.fixture(scope="session")
def exported(written: Exported) -> Path:
    return written.path


@pytest.fixture(scope="session")
def portable(exported: Path) -> Portable:
    return Portable.load(exported, num_threads=1)


@pytest.fixture(scope="session")
def package() -> Path:
    """The npm package that runs models in a browser, unpacked; it does not come with the repository."""
    default = Path(__file__).parents[2] / "node_modules" / PACKAGE
    folder = Path(os.environ.get("INLIER_ONNXRUNTIME_WEB", default))
    if not folder.is_dir():
        pytest.skip(f"{PACKAGE} {VERSION} is not in {folder}; INLIER_ONNXRUNTIME_WEB can name another folder")
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """Serves files as any plain server does, without a word."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def served() -> Callable[[Path], AbstractContextManager[str]]:
    """Serves a folder, within a block, and gives its address."""
    return _served


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def judge() -> Callable[..., list[dict[str, Any]]]:
    """Chooses photos on an empty page, and returns what their cards say, in the order given."""
    return _judge


def _judge(page: Any, *files: Path) -> list[dict[str, Any]]:
    """Chooses photos on an empty page, and returns what their cards say, in the order given."""
    if page.locator("#clear").is_visible():
        page.locator("#clear").click()
    page.locator("#chooser").set_input_files([str(path) for path in files])
    page.wait_for_function(
        "number => document.querySelectorAll('.card[data-verdict]').length === number",
        arg=len(files),
        timeout=120_000,
    )
    cards: list[dict[str, Any]] = page.evaluate(
        """[...document.querySelectorAll('.card')].reverse().map((card) => ({
            name: card.querySelector('.name').textContent, verdict: card.dataset.verdict,
            score: Number(card.dataset.score), p: Number(card.dataset.p),
            meaning: card.querySelector('.meaning').textContent,
            component: card.querySelector('.component').textContent,
            size: (card.dataset.pixels ?? '0 x 0').split(' x ').map(Number),
        }))"""
    )
    return cards
