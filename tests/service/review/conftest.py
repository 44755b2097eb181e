"""A review of the generated photos, copied for each test, and its pages in this process and in a browser."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from inlier.data.manifest import Manifest
from inlier.databases import as_url
from inlier.model import Model
from inlier.reviewing.decisions import Review
from inlier.reviewing.preparing import prepare
from inlier.service.access import Access
from inlier.service.keys import add_key
from inlier.service.review.routes import review_router
from inlier.service.review.standalone import create_review_app
from inlier.service.review.workbench import Workbench
from inlier.service.security import add_security

Opener = Callable[..., Workbench]


@pytest.fixture(scope="session")
def prepared(
    model: Model, model_folder: Path, dataset: Path, data: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A database with a review in which nothing is decided yet; a test copies it."""
    database = tmp_path_factory.mktemp("review") / "review.db"
    prepare(model, data, as_url(str(database)), model_folder=model_folder, data_folder=dataset).close()
    return database


@pytest.fixture
def bench(prepared: Path, model_folder: Path, model: Model, data: Manifest, tmp_path: Path) -> Iterator[Workbench]:
    """A review and a model of this test's own."""
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(prepared, tmp_path / "review.db")
    review = Review.open(as_url(str(tmp_path / "review.db")))
    opened = Workbench(review, model, data, folder=tmp_path / "model", reviewer="Ada")
    yield opened
    opened.wait(60)
    opened.close()


@pytest.fixture
def client(bench: Workbench) -> Iterator[TestClient]:
    """The pages of ``inlier review``."""
    with TestClient(create_review_app(bench), base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture
def signed_in(bench: Workbench, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Makes clients of a service with API keys, each with a key of this name and scope."""
    keys = tmp_path / "keys.json"
    secrets = {name: add_key(keys, name, scopes=scopes) for name, scopes in _PEOPLE.items()}
    app = FastAPI()
    app.state.access = Access(keys)
    app.include_router(review_router(lambda: bench))
    add_security(app, hosts=())

    def make(name: str | None) -> TestClient:
        return TestClient(app, headers={"x-api-key": secrets[name]} if name else {})

    yield make


_PEOPLE = {"Ada": ("review",), "Zelda": ("review",), "Cy": ("review",), "app": ("inspect",), "root": ("admin",)}


@pytest.fixture(scope="session")
def served() -> Callable[[FastAPI], AbstractContextManager[str]]:
    """Lets an app listen, within a block, and gives its address."""
    return _served


@contextmanager
def _served(app: FastAPI) -> Iterator[str]:
    """The address of an app that listens on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
