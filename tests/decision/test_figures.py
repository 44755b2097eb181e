from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inlier.decision import figures
from inlier.decision.figures import ScoreAxis, write_evaluation

HOSTILE = '</style><script>alert("1")</script> & crack'


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.031, "high": value + 0.017}


def metrics(**changes: Any) -> dict[str, Any]:
    """Four normal photos and six of two anomalous classes, as `metrics.json` describes them."""
    return {
        "image_auroc": estimate(0.912),
        "image_ap": estimate(0.823),
        "tpr_at_fpr_05": estimate(0.734),
        "pixel_auroc": estimate(0.945),
        "aupro_03": estimate(0.656),
        "trivial": {"statistic": "brightness", "auroc": 0.567},
        "confusion": {
            "normal": {"flagged": 1.92, "not_flagged": 2.08},
            "anomalous": {"flagged": 4.788, "not_flagged": 1.212},
        },
        "num_thresholds": 100,
        "notes": [],
        "classes": {
            "good": {
                "num_photos": 4,
                "is_anomalous": False,
                "confusion": {"flagged": 1.92, "not_flagged": 2.08},
                "verdicts": {"accept": 3, "uncertain": 1},
            },
            HOSTILE: {
                "num_photos": 4,
                "is_anomalous": True,
                "image_auroc": estimate(0.978),
                "confusion": {"flagged": 3.48, "not_flagged": 0.52},
                "verdicts": {"reject": 3, "accept": 1},
            },
            "dent": {
                "num_photos": 2,
                "is_anomalous": True,
                "image_auroc": estimate(0.789),
                "confusion": {"flagged": 1.308, "not_flagged": 0.692},
                "verdicts": {"reject": 1, "uncertain": 1},
            },
        },
        "split": "test",
        "num_normal": 4,
        "num_anomalous": 6,
        "false_alarm_rate": 0.05,
        "uncertain_rate": 0.2,
        "command": "inlier evaluate M D --out E",
        "data_fingerprint": "9f2c61d0",
        "seed": 7,
        "versions": {"inlier": "0.1.0", "torch": "2.14.0"},
        **changes,
    }


LABELS = ("good",) * 4 + (HOSTILE,) * 4 + ("dent",) * 2
SCORES = np.array([1.0, 1.2, 1.4, 2.0, 0.9, 3.0, 3.5, 40.0, 1.9, 2.8], dtype=np.float32)
IS_ANOMALOUS = np.array([False] * 4 + [True] * 6)
THRESHOLDS = (1.4, 2.5)
VERDICTS = ["reject" if score > 2.5 else "uncertain" if score > np.float32(1.4) else "accept" for score in SCORES]


def write(path: Path, **changes: Any) -> str:
    options: dict[str, Any] = {
        "title": "Pumps",
        "metrics": metrics(),
        "scores": SCORES,
        "is_anomalous": IS_ANOMALOUS,
        "labels": LABELS,
        "verdicts": VERDICTS,
        "axis": ScoreAxis(SCORES, THRESHOLDS),
    }
    write_evaluation(path, **{**options, **changes})
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """The page as a browser parses it: its elements, checked to be well nested, and its text."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        assert self.open == []
        self.words = " ".join(self.words.replace("\xa0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words += data + " "


def test_every_number_stands_on_the_page(tmp_path):
    words = Page(write(tmp_path / "evaluation.html")).words
    for value in (0.912, 0.823, 0.734, 0.945, 0.656, 0.978, 0.789):
        assert f"{value:.3f} {value - 0.031:.3f}\u2013{value + 0.017:.3f}" in words
    assert "AUROC of brightness alone what no model is needed for 0.567" in words
    assert "4 normal and 6 anomalous photos of the split “test”" in words
    assert "dent 2 0.789 0.758\u20130.806" in words
    assert "Command inlier evaluate M D --out E Data fingerprint 9f2c61d0 Seed 7 inlier 0.1.0" in words


def test_classes_stand_normal_first_then_hardest_first(tmp_path):
    words = Page(write(tmp_path / "evaluation.html")).words
    table = words[words.index("Each class") :]
    assert table.index("good 4") < table.index("dent 2") < table.index(f"{HOSTILE} 4")


def test_the_operating_points_are_counted_by_hand(tmp_path):
    # Above 2.5: 4 of 6 anomalous, none of 4 normal. Above 1.4: 5 of 6, and the one normal photo at 2.0.
    page = Page(write(tmp_path / "evaluation.html"))
    assert "Rejected 66.7 % of the anomalous, 0 % of the normal photos (asked: at most 5 %)" in page.words
    assert "Rejected or uncertain 83.3 % of the anomalous, 25 % of the normal photos" in page.words
    circles = {
        attributes["class"]: (attributes["cx"], attributes["cy"])
        for tag, attributes in page.elements
        if tag == "circle" and "class" in attributes
    }
    assert circles == {"reject": ("0.00%", "33.33%"), "uncertain": ("25.00%", "16.67%")}


def test_the_roc_curve_has_its_corners_and_no_more(tmp_path):
    # Descending: aaaa n a nnn a: up to 4/6, one to the right, up to 5/6, right to the end, up.
    page = write(tmp_path / "evaluation.html")
    points = re.search(r'points="([^"]*)"', page)[1].split()
    assert points == [
        "0.0000,1.0000",
        "0.0000,0.3333",
        "0.2500,0.3333",
        "0.2500,0.1667",
        "1.0000,0.1667",
        "1.0000,0.0000",
    ]


def test_the_histogram_counts_every_photo_once(tmp_path):
    page = Page(write(tmp_path / "evaluation.html"))
    bars = [tag for tag in page.elements if tag[0] == "rect" and (tag[1]["class"] or "").startswith("bar")]
    titles = re.findall(r"(\d+) of (\d+)(?= )", page.words[page.words.index("Scores of each class") :])
    assert sum(int(count) for count, _ in titles) == len(SCORES)
    assert len(bars) == len(titles)


def test_far_outliers_share_the_last_bar():
    # Median of the normal photos 1.3, the highest 2.0, the threshold 2.5: 1.3 + 5 * (2.5 - 1.3) = 7.3.
    histogram = figures._histogram(ScoreAxis(SCORES, THRESHOLDS), IS_ANOMALOUS, LABELS, ["good", HOSTILE])
    assert histogram["is_cut"]
    # Bins of 6.4 / 48: 0.9, 3.0, 3.5 and 40 fall into 0, 15, 19 and the last, each alone.
    assert histogram["rows"][1]["bars"] == [(pytest.approx(100 * i / 48), 100, 1) for i in (0, 15, 19, 47)]
    # Bands in percent of 0.9 to 7.3.
    assert [name for name, _, _ in histogram["bands"]] == ["accept", "uncertain", "reject"]
    assert [start for _, start, _ in histogram["bands"]] == pytest.approx([0, 50 / 6.4, 160 / 6.4])
    assert sum(width for _, _, width in histogram["bands"]) == pytest.approx(100)
    assert [label for _, label in histogram["ticks"]] == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_calibration_too_small_to_reject_leaves_no_band_for_it(tmp_path):
    axis = ScoreAxis(SCORES, (math.inf, math.inf))
    page = Page(write(tmp_path / "evaluation.html", axis=axis, verdicts=["accept"] * 10))
    bands = {attributes["class"] for tag, attributes in page.elements if tag == "rect"}
    assert "band accept" in bands
    assert "band reject" not in bands
    assert "Rejected 0 % of the anomalous, 0 % of the normal photos" in page.words


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 7.3, [1, 2, 3, 4, 5, 6, 7]),
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.05, 0.05, [-0.04, -0.02, 0, 0.02, 0.04]),
        (130, 3400, [500, 1000, 1500, 2000, 2500, 3000]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert figures._ticks(low, high) == pytest.approx(ticks)


def test_equal_scores_and_one_class_alone_still_give_a_page(tmp_path):
    page = Page(
        write(
            tmp_path / "evaluation.html",
            metrics=metrics(
                classes={"good": {**metrics()["classes"]["good"], "confusion": None}},
                confusion={"normal": None, "anomalous": None},
                image_auroc=None,
                trivial=None,
            ),
            scores=np.ones(4, dtype=np.float32),
            is_anomalous=np.zeros(4, dtype=bool),
            labels=["good"] * 4,
            verdicts=["accept"] * 4,
            axis=ScoreAxis(np.ones(4, dtype=np.float32), THRESHOLDS),
        )
    )
    assert "False alarms against anomalies found" not in page.words
    assert "not flagged" not in page.words
    assert "good 0 % 0 25 % 1 75 % 3" in page.words
    assert "Scores of each class" in page.words


def test_notes_stand_on_the_page(tmp_path):
    words = Page(write(tmp_path / "evaluation.html", metrics=metrics(notes=["Mind the light.", "And the gap."]))).words
    assert "95 % intervals. Mind the light. And the gap. How well" in words


def test_both_confusion_matrices_are_counted_by_hand(tmp_path):
    page = Page(write(tmp_path / "evaluation.html"))
    words = page.words[page.words.index("What was flagged") :]
    # Flagged, not flagged; reject, uncertain, accept: share and number of each.
    assert "good 48 % 1.9 52 % 2.1 0 % 0 25 % 1 75 % 3" in words
    assert f"{HOSTILE} 87 % 3.5 13 % 0.5 75 % 3 0 % 0 25 % 1" in words
    assert "dent 65 % 1.3 35 % 0.7 50 % 1 50 % 1 0 % 0" in words
    assert "all anomalous 80 % 4.8 20 % 1.2 67 % 4 17 % 1 17 % 1" in words
    assert "all normal" not in words  # one class is all of them
    depths = [(a["class"], a["fill-opacity"]) for tag, a in page.elements if tag == "rect" and "fill-opacity" in a]
    assert depths[:2] == [("flagged", "0.40"), ("not-flagged", "0.42")]  # 0.06 + 0.7 * share


def test_each_class_has_a_curve_where_there_are_several(tmp_path):
    page = write(tmp_path / "evaluation.html")
    assert re.findall(r"<figcaption>dent <span", page) and page.count("<figcaption>") == 2
    # Dents at 2.8 and 1.9, normal photos at 2.0 and below: half are found before the first false alarm.
    curves = [points.split() for points in re.findall(r'points="([^"]*)"', page)]
    assert curves[1] == ["0.0000,1.0000", "0.0000,0.5000", "0.2500,0.5000", "0.2500,0.0000", "1.0000,0.0000"]
    only_dents = np.arange(10) % 8 < 4  # the normal photos and the two dents: 0 to 3, 8, 9
    only_dents[8:] = True
    classes = {name: entry for name, entry in metrics()["classes"].items() if name != HOSTILE}
    alone = write(
        tmp_path / "alone.html",
        metrics=metrics(classes=classes),
        scores=SCORES[only_dents],
        is_anomalous=IS_ANOMALOUS[only_dents],
        labels=[label for label, is_chosen in zip(LABELS, only_dents, strict=True) if is_chosen],
        verdicts=[verdict for verdict, is_chosen in zip(VERDICTS, only_dents, strict=True) if is_chosen],
        axis=ScoreAxis(SCORES[only_dents], THRESHOLDS),
    )
    assert "<figcaption>" not in alone


def test_folds_stand_beside_their_mean(tmp_path):
    aurocs = [1.0, 0.75, None]
    folds = [
        {"fold": 1 + i, "num_learned": 3, "num_normal": 1, "num_anomalous": 2, "image_auroc": auroc, "image_ap": auroc,
         "tpr_at_fpr_05": auroc, "pixel_auroc": None, "aupro_03": None}
        for i, auroc in enumerate(aurocs)
    ]  # fmt: skip
    over_folds = {"image_auroc": {"mean": 0.875, "spread": 0.177}, "image_ap": {"mean": 0.5, "spread": None}}
    page = Page(
        write(
            tmp_path / "evaluation.html",
            metrics=metrics(split="all", folds=folds, over_folds=over_folds),
            axis=ScoreAxis(np.linspace(0, 0.9, 10), (0.8, 0.95), "Share of others"),
            folds=np.array([1, 1, 2, 2, 1, 1, 1, 2, 2, 3]),
        )
    )
    assert "4 normal and 6 anomalous photos by cross-validation: in each of 3 folds a detector" in page.words
    assert "folds 0.875 \u00b1 0.177" in page.words and "\u00b1 None" not in page.words
    table = page.words[page.words.index("Each fold") :]
    assert "1 3 1 2 1.000 1.000 1.000 \u2013 \u2013 2 3 1 2 0.750 0.750 0.750 \u2013 \u2013 3 3 1 2 \u2013" in table
    dots = [a["cx"] for tag, a in page.elements if tag == "circle" and a.get("class") == "fold"]
    assert dots == ["100.00%", "75.00%"] * 3
    thin = [a for tag, a in page.elements if tag == "polyline" and a["class"] == "curve fold"]
    assert len(thin) == 2  # the third fold has no normal photo, and no curve
    assert "Share of others \u2192" in page.words


def test_without_masks_the_page_says_that_the_place_is_unproven(tmp_path):
    values = metrics(pixel_auroc=None, aupro_03=None)
    words = Page(write(tmp_path / "evaluation.html", metrics=values)).words
    assert "Nothing here says whether heat lies in the right place: that takes masks of the defects," in words
    assert "Pixel AUROC" not in words


def test_hostile_names_stay_text_and_nothing_is_fetched(tmp_path):
    values = metrics(command=HOSTILE)
    page = Page(write(tmp_path / "evaluation.html", metrics=values, title=HOSTILE))
    assert page.words.count(HOSTILE) == 7  # title, heading, histogram, two tables, curve, command
    assert "script" not in {tag for tag, _ in page.elements}
    links = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href")]
    assert links == ["data:,"]
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)


def test_the_same_numbers_give_the_same_small_page(tmp_path):
    page = write(tmp_path / "one.html")
    assert page == write(tmp_path / "two.html")
    assert len(page) < 60_000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": LABELS[:-1]}, r"must describe the same photos, at least one, got 10, 10, 9, 10, 10, 10\."),
        (
            {"axis": ScoreAxis(SCORES, (2.0, 1.0))},
            r"thresholds of write_evaluation must not fall, got \(2\.0, 1\.0\)\.",
        ),
        ({"labels": ["good"] * 10}, r"labels of write_evaluation must be the classes .* got good\."),
    ],
)
def test_write_evaluation_refuses(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path / "evaluation.html", **changes)
    assert list(tmp_path.iterdir()) == []
