"""What the exported page says and takes in Chromium; part of ``benchmarks/export.py``.

The page is served by Python's plain server and judges photos one after the other, as on a phone: in one thread, with
the network off. The large JPEG is a generated photo of 4032 x 3024 px, saved by Pillow with quality 92.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inlier.data.images import read_image
from inlier.data.synthetic import draw_component
from inlier.exporting.portable import Portable
from inlier.exporting.web import write_page

LARGE = (3024, 4032)
CHUNK = 25
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

CARDS = """[...document.querySelectorAll('.card')].reverse().map((card) => ({
    verdict: card.dataset.verdict, score: Number(card.dataset.score),
}))"""
TIME = """async ([address, size, repeats]) => {
    const {readPhoto} = await import('./photo.js');
    const file = await (await fetch(address)).blob();
    const seconds = [];
    for (let round = 0; round <= repeats; round++) {
        const began = performance.now();
        await readPhoto(file, size, {longestSide: 1024});
        seconds.push((performance.now() - began) / 1000);
    }
    return seconds.slice(1);
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: D102
        pass


def judge_in_browser(export: Path, photos: Sequence[Path], *, runtime: Path | None) -> dict[str, Any]:
    """Verdict and score of each photo, and seconds a photo, from its choice to its card."""
    with _open(export, runtime) as (page, _):
        page.locator("body[data-offline=ready]").wait_for(timeout=120_000)
        page.context.set_offline(True)
        cards: list[dict[str, Any]] = []
        seconds = 0.0
        for first in range(0, len(photos), CHUNK):
            chunk = [str(path) for path in photos[first : first + CHUNK]]
            began = time.perf_counter()
            page.locator("#chooser").set_input_files(chunk)
            number = "number => document.querySelectorAll('.card[data-verdict]').length === number"
            page.wait_for_function(number, arg=len(chunk), timeout=600_000)
            seconds += time.perf_counter() - began
            cards += page.evaluate(CARDS)
            page.locator("#clear").click()
        return {"cards": cards, "seconds": seconds / len(photos)}


def time_large_photo(export: Path, *, runtime: Path | None, repeats: int) -> dict[str, float]:
    """Seconds from the file of a large JPEG to the network's pixels, in the page and in Python; medians."""
    size = Portable.load(export).size
    generator = np.random.default_rng(0)
    drawn = Image.fromarray(draw_component("piston-crown", seed=0, size=(756, 1008)).image).resize(LARGE[::-1])
    pixels = np.asarray(drawn) + generator.normal(0, 3, size=(*LARGE, 1))  # as a sensor's
    with _open(export, runtime) as (page, folder):
        path = folder / "large.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=92)
        in_page = page.evaluate(TIME, [path.name, size, repeats])
        in_python = []
        for _ in range(repeats):
            began = time.perf_counter()
            read_image(path, min_side=size)
            in_python.append(time.perf_counter() - began)
        megabytes = path.stat().st_size / 1e6
    return {"megabytes": megabytes, "page": statistics.median(in_page), "python": statistics.median(in_python)}


@contextmanager
def _open(export: Path, runtime: Path | None) -> Iterator[tuple[Any, Path]]:
    """The page, in Chromium, and the folder that it is served from."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside) / "page"
        write_page(export, folder, runtime=runtime)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
                yield page, folder
                browser.close()
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
