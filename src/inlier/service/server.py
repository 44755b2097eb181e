"""The HTTP server: uvicorn, with a time for the head of a request too, and an end that finishes what was taken."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from inlier.errors import ConfigError
from inlier.service.app import create_app
from inlier.service.inspecting import Inspections
from inlier.service.logs import log_to_stderr
from inlier.service.metrics import Metrics
from inlier.service.refusals import error_body
from inlier.service.settings import MAX_HEAD_BYTES, Settings

_KEEP_ALIVE_SECONDS = 15
_MARGIN_SECONDS = 5
_BACKLOG = 2048


def serve(settings: Settings) -> None:
    """Serves until it is told to stop (SIGINT or SIGTERM); then finishes what was taken.

    Args:
        settings: What is served, to whom, and where.

    Raises:
        InlierError: Something that it needs cannot be used.
    """
    sockets = [_listen(settings.host, settings.port)]
    log_to_stderr()
    opened = Inspections(settings, Metrics())
    app = create_app(settings, opened=opened)
    limits = settings.limits
    config = uvicorn.Config(
        app,
        http=_connection_type(limits.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.body_seconds + limits.answer_seconds) + _MARGIN_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    host, port = sockets[0].getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logging.getLogger("inlier.service").info("serving", extra={"about": {"url": where}})
    with suppress(KeyboardInterrupt):  # it was told to stop, and did
        _Server(config).run(sockets=sockets)


def _listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        ConfigError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"Nobody can listen on {host} at port {port}: {reason}; choose another --port.") from error


class _Server(uvicorn.Server):
    """Tells the app at once that it is to stop, so that what comes on open connections is refused."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal."""
        app: Any = self.config.app
        if (inspections := getattr(app.state, "inspections", None)) is not None:
            inspections.line.is_stopping = True
        super().handle_exit(sig, frame)


def _connection_type(header_seconds: float) -> type[asyncio.Protocol]:
    """A connection of uvicorn's, which by itself waits for ever for the head of a request."""

    class Connection(H11Protocol):
        """Closes if the head of a request takes too long; says in JSON what it cannot parse."""

        _too_slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()
            elif self._too_slow is None and self.conn.trailing_data[0]:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """What cannot be parsed, or has too long a head."""
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.close()
                return
            message = f"The request is no valid HTTP, or its head is longer than {MAX_HEAD_BYTES} bytes."
            body = json.dumps(error_body("bad_request", message, "")).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _wait_for_head(self) -> None:
            self._too_slow = self.loop.call_later(header_seconds, self._close_slow)

        def _stop_waiting(self) -> None:
            if self._too_slow is not None:
                self._too_slow.cancel()
                self._too_slow = None

        def _close_slow(self) -> None:
            self._too_slow = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                logging.getLogger("inlier.service").info("a request's head came too slowly")
                self.transport.close()

    return Connection
