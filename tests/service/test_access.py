from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from inlier.service.access import COOKIE
from inlier.service.keys import add_key, revoke_key

HTML = {"accept": "text/html"}


@pytest.fixture
def closed(
    make_client: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TestClient, str]:
    """A service that asks for keys, and the key of ann; the file is looked at on every request."""
    monkeypatch.setattr("inlier.service.access._LOOK_SECONDS", 0.0)
    key = add_key(tmp_path / "keys.json", "ann", ["review", "inspect"])
    return make_client(keys=tmp_path / "keys.json"), key


def log_in(client: TestClient, key: str, to: str = "/drift") -> tuple[int, str]:
    """Status, and where it leads."""
    answer = client.post("/login", data={"key": key, "next": to}, follow_redirects=False)
    return answer.status_code, answer.headers.get("location", "")


def test_a_browser_is_led_to_the_login_page_and_back(closed: tuple[TestClient, str]) -> None:
    client, key = closed
    answer = client.get("/drift", headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/drift")
    assert 'value="/drift"' in client.get("/login?next=/drift").text
    assert log_in(client, "inlier_wrong") == (401, "")
    assert log_in(client, f" {key} ") == (303, "/drift")
    assert client.get("/drift", headers=HTML).status_code == 200
    assert client.get("/v1/models").status_code == 200
    assert client.get("/metrics").status_code == 403
    client.post("/logout")
    assert client.get("/v1/models").status_code == 401


def test_the_cookie_is_for_this_site_and_no_script(closed: tuple[TestClient, str]) -> None:
    client, key = closed
    answer = client.post("/login", data={"key": key}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "max-age=43200" in cookie
    assert key not in cookie


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil", "javascript:x", "/a?b=//c", ""])
def test_logging_in_leads_to_no_other_site(closed: tuple[TestClient, str], to: str) -> None:
    client, key = closed
    assert log_in(client, key, to) == (303, "/")


def test_a_forged_or_old_cookie_is_none(closed: tuple[TestClient, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client, key = closed
    log_in(client, key)
    cookie = client.cookies[COOKIE].strip('"')
    content, _, signature = cookie.partition(".")
    for forged in (f"{content}x.{signature}", f"{content}.{'0' * 64}", content, "", ".", "%ff", "a.b.c"):
        client.cookies.clear()
        assert client.get("/v1/models", headers={"cookie": f"{COOKIE}={forged}"}).status_code == 401, forged
    headers = {"cookie": f"{COOKIE}={cookie}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    monkeypatch.setattr("inlier.service.access.time.time", lambda: 4e9)
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_revoking_a_key_ends_its_sessions_too(closed: tuple[TestClient, str], tmp_path: Path) -> None:
    client, key = closed
    log_in(client, key)
    bearer = {"authorization": f"Bearer {key}"}
    assert client.get("/v1/models").status_code == client.get("/v1/models", headers=bearer).status_code == 200
    revoke_key(tmp_path / "keys.json", "ann")
    add_key(tmp_path / "keys.json", "ann", ["inspect"])  # another key of the same name
    assert client.get("/v1/models").status_code == client.get("/v1/models", headers=bearer).status_code == 401


def test_a_key_file_that_breaks_lets_nobody_in(closed: tuple[TestClient, str], tmp_path: Path) -> None:
    client, key = closed
    bearer = {"authorization": f"Bearer {key}"}
    assert client.get("/v1/models", headers=bearer).status_code == 200
    (tmp_path / "keys.json").write_text("{}", encoding="utf-8")
    assert client.get("/v1/models", headers=bearer).status_code == 401
    (tmp_path / "keys.json").unlink()
    assert client.get("/v1/models", headers=bearer).status_code == 401


def test_without_keys_one_may_give_a_name(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    assert client.get("/v1/models").status_code == client.get("/metrics").status_code == 200
    page = client.get("/login").text
    assert "Your name" in page and 'type="password"' not in page
    assert log_in(client, "Ann Åsen")[0] == 303
    assert "Ann Åsen" in client.get("/").text
    assert log_in(client, "<b>")[0] == log_in(client, "")[0] == log_in(client, "x" * 65)[0] == 422


def test_the_login_form_is_small(closed: tuple[TestClient, str]) -> None:
    client, _ = closed
    assert client.post("/login", content=b"key=" + b"x" * 5000).status_code == 413
    assert client.post("/login", content=b"\xff\xfe=%zz&&&").status_code == 401
