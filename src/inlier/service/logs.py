"""One JSON line a request, on stderr: who, what, how long, which verdict; no photo, no key, no query."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inlier.service.metrics import Metrics

logger = logging.getLogger("inlier.service")


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "about", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Sends what the service and its server have to say to stderr, a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("inlier.service", "uvicorn"):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class RequestLog:
    """ASGI middleware: tells the log, and the metrics, of every request when it is over."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500  # who answers so stands before this
            raise
        finally:
            seconds = time.perf_counter() - began
            # The route as it was declared: what a client put into the path belongs in no log and no metric.
            route = getattr(scope.get("route"), "path", None) or "none"
            self._metrics.count_request(route, status, seconds)
            state = scope.get("state", {})
            about = {
                "request_id": state.get("request_id"),
                "caller": state.get("caller"),
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 1),
            }
            logger.info("request", extra={"about": about | state.get("about", {})})
