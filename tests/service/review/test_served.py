"""The pages of a review as a part of the service, beside its verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from inlier.databases import as_url
from inlier.service.keys import add_key


def test_the_service_shows_the_pages_of_a_review(
    make_client: Callable[..., TestClient], prepared: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    reviewer, app = (add_key(keys, name, scopes=(name,)) for name in ("review", "inspect"))
    client = make_client(review=as_url(str(prepared)), keys=keys)
    for path in ("/review", "/review/grid", "/review/disagreements"):
        page = client.get(path, headers={"x-api-key": reviewer})
        assert page.status_code == 200 and "script-src 'self'" in page.headers["content-security-policy"]
        assert client.get(path, headers={"x-api-key": app}).status_code == 403
        assert client.get(path).status_code == 401
    assert client.get("/v1/models", headers={"x-api-key": app}).status_code == 200


def test_without_a_review_there_are_no_such_pages(make_client: Callable[..., TestClient]) -> None:
    assert make_client().get("/review").status_code == 404
