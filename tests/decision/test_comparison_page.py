from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from inlier.decision.comparison_page import round_axis, write_comparison

HOSTILE = '</style><script>alert("1")</script> & model'


def a_pair(ahead: str, behind: str, gain: tuple[float, float, float], *, is_real: bool) -> dict[str, Any]:
    low, value, high = gain
    return {
        "ahead": ahead,
        "behind": behind,
        "gain": {"value": value, "low": low, "high": high},
        "p_value": 0.0004 if is_real else 0.41,
        "p_holm": 0.0012 if is_real else 0.82,
        "is_real": is_real,
        "delong": {"p_value": 0.0003},
        "bootstrap": {"value": value, "low": low - 0.01, "high": high + 0.01, "p_value": 0.02},
        "sentence": f"Something of {ahead} and {behind}.",
    }


def metrics(**changes: Any) -> dict[str, Any]:
    """Three models as `comparison.json` describes them, one with an odd name and no maps."""
    models = [
        {
            "name": name,
            "identity": f"{place:012x}",
            "detector": "patchcore",
            "backbone": "efficientnet_lite0",
            "fitted_on": "9f2c",
            "image_auroc": {"value": value, "low": value - 0.05, "high": value + 0.03},
            "aupro_03": None if name == HOSTILE else {"value": 0.7, "low": 0.6, "high": 0.8},
        }
        for place, (name, value) in enumerate((("plain", 0.84), ("tuned", 0.93), (HOSTILE, 0.85)))
    ]
    return {
        "models": models,
        "pairs": [
            a_pair("tuned", "plain", (0.03, 0.09, 0.15), is_real=True),
            a_pair(HOSTILE, "plain", (-0.04, 0.01, 0.06), is_real=False),
            a_pair("tuned", HOSTILE, (0.02, 0.08, 0.14), is_real=True),
        ],
        "verdict": "tuned is better than each of the other 2 models.",
        "notes": ["Only a few photos."],
        "split": "test",
        "num_normal": 40,
        "num_anomalous": 20,
        "num_unreadable": 0,
        "command": "inlier compare A B C --data D --out E",
        "data_fingerprint": "9f2c61d0",
        "seed": 7,
        "versions": {"inlier": "0.1.0", "torch": "2.14.0"},
        **changes,
    }


def write(path: Path, **changes: Any) -> str:
    write_comparison(path, title="Comparison", metrics=metrics(**changes))
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Text and figures of a page, and whether each tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.circles: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "circle":
            self.circles.append(dict(attrs)["cx"] or "")
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    page = Reader(write(tmp_path / "page.html"))
    text = " ".join(page.text.split())
    assert page.open == []
    assert "tuned is better than each of the other 2 models." in text
    assert "3 models on the same 40 normal and 20 anomalous photos of the split “test”" in text
    for shown in ("0.930 0.880–0.960", "9.0 3.0 to 15.0", "1.0 −4.0 to 6.0", "0.001", "Only a few photos.", HOSTILE):  # noqa: RUF001
        assert shown in text
    assert "Something of tuned and plain." in text
    assert "after Holm’s correction for 3 comparisons" in text  # noqa: RUF001
    assert "script" not in page.tags


def test_points_stand_where_their_values_are(tmp_path: Path) -> None:
    page = Reader(write(tmp_path / "page.html"))
    # The axis of AUROCs goes from 0.75 (lowest interval 0.79) to 1, that of gains from -5 to 15.
    assert page.circles == ["36.00%", "72.00%", "40.00%", "70.00%", "30.00%", "65.00%"]


def test_differences_that_are_real_look_it(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html")
    assert re.findall(r'<tr class="(real|open)">', page) == ["real", "open", "real"]


def test_two_models_without_maps_make_a_plainer_page(tmp_path: Path) -> None:
    whole = metrics()
    models = [{**model, "aupro_03": None} for model in whole["models"][:2]]
    text = Reader(write(tmp_path / "page.html", models=models, pairs=whole["pairs"][:1], notes=[])).text
    assert "AUPRO" not in text and "corrected" not in text and "Holm" not in text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-4.0, 15.0, (-5.0, 0.0, 5.0, 10.0, 15.0)),
        (-1.0, 1.0, (-1.0, -0.5, 0.0, 0.5, 1.0)),
        (0.79, 1.0, (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)),
        (0.025, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (-52.0, 52.0, (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)),
    ],
)
def test_an_axis_ends_at_round_numbers(low: float, high: float, ticks: tuple[float, ...]) -> None:
    axis = round_axis(low, high)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.at(axis.low) == "0.00%" and axis.at(axis.high) == "100.00%"
