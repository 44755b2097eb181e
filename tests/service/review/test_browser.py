"""The pages as a reviewer works with them, in Chromium: keys, fingers, a lost connection, and the whole loop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inlier.data.manifest import Manifest, Photo
from inlier.databases import as_url
from inlier.model import Model
from inlier.reviewing.decisions import Choice
from inlier.reviewing.preparing import prepare
from inlier.service.review.standalone import create_review_app
from inlier.service.review.workbench import Workbench
from inlier.workflow import fit

pytestmark = pytest.mark.browser

AXE = Path(os.environ.get("INLIER_AXE", Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"))
ADDRESSES = (
    "/review",
    "/review/grid",
    "/review/grid?columns=6",
    "/review/photo/30",
    "/review/disagreements",
    "/review/changes",
)


Served = Callable[[Any], AbstractContextManager[str]]


_TINY = {"input": {"size": 64}, "backbone": {"precision": "float32"}, "fit": {"augment": 0}}


class Page:
    """A page of a review in Chromium; whatever its console says counts against the test."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self.page, self.address = self._context.new_page(), address
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str) -> None:
        self.page.goto(self.address + path)
        self.page.wait_for_load_state("networkidle")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.id"))

    def words(self) -> dict[int, str]:
        script = """[...document.querySelectorAll('[data-tile]')].map((tile) =>
            [tile.dataset.tile, tile.querySelector('.word input:checked')?.value ?? ''])"""
        return {int(number): word for number, word in self.page.evaluate(script)}

    def until(self, script: str) -> None:
        """Waits until a script is true; Playwright's own way of it breaks the pages' security policy."""
        deadline = time.monotonic() + 30
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.02)

    def wait_for_page(self, message: str) -> None:
        self.page.locator(".grid > .message", has_text=message).wait_for(timeout=30_000)

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def address(bench: Workbench, served: Served) -> Iterator[str]:
    with served(create_review_app(bench)) as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    opened = Page(browser, address, viewport={"width": 1440, "height": 900})
    yield opened
    assert opened.complaints == []
    opened.close()


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Page]:
    opened = Page(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield opened
    assert opened.complaints == []
    opened.close()


def test_the_loop_closes_by_keyboard(
    browser: Any, served: Served, data: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = [photo for photo in data.photos if photo.is_anomalous and photo.split == "test"][-4:]
    _close_the_loop(browser, served, data, foreign, tmp_path_factory.mktemp("loop"), _TINY)


@pytest.mark.real
@pytest.mark.slow
def test_the_loop_closes_on_real_photos(
    browser: Any, served: Served, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    photos = Manifest.read(real_data / "camera-roll").photos
    parts = ("camshaft", "piston")
    learned = [photo for photo in photos if photo.split == "train" and photo.label in parts][:24]
    normal = [photo for photo in photos if photo.split == "dev" and photo.label in parts][:8]
    unrelated = [photo for photo in photos if photo.split == "dev" and photo.is_anomalous][:8]
    foreign = [photo for photo in photos if photo.split == "test" and photo.is_anomalous][:4]
    assert (len(learned), len(normal), len(unrelated), len(foreign)) == (24, 8, 8, 4)
    data = Manifest((*learned, *normal, *unrelated, *foreign))
    _close_the_loop(browser, served, data, foreign, tmp_path_factory.mktemp("real"), {"fit": {"augment": 0}})


def _close_the_loop(
    browser: Any, served: Served, data: Manifest, foreign: list[Photo], folder: Path, config: dict[str, Any]
) -> None:
    """Foreign photos got into the bank; a reviewer corrects photos by keys, and the refitted model is used."""
    part = next(photo.label for photo in data.photos if photo.split == "train")
    polluted = Manifest(
        tuple(
            replace(photo, split="train", is_anomalous=False, label=part, group="") if photo in foreign else photo
            for photo in data.photos
        )
    )
    model, _ = fit(config, polluted)
    model.save(folder / "model")
    review = prepare(model, polluted, as_url(str(folder / "review.db")), model_folder=folder / "model")
    truth = {of.number: data.photos[of.number - 1].is_anomalous for of in review.photos()}
    bench = Workbench(review, model, polluted, folder=folder / "model", reviewer="Ada")
    with served(create_review_app(bench)) as address:
        opened = Page(browser, address, viewport={"width": 1440, "height": 900})
        opened.open("/review")
        opened.page.get_by_role("link", name="Most doubtful first").click()
        opened.page.locator("[data-tile]").first.wait_for()
        corrected = _correct(opened, truth, at_least=30)
        assert len(review.decisions()) == len(corrected) == 32
        opened.press("u")
        opened.wait_for_page("16 photos taken back.")
        assert sum(not of.undone for of in review.decisions()) == 16
        opened.press("Enter")
        opened.wait_for_page("16 photos taken.")
        rest = [Choice(number, flag) for number, flag in truth.items() if number not in corrected]
        review.decide(rest, reviewer="Ada", page="all-others")

        opened.open("/review")
        opened.page.get_by_role("button", name="What would change").click()
        opened.page.locator("[data-state=done]").wait_for(timeout=300_000)
        assert opened.page.locator("dt:text-is('Left') + dd").inner_text().startswith("4")
        assert Model.load(folder / "model").identity == model.identity
        opened.page.get_by_role("button", name="Use this model").click()
        opened.page.get_by_text("The model in use is").wait_for()
        assert opened.complaints == []
        opened.close()
    after = Model.load(folder / "model")
    assert after.facts["parent"] == model.identity
    assert len(model.references) - len(after.references) == 4


def _correct(opened: Page, truth: dict[int, bool | None], *, at_least: int) -> set[int]:
    """Marks page after page by keys as is true, and takes each."""
    corrected: set[int] = set()
    while len(corrected) < at_least:
        shown = list(opened.words())
        opened.press("Home", *("r" if truth[number] else "a" for number in shown))
        assert opened.words() == {number: "anomalous" if truth[number] else "normal" for number in shown}
        opened.press("Enter")
        opened.until(f"!document.getElementById('photo-{shown[0]}')")
        corrected |= {*shown}
    return corrected


def test_keys_move_mark_name_and_ask(page: Page, bench: Workbench) -> None:
    page.open("/review/grid?queue=all")
    numbers = list(page.words())
    assert page.focused() == f"photo-{numbers[0]}"
    page.press("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp", "End", "ArrowRight")
    assert page.focused() == f"photo-{numbers[15]}"
    page.press("Home", "ArrowDown")
    assert page.focused() == f"photo-{numbers[4]}"
    before = page.words()[numbers[4]]
    page.press(" ")
    assert page.words()[numbers[4]] == ("normal" if before == "anomalous" else "anomalous")
    page.press("2")
    chosen = page.page.locator(f"#photo-{numbers[4]} [data-class]")
    assert chosen.input_value() == bench.review.facts.labels[1]
    page.press("0")
    assert chosen.input_value() == ""
    page.press("h")
    page.until("[...document.querySelectorAll('.contour')].every((image) => image.naturalWidth)")
    page.press("?")
    assert page.page.locator("#help").is_visible()
    page.press("r", "Escape")
    assert page.words()[numbers[4]] != before and page.focused() == f"photo-{numbers[4]}"
    page.press("o")
    page.page.wait_for_url(f"**/review/photo/{numbers[4]}?queue=all**")
    page.page.locator("[data-zoom=all]").wait_for(state="visible")
    page.press("g")
    page.page.wait_for_url(f"**/review/grid?**#photo-{numbers[4]}")
    page.page.locator(f"#photo-{numbers[4]}:focus").wait_for()
    assert page.words()[numbers[4]] == ("normal" if before == "anomalous" else "anomalous")  # kept as it was marked


def test_what_is_not_marked_is_asked_for_once(page: Page, bench: Workbench) -> None:
    page.open("/review/grid")
    is_open = [number for number, word in page.words().items() if not word]
    assert is_open
    page.press("Enter")
    page.wait_for_page("not marked yet")
    assert page.focused() == f"photo-{is_open[0]}" and bench.review.decisions() == []
    page.press("Enter", "Enter", "Enter")  # a heavy finger
    page.wait_for_page("16 photos taken.")
    assert len(bench.review.decisions()) == 16
    assert {of.is_anomalous for of in bench.review.decisions() if of.photo in is_open} == {None}


def test_a_lost_connection_loses_nothing(browser: Any, served: Served, bench: Workbench) -> None:
    with served(create_review_app(bench)) as address:
        opened = Page(browser, address)
        opened.open("/review/grid?queue=all")
        number = next(iter(opened.words()))
        opened.press("r")
        for other in opened.words():
            opened.page.locator(f"#photo-{other} .word.anomalous").click()
        opened.page.context.set_offline(True)
        opened.page.locator("[data-take]").click()
        opened.page.locator("#connection", has_text="still on this page").wait_for()
        assert opened.words()[number] == "anomalous" and bench.review.decisions() == []
        opened.page.context.set_offline(False)
        opened.page.locator("[data-take]").click()
        opened.wait_for_page("16 photos taken.")
        assert opened.page.locator("#connection").is_hidden()
        assert {of.is_anomalous for of in bench.review.decisions()} == {True}
        opened.close()


def test_a_refusal_is_shown_beside_what_was_marked(browser: Any, address: str, bench: Workbench) -> None:
    opened = Page(browser, address)
    opened.open("/review/grid?queue=all")
    opened.page.evaluate("document.querySelector('[name=photo]').value = 999999")
    for number in list(opened.words())[1:]:
        opened.page.locator(f"#photo-{number} .word.normal").click()
    opened.page.locator("[data-take]").click()
    opened.page.locator("[data-take]").click()
    opened.page.locator("#connection", has_text="no photo number 999999").wait_for()
    assert len(opened.words()) == 16 and bench.review.decisions() == []
    opened.close()


def test_the_photo_is_zoomed_heated_and_drawn_on(page: Page, bench: Workbench) -> None:
    number = next(photo.number for photo in bench.review.photos() if photo.verdict == "reject")
    page.open(f"/review/photo/{number}")
    view = page.page.locator("#view")
    whole = view.get_attribute("viewBox")
    page.press("+", "+")
    assert float(str(view.get_attribute("viewBox")).split()[2]) == pytest.approx(1000 / 2.25)
    page.page.locator("[data-zoom=all]").click()
    assert view.get_attribute("viewBox") == whole
    page.page.mouse.move(500, 400)
    page.page.mouse.wheel(0, -400)
    page.until("Number(document.querySelector('#view').getAttribute('viewBox').split(' ')[2]) < 900")
    page.page.locator("[data-zoom=all]").click()
    page.press("h")
    assert page.page.locator("image.heat").get_attribute("opacity") == "1"
    page.page.locator("[data-heat-slider]").fill("40")
    assert page.page.locator("image.heat").get_attribute("opacity") == "0.4"
    reason = page.page.locator("[data-reason]").first
    reason.focus()
    place = reason.get_attribute("data-reason")
    if page.page.locator(f"[data-box='{place}']").count():
        assert "active" in str(page.page.locator(f"[data-box='{place}']").get_attribute("class"))

    stage = page.page.locator("[data-stage]").bounding_box()
    page.page.locator("[data-stage]").click()  # the focus leaves the slider
    page.press("d")
    corners = [(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.45, 0.65), (0.9, 0.9)]
    for x, y in corners:
        page.page.mouse.click(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"])
    page.press("Backspace", "Enter")
    page.page.locator("#regions [data-polygon]").wait_for(state="attached")
    (region,) = bench.review.regions(number, reviewer="Ada")
    assert len(region.polygon) == 4 and region.kind == "defect"
    box = view.evaluate("(view) => { const m = view.getScreenCTM(); return [m.a, m.e, m.f]; }")
    x = (stage["x"] + 0.4 * stage["width"] - box[1]) / box[0] / 1000
    assert region.polygon[0][0] == pytest.approx(x, abs=2e-3)
    page.page.locator("[data-pen=erase]").click()
    page.page.mouse.click(stage["x"] + 0.5 * stage["width"], stage["y"] + 0.5 * stage["height"])
    page.page.locator("#regions [data-polygon]").wait_for(state="detached")
    assert bench.review.regions(number, reviewer="Ada") == []


def test_a_region_needs_no_mouse(page: Page, bench: Workbench) -> None:
    page.open("/review/photo/2")
    page.page.get_by_text("Give a rectangle by numbers").click()
    for side, value in {"left": "10", "top": "20", "right": "30", "bottom": "40"}.items():
        page.page.locator(f"[name={side}]").fill(value)
    page.press("Enter")
    page.page.locator("#regions [data-polygon]").wait_for(state="attached")
    assert bench.review.regions(2, reviewer="Ada")[0].polygon[0] == (0.1, 0.2)
    page.page.get_by_role("button", name="Delete region 1").press("Enter")
    page.page.locator("#regions [data-polygon]").wait_for(state="detached")
    assert bench.review.regions(2, reviewer="Ada") == []


def test_a_finger_is_enough(phone: Page, bench: Workbench) -> None:
    phone.open("/review/grid?queue=all")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    number, before = next(iter(phone.words().items()))
    phone.page.locator(f"#photo-{number} [data-picture] img").first.tap()
    assert phone.words()[number] == ("normal" if before == "anomalous" else "anomalous")
    small = phone.page.evaluate("""[...document.querySelectorAll('.word, .class, .actions button, .open')]
        .filter((target) => target.checkVisibility())
        .map((target) => [target.className, target.getBoundingClientRect().height])
        .filter(([name, height]) => height < 44)""")
    assert small == []
    for other in phone.words():
        phone.page.locator(f"#photo-{other} .word.normal").tap()
    phone.page.locator("[data-take]").tap()
    phone.wait_for_page("16 photos taken.")
    assert {of.is_anomalous for of in bench.review.decisions()} == {False}
    phone.page.locator("[data-undo]").tap()
    phone.wait_for_page("16 photos taken back.")
    for path in ADDRESSES:
        phone.open(path)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_two_reviewers_differ_and_settle(browser: Any, served: Served, bench: Workbench) -> None:
    bench.review.decide([Choice(2, False), Choice(3, False)], reviewer="Zelda", page="one-of-Zelda")
    bench.review.decide([Choice(2, True), Choice(3, False)], reviewer="Ada", page="one-of-Ada")
    with served(create_review_app(bench)) as address:
        opened = Page(browser, address)
        opened.open("/review/disagreements")
        assert opened.page.locator(".card").count() == 1
        opened.page.locator(".card .word.normal").click()
        opened.page.get_by_role("button", name="Settle").click()
        opened.page.get_by_text("agree on every photo").wait_for()
        assert opened.complaints == []
        opened.close()
    assert bench.review.disagreements() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Any, address: str, bench: Workbench, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip(f"axe-core is not in {AXE.parent}; npm install axe-core, or name axe.min.js in INLIER_AXE")
    bench.review.decide([Choice(n, False) for n in range(1, 6)], reviewer="Zelda", page="one-of-Zelda")
    bench.review.decide([Choice(n, n == 2) for n in range(1, 6)], reviewer="Ada", page="one-of-Ada")
    found = []
    for width in (1440, 390):
        opened = Page(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
        for path in ADDRESSES:
            opened.open(path)
            opened.page.evaluate(AXE.read_text(encoding="utf-8"))
            result = opened.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            for fault in result["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found.append((path, width, fault["id"], json.dumps([n["html"] for n in fault["nodes"]][:3])))
        opened.close()
    assert found == []
