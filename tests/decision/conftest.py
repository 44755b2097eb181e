"""A page in a browser that can be clicked at: Chromium, through a pipe and without any driver."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


_ON_PIPES = """
import fcntl, os, sys
listens, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(listens, 3)
os.dup2(answers, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Starts a browser that listens on its file 3 and answers on its file 4, as Chromium wants it."""


class Tab:
    """A page in Chromium, spoken to through a pipe."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._left, self._numbers = to_browser, from_browser, b"", itertools.count(1)
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.errors: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._left:
                answer = os.read(self._from, 1 << 16)
                assert answer, "the browser is gone"
                self._left += answer
            text, self._left = self._left.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(answer["params"])
            if answer.get("id") == number:
                return answer["result"]

    def run(self, script: str) -> object:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, page: Path, address: str = "") -> None:
        """Loads a page anew, and waits until it has drawn; its errors are kept from then on."""
        self.call("Page.navigate", url="about:blank")  # else only the part after # may change
        self.errors.clear()
        self.call("Page.navigate", url=f"{page.as_uri()}{address}")
        deadline = time.monotonic() + 30
        while self.run("document.readyState") != "complete" or not self.run(
            "document.querySelector('canvas')?.width > 300"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.settle()

    def settle(self) -> None:
        """Waits until what was asked for is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def drag(self, points: list[tuple[float, float]], **more: object) -> None:
        for kind, (x, y) in [
            ("mousePressed", points[0]),
            *(("mouseMoved", at) for at in points[1:]),
            ("mouseReleased", points[-1]),
        ]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1, **more)
        self.settle()

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)
        self.settle()

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({selector!r}).textContent"))

    def box(self, number: int = 0) -> tuple[float, float, float, float]:
        x, y, width, height = self.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])"
            f"(document.querySelectorAll('.points')[{number}].getBoundingClientRect())"
        )
        return x, y, width, height


@contextmanager
def chromium(command: str, profile: Path) -> Iterator[Tab]:
    to_browser, from_browser = os.pipe(), os.pipe()
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split()
    flags += ["--disable-background-networking", "--disable-component-update", "--window-size=1440,1000"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _ON_PIPES,
            *map(str, (to_browser[0], from_browser[1])),
            command,
            *flags,
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Tab(to_browser[1], from_browser[0])
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(to_browser[1])
        os.close(from_browser[0])


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with chromium(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened
