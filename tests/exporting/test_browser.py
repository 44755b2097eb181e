"""The page in Chromium: the same verdicts as Python's, with the network off once it has been opened."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.data.images import read_image
from inlier.data.manifest import Photo
from inlier.data.synthetic import draw_component
from inlier.decision.heatmap import OPACITY, RAMP, SATURATION, heat_overlay
from inlier.decision.report import explain
from inlier.exporting.portable import Portable
from inlier.exporting.web import write_page
from inlier.model import Model

pytestmark = pytest.mark.browser

AXE = Path(os.environ.get("INLIER_AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
SECONDS = 1000  # in Playwright's milliseconds

Judge = Callable[..., list[dict[str, Any]]]
Served = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def address(exported: Path, package: Path, served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("web") / "page"
    write_page(exported, directory, runtime=package)
    with served(directory) as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened once with a network, and then again without."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    context.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.locator("body[data-offline=ready]").wait_for(timeout=120 * SECONDS)
    context.set_offline(True)
    page.reload()
    page.locator("body[data-state=ready]").wait_for(timeout=120 * SECONDS)
    yield page
    assert page.complaints == []
    assert {url for url in page.asked if not url.startswith((address, "blob:", "data:"))} == set()
    context.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """A dozen photos, among them a sideways JPEG, a large one, a small one, a transparent and a grey one."""
    folder = tmp_path_factory.mktemp("photos")
    names = ("piston-crown", "bolted-flange")
    for number in range(5):
        drawn = draw_component(names[number % 2], seed=100 + number, size=(90, 120))
        Image.fromarray(drawn.image).save(folder / f"{number}.png")
        Image.fromarray(drawn.image).save(folder / f"{number}.jpg", quality=90)
    sideways = Image.fromarray(draw_component("piston-crown", seed=7, size=(301, 417)).image)
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        sideways.save(folder / f"turned-{orientation}.jpg", exif=exif, quality=92)
    large = Image.fromarray(draw_component("bolted-flange", seed=8, size=(480, 640)).image).resize((2047, 1531))
    large.save(folder / "large.jpg", quality=90)
    large.crop((0, 0, 1201, 903)).save(folder / "large.png")
    sideways.convert("L").save(folder / "grey.png")
    cut = sideways.convert("RGBA")
    cut.paste((0, 0, 0, 0), (0, 0, 100, 100))
    cut.save(folder / "transparent.png")
    return [Photo(path, "test") for path in sorted(folder.iterdir())]


def test_the_verdicts_are_those_of_python_without_a_network(
    opened: Any, judge: Judge, model: Model, portable: Portable, photos: list[Photo]
) -> None:
    wanted = [*portable.inspect_photos(photos)]
    cards = judge(opened, *(photo.path for photo in photos))
    assert [card["name"] for card in cards] == [photo.path.name for photo in photos]
    spread = float(np.std(model.calibration.normal_scores))
    for card, of in zip(cards, wanted, strict=True):
        assert of.pixels is not None and of.verdict.score is not None
        assert card["size"] == [of.pixels.shape[1], of.pixels.shape[0]], card["name"]
        assert card["verdict"] == of.verdict.verdict, (card["name"], card["score"], of.verdict.score)
        # Browser and Python round in their own ways where they lay what is transparent over white.
        tolerance = 0.1 * spread if card["name"] == "transparent.png" else 2e-3 * spread
        assert card["score"] == pytest.approx(of.verdict.score, abs=tolerance), card["name"]
        assert card["meaning"] == explain(card["p"], num_calibration=len(model.calibration.normal_scores))
        assert card["component"].startswith(f"Most like: {of.verdict.component} (")


def test_pixels_are_those_of_python(opened: Any, photos: list[Photo]) -> None:
    """What the network sees: to the last bit, however photos are turned and reduced."""
    for name in ("0.png", "0.jpg", "grey.png", "large.png", "large.jpg", "turned-6.jpg"):
        path = next(photo.path for photo in photos if photo.path.name == name)
        width, height, text = opened.evaluate(
            """async ([given, type]) => {
                const {readPhoto} = await import('./photo.js');
                const bytes = Uint8Array.from(atob(given), (letter) => letter.charCodeAt(0));
                const photo = await readPhoto(new File([bytes], 'photo', {type}), 64);
                const text = photo.rgb.reduce((so, of) => so + String.fromCharCode(of), '');
                return [photo.width, photo.height, btoa(text)];
            }""",
            [base64.b64encode(path.read_bytes()).decode(), "image/png" if name.endswith("png") else "image/jpeg"],
        )
        pixels = read_image(path, min_side=64)
        given = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(height, width, 3)
        assert given.shape == pixels.shape
        assert np.array_equal(given, pixels), name


def test_heat_is_coloured_as_in_python(opened: Any, portable: Portable, photos: list[Photo]) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(30, 40, 3), dtype=np.uint8)
    anomaly_map = generator.random((10, 8)).astype(np.float32)
    values = opened.evaluate(
        """async ([rgb, map, settings]) => {
            const {heatOverlay} = await import('./heat.js');
            const photo = {width: 40, height: 30, rgb: new Uint8Array(rgb)};
            return [...heatOverlay(photo, {data: map, width: 8, height: 10}, settings)];
        }""",
        [
            pixels.ravel().tolist(),
            anomaly_map.ravel().tolist(),
            {"ramp": RAMP, "opacity": OPACITY, "saturation": SATURATION, "scale": [0.2, 0.8]},
        ],
    )
    given = np.array(values).reshape(30, 40, 4)[..., :3]
    wanted = heat_overlay(pixels, anomaly_map, scale=(0.2, 0.8)).astype(int)
    assert np.abs(given - wanted).max() <= 2


def test_p_values_are_put_into_the_same_words(opened: Any) -> None:
    for number in (0, 1, 8, 13, 26, 99):
        p_values = [(1 + k) / (number + 1) for k in range(number + 1)]
        said = opened.evaluate(
            """async ([values, number]) => {
                const {explain} = await import('./heat.js');
                return values.map((value) => explain(Math.fround(value), number));
            }""",
            [p_values, number],
        )
        assert said == [explain(p_value, num_calibration=number) for p_value in p_values]


def test_what_cannot_be_read_says_so_and_nothing_stops(
    opened: Any, judge: Judge, photos: list[Photo], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    Image.new("RGB", (9, 40)).save(tmp_path / "thin.png")
    whole = io.BytesIO()
    Image.new("RGB", (90, 90), (200, 10, 10)).save(whole, "PNG")
    (tmp_path / "fine.png").write_bytes(whole.getvalue())
    cards = judge(opened, *sorted(tmp_path.iterdir()))
    assert [card["verdict"] == "unreadable" for card in cards] == [False, True, True]
    assert cards[1]["meaning"] == "This browser cannot read it as a photo."
    assert cards[2]["meaning"] == "It is 9 x 40 px; at least 16 px a side are needed."
    summary = opened.locator("#summary").text_content()
    assert summary.startswith("3 photos: ") and "2 not readable" in summary


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_the_page_fits_and_is_accessible(
    opened: Any, judge: Judge, photos: list[Photo], scheme: str, width: int, height: int
) -> None:
    opened.set_viewport_size({"width": width, "height": height})
    opened.emulate_media(color_scheme=scheme)
    judge(opened, photos[0].path)
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    button = opened.locator(".action.main").bounding_box()
    assert button["height"] >= 44 and button["y"] + button["height"] <= height  # in reach without scrolling
    if not AXE.is_file():
        pytest.skip(f"axe-core is not in {AXE}; INLIER_AXE can name it")
    opened.evaluate(AXE.read_text(encoding="utf-8"))
    found = opened.evaluate("axe.run()")
    assert [(of["id"], of["nodes"][0]["html"]) for of in found["violations"]] == []


def test_photos_are_chosen_by_keyboard_and_heat_is_switched_off(opened: Any, judge: Judge, photos: list[Photo]) -> None:
    judge(opened, photos[0].path)
    overlay = opened.locator(".overlay")
    assert overlay.is_visible()
    opened.locator(".switch input").focus()
    opened.keyboard.press("Space")
    assert not overlay.is_visible()
    opened.locator("#chooser").focus()
    with opened.expect_file_chooser() as chosen:
        opened.keyboard.press("Space")
    assert chosen.value.is_multiple()
