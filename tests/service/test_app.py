"""The OpenAPI document is true: schemathesis calls every route with what it allows, and what it does not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from inlier.errors import ConfigError, ModelError
from inlier.service.app import create_app
from inlier.service.keys import add_key
from inlier.service.settings import Settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")


def test_every_route_is_what_its_schema_says(model_folder: Path, tmp_path: Path) -> None:
    from schemathesis.python import asgi

    record = f"sqlite:///{tmp_path / 'record.db'}"
    app = create_app(Settings(models={"parts": model_folder}, record=record, hosts=("testserver",)))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen: dict[str, set[int]] = {}
    for operation in [found.ok() for found in schema.get_all_operations()]:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def call(case: schemathesis.Case) -> None:
            response = case.call()
            seen.setdefault(case.operation.label, set()).add(response.status_code)
            # That any bytes are a photo is nothing that a schema could say.
            case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])

        call()
    asgi.shutdown_lifespans()
    assert len(seen) == 9
    assert not any(status >= 500 for statuses in seen.values() for status in statuses)
    assert {200} <= seen["GET /v1/models"] and {200} <= seen["GET /v1/drift"]


def test_answers_to_photos_are_what_the_schema_says(client: TestClient, photos: list[bytes]) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    inspect, batch = schema["/v1/inspect"]["POST"], schema["/v1/inspect/batch"]["POST"]
    for photo in photos:
        inspect.validate_response(client.post("/v1/inspect", content=photo))
    for answer in (
        client.post("/v1/inspect", content=photos[0], headers={"content-type": "text/plain"}),
        client.post("/v1/inspect", content=b""),
        client.post("/v1/inspect?heatmap=png", content=photos[0]),
        client.post("/v1/inspect?model=none", content=photos[0]),
    ):
        inspect.validate_response(answer)
    files = [("photos", ("a", photos[0])), ("photos", ("b", b"x"))]
    batch.validate_response(client.post("/v1/inspect/batch", files=files))
    schema["/v1/drift"]["GET"].validate_response(client.get("/v1/drift"))
    schema["/v1/models"]["GET"].validate_response(client.get("/v1/models"))


def test_the_schema_asks_for_keys_where_the_service_does(
    make_client: Callable[..., TestClient], client: TestClient, tmp_path: Path
) -> None:
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]
    add_key(tmp_path / "keys.json", "app", ["inspect"])
    schema = make_client(keys=tmp_path / "keys.json").get("/openapi.json").json()
    assert set(schema["components"]["securitySchemes"]) == {"bearer", "header"}
    assert schema["paths"]["/v1/inspect"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in schema["paths"]["/healthz"]["get"]


def test_what_cannot_be_loaded_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    settings = Settings(models={"parts": tmp_path / "none"}, record=f"sqlite:///{tmp_path / 'record.db'}")
    with pytest.raises(ModelError, match="does not exist"), TestClient(create_app(settings)):
        pass
    with pytest.raises(ConfigError, match=r"The key file .* does not exist"):
        create_app(Settings(models={"parts": tmp_path}, keys=tmp_path / "keys.json"))


def test_a_photo_in_memory_is_what_it_is_in_a_file(client: TestClient, photos: list[bytes], tmp_path: Path) -> None:
    """Every format that the library reads is taken as a body."""
    from PIL import Image

    image = Image.open(io.BytesIO(photos[0])).convert("RGB")
    scores = set()
    for kind in ("PNG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        answer = client.post(
            "/v1/inspect", content=buffer.getvalue(), headers={"content-type": f"image/{kind.lower()}"}
        )
        scores.add(answer.json()["score"])
    assert len(scores) == 1
