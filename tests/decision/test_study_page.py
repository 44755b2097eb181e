from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.decision.study_page import duration, write_study_page

HOSTILE = '</style><script>alert("1")</script> & set'
BACKBONES = [
    ("lite0", "ImageNet", None, None),
    ("rd@port", "Reverse distillation on port", "reverse-distillation", "port"),
    ("rd@archive", "Reverse distillation on archive", "reverse-distillation", "archive"),
    ("simclr@port", "SimCLR on port", "simclr", "port"),
    ("simclr@archive", "SimCLR on archive", "simclr", "archive"),
    ("supcon@port", "SupCon on port", "supcon", "port"),
    ("masked@archive", "Masked on archive", "masked", "archive"),
]
CLASSES = [("ring", False), ("lock", False), ("liner", False), ("screenshot", True)]


def an_interval(value: float, key: str = "value", width: float = 0.04) -> dict[str, float]:
    return {key: value, "low": max(value - width, 0.0), "high": min(value + width, 1.0)}


def a_picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(60, 220, size=(4, 4, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(file, "WEBP", quality=60)
    return file.getvalue()


def empty() -> dict[str, Any]:
    """A study of which nothing is known."""
    lists = "seeds notes datasets backbones detectors cells rows means pairs losses maps map_classes boxes confusions"
    return {
        **{name: [] for name in [*lists.split(), "rocs", "galleries"]},
        "name": "nothing",
        "command": "inlier study S",
        "versions": {},
        "seconds": 0.2,
        "patches": None,
    }


def numbers(sets: list[str], backbones: list[Any], detectors: list[str], num_seeds: int) -> dict[str, list[Any]]:
    """Cells, and the rows, means and pairs that follow from them."""
    rng = np.random.default_rng(0)
    truth = {key: float(rng.uniform(0.55, 0.95)) for key in product(sets, [of[0] for of in backbones], detectors)}
    cells = [
        {
            "name": f"{dataset[:4]}-{backbone}-{detector}-{seed}",
            **dict(dataset=dataset, backbone=backbone, detector=detector, seed=seed),
            "dev": an_interval(min(value + 0.03, 1.0)),
            "test": an_interval(value + 0.01 * seed),
            "pixel_auroc": an_interval(0.9) if dataset == "lock-condition" else None,
            "aupro_03": None,
            **dict(num_trials=30, fit_seconds=75.0 + seed, folder=f"cells/{backbone}/{detector} {seed}"),
        }
        for (dataset, backbone, detector), value in truth.items()
        for seed in range(num_seeds)
    ]
    key_names = ("dataset", "backbone", "detector")
    rows = [
        {
            **dict(zip(key_names, key, strict=True)),
            "dev": an_interval(min(value + 0.03, 1.0), "mean"),
            "test": an_interval(value, "mean"),
            "num_seeds": num_seeds,
        }
        for key, value in truth.items()
    ]
    means = [
        {"task": task, "detector": detector, "backbone": of[0], "test": an_interval(float(np.mean(values)), "mean")}
        for task, of, detector in product(("filter", "condition"), backbones, detectors)
        if (values := [truth[s, of[0], detector] for s in sets if (s == "port") == (task == "filter")])
    ]
    pairs = [
        {
            "dataset": dataset,
            "a": {"backbone": a[0], "detector": a[1]},
            "b": {"backbone": b[0], "detector": b[1]},
            "gain": {"value": gain, "low": gain - 0.08, "high": gain + 0.08},
            **dict(p_value=0.0004 if abs(gain) > 0.1 else 0.2, p_adjusted=0.004 if abs(gain) > 0.1 else 1.0),
            "is_real": abs(gain) > 0.1,
        }
        for dataset in sets
        for a, b in combinations(product([of[0] for of in backbones], detectors), 2)
        if (gain := truth[(dataset, *a)] - truth[(dataset, *b)]) is not None
    ]
    return {"cells": cells, "rows": rows, "means": means, "pairs": pairs}


def maps_boxes_and_losses(sets: list[str], backbones: list[Any], detectors: list[str]) -> dict[str, list[Any]]:
    """What figures 5.2 and 5.6 and table 5.1 show."""
    rng = np.random.default_rng(1)
    places = rng.normal(size=(400, 2)) + 5 * np.array([(i % 4, i % 3) for i in range(400)])
    return {
        "losses": [
            {
                **dict(backbone=name, objective=objective, trained_on=archive, dataset=sets[0]),
                **dict(is_anomalous=is_bad, loss=3.1e-5 if is_bad else 1.3e-5, num_photos=90),
                "frozen_loss": 6e-5 if is_bad else 4e-5,
            }
            for name, _, objective, archive in backbones[1:]
            for is_bad in (False, True)
        ],
        "maps": [
            {
                "backbone": of[0],
                "points": [[x, y, i % 4] for i, (x, y) in enumerate((places + rng.normal(size=(400, 2))).tolist())],
            }
            for of in backbones
        ],
        "map_classes": [{"label": label, "is_anomalous": is_bad} for label, is_bad in CLASSES],
        "boxes": [
            {
                **dict(dataset=dataset, detector=detector, layers=layers),
                "values": rng.normal(0.6 + 0.05 * len(layers), 0.07, size=25).clip(0.1, 0.99).tolist(),
            }
            for dataset, detector in product(sets, detectors)
            for layers in ("3", "1", "1,2", "2,3", "2", "1,2,3", "1,3")
        ],
    }


def a_gallery(dataset: str, detector: str) -> dict[str, Any]:
    photos = [
        {
            **dict(picture=f"photo {i}", heatmap=f"heat {i}", label=CLASSES[i % 4][0]),
            **dict(score=2.3456 * i, p_value=0.01 * i),
        }
        for i in range(4)
    ]
    lists = {"most_normal_flagged": photos, "least_anomalous": photos}
    return {"dataset": dataset, "backbone": "lite0", "detector": detector, **lists}


def errors(sets: list[str], backbones: list[Any], detectors: list[str]) -> dict[str, Any]:
    """What appendices D and E and the galleries show."""
    return {
        "patches": {
            "dataset": sets[0],
            "rows": [
                {"patch_size": size, "pooling": pooling, **an_interval(0.6 + size / 100, "auroc")}
                for size, pooling in product((1, 29), ("max", "mean"))
            ],
            "sizes": [1, 5, 29],
            "photos": [
                {"title": f"photo {i}", "cells": [f"patch {size} {i}" for size in (1, 5, 29)]} for i in range(4)
            ],
        },
        "confusions": [
            {
                **dict(dataset=dataset, backbone=of[0], detector=detector),
                "rows": [
                    {
                        **dict(label=label, is_anomalous=is_bad, num_photos=40 + i),
                        "flagged": (share := min(0.42 + 0.04 * i + 0.4 * is_bad, 1.0)),
                        "not_flagged": 1 - share,
                    }
                    for i, (label, is_bad) in enumerate(CLASSES)
                ],
            }
            for dataset, of, detector in product(sets, backbones, detectors)
        ],
        "rocs": [
            {
                **dict(dataset=dataset, backbone=of[0], detector=detector),
                "points": [[0.0, 0.0], [0.0, 0.4], [0.2, 0.4], [0.2, 0.9], [1.0, 1.0]],
                **dict(auroc=0.77, thresholds=np.linspace(0, 1, 40).tolist()),
            }
            for dataset, of, detector in product(sets, backbones, detectors)
        ],
        "galleries": [a_gallery(*of) for of in product(sets, detectors)],
    }


def a_study(
    num_datasets: int = 5, num_backbones: int = 7, num_detectors: int = 2, num_seeds: int = 3
) -> dict[str, Any]:
    """A whole report of made-up numbers that hang together: rows and means are those of their cells."""
    sets = ["port", "overview", "lock-condition", HOSTILE, "ring-surface"][:num_datasets]
    backbones, detectors = BACKBONES[:num_backbones], ["patchcore", "reverse_distillation"][:num_detectors]
    return {
        **empty(),
        "name": "thesis",
        "seconds": 12_345.0,
        "seeds": list(range(num_seeds)),
        "versions": {"inlier": "0.1.0", "torch": "2.14.0"},
        "notes": ["The condition sets hold few photos."],
        "datasets": [
            {
                **dict(name=name, title=name, task="filter" if name == "port" else "condition"),
                **dict(num_train=400, num_dev=100, num_test=200),
                "classes": [
                    {"label": label, "is_anomalous": is_bad, "train": 0 if is_bad else 9, "dev": 5, "test": 7}
                    for label, is_bad in CLASSES
                ],
                "trivial": {"statistic": "file size", "auroc": 0.61} if name == "port" else None,
            }
            for name in sets
        ],
        "backbones": [
            {
                **dict(name=name, title=title, objective=objective, trained_on=archive),
                **dict(seconds=640.0 if objective else None, gate="kept half of the way" if objective else None),
            }
            for name, title, objective, archive in backbones
        ],
        "detectors": [{"name": name} for name in detectors],
        **numbers(sets, backbones, detectors, num_seeds),
        **maps_boxes_and_losses(sets, backbones, detectors),
        **errors(sets, backbones, detectors),
    }


def all_pictures(report: dict[str, Any]) -> dict[str, bytes]:
    keys = dict.fromkeys(re.findall(r'"((?:photo|heat|patch) [\d ]+)"', json.dumps(report)))
    return {key: a_picture(seed) for seed, key in enumerate(keys)}


class Reader(HTMLParser):
    """Text, links and pictures of a page, and whether each tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def each(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [of for name, of in self.tags if name == tag and wanted.items() <= of.items()]


def write(path: Path, report: dict[str, Any], pictures: dict[str, bytes] | None = None) -> Reader:
    write_study_page(path, title="Study", report=report, pictures=pictures or {})
    page = Reader(path.read_text(encoding="utf-8"))
    assert page.open == []
    page.text = " ".join(page.text.split())
    return page


def sections(page: Reader) -> list[str | None]:
    found = [of["aria-labelledby"] for of in page.each("section")]
    links = [of["href"] for of in page.each("a") if (of["href"] or "").startswith("#")]
    assert links == [f"#{name}" for name in found]
    return found


def test_the_page_of_a_large_study_says_and_shows_all_of_it(tmp_path: Path) -> None:
    report = a_study()
    pictures = all_pictures(report)
    page = write(tmp_path / "study.html", report, pictures)
    assert sections(page) == (
        "data bars gains pairs losses maps galleries boxes tables patches confusions rocs source".split()
    )
    for number in ("figure 5.1", "table 5.1", "figures 5.2 and F.1", "figures 5.3 to 5.5", "figure 5.6", "figure D.1"):
        assert number in page.text
    for number in ("table C.1 of", "table C.2 of", "table D.1 of", "figure E.1 of", "figure E.2 of"):
        assert number in page.text
    assert "5 data sets × 7 backbones × 2 detectors × 3 seeds: 210 cells, 3 h 26 min." in page.text  # noqa: RUF001
    assert HOSTILE in page.text and page.text.count("The condition sets hold few photos.") == 1
    assert len(page.each("img")) == 5 * 2 * 2 * 4 * 2 + 3 * 4
    # Two tasks and, for the four condition sets, each by itself: a bar for each cell.
    assert len(page.each("rect", **{"class": "bar"})) == 6 * 14
    assert len(page.each("rect", **{"class": "box"})) == 5 * 2 * 7
    assert len(page.each("table", **{"class": "matrix"})) == 5 and len(page.each("table", **{"class": "forest"})) == 5
    assert {of["href"] for of in page.each("a") if (of["href"] or "").endswith(".csv")} == {
        f"{name}.csv" for name in ("cells", "rows", "pairs", "losses", "boxes", "patches", "confusions", "rocs")
    }
    assert page.each("a", href="./cells/supcon%40port/patchcore%202/")
    assert (tmp_path / "study.html").stat().st_size < 2e6


def test_the_page_of_one_cell_leaves_out_what_needs_several(tmp_path: Path) -> None:
    page = write(tmp_path / "study.html", a_study(1, 1, 1, 1))
    assert sections(page) == "data bars maps galleries boxes tables patches confusions rocs source".split()
    assert "Filter: patchcore on ImageNet reaches an AUROC of 0.805 (0.765 to 0.845) on the test photos of port." in (
        page.text
    )
    assert "1 data set × 1 backbone × 1 detector × 1 seed: 1 cell" in page.text  # noqa: RUF001
    for absent in ("paired", "Holm", "the best", "Dots are seeds", "table C.2", "pairs.csv", "flatters"):
        assert absent not in page.text
    assert page.each("tr", **{"class": "best"}) == []


def test_an_empty_study_is_a_page_too(tmp_path: Path) -> None:
    page = write(tmp_path / "study.html", empty())
    assert sections(page) == ["source"]
    assert "thesis" not in page.text and ".csv" not in page.text and "AUROC" not in page.text
    assert "0 cells, under a second." in page.text


SECTION_OF = {
    **dict(means="", map_classes="", rows="", cells=""),
    **dict(pairs="pairs gains", losses="losses", maps="maps", boxes="boxes", confusions="confusions"),
    **dict(rocs="rocs", galleries="galleries", patches="patches", backbones="gains", detectors=""),
}


@pytest.mark.parametrize("name", SECTION_OF)
def test_what_a_study_does_not_hold_leaves_no_trace(tmp_path: Path, name: str) -> None:
    report = a_study(2, 3, 2, 1)
    all_sections = sections(write(tmp_path / "study.html", report))
    report[name] = None if name == "patches" else []
    if name == "map_classes":
        report["maps"] = []
    missing = {*SECTION_OF[name].split(), *(["maps"] if name == "map_classes" else [])}
    page = write(tmp_path / "study.html", report)
    assert sections(page) == [of for of in all_sections if of not in missing]
    assert f"{name}.csv" not in page.text


def test_what_is_unknown_is_said_to_be(tmp_path: Path) -> None:
    report = a_study(1, 2, 1, 2)
    for entry in (*report["rows"], *report["cells"]):
        entry["dev"] = entry["test"] = None
    report["means"] = []
    report["losses"] = [{**report["losses"][0], "frozen_loss": None}]
    for of in report["backbones"]:
        of["seconds"] = of["gate"] = None
    page = write(tmp_path / "study.html", report)
    assert "bars" not in sections(page)
    assert "–" in page.text and "None" not in page.text and "nan" not in page.text  # noqa: RUF001


def a_pair(backbone: str, gain: float, *, is_real: bool, is_turned: bool = False) -> dict[str, Any]:
    a, b = ({"backbone": of, "detector": "patchcore"} for of in (backbone, "lite0"))
    value = {"value": gain, "low": gain - 0.02, "high": gain + 0.03}
    if is_turned:
        a, b, value = b, a, {"value": -gain, "low": -gain - 0.03, "high": -gain + 0.02}
    return {
        **dict(dataset="port", a=a, b=b, gain=value, is_real=is_real),
        **dict(p_value=0.01, p_adjusted=0.04),
    }


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (
            [a_pair("rd@port", 0.05, is_real=True), a_pair("simclr@port", 0.09, is_real=True, is_turned=True)],
            "A fine-tuned backbone beats the frozen one in 2 of 2 paired tests. It gains most with SimCLR on port "
            "under patchcore on port: 9.0 points of AUROC (7.0 to 12.0). ",
        ),
        (
            [a_pair("rd@port", 0.05, is_real=True), a_pair("simclr@port", -0.09, is_real=True)],
            "A fine-tuned backbone beats the frozen one in 1 of 2 paired tests and falls behind it in 1.",
        ),
        (
            [a_pair("rd@port", 0.05, is_real=False), a_pair("simclr@port", -0.09, is_real=True, is_turned=True)],
            "No fine-tuned backbone is shown to beat the frozen one: none of 2 paired tests speaks for it, and 1 is "
            "against it.",
        ),
        (
            [a_pair("rd@port", 0.05, is_real=False)],
            "No fine-tuned backbone is shown to beat the frozen one: the one paired test does not speak for it. ",
        ),
    ],
)
def test_the_headline_counts_the_tests_against_the_frozen_backbone(
    tmp_path: Path, pairs: list[dict[str, Any]], sentence: str
) -> None:
    page = write(tmp_path / "study.html", {**a_study(1, 4, 1, 1), "pairs": pairs})
    assert sentence in page.text
    num_real = sum(pair["is_real"] for pair in pairs)
    assert f"{num_real} of {len(pairs)} paired test" in page.text


def test_the_best_of_each_task_is_named_with_the_best_frozen_one(tmp_path: Path) -> None:
    report = a_study(2, 3, 1, 1)
    values = {"lite0": 0.8, "rd@port": 0.9, "rd@archive": 0.7}
    for of in report["means"]:
        of["test"] = an_interval(values[of["backbone"]], "mean")
    text = write(tmp_path / "study.html", report).text
    for task, where in (("Filter", "port"), ("Condition", "overview")):
        assert (
            f"{task}: patchcore on Reverse distillation on port is the best of 3, with an AUROC of 0.900 (0.860 to "
            f"0.940) on the test photos of {where}. With a frozen backbone, patchcore is best, with 0.800 (0.760 to "
            "0.840)."
        ) in text


def test_a_gain_is_drawn_for_the_fine_tuned_backbone_whichever_way_the_pair_stands(tmp_path: Path) -> None:
    pairs = [a_pair("rd@port", 0.05, is_real=True), a_pair("simclr@port", 0.05, is_real=False, is_turned=True)]
    page = write(tmp_path / "study.html", {**a_study(1, 4, 1, 1), "pairs": pairs})
    # The axis goes from -2 (no gain's end is below, but the axis holds -1) to 8 points.
    circles = page.each("circle", r="4.5")
    assert [of["cx"] for of in circles] == ["70.00%", "70.00%"]
    assert page.text.count("+5.0 +3.0 to +8.0, p 0.040") == 2


def test_a_pair_is_shown_from_both_sides_and_bold_where_real(tmp_path: Path) -> None:
    pairs = [a_pair("rd@port", 0.05, is_real=True), a_pair("simclr@port", -0.01, is_real=False)]
    page = write(tmp_path / "study.html", {**a_study(1, 4, 1, 1), "pairs": pairs})
    cells = {of["title"]: of["class"] for of in page.each("td") if "against" in (of.get("title") or "")}
    assert cells == {
        f"patchcore on {a}, against patchcore on {b}: {points}, p 0.010, adjusted 0.040": shown
        for a, b, points, shown in (
            ("Reverse distillation on port", "ImageNet", "+5.0 points (+3.0 to +8.0)", "real ahead s3"),
            ("ImageNet", "Reverse distillation on port", "−5.0 points (−8.0 to −3.0)", "real behind s3"),  # noqa: RUF001
            ("SimCLR on port", "ImageNet", "−1.0 points (−3.0 to +2.0)", "open behind s1"),  # noqa: RUF001
            ("ImageNet", "SimCLR on port", "+1.0 points (−2.0 to +3.0)", "open ahead s1"),  # noqa: RUF001
        )
    }


def test_bars_and_seeds_stand_where_their_values_are(tmp_path: Path) -> None:
    report = a_study(1, 1, 1, 2)
    report["means"][0]["test"] = {"mean": 0.75, "low": 0.7, "high": 0.8}
    for cell, value in zip(report["cells"], (0.7, 0.8), strict=True):
        cell["test"]["value"] = value
    page = write(tmp_path / "study.html", report)
    bar = page.each("rect", **{"class": "bar"})[0]
    assert (bar["y"], bar["height"]) == ("25.00%", "75.00%")
    assert [of["cy"] for of in page.each("circle", r="2.5")][:2] == ["30.00%", "20.00%"]
    trivial = page.each("line", **{"class": "trivial"})[0]
    assert trivial["y1"] == "39.00%"


def test_a_seed_of_a_task_is_its_mean_over_data_sets_if_all_have_it(tmp_path: Path) -> None:
    report = a_study(3, 1, 1, 3)
    for cell, value in zip(report["cells"][3:], (0.6, 0.7, 0.5, 0.8, 0.9, 0.5), strict=True):
        cell["test"]["value"] = value
    report["cells"][-1]["test"] = None
    page = write(tmp_path / "study.html", report)
    dots = [of["cy"] for of in page.each("circle", r="2.5")]
    assert dots[3:10] == ["30.00%", "20.00%", "40.00%", "30.00%", "50.00%", "20.00%", "10.00%"]


def test_boxes_are_quartiles_in_the_order_of_depth(tmp_path: Path) -> None:
    boxes = [
        {"dataset": "port", "detector": "patchcore", "layers": layers, "values": values}
        for layers, values in (("3", [0.9]), ("1,3", []), ("1,2", [0.5, 0.6, 0.7, 0.8, 0.1]))
    ]
    page = write(tmp_path / "study.html", {**a_study(1, 1, 1, 1), "boxes": boxes})
    assert [of["height"] for of in page.each("rect", **{"class": "box"})] == ["20.00%", "0.00%"]
    assert [of["y1"] for of in page.each("line", **{"class": "median"})] == ["40.00%", "10.00%"]
    assert [of["cy"] for of in page.each("circle", r="2.5")] == ["90.00%"]  # further than 1.5 boxes below
    whisker = page.each("line", **{"class": "interval", "x1": "50%"})[1]
    assert (whisker["y1"], whisker["y2"]) == ("20.00%", "50.00%")
    assert "Layers 1,2, 5 trials: median 0.600, middle half 0.500 to 0.700" in page.text


def test_a_loss_has_its_ratio_of_anomalous_to_normal(tmp_path: Path) -> None:
    text = write(tmp_path / "study.html", a_study(1, 2, 1, 1)).text
    assert "1.3 · 10−5 frozen 4.0 · 10−53.1 · 10−5 frozen 6.0 · 10−52.38× frozen 1.50×" in text  # noqa: RUF001


def test_a_missing_picture_is_an_empty_frame(tmp_path: Path) -> None:
    report = a_study(1, 1, 1, 1)
    pictures = all_pictures(report)
    del pictures["heat 2"]
    page = write(tmp_path / "study.html", report, pictures)
    assert len(page.each("img")) == 2 * 4 * 2 + 12 - 2
    blank = page.each("span", **{"class": "blank"})
    assert [of["aria-label"] for of in blank] == ["Heatmap of liner: no picture"] * 2


def test_maps_of_different_photos_are_refused(tmp_path: Path) -> None:
    report = a_study(1, 2, 1, 1)
    del report["maps"][1]["points"][0]
    with pytest.raises(
        ValueError, match=r"maps of write_study_page must hold the same photos, got \[399, 400\] points"
    ):
        write_study_page(tmp_path / "study.html", title="Study", report=report, pictures={})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "under a second"), (1.2, "1 second"), (99, "99 seconds"), (5900, "98 minutes"), (12_345, "3 h 26 min")],
)
def test_a_span_of_time_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    report = a_study()
    report["map_classes"][0]["label"] = HOSTILE
    path = tmp_path / "study.html"
    page = write(path, report)
    content = path.read_text(encoding="utf-8")
    assert len(page.each("script")) == 2 and "alert(" in content and "<script>alert" not in content
    assert " style=" not in content and " onclick=" not in content


@pytest.mark.browser
def test_the_browser_sorts_reads_out_pairs_and_links_the_maps(tab: Any, tmp_path: Path) -> None:
    report = a_study(2, 3, 2, 2)
    path = tmp_path / "study.html"
    write(path, report, all_pictures(report))
    tab.open(path)
    first = "document.querySelectorAll('#tables ~ div table')[0]"
    tab.run(f"{first}.tHead.rows[0].cells[5].querySelector('button').click()")
    column = f"[...{first}.tBodies[0].rows].map((row) => Number(row.cells[5].dataset.value))"
    values = tab.run(column)
    assert values == sorted(values, reverse=True) and len(values) == 6
    tab.run(f"{first}.tHead.rows[0].cells[5].querySelector('button').click()")
    assert tab.run(column) == values[::-1]
    assert tab.run(f"{first}.tHead.rows[0].cells[5].ariaSort") == "ascending"

    tab.run("document.querySelector('.matrix td.s1, .matrix td.s2, .matrix td.s3, .matrix td.s4').click()")
    assert re.search(r" against .+ points \(.+ to .+\), p .+, adjusted ", tab.text(".readout"))

    tab.run("document.querySelector('.points').scrollIntoView()")
    tab.settle()
    before = tab.run("document.querySelectorAll('.points')[1].toDataURL()")
    x, y, width, height = tab.box()
    tab.drag([(x + 2, y + 2), (x + width / 2, y + 2), (x + width / 2, y + height - 2), (x + 2, y + height - 2)])
    assert re.match(r"\d+ selected: \d+ ring", tab.text("#map-status"))
    assert tab.run("document.querySelectorAll('.points')[1].toDataURL()") != before  # the others fade there too
    tab.key("Escape")
    assert tab.run("document.querySelectorAll('.points')[1].toDataURL()") == before
    assert tab.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("size", [(5, 7, 2, 3), (1, 1, 1, 1)])
def test_no_page_is_wider_than_its_window(tab: Any, tmp_path: Path, width: int, size: tuple[int, ...]) -> None:
    path = tmp_path / "study.html"
    write(path, a_study(*size))
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    try:
        tab.open(path)
        tab.run("document.querySelectorAll('details').forEach((of) => { of.open = true; })")
        assert tab.run("document.documentElement.scrollWidth") <= width
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
