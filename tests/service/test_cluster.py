from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from inlier.errors import ConfigError, MissingExtraError
from inlier.service.settings import Settings

pytest.importorskip("ray", reason="Ray is not installed")

from inlier.service import cluster


def test_several_replicas_need_a_database_that_all_of_them_reach(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    with pytest.raises(ConfigError, match="2 replicas need a database that all of them reach"):
        cluster.deployment(Settings(models={"parts": tmp_path}), num_replicas=2)


def test_without_ray_serve_one_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    monkeypatch.delattr("ray.serve", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'inlier\[scale,service\]'"):
        cluster.deployment(Settings(models={"parts": tmp_path}))


@pytest.mark.slow
def test_the_same_app_answers_behind_ray_serve(model_folder: Path, photos: list[bytes], tmp_path: Path) -> None:
    """A cluster of this machine alone, and one replica."""
    serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed")
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(models={"parts": model_folder}, record=f"sqlite:///{tmp_path / 'record.db'}")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(cluster.deployment(settings), name="inlier", route_prefix="/")
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/inspect", content=photos[0], timeout=120)
        assert answer.status_code == 200 and answer.json()["model"]["name"] == "parts"
        url = f"http://127.0.0.1:{port}/v1/inspections/{answer.json()['id']}"
        assert httpx2.get(url, timeout=120).status_code == 200
    finally:
        serve.shutdown()
        ray.shutdown()
