"""Who calls, and what they may: by an API key, or by the cookie that the login page gives a browser."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from inlier.errors import ConfigError
from inlier.service.keys import SCOPES, Key, KeyFile, read_keys
from inlier.service.refusals import Refusal

COOKIE = "inlier_session"
SESSION_SECONDS = 12 * 3600

LOCAL = "local"
"""What the record calls whoever uses a service without keys and gave no name."""

_LOOK_SECONDS = 1.0
_NAME = re.compile(r"[\w][\w .@-]{0,63}")

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="A key that `inlier keys add` printed.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="The same key.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: Of their key; what they typed on the login page where nobody is asked for one.
        scopes: What they may.
    """

    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether they may do this; who has the scope admin may do all."""
        return scope in self.scopes or "admin" in self.scopes


class Access:
    """Tells who a request is from; reads the key file again when it changes."""

    def __init__(self, keys: Path | None, *, is_tls: bool = False) -> None:
        """Reads the file.

        Args:
            keys: File of API keys; None: anybody may do anything.
            is_tls: Whether cookies go by HTTPS alone.

        Raises:
            ConfigError: The file cannot be used.
        """
        self._path, self.is_tls = keys, is_tls
        self._lock = threading.Lock()
        self._own_secret = secrets.token_bytes(32)  # without a file, logins last as long as the process
        self._looked_at = time.monotonic()
        self._state = self._state_of_file()
        self._file = read_keys(keys) if keys is not None else KeyFile((), self._own_secret)

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a key."""
        return self._path is None

    def caller(self, request: Request, key: str | None) -> Caller | None:
        """Who calls, by their key or else by their cookie; None if that is unknown."""
        file = self._current()
        if self.is_open:
            session = self._session(file, request.cookies.get(COOKIE, ""))
            return Caller(session["name"] if session else LOCAL, frozenset(SCOPES))
        if key is not None:
            found = file.find(key)
            return _caller(found) if found else None
        session = self._session(file, request.cookies.get(COOKIE, ""))
        named = file.named(session["name"]) if session else None
        # A key that was revoked, and given out anew under the same name, is another one.
        return _caller(named) if session and named and named.digest[:16] == session["key"] else None

    def log_in(self, text: str) -> tuple[Caller, str]:
        """The caller with this key, or, where none are asked for, of this name; and a cookie that says so.

        Raises:
            Refusal: 401 or 422: it is no key, or no name.
        """
        file = self._current()
        if self.is_open:
            if not _NAME.fullmatch(text):
                raise Refusal(422, "A name is made of letters, digits, spaces and . _ @ -, and has at most 64.")
            caller, key = Caller(text, frozenset(SCOPES)), ""
        else:
            found = file.find(text)
            if found is None:
                raise Refusal(401, "This is no key of this service, or one that was revoked.", code="key_unknown")
            caller, key = _caller(found), found.digest[:16]
        return caller, _sign(file.secret, {"name": caller.name, "key": key, "until": time.time() + SESSION_SECONDS})

    def _session(self, file: KeyFile, cookie: str) -> dict[str, Any] | None:
        session = _verify(file.secret, cookie)
        return session if session and session["until"] > time.time() else None

    def _current(self) -> KeyFile:
        """The keys as they are now; a file that became unusable lets nobody in."""
        if self._path is None or time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return self._file
        with self._lock:
            self._looked_at = time.monotonic()
            state = self._state_of_file()
            if state != self._state:
                try:
                    self._file = read_keys(self._path)
                except ConfigError:
                    self._file = KeyFile((), secrets.token_bytes(32))
                self._state = state
            return self._file

    def _state_of_file(self) -> tuple[int, ...] | None:
        if self._path is None:
            return None
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode


def require(scope: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that is the caller, if they may do this; else they are told why not.

    Args:
        scope: One of ``SCOPES``.
    """

    async def caller(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
        header: Annotated[str | None, Security(_header)] = None,
    ) -> Caller:
        key = bearer.credentials if bearer is not None else header
        found: Caller | None = request.app.state.access.caller(request, key)
        if found is None:
            if key is not None:
                raise Refusal(
                    401, "This is no key of this service, or one that was revoked.", code="key_unknown", closes=True
                )
            raise Refusal(401, "A key is needed: send it as `Authorization: Bearer KEY`, or log in.", closes=True)
        request.state.caller = found.name
        if not found.may(scope):
            raise Refusal(403, f"The key of {found.name} has no scope {scope}.", code="scope_missing", closes=True)
        return found

    return caller


def _caller(key: Key) -> Caller:
    return Caller(key.name, frozenset(key.scopes))


def _sign(secret: bytes, session: dict[str, Any]) -> str:
    content = base64.urlsafe_b64encode(json.dumps(session).encode())
    return f"{content.decode()}.{hmac.new(secret, content, hashlib.sha256).hexdigest()}"


def _verify(secret: bytes, cookie: str) -> dict[str, Any] | None:
    content, _, signature = cookie.partition(".")
    expected = hmac.new(secret, content.encode(errors="replace"), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        return None
    session: dict[str, Any] = json.loads(base64.urlsafe_b64decode(content))  # our own words
    return session
