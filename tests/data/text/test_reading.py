from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inlier.data.text import reading
from inlier.data.text.reading import LEGIBLE, Text, check_reader, numbers_in, read_text
from inlier.errors import MissingExtraError

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def plate(text: str, *, size: tuple[int, int] = (400, 300), height: int = 90, turn: int = 0) -> NDArray[np.uint8]:
    """A grey plate, width and height given, with dark letters in its middle, turned by so many quarters."""
    picture = Image.new("RGB", size, (150, 152, 155))
    ImageDraw.Draw(picture).text(
        (size[0] / 2, size[1] / 2), text, fill=(20, 20, 25), font=ImageFont.load_default(height), anchor="mm"
    )
    return np.ascontiguousarray(np.rot90(np.asarray(picture), turn))


def text(said: str, confidence: float) -> Text:
    return Text(said, confidence, SQUARE)


@pytest.fixture
def reader() -> None:
    """Skips what needs the networks where they are not installed."""
    pytest.importorskip("rapidocr", reason="what reads is not installed: pip install 'inlier[ocr]'")
    pytest.importorskip("onnxruntime", reason="what reads is not installed: pip install 'inlier[ocr]'")


@pytest.mark.usefixtures("reader")
def test_a_number_is_read_where_it_stands() -> None:
    (found,) = read_text(plate("12"))
    assert found.text == "12" and LEGIBLE <= found.confidence <= 1
    corners = np.array(found.corners)
    assert ((0 <= corners) & (corners <= 1)).all()
    np.testing.assert_allclose(corners.mean(axis=0), (0.5, 0.5), atol=0.04)
    left, top = corners.min(axis=0)
    assert 0.25 < left < 0.42 and 0.2 < top < 0.42  # two digits of a quarter of the height, in the middle


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("turn", [1, 2])
def test_a_number_that_lies_or_stands_on_its_head_is_read(turn: int) -> None:
    assert numbers_in(read_text(plate("247", turn=turn))) == ("247",)


@pytest.mark.usefixtures("reader")
def test_what_shows_nothing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(100, 140, (120, 160, 3), dtype=np.uint8)
    assert read_text(noise) == ()
    assert read_text(np.full((16, 16, 3), 90, dtype=np.uint8)) == ()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("shape", [(16, 900), (900, 16)])
def test_a_narrow_strip_costs_no_more_than_a_photo(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged until its shorter side is long enough, it would have 40,000 px a side."""
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda of, size, *a, **k: sizes.append(size) or resize(of, size, *a, **k)
    )
    read_text(np.full((*shape, 3), 120, dtype=np.uint8))
    assert max(max(size) for size in sizes) == 1472


def test_of_two_readings_of_one_place_the_longer_counts_if_about_as_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    half = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
    beside = ((0.6, 0.6), (0.9, 0.6), (0.9, 0.9), (0.6, 0.9))
    found = {352: [Text("10", 0.97, half), Text("8", 0.82, beside)], 512: [Text("0", 1.0, half)]}
    found[736] = [Text("UNAWAV", 0.81, half), Text("B", 0.99, beside)]
    monkeypatch.setattr(reading, "_engine", lambda num_threads: None)
    monkeypatch.setattr(reading, "_read_at", lambda side, photo, engine: found[side])
    assert [text.text for text in read_text(np.zeros((32, 32, 3), dtype=np.uint8))] == ["10", "B"]


def test_numbers_are_named_once_the_surest_first() -> None:
    texts = [text("cyl 3, 12", 0.85), text("MAN", 0.99), text("7", 0.95), text("12", 0.9)]
    assert numbers_in(texts) == ("7", "12", "3")
    assert numbers_in([]) == ()


def test_only_plain_digits_are_a_number() -> None:
    assert text("No. 4b/٣²", 0.9).numbers == ("4",)


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_what_reads_one_sentence_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"install it with: pip install 'inlier\[ocr\]'$"):
        check_reader()


@pytest.mark.usefixtures("reader")
def test_other_loggers_are_left_alone() -> None:
    level = logging.getLogger().level
    check_reader()
    assert logging.getLogger().level == level
