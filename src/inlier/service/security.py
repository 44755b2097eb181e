"""What every answer has and every request must pass, whatever its route: headers, host, origin, and errors as JSON."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inlier.errors import InlierError
from inlier.service.refusals import CODES, Refusal, error_body
from inlier.service.settings import MAX_HEAD_BYTES

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # no-referrer would make the origin of our own forms unknown
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_SAFE = ("GET", "HEAD", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def add_security(app: FastAPI, *, hosts: Sequence[str]) -> None:
    """Makes an app safe to show to a browser, and turns whatever goes wrong into one sentence.

    - Every answer has a strict content security policy, and a request id.
    - A request to another host name than these is refused: a page elsewhere cannot call a service on this machine by a
      name that it made point here.
    - A request that changes something, and that a page of another site sent by a browser, is refused, unless it has a
      key in its headers, which no such page can set.
    - No client sees a traceback.

    Args:
        app: Its routes may come before or after.
        hosts: Names without a port; none: any.
    """
    app.add_middleware(_Guard, hosts=frozenset(host.lower() for host in hosts))
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(InlierError, _on_inlier_error)
    app.add_exception_handler(Exception, _on_bug)


class _Guard:
    """ASGI middleware: checks a request before any route sees it, and completes the headers of the answer."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(MutableHeaders(scope=message), request_id)
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            refusal = Refusal(431, f"The head of the request is longer than {MAX_HEAD_BYTES} bytes.", closes=True)
        if refusal is None:
            await self._app(scope, receive, completed)
        else:
            await _answer(Request(scope), refusal)(scope, receive, completed)

    def _refusal(self, method: str, headers: dict[bytes, str]) -> Refusal | None:
        host = _without_port(headers.get(b"host", "")).lower()
        if self._hosts and host not in self._hosts:
            return Refusal(421, "This service does not answer to this host name.", closes=True)
        if method in _SAFE or b"authorization" in headers or b"x-api-key" in headers:
            return None
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get(b"host", "").lower()
        if is_foreign or site in ("cross-site", "same-site"):
            return Refusal(403, "This request came from a page of another site.", code="cross_site", closes=True)
        return None


def _complete(headers: MutableHeaders, request_id: str) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "no-store")
    headers["x-request-id"] = request_id


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _answer(request: Request, error: HTTPException) -> Response:
    """The answer to what is refused: JSON, or a small page for who looks at it in a browser."""
    code = error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "refused")
    request_id = getattr(request.state, "request_id", "")
    headers = dict(error.headers or {})
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")
    if not wants_page:
        content = error_body(code, str(error.detail), request_id)
        return JSONResponse(content, status_code=error.status_code, headers=headers)
    if error.status_code == 401 and request.method == "GET":
        return RedirectResponse(f"/login?next={quote(request.url.path, safe='/')}", status_code=303)
    return HTMLResponse(_page(error.status_code, str(error.detail)), status_code=error.status_code, headers=headers)


def _page(status: int, message: str) -> str:
    title = HTTPStatus(status).phrase
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title}</title><link rel="stylesheet" '
        f'href="/static/service.css"></head><body><main class="frame narrow"><h1>{title}</h1>'
        f'<p class="lead">{html.escape(message)}</p><p><a href="/">Start</a></p></main></body></html>'
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return _answer(request, error)
    messages = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    detail = messages.get(error.status_code, str(error.detail))
    return _answer(request, HTTPException(error.status_code, detail, dict(error.headers or {})))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems: list[Any] = [*error.errors()]
    where = " ".join(str(part) for part in problems[0].get("loc", ())) if problems else "the request"
    message = f"{where}: {problems[0].get('msg', 'not valid')}." if problems else "The request is not valid."
    return _answer(request, Refusal(422, message))


async def _on_inlier_error(request: Request, error: Exception) -> Response:
    return _answer(request, Refusal(422, str(error)))


async def _on_bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log, by who called the app; the client gets the id to ask for it by."""
    answer = _answer(request, Refusal(500, "Something went wrong in the service; its log says what.", closes=True))
    _complete(answer.headers, getattr(request.state, "request_id", ""))
    return answer
