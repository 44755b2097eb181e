"""Refusal: why a request is not carried out, as one sentence with a status and a code."""

from __future__ import annotations

import math
from typing import Any

from starlette.exceptions import HTTPException

CODES = {
    400: "bad_request",
    401: "key_needed",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "wrong_type",
    421: "unknown_host",
    422: "invalid",
    429: "too_many",
    431: "head_too_large",
    500: "internal_error",
    503: "unavailable",
}
"""What a program reads, where nothing closer is known."""


class Refusal(HTTPException):
    """A request that is not carried out; the client is told why, and nothing else.

    Attributes:
        code: A word for programs, such as ``too_large``.
    """

    def __init__(
        self, status: int, message: str, *, code: str = "", retry_seconds: float | None = None, closes: bool = False
    ) -> None:
        """Says what is answered.

        Args:
            status: Of HTTP, 400 to 599.
            message: A sentence for who sent it.
            code: A word for programs; left out, the one of the status.
            retry_seconds: When it is worth trying again; goes out as ``Retry-After``, in whole seconds.
            closes: Whether the connection ends, as where a body is not read.
        """
        headers = {} if retry_seconds is None else {"Retry-After": str(max(1, math.ceil(retry_seconds)))}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if closes:
            headers["Connection"] = "close"
        super().__init__(status, message, headers)
        self.code = code or CODES.get(status, "refused")


def error_body(code: str, message: str, request_id: str) -> dict[str, Any]:
    """What every answer but a successful one holds."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}
