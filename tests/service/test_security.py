from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from inlier.errors import ConfigError
from inlier.service.security import POLICY, add_security
from inlier.service.settings import LOCAL_HOSTS


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    add_security(app, hosts=LOCAL_HOSTS)

    @app.api_route("/do", methods=["GET", "POST"])
    async def do() -> dict[str, str]:
        return {"done": "yes"}

    @app.get("/bug")
    async def bug() -> None:
        raise KeyError("secret of the house")

    @app.get("/mend")
    async def mend() -> None:
        raise ConfigError("Something that the user can mend.")

    return app


@pytest.fixture
def browser(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.mark.parametrize("path", ["/do", "/bug", "/none", "/mend"])
def test_every_answer_has_the_headers(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert len(answer.headers["x-request-id"]) == 16


def test_a_bug_is_told_to_nobody(browser: TestClient) -> None:
    answer = browser.get("/bug", headers={"x-request-id": "job-7"})
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {
            "code": "internal_error",
            "message": "Something went wrong in the service; its log says what.",
            "request_id": "job-7",
        }
    }
    assert "secret" not in browser.get("/bug", headers={"accept": "text/html"}).text


def test_what_a_user_can_mend_is_a_sentence(browser: TestClient) -> None:
    answer = browser.get("/mend")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "Something that the user can mend.")


def test_a_page_sees_a_page(browser: TestClient) -> None:
    answer = browser.get("/none", headers={"accept": "text/html,*/*"})
    assert answer.status_code == 404 and "There is nothing at this address." in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert browser.post("/none").json()["error"]["code"] == "not_found"
    assert browser.delete("/do").json()["error"]["code"] == "method_not_allowed"
    assert "GET" in browser.delete("/do").headers["allow"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:8000"])
def test_other_host_names_are_refused(browser: TestClient, host: str) -> None:
    assert browser.get("/do", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:8000", "[::1]:8000"])
def test_names_of_this_machine_are_answered(browser: TestClient, host: str) -> None:
    assert browser.get("/do", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example", "authorization": "Bearer x"}, 200),
    ],
)
def test_pages_of_other_sites_change_nothing(browser: TestClient, headers: dict[str, str], status: int) -> None:
    answer = browser.post("/do", headers=headers)
    assert answer.status_code == status
    assert browser.get("/do", headers=headers).status_code == 200
    if status == 403:
        assert answer.json()["error"]["code"] == "cross_site"


def test_ids_of_requests_are_the_clients_if_they_are_plain(browser: TestClient) -> None:
    assert browser.get("/do", headers={"x-request-id": "a-1.B_2"}).headers["x-request-id"] == "a-1.B_2"
    for odd in ("", "a b", "x" * 65, "<script>"):
        assert browser.get("/do", headers={"x-request-id": odd}).headers["x-request-id"] != odd


def test_without_host_names_any_is_answered(make_client: Callable[..., TestClient]) -> None:
    app = FastAPI()
    add_security(app, hosts=())
    assert TestClient(app, base_url="http://anywhere.example").get("/x").status_code == 404


def test_a_long_head_is_refused(browser: TestClient) -> None:
    answer = browser.get("/do", headers={"x-long": "a" * (16 << 10)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "head_too_large")
    assert browser.get("/do", headers={"x-long": "a" * (15 << 10)}).status_code == 200
