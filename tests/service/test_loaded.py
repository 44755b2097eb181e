from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from inlier.decision.calibration import Calibration
from inlier.model import Model

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    """The model in a folder that may be replaced."""
    model.save(tmp_path / "served")
    return tmp_path / "served"


def other(model: Model) -> Model:
    """A model that rejects everything."""
    return replace(model, calibration=Calibration(np.linspace(-1e6, -9e5, 99)), facts=model.facts | {"other": True})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_replaced_model_is_taken_up_without_a_dropped_request(
    make_client: Callable[..., TestClient], folder: Path, model: Model, photos: list[bytes]
) -> None:
    client = make_client(models={"parts": folder}, reload_seconds=0.05)
    new, seen, stop = other(model), [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = client.post("/v1/inspect", content=photos[0], headers=JPEG)
            seen.append((answer.status_code, answer.json()["model"]["identity"], answer.json()["verdict"]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(seen) > 5)
        new.save(folder)
        wait_for(lambda: any(identity == new.identity for _, identity, _ in seen))
        before = len(seen)
        wait_for(lambda: len(seen) > before + 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _, _ in seen} == {200}
    verdicts = {identity: verdict for _, identity, verdict in seen}
    assert set(verdicts) == {model.identity, new.identity} and verdicts[new.identity] == "reject"
    told = client.get("/metrics").text
    assert 'inlier_model_reloads_total{model="parts"} 1.0' in told
    assert f'inlier_model_info{{identity="{new.identity}",model="parts"}} 1.0' in told and model.identity not in told


def test_a_damaged_model_is_refused_and_the_one_before_stays(
    make_client: Callable[..., TestClient], folder: Path, model: Model, photos: list[bytes]
) -> None:
    client = make_client(models={"parts": folder}, reload_seconds=60)
    models = client.app.state.inspections.models  # type: ignore[attr-defined]
    whole = (folder / "detector.safetensors").read_bytes()
    (folder / "detector.safetensors").write_bytes(whole[:-9])  # in place: what is in use must not lie in this file
    models.look()
    assert client.post("/v1/inspect", content=photos[0], headers=JPEG).json()["model"]["identity"] == model.identity
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["refused"] == {"parts": "parts is damaged: detector.safetensors is not what was written."}
    assert client.get("/v1/models").json()["models"][0]["refused"] == ready["refused"]["parts"]
    assert "What lies in its folder now is not used" in client.get("/").text
    assert 'inlier_model_refused{model="parts"} 1.0' in client.get("/metrics").text
    (folder / "detector.safetensors").write_bytes(whole)
    models.look()
    assert client.get("/readyz").json()["refused"] == {}
    assert 'inlier_model_refused{model="parts"} 0.0' in client.get("/metrics").text
    shutil.rmtree(folder)
    models.look()
    assert client.post("/v1/inspect", content=photos[0], headers=JPEG).status_code == 200


def test_of_several_models_one_is_named(
    make_client: Callable[..., TestClient], folder: Path, model: Model, photos: list[bytes]
) -> None:
    other(model).save(folder.parent / "strict")
    client = make_client(models={"mild": folder, "strict": folder.parent / "strict"})
    refused = client.post("/v1/inspect", content=photos[0], headers=JPEG)
    assert refused.status_code == 422
    assert refused.json()["error"] | {"request_id": ""} == {
        "code": "model_needed",
        "message": "Say which model: ?model= mild, strict.",
        "request_id": "",
    }
    answers = [
        client.post(f"/v1/inspect?model={name}", content=photos[0], headers=JPEG).json() for name in ("mild", "strict")
    ]
    assert [answer["model"]["name"] for answer in answers] == ["mild", "strict"]
    assert answers[0]["score"] == answers[1]["score"] and answers[1]["verdict"] == "reject"
    assert client.post("/v1/inspect?model=../mild", content=photos[0], headers=JPEG).status_code == 404


def test_a_filter_tells_what_is_known_and_passes_it_on(
    make_client: Callable[..., TestClient], folder: Path, model: Model, photos: list[bytes]
) -> None:
    """One call: not a part that we know; or the component, and its condition where there is a model for it."""
    accepting = replace(model, calibration=Calibration(np.linspace(1e5, 1e6, 99)), facts=model.facts | {"filter": 1})
    accepting.save(folder.parent / "known")
    other(model).save(folder.parent / "strict")
    client = make_client(models={"piston-crown": folder.parent / "strict"}, filter=folder.parent / "known")
    files = [("photos", (str(number), photo)) for number, photo in enumerate(photos)]
    answers = client.post("/v1/inspect/batch", files=files).json()["photos"]
    components = {answer["component"] for answer in answers}
    assert components == {"piston-crown", "bolted-flange"}
    for answer in answers:
        assert answer["part"]["is_known"] and answer["part"]["model"]["name"] == "filter"
        if answer["part"]["component"] == "piston-crown":
            assert (answer["verdict"], answer["model"]["name"]) == ("reject", "piston-crown")
            assert answer["message"] == "piston-crown looks unlike the normal photos."
        else:
            assert (answer["verdict"], answer["model"]["name"]) == ("accept", "filter")
            assert answer["message"] == "bolted-flange: there is no model of its condition."
    of = next(answer for answer in answers if answer["component"] == "piston-crown")
    steps = [row["step"] for row in client.get(f"/v1/inspections/{of['id']}").json()["verdicts"]]
    assert steps == ["filter", "condition"]
    assert client.post("/v1/inspect?model=filter", content=photos[0], headers=JPEG).json()["part"] is None
    assert [served["is_filter"] for served in client.get("/v1/models").json()["models"]] == [False, True]


def test_what_the_filter_does_not_know_goes_no_further(
    make_client: Callable[..., TestClient], folder: Path, model: Model, photos: list[bytes]
) -> None:
    other(model).save(folder.parent / "strict")
    client = make_client(models={"piston-crown": folder}, filter=folder.parent / "strict")
    answer = client.post("/v1/inspect", content=photos[0], headers=JPEG).json()
    assert answer["message"] == "Not a part that we know." and not answer["part"]["is_known"]
    assert (answer["verdict"], answer["part"]["component"], answer["model"]["name"]) == ("reject", None, "filter")
    assert len(client.get(f"/v1/inspections/{answer['id']}").json()["verdicts"]) == 1
