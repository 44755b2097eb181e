"""Pictures of the review pages for the documentation, made with generated photos only.

    python benchmarks/review_pictures.py [--out docs/images] [--seed 0]

Generates a small archive of three components in which five photos are labelled wrongly, fits a model on it, lets three
made-up reviewers decide, and takes pictures of the pages in Chromium: ``review-grid.webp``, ``review-photo.webp``,
``review-changes.webp`` and ``review-phone.webp``.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from inlier.data.manifest import Manifest
from inlier.data.synthetic_folders import write_dataset
from inlier.reviewing.database import as_url
from inlier.reviewing.decisions import Choice
from inlier.reviewing.preparing import prepare
from inlier.service.review.standalone import create_review_app
from inlier.service.review.workbench import Workbench
from inlier.workflow import fit

COMPONENTS = ("piston-crown", "cylinder-liner", "bolted-flange")
NUM_WRONG = 5
LAPTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    """Draws everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(begin(Path(folder), arguments.seed)) as (bench, address):
        take(bench, address, arguments.out)


def begin(folder: Path, seed: int) -> Workbench:
    """A review of an archive in which some photos of dev stand in train as normal ones."""
    write_dataset(
        folder / "ship-survey",
        num_train=60,
        num_dev=24,
        num_test=12,
        num_defective=24,
        num_unrelated=6,
        components=COMPONENTS,
        seed=seed,
    )
    photos = list(Manifest.read(folder / "ship-survey").photos)
    wrong = [place for place, photo in enumerate(photos) if photo.is_anomalous and photo.split == "dev"][:NUM_WRONG]
    for number, place in enumerate(wrong):
        label = COMPONENTS[number % len(COMPONENTS)]
        photos[place] = replace(photos[place], split="train", is_anomalous=False, label=label, group="", mask=None)
    data = Manifest(tuple(photos))
    model, _ = fit({"fit": {"augment": 0, "seed": seed}}, data)
    model.save(folder / "model")
    review = prepare(
        model,
        data,
        as_url(str(folder / "review.db")),
        model_folder=folder / "model",
        data_folder=folder / "ship-survey",
    )
    truth = {number: photo.is_anomalous for number, photo in enumerate(Manifest.read(folder / "ship-survey").photos, 1)}
    bench = Workbench(review, model, data, folder=folder / "model", reviewer="Ada")
    for name, every in (("Bo", 7), ("Cy", 11)):  # who err now and then
        choices = [Choice(number, bool(flag) ^ (number % every == 0)) for number, flag in truth.items()]
        review.decide(choices, reviewer=name, page=f"all-of-{name}")
    choices = [Choice(number, bool(flag)) for number, flag in truth.items() if number % 3]
    review.decide(choices, reviewer="Ada", page="most-of-Ada")
    return bench


@contextmanager
def served(bench: Workbench) -> Iterator[tuple[Workbench, str]]:
    """The review's pages at an address of this machine."""
    server = uvicorn.Server(uvicorn.Config(create_review_app(bench), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield bench, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def take(bench: Workbench, address: str, out: Path) -> None:
    """Takes the pictures."""
    command = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    damaged = [
        photo
        for photo in bench.review.photos()
        if photo.given_anomalous and not photo.given_label.startswith("unrelated")
    ]
    scratched = max(damaged, key=lambda photo: bench.pictures.inspection(photo.path).anomaly_map.max())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox"])
        laptop = browser.new_context(viewport=LAPTOP).new_page()
        goto(laptop, f"{address}/review/grid")
        laptop.keyboard.press("ArrowRight")
        laptop.keyboard.press("ArrowDown")
        keep(laptop, out / "review-grid.webp")
        goto(laptop, f"{address}/review/photo/{scratched.number}")
        laptop.locator("[data-heat-slider]").fill("85")
        laptop.locator("[data-reason]").nth(1).hover()
        laptop.wait_for_timeout(500)
        keep(laptop, out / "review-photo.webp")
        goto(laptop, f"{address}/review")
        laptop.get_by_role("button", name="What would change").click()
        laptop.locator("[data-state=done]").wait_for(timeout=600_000)
        laptop.wait_for_load_state("networkidle")
        keep(laptop, out / "review-changes.webp")
        phones = []
        for scheme, path in (("light", "grid"), ("dark", "disagreements"), ("light", f"photo/{scratched.number}")):
            options: dict[str, Any] = {"viewport": PHONE, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
            phone = browser.new_context(**options).new_page()
            goto(phone, f"{address}/review/{path}")
            phones.append(phone.screenshot())
        beside(phones).save(out / "review-phone.webp", quality=82, method=6)
        browser.close()


def goto(page: Any, address: str) -> None:
    """Opens a page, and waits until its pictures are there."""
    page.goto(address)
    page.wait_for_load_state("networkidle")


def keep(page: Any, path: Path) -> None:
    """Writes what a page shows."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=82, method=6)
    print(path)


def beside(pictures: Sequence[bytes], gap: int = 24) -> Image.Image:
    """Pictures side by side."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    whole = Image.new("RGB", (sum(image.width + gap for image in images) - gap, images[0].height), "#888888")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + gap
    return whole


if __name__ == "__main__":
    main()
