"""A service over ASGI, one in a process of its own, and photos for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.data.manifest import Manifest

pytest.importorskip("fastapi", reason="FastAPI is not installed")

from starlette.testclient import TestClient

from inlier.service.app import create_app
from inlier.service.settings import Settings

HOME = "http://127.0.0.1"
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="session")
def photos(data: Manifest) -> list[bytes]:
    """Photos of the split test, normal ones first."""
    of = sorted(data.select("test").photos, key=lambda photo: bool(photo.is_anomalous))
    return [Path(str(photo.path)).read_bytes() for photo in of]


@pytest.fixture
def make_client(model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts a service with these settings, which ends with the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> TestClient:
            settings = {"models": {"parts": model_folder}, "record": f"sqlite:///{tmp_path / 'record.db'}"} | settings
            client = TestClient(create_app(Settings(**settings)), base_url=HOME, raise_server_exceptions=False)
            return stack.enter_context(client)

        yield make


@pytest.fixture(scope="module")
def client(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service of one model, for the tests of a module."""
    record = tmp_path_factory.mktemp("service") / "record.db"
    settings = Settings(models={"parts": model_folder}, record=f"sqlite:///{record}")
    with TestClient(create_app(settings), base_url=HOME, raise_server_exceptions=False) as client:
        yield client


def png(width: int, height: int, *, seed: int = 0) -> bytes:
    """A photo of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


SERVER = """
import json, sys
from pathlib import Path
from inlier.service.server import serve
from inlier.service.settings import Limits, Settings
told = json.loads(sys.argv[1])
limits = Limits(**told.pop("limits", {}))
models = {name: Path(folder) for name, folder in told.pop("models").items()}
serve(Settings(models=models, limits=limits, **told))
"""


class Server:
    """``serve`` in a process of its own."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / f"log-{self.port}"
        told |= {"port": self.port}
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", SERVER, json.dumps(told)]
            self.process = subprocess.Popen(command, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    @property
    def url(self) -> str:
        return f"{HOME}:{self.port}"

    def _answers(self) -> bool:
        import httpx2

        try:
            return httpx2.get(f"{self.url}/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@pytest.fixture
def start_server(model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server with these settings, which ends with the test."""
    started: list[Server] = []

    def start(**told: Any) -> Server:
        told = {"models": {"parts": str(model_folder)}, "record": f"sqlite:///{tmp_path / 'record.db'}"} | told
        started.append(Server(tmp_path, told))
        return started[-1]

    yield start
    for server in started:
        server.end()
