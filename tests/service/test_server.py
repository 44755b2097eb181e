"""The server in a process of its own: what only sockets and signals show."""

from __future__ import annotations

import json
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier.errors import ConfigError
from inlier.service.server import serve
from inlier.service.settings import Settings

httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed")

pytestmark = pytest.mark.slow

JPEG = {"content-type": "image/jpeg"}
TIMEOUT = 120


def exchange(port: int, *pieces: bytes, pause: float = 0.0, wait: float = 30.0) -> bytes:
    """Sends pieces over a connection; what comes back until it is closed, or for so long."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if select.select([connection], [], [], pause)[0]:  # it has its answer already
                    break
            while chunk := connection.recv(65536):
                found += chunk
        except (ConnectionError, TimeoutError):
            pass
    return found


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]["code"]


def test_sockets_of_strangers_are_answered_or_closed(start_server: Callable[..., Any], photos: list[bytes]) -> None:
    limits = {"header_seconds": 1.5, "body_seconds": 1.5, "max_bytes": 1 << 20}
    server = start_server(limits=limits)
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"

    declared = exchange(server.port, head + b"Content-Length: 10737418240\r\n\r\n\xff\xd8\xff")
    assert error_of(declared) == (413, "too_large")
    endless = exchange(
        server.port, head + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 40
    )
    assert error_of(endless) == (413, "too_large")
    slow_body = exchange(server.port, head + b"Content-Length: 100\r\n\r\n", *[b"x"] * 20, pause=0.2)
    assert error_of(slow_body) == (408, "too_slow")
    began = time.monotonic()
    assert exchange(server.port, b"POST /v1/inspect HTTP/1.1\r\nHost: ", pause=0.1) == b""  # the head never ends
    assert exchange(server.port) == b""  # nothing is ever sent
    assert time.monotonic() - began < 25
    huge = exchange(server.port, head + b"X-Huge: " + b"a" * 100_000 + b"\r\n\r\n")
    assert error_of(huge) in ((400, "bad_request"), (431, "head_too_large"))  # as it came in pieces, or at once
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET\r\n\r\n",
        b"\x00" * 50 + b"\r\n\r\n",
    ):
        assert error_of(exchange(server.port, garbage)) == (400, "bad_request")
    both = exchange(server.port, head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert both.startswith(b"HTTP/1.1 4")
    with httpx2.Client(base_url=server.url, timeout=TIMEOUT) as client:
        for photo in photos[:2]:  # twice over one connection
            answer = client.post("/v1/inspect", content=photo, headers=JPEG)
            assert answer.status_code == 200 and "server" not in answer.headers
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {line["status"] for line in lines if line["message"] == "request"} >= {200, 408, 413}
    assert not any("traceback" in line for line in lines)


def ask_for_ever(url: str, photos: list[bytes], answered: list[str], statuses: list[int]) -> None:
    """Sends photo after photo until nobody answers; notes the id of every verdict."""
    with httpx2.Client(base_url=url, timeout=TIMEOUT) as client:
        number = 0
        while True:
            try:
                answer = client.post("/v1/inspect", content=photos[number % len(photos)], headers=JPEG)
            except httpx2.TransportError:
                return
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                answered.append(answer.json()["id"])
            elif answer.status_code == 503:
                return
            number += 1


def under_load(server: Any, photos: list[bytes], end: Callable[[], None]) -> tuple[list[str], list[int]]:
    """Ends a server while eight clients ask it; the ids of all verdicts that were answered, and all statuses."""
    answered: list[str] = []
    statuses: list[int] = []
    arguments = server.url, photos, answered, statuses
    threads = [threading.Thread(target=ask_for_ever, args=arguments) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT
    while len(answered) < 60:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end()
    for thread in threads:
        thread.join(TIMEOUT)
    return answered, statuses


def recorded(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {row[0] for row in connection.execute("SELECT inspection FROM service_verdict")}


def test_killed_under_load_every_verdict_that_was_answered_is_in_the_record(
    start_server: Callable[..., Any], photos: list[bytes], tmp_path: Path
) -> None:
    server = start_server()
    answered, statuses = under_load(server, photos, server.process.kill)
    server.process.wait(TIMEOUT)
    assert set(statuses) == {200}
    assert set(answered) <= recorded(tmp_path / "record.db")
    again = start_server()
    last = httpx2.get(f"{again.url}/v1/inspections/{answered[-1]}", timeout=TIMEOUT).json()
    assert last["verdicts"][0]["inspection"] == answered[-1]


def test_told_to_stop_under_load_it_finishes_what_it_took(
    start_server: Callable[..., Any], photos: list[bytes], tmp_path: Path
) -> None:
    server = start_server()
    answered, statuses = under_load(server, photos, lambda: server.process.send_signal(signal.SIGTERM))
    assert server.process.wait(TIMEOUT) in (0, -signal.SIGTERM)
    assert set(statuses) <= {200, 503}
    assert set(answered) <= recorded(tmp_path / "record.db")
    assert not any("traceback" in line for line in map(json.loads, server.log.read_text().splitlines()))


def test_a_place_that_is_taken_is_a_sentence(model_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(models={"parts": model_folder}, port=port, record=f"sqlite:///{tmp_path / 'record.db'}")
        with pytest.raises(ConfigError, match=f"Nobody can listen on 127.0.0.1 at port {port}: Address already in use"):
            serve(settings)
