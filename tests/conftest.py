"""What several tests share: a small generated data set, a model fitted on it, the command line, a browser, and
PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from inlier.adapted import AdaptedBackbone
from inlier.data.manifest import Manifest
from inlier.data.synthetic_folders import write_dataset
from inlier.features.backbone import Backbone
from inlier.model import Model
from inlier.workflow import fit

TINY = {"input": {"size": 64}, "backbone": {"precision": "float32"}, "fit": {"augment": 0}}
"""Sections that make everything small, and equal on every machine."""

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads PyTorch computes with; after the test they are as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest: 18 normal photos to fit on, in three visits; dev and test with defects and masks."""
    directory = tmp_path_factory.mktemp("dataset")
    write_dataset(
        directory,
        num_train=18,
        num_dev=8,
        num_test=8,
        num_defective=8,
        num_unrelated=4,
        components=("piston-crown", "bolted-flange"),
        size=(64, 80),
    )
    return directory


@pytest.fixture(scope="session")
def data(dataset: Path) -> Manifest:
    return Manifest.read(dataset)


@pytest.fixture(scope="session")
def model(data: Manifest) -> Model:
    fitted, unreadable = fit(TINY, data)
    assert not unreadable
    return fitted


@pytest.fixture(scope="session")
def model_folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, saved; a test that changes it copies it first."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    model.save(directory)
    return directory


@pytest.fixture(scope="session")
def adapted() -> AdaptedBackbone:
    """A tiny backbone that learned nothing, with an adaptor on layer 3, and a gate that found no gain."""
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(1, 2, 3, 4), is_pretrained=False)
    backbone.adapt({3: torch.nn.Conv2d(backbone.channels[2], 24, kernel_size=1)})
    gain = {"value": -0.004, "low": -0.012, "high": 0.005}
    gate = {"verdict": "no evidence", "measures": [{"kind": "anomalies", "gain": gain}]}
    facts = {"objective": "simclr", "data_fingerprint": "0" * 64, "gate": gate}
    return AdaptedBackbone(backbone, {"finetune": {"objective": "simclr"}}, facts, [{"step": 1, "loss": 2.5}])


@pytest.fixture(scope="session")
def backbone_folder(adapted: AdaptedBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapted backbone, saved as ``ships``; a test that changes it copies it first."""
    directory = tmp_path_factory.mktemp("adapted") / "ships"
    adapted.save(directory)
    return directory


class Ran(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def inlier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command ``inlier`` with these arguments in this process."""
    from inlier.cli.main import run

    def call(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["inlier", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        return Ran(int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photos, which are not part of the repository: beside it, or where INLIER_DATA says."""
    folder = Path(os.environ.get("INLIER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there are no real photos in {folder}; INLIER_DATA can name another folder")
    return folder


@pytest.fixture
def postgres(postgres_server: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty database, which no other test uses."""
    import psycopg

    name = f"database_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return f"{postgres_server}/{name}".replace("postgresql", "postgresql+psycopg", 1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server, which ends with the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    as_user: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL cannot run as root, and runuser is not there to change the user")
        as_user = ["runuser", "-u", "postgres", "--"]
    folder = Path(tempfile.mkdtemp(prefix="inlier-postgres-"))  # pytest's own folders are closed to other users
    if as_user:
        shutil.chown(folder, "postgres")
    data, binaries = folder / "data", programs[-1].parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initdb = [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "tester", "--auth=trust", "--no-sync"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    with (folder / "log").open("wb") as log:
        subprocess.run(initdb, check=True, stdout=log, stderr=log, cwd="/")
        subprocess.run([*control, "-o", options, "start"], check=True, stdout=log, stderr=log, cwd="/")
    try:
        yield f"postgresql://tester@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")  # as long as it is open, nothing else in this thread can run an event loop
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
