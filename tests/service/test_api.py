from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inlier.data.manifest import Manifest, Photo
from inlier.model import Model
from inlier.service.keys import add_key
from inlier.service.settings import Limits
from inlier.workflow import inspect_photos

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Headers with a key for each scope, and for another caller."""
    path = tmp_path / "keys.json"
    scopes = {"app": ["inspect"], "other": ["inspect"], "expert": ["review"], "boss": ["admin"]}
    return {name: {"authorization": f"Bearer {add_key(path, name, of)}"} for name, of in scopes.items()}


def test_the_answer_is_what_the_library_says(client: TestClient, model: Model, data: Manifest) -> None:
    (photo,) = data.select("test").photos[:1]
    (inspection,) = inspect_photos(model, [Photo(photo.path, "test")])
    answer = client.post("/v1/inspect", content=Path(str(photo.path)).read_bytes(), headers=JPEG).json()
    verdict = inspection.verdict
    assert (answer["score"], answer["p_value"], answer["verdict"]) == (verdict.score, verdict.p_value, verdict.verdict)
    assert (answer["component"], answer["component_probability"]) == (verdict.component, verdict.component_probability)
    assert answer["model"] == {"name": "parts", "identity": model.identity}
    assert [reason["box"] for reason in answer["reasons"]] == [list(reason.box) for reason in inspection.evidence]
    assert answer["reasons"][0]["distance"] == inspection.evidence[0].distance
    timing = answer["timing_ms"]
    assert timing["total"] == pytest.approx(sum(timing.values()) - timing["total"], abs=0.1)
    assert min(timing.values()) >= 0 and timing["inspect"] > 0


def test_form_and_body_and_company_change_nothing(client: TestClient, photos: list[bytes]) -> None:
    alone = [client.post("/v1/inspect", content=photo, headers=JPEG).json() for photo in photos]
    in_form = client.post("/v1/inspect", files={"photo": ("one.jpg", photos[0])}).json()
    assert (in_form["photo"], in_form["score"]) == ("one.jpg", alone[0]["score"])
    together = client.post("/v1/inspect/batch", files=[("photos", (f"{k}.jpg", of)) for k, of in enumerate(photos)])
    answers = together.json()["photos"]
    assert [answer["photo"] for answer in answers] == [f"{k}.jpg" for k in range(len(photos))]
    scores = [[answer["score"] for answer in of] for of in (answers, alone)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_of_several_photos_the_unreadable_one_says_why(client: TestClient, photos: list[bytes]) -> None:
    files = [("photos", (name, of)) for name, of in (("a", photos[0]), ("b", b"x"), ("c", photos[1]))]
    answers = client.post("/v1/inspect/batch", files=files).json()["photos"]
    assert [answer["verdict"] == "unreadable" for answer in answers] == [False, True, False]
    assert answers[1]["error"].startswith("not a picture in a known format")
    (row,) = client.get(f"/v1/inspections/{answers[1]['id']}").json()["verdicts"]
    assert (row["verdict"], row["error"], row["score"]) == ("unreadable", answers[1]["error"], None)


def test_a_batch_has_a_largest_size(make_client: Callable[..., TestClient], photos: list[bytes]) -> None:
    client = make_client(limits=Limits(max_photos=2))
    files = [("photos", ("a", photos[0]))] * 3
    assert client.post("/v1/inspect/batch", files=files[:2]).status_code == 200
    refused = client.post("/v1/inspect/batch", files=files)
    assert refused.status_code == 413 and "At most 2 photos" in refused.text


def test_the_heatmap_is_a_picture_of_the_photo(client: TestClient, photos: list[bytes]) -> None:
    answer = client.post("/v1/inspect", content=photos[-1], headers=JPEG).json()
    linked = client.get(answer["heatmap"])
    direct = client.post("/v1/inspect?heatmap=png", content=photos[-1], headers=JPEG)
    assert linked.headers["content-type"] == direct.headers["content-type"] == "image/png"
    assert linked.content == direct.content
    assert direct.headers["x-verdict"] == answer["verdict"] and re.fullmatch(
        "[0-9a-f]{32}", direct.headers["x-inspection"]
    )
    original = np.asarray(Image.open(io.BytesIO(photos[-1])).convert("RGB"))
    drawn = np.asarray(Image.open(io.BytesIO(linked.content)))
    assert drawn.shape == original.shape and (drawn != original).any()
    assert client.get(f"/v1/inspections/{'0' * 32}/heatmap.png").status_code == 404
    assert client.get("/v1/inspections/..%2f..%2fetc/heatmap.png").status_code in (404, 422)
    assert client.post("/v1/inspect?heatmap=gif", content=photos[-1], headers=JPEG).status_code == 422


def test_reference_pictures_are_those_of_the_model(client: TestClient, model: Model, photos: list[bytes]) -> None:
    reason = client.post("/v1/inspect", content=photos[0], headers=JPEG).json()["reasons"][0]
    picture = client.get(reason["reference_picture"])
    assert picture.content == model.references.thumbnails[reason["reference"]]
    assert reason["reference_name"] == Path(model.references.names[reason["reference"]]).name
    assert "/" not in reason["reference_name"]
    assert client.get(f"/v1/models/parts/references/0.webp?identity={'0' * 12}").status_code == 404
    assert client.get("/v1/models/parts/references/999.webp").status_code == 404
    assert client.get("/v1/models/others/references/0.webp").status_code == 404


def test_models_and_health_are_told(client: TestClient, model: Model) -> None:
    (served,) = client.get("/v1/models").json()["models"]
    assert (served["name"], served["identity"], served["detector"]) == ("parts", model.identity, "combined")
    assert served["components"] == ["bolted-flange", "piston-crown"] and not served["is_filter"]
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready" and ready["models"] == {"parts": model.identity}


def test_metrics_count_what_was_answered(make_client: Callable[..., TestClient], photos: list[bytes]) -> None:
    client = make_client()
    for photo in photos[:3]:
        client.post("/v1/inspect", content=photo, headers=JPEG)
    client.post("/v1/inspect", content=b"", headers=JPEG)
    client.get("/secret/of/mine")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    told = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(told['inlier_requests_total{route="/v1/inspect",status="200"}']) == 3
    assert float(told['inlier_requests_total{route="none",status="404"}']) == 1
    assert sum(float(value) for name, value in told.items() if name.startswith("inlier_verdicts_total")) == 4
    assert float(told["inlier_waiting_photos"]) == float(told["inlier_held_bytes"]) == 0
    assert "secret" not in answer.text


def test_each_scope_opens_what_it_is_for(
    make_client: Callable[..., TestClient], keys: dict[str, dict[str, str]], photos: list[bytes], tmp_path: Path
) -> None:
    client = make_client(keys=tmp_path / "keys.json", host="0.0.0.0")
    bare = client.post("/v1/inspect", content=photos[0], headers=JPEG)
    assert bare.status_code == 401 and bare.headers["www-authenticate"] == "Bearer"
    assert client.post("/v1/inspect", content=photos[0], headers=JPEG | {"x-api-key": "no"}).status_code == 401
    assert client.post("/v1/inspect", content=photos[0], headers=JPEG | {"authorization": "Basic x"}).status_code == 401
    key = keys["app"]["authorization"].removeprefix("Bearer ")
    assert client.post("/v1/inspect", content=photos[0], headers=JPEG | {"x-api-key": key}).status_code == 200
    for path, allowed in (
        ("/v1/models", {"app", "other", "boss"}),
        ("/v1/drift", {"expert", "boss"}),
        ("/metrics", {"boss"}),
    ):
        for name, headers in keys.items():
            assert client.get(path, headers=headers).status_code == (200 if name in allowed else 403), (path, name)
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    refused = client.get("/metrics", headers=keys["app"]).json()["error"]
    assert (refused["code"], refused["message"]) == ("scope_missing", "The key of app has no scope admin.")


def test_nobody_sees_the_photos_of_others(
    make_client: Callable[..., TestClient], keys: dict[str, dict[str, str]], photos: list[bytes], tmp_path: Path
) -> None:
    client = make_client(keys=tmp_path / "keys.json")
    answer = client.post("/v1/inspect", content=photos[0], headers=JPEG | keys["app"]).json()
    for path in (answer["heatmap"], f"/v1/inspections/{answer['id']}"):
        statuses = [client.get(path, headers=keys[name]).status_code for name in ("app", "boss", "other", "expert")]
        assert statuses == [200, 200, 404, 403]
    assert client.get(f"/v1/inspections/{answer['id']}", headers=keys["app"]).json()["verdicts"][0]["caller"] == "app"


def test_each_key_has_a_rate_of_its_own(
    make_client: Callable[..., TestClient], keys: dict[str, dict[str, str]], photos: list[bytes], tmp_path: Path
) -> None:
    client = make_client(keys=tmp_path / "keys.json", limits=Limits(rate=0.5))
    statuses = [
        client.post("/v1/inspect", content=photos[0], headers=JPEG | keys[name]).status_code
        for name in ("app", "app", "other")
    ]
    assert statuses == [200, 429, 200]
    files = [("photos", ("a", photos[0]))] * 3
    limited = client.post("/v1/inspect/batch", files=files, headers=keys["boss"])
    assert limited.status_code == 429 and int(limited.headers["retry-after"]) >= 1


def test_photos_are_kept_only_when_asked(
    make_client: Callable[..., TestClient], photos: list[bytes], tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    client = make_client()
    answer = client.post("/v1/inspect", files={"photo": ("../a.jpg", photos[0])}).json()
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"record.db", "record.db-wal", "record.db-shm"}
    assert client.get(f"/v1/inspections/{answer['id']}").json()["verdicts"][0]["kept"] is None


def test_kept_photos_are_named_by_their_digest_in_the_record(
    make_client: Callable[..., TestClient], photos: list[bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    client = make_client(keep_photos=folder)
    for _ in range(2):
        answer = client.post("/v1/inspect", files={"photo": ("../a.jpg", photos[0])}).json()
    (row,) = client.get(f"/v1/inspections/{answer['id']}").json()["verdicts"]
    assert row["kept"] == f"{row['digest'][:2]}/{row['digest']}.jpg"
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    assert path == folder / row["kept"] and path.read_bytes() == photos[0]


def test_logs_tell_who_and_what_and_no_secret(
    make_client: Callable[..., TestClient],
    keys: dict[str, dict[str, str]],
    photos: list[bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from inlier.service.logs import JsonLines

    client = make_client(keys=tmp_path / "keys.json")
    with caplog.at_level(logging.INFO, logger="inlier.service"):
        given = {"x-request-id": "job-7"}
        client.post("/v1/inspect?model=parts", content=photos[0], headers=JPEG | keys["app"] | given)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    (line,) = [line for line in lines if line["message"] == "request"]
    assert (line["request_id"], line["caller"], line["route"], line["status"]) == ("job-7", "app", "/v1/inspect", 200)
    assert line["verdicts"] and line["models"] and line["ms"] > 0
    assert keys["app"]["authorization"].removeprefix("Bearer ") not in json.dumps(lines)
