from __future__ import annotations

import json
import math
import re
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inlier.decision.tuning_page import as_toml, verdict, write_tuning_page

HOSTILE = '</script><script>alert("1")</script> & <b>choice</b>'
MIB = 2**20


def a_search(num_trials: int = 100, *, metric: str = "auroc", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A search of PatchCore as its report tells it; the ratio of the coreset and the layers matter most."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(num_trials):
        kind = "failed" if number % 50 == 20 else "pruned" if number % 9 == 5 else "complete"
        width = 0.3 if number < 20 else 0.12
        ratio = float(10 ** np.clip(rng.normal(-2.0, 5 * width), -3.5, -0.5))
        layers = str(rng.choice(["2,3", "2,3,4", "3,4", HOSTILE]))
        params = {
            "detector.coreset_ratio": ratio,
            "detector.num_neighbors": int(rng.integers(1, 30)),
            "backbone.layers": layers,
            "backbone.image_size": int(rng.choice([192, 224, 256, 320])),
            "detector.reweight": bool(rng.integers(2)),
        }
        if params["detector.reweight"]:
            params["detector.reweight_neighbors"] = int(rng.integers(2, 12))
        good = 0.9 - 0.05 * (math.log10(ratio) + 2) ** 2 + 0.03 * (layers == "2,3,4") - 0.04 * (layers == HOSTILE)
        good += 0.012 * (params["backbone.image_size"] >= 256) + rng.normal(0, 0.006)
        value = (1 - good) * 3 if metric == "loss" else good
        trials.append(
            {
                "number": number,
                "state": kind,
                "value": value if kind == "complete" else value - 0.03 if number % 18 == 5 else None,
                "params": params,
                "fit_seconds": 20 + 300 * ratio,
                "latency_ms": 12 + 900 * ratio * params["backbone.image_size"] / 224 + rng.normal(0, 1),
                "peak_bytes": (400 + 3000 * ratio) * MIB,
                "predicted_bytes": (420 + 3000 * ratio) * MIB,
                "reduced": ["coreset_ratio 0.4 -> 0.25"] if ratio > 0.2 else [],
                "worker": f"worker-{number % 2}",
                "seconds": 31.5,
            }
        )
    return a_report(trials, metric=metric, **changes)


def a_report(trials: list[dict[str, Any]], *, metric: str = "auroc", **changes: Any) -> dict[str, Any]:
    sign = -1 if metric == "loss" else 1
    completed = [trial for trial in trials if trial["state"] == "complete" and trial["value"] is not None]
    best = max(completed, key=lambda trial: sign * trial["value"], default=None)
    keys = ("number", "value", "params", "fit_seconds", "latency_ms", "peak_bytes", "predicted_bytes")
    count = {state: sum(trial["state"] == state for trial in trials) for state in ("complete", "pruned", "failed")}
    return {
        "name": "patchcore",
        "kind": "detector",
        "metric": metric,
        "direction": "minimize" if metric == "loss" else "maximize",
        "second": None,
        "command": "inlier tune patchcore --data D --out E",
        "seed": 7,
        "versions": {"inlier": "0.1.0", "optuna": "4.5.0"},
        "data_fingerprint": "9f2c61d0",
        "memory_budget": "2GiB",
        "seconds": 5024.0,
        "counts": {**count, "reduced": sum(bool(trial["reduced"]) for trial in trials)},
        "baseline": {
            "value": 0.36 if metric == "loss" else 0.88,
            "fit_seconds": 24.0,
            "latency_ms": 21.0,
            "peak_bytes": 430 * MIB,
            "predicted_bytes": 450 * MIB,
        },
        "best": best and {key: best[key] for key in keys} | {"settings": _settings(best["params"])},
        "parameters": _parameters(),
        "trials": trials,
        "front": {key: _front(completed, key, sign) for key in ("latency_ms", "peak_bytes")},
        "test": None,
        "test_of_default": None,
        "gain": None,
        "notes": ["Only 40 normal photos were there to judge by."],
        **changes,
    }


def _settings(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        section, key = name.split(".")
        settings.setdefault(section, {})[key] = value
    return settings


def _parameters() -> list[dict[str, Any]]:
    ranges = {
        "detector.coreset_ratio": (0.0003, 0.3, 0.52),
        "detector.num_neighbors": (1, 30, 0.03),
        "backbone.layers": (["2,3", "2,3,4", "3,4", HOSTILE], None, 0.31),
        "backbone.image_size": (192, 320, 0.13),
        "detector.reweight": ([False, True], None, 0.01),
        "detector.reweight_neighbors": (2, 12, None),
    }
    return [
        {
            "name": name,
            "kind": "choice" if high is None else "number",
            "low": None if high is None else low,
            "high": high,
            "is_log": name == "detector.coreset_ratio",
            "choices": low if high is None else None,
            "importance": importance,
        }
        for name, (low, high, importance) in ranges.items()
    ]


def _front(trials: list[dict[str, Any]], key: str, sign: int) -> list[int]:
    front, best = [], -math.inf
    for trial in sorted(trials, key=lambda trial: trial[key] or 0):
        if sign * trial["value"] > best:
            best = sign * trial["value"]
            front.append(trial["number"])
    return front


def on_test_photos(low: float, value: float, high: float, p_value: float | None = 0.01) -> dict[str, Any]:
    def estimate(at: float) -> dict[str, float]:
        return {"value": at, "low": at - 0.04, "high": at + 0.03}

    found = {
        "image_auroc": estimate(0.92),
        "image_ap": estimate(0.9),
        "tpr_at_fpr_05": estimate(0.61),
        "pixel_auroc": None,
        "aupro_03": None,
    }
    default = {key: of and estimate(of["value"] - value) for key, of in found.items()}
    gain = {"value": value, "low": low, "high": high, "p_value": p_value}
    return {"test": found, "test_of_default": default, "gain": gain}


def write(path: Path, report: dict[str, Any]) -> str:
    write_tuning_page(path, title="Search of patchcore", report=json.loads(json.dumps(report)))
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Text, tags and figures of a page, and whether each tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.toml = "", ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.text = " ".join(self.text.split())
        assert self.open == []
        assert sum(tag == "script" for tag, _ in self.tags) == 1
        assert not any(name.startswith("on") or name == "style" for _, attrs in self.tags for name in attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "pre" in self.open:
            self.toml += data

    def of(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in (attrs.get("class") or "").split()]


def test_the_page_tells_what_the_search_found(tmp_path: Path) -> None:
    report = a_search(100, **on_test_photos(-0.008, 0.012, 0.031, 0.24))
    page = Reader(write(tmp_path / "page.html", report))
    best = report["best"]
    for shown in (
        "100 trials of patchcore over 6 settings, judged by image AUROC on the dev photos; higher is better",
        f"Best on dev{best['value']:.3f}trial {best['number']}; being picked from 87 flatters it",
        f"the best is {100 * (best['value'] - 0.88):.1f} points ahead",
        "2 of 100 trials failed",
        "87 completed, 11 stopped early",
        "within 2GiB of memory",
        "Image AUROC0.920 0.880–0.9500.908 0.868–0.938",  # noqa: RUF001
        "+1.2 points of image AUROC, 95 % interval −0.8 to 3.1, p = 0.240",  # noqa: RUF001
        "Only 40 normal photos were there to judge by.",
        "detector.coreset_ratio52 %",
        "inlier tune patchcore --data D --out E",
        HOSTILE,
    ):
        assert shown in page.text.replace("\xa0", " "), shown
    assert "Pixel AUROC" not in page.text
    assert tomllib.loads(page.toml) == best["settings"]
    assert len(page.of("div", "alarm")) == 1
    assert not Reader(write(tmp_path / "page.html", a_search(20))).of("div", "alarm")


def test_every_trial_stands_in_the_table_the_best_first_and_those_without_a_value_last(tmp_path: Path) -> None:
    report = a_search(100)
    page = Reader(write(tmp_path / "page.html", report))
    rows = [int(attrs["data-n"] or "") for tag, attrs in page.tags if tag == "tr" and "data-n" in attrs]
    by_number = {trial["number"]: trial for trial in report["trials"]}
    values = [by_number[number]["value"] for number in rows[:87]]
    assert sorted(rows) == list(range(100))
    assert rows[0] == report["best"]["number"] and values == sorted(values, reverse=True)
    assert rows[-2:] == [20, 70]


def a_trial(number: int, value: float | None, **changes: Any) -> dict[str, Any]:
    whole = a_search(1)["trials"][0]
    return {**whole, "number": number, "value": value, "reduced": [], "params": {"x.ratio": 0.1}, **changes}


RATIO = {"name": "x.ratio", "kind": "number", "low": 0.01, "high": 1.0, "is_log": True, "choices": None}


def a_small_search(*trials: dict[str, Any], metric: str = "auroc", **changes: Any) -> dict[str, Any]:
    """Trials of one parameter, a ratio, and no default to compare with."""
    nothing = {"value": None, "fit_seconds": None, "latency_ms": None, "peak_bytes": None, "predicted_bytes": None}
    parameters = [{**RATIO, "importance": None}]
    return a_report(list(trials), metric=metric, baseline=nothing, parameters=parameters, **changes)


def test_points_stand_where_their_values_are(tmp_path: Path) -> None:
    trials = [
        a_trial(0, 0.8, params={"x.ratio": 0.01}, latency_ms=20.0, peak_bytes=100 * MIB),
        a_trial(1, 0.9, params={"x.ratio": 0.1}, latency_ms=30.0, peak_bytes=150 * MIB),
        a_trial(2, 0.85, params={"x.ratio": 1.0}, latency_ms=40.0, peak_bytes=200 * MIB),
        a_trial(3, None, state="failed"),
    ]
    page = Reader(write(tmp_path / "page.html", a_small_search(*trials)))
    # Values from 0.80 to 0.90, so 0.85 is half way up. Of four trials in a row the second stands at 37.5 %.
    circles = [attrs for tag, attrs in page.tags if tag == "circle" and attrs["data-n"] == "2"]
    assert {attrs["cy"] for attrs in circles} == {"50.00%"}
    assert [attrs["cx"] for attrs in circles] == ["62.50%", "100.00%", "100.00%", "100.00%"]
    assert [attrs["cx"] for attrs in page.of("circle", "failed")] == ["87.50%"]
    assert [attrs["points"] for attrs in page.of("polyline", "best-line")] == [
        "0.125,1.000 0.375,1.000 0.375,0.000 1.000,0.000 "
    ]
    # One parameter makes two axes, at a quarter and three quarters; 0.1 is half way from 0.01 to 1 in logarithms.
    assert [attrs["points"] for attrs in page.of("polyline", "v9")] == ["0.2500,0.000 0.7500,0.500 "]
    assert [attrs["data-n"] for tag, attrs in page.tags if tag == "polyline" and "data-n" in attrs] == ["0", "2", "1"]


def test_of_a_loss_the_lowest_is_best(tmp_path: Path) -> None:
    trials = [a_trial(0, 0.5), a_trial(1, 0.25), a_trial(2, 0.75)]
    report = a_small_search(*trials, metric="loss")
    report["baseline"]["value"] = 0.5
    page = Reader(write(tmp_path / "page.html", report))
    assert "judged by held-out loss on the dev photos; lower is better" in page.text
    assert "Best on dev0.25trial 1" in page.text and "the best is 0.25 lower" in page.text
    shades = {attrs["data-n"]: attrs["class"] for tag, attrs in page.tags if tag == "polyline" and "data-n" in attrs}
    assert shades == {"0": "v4", "1": "v9 best", "2": "v0"}
    assert [attrs["data-n"] for tag, attrs in page.tags if tag == "tr" and "data-n" in attrs] == ["1", "0", "2"]
    (best,) = page.of("polyline", "best-line")
    heights = [float(pair.split(",")[1]) for pair in (best["points"] or "").split()]
    assert heights == sorted(heights)  # downwards


def test_a_trial_without_a_parameter_is_drawn_below_its_axis(tmp_path: Path) -> None:
    page = Reader(write(tmp_path / "page.html", a_small_search(a_trial(0, 0.5), a_trial(1, 0.6, params={}))))
    lines = {attrs["data-n"]: attrs["points"] for tag, attrs in page.tags if tag == "polyline" and "data-n" in attrs}
    assert lines["1"].endswith(",1.080 ") and lines["0"].endswith(",0.500 ")
    assert page.text.count("not used") == 1


def test_far_failures_do_not_press_the_others_together(tmp_path: Path) -> None:
    values = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.1]
    page = Reader(write(tmp_path / "page.html", a_small_search(*(a_trial(n, of) for n, of in enumerate(values)))))
    first, last = (
        next(float((a["cy"] or "").rstrip("%")) for tag, a in page.tags if tag == "circle" and a["data-n"] == number)
        for number in ("0", "6")
    )
    assert last == 100 and first < 60
    assert "Points on the lower edge lie beyond it." in page.text


DEGENERATE = {
    "no trials": lambda: a_search(0),
    "none completed": lambda: a_small_search(a_trial(0, None, state="failed"), a_trial(1, None, state="pruned")),
    "one trial": lambda: a_small_search(a_trial(0, 0.5)),
    "all equal": lambda: a_small_search(*(a_trial(number, 1.0) for number in range(9))),
    "minus zero": lambda: a_small_search(a_trial(0, -0.0), a_trial(1, -0.0, params={"x.ratio": -0.0}), metric="loss"),
    "nothing measured": lambda: a_small_search(
        a_trial(0, 0.4, fit_seconds=None, latency_ms=None, peak_bytes=None, predicted_bytes=None, seconds=None)
    ),
    "completed without a value": lambda: a_small_search(a_trial(0, None), a_trial(7, 0.5)),
    "no parameters": lambda: {**a_search(5), "parameters": []},
    "one value allowed": lambda: {
        **a_small_search(a_trial(0, 0.5), a_trial(1, 0.6)),
        "parameters": [{**RATIO, "low": 0.1, "high": 0.1, "importance": 0.0}],
    },
    "huge and tiny": lambda: a_small_search(a_trial(0, 1e300), a_trial(1, 1e-300), a_trial(2, 3.0), metric="loss"),
    "other choices": lambda: {
        **a_small_search(a_trial(0, 0.5, params={"x.ratio": None}), a_trial(1, 0.6, params={"x.ratio": [1, 2]})),
        "parameters": [{**RATIO, "kind": "choice", "choices": [None, True, 1, "1"], "importance": 1.0}],
    },
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_any_search_makes_a_whole_page(tmp_path: Path, case: str) -> None:
    report = DEGENERATE[case]()
    page = Reader(write(tmp_path / "page.html", report))
    assert f"of {len(report['trials'])} trials failed" in page.text
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b|(?<!\w)[-−]0(?![\d.])", page.text)  # noqa: RUF001
    for _, attrs in page.tags:
        for name in ("cx", "cy", "x", "x1", "y1", "width"):
            assert -0.01 <= float((attrs.get(name) or "0").rstrip("%")) <= 108 or attrs[name] == "-5"
    if report["best"] is None:
        assert "no settings of patchcore were found" in page.text and not page.toml


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ((0.01, 0.031, 0.052), "are better than the default: +3.1 points of AUROC (95 % interval +1.0 to +5.2)."),
        ((-0.01, 0.02, 0.05), "may be chance"),
        ((0.0, 0.02, 0.05), "may be chance"),
        ((-0.05, -0.03, -0.01), "are worse than the default"),
    ],
)
def test_the_sentence_claims_what_the_test_photos_bear_out(gain: tuple[float, float, float], said: str) -> None:
    assert said in verdict(a_search(10, **on_test_photos(*gain)))


def test_the_sentence_claims_nothing_that_no_test_photos_told() -> None:
    assert "may be chance" in verdict(
        a_search(10, **on_test_photos(0.001, 0.03, 0.06, 0.3))
    )  # the interval alone is not enough
    assert "are better than" in verdict(a_search(10, **on_test_photos(0.001, 0.03, 0.06, None)))
    assert "nothing was measured on test photos" in verdict(a_search(100))
    report = a_search(100)
    report["baseline"]["value"] = 0.99
    assert verdict(report) == "No trial was better than the default settings on the dev photos."
    report["baseline"]["value"] = None
    assert "nothing says yet whether it is better" in verdict(report)


def test_settings_read_as_toml_are_the_settings() -> None:
    settings = {
        "detector": {"ratio": 1e-05, "layers": [2, 3], "is_on": True, "name": 'a "quoted"\n\x7f \\ \U0001d6fc'},
        "odd section.x": {"odd key": {"a": 1, "b c": [0.5, "d"]}, "": -3},
        "empty": {},
    }
    assert tomllib.loads(as_toml(settings)) == settings
    assert tomllib.loads(as_toml({"a": {"left": None, "kept": 1}})) == {"a": {"kept": 1}}


def test_a_thousand_trials_fit_into_a_page(tmp_path: Path) -> None:
    began = time.monotonic()
    page = write(tmp_path / "page.html", a_search(1000))
    assert time.monotonic() - began < 20
    assert len(page.encode()) < 2e6


@pytest.mark.browser
def test_the_browser_sorts_points_and_filters(tab: Any, tmp_path: Path) -> None:
    report = a_search(100)
    write(tmp_path / "page.html", report)
    tab.call("Page.navigate", url=(tmp_path / "page.html").as_uri())
    deadline = time.monotonic() + 30
    while tab.run("document.readyState") != "complete" or not tab.run("document.querySelectorAll('#table tr').length"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shown = "[...document.querySelectorAll('#table tbody tr')].filter((row) => !row.hidden)"
    assert tab.run(f"{shown}.length") == 50
    tab.run("document.querySelector('#table th button').click()")
    assert tab.run(f"{shown}.map((row) => Number(row.cells[0].textContent))") == list(range(50))
    tab.run("document.getElementById('more').click()")
    assert tab.run(f"{shown}.length") == 100
    tab.run("document.querySelectorAll('#table th button')[2].click()")
    values = tab.run(f"{shown}.map((row) => row.cells[2].textContent)")
    known = [value for value in values if value != "–"]  # noqa: RUF001
    assert values == sorted(known) + ["–"] * (100 - len(known)) and len(known) < 100  # noqa: RUF001

    best = report["best"]["number"]
    tab.run("document.querySelector('svg.points').scrollIntoView({block: 'center'})")
    x, y = tab.run(
        f"(({{left, top, width, height}}) => [left + width / 2, top + height / 2])"
        f"(document.querySelector('circle[data-n=\"{best}\"]').getBoundingClientRect())"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.settle()
    assert tab.run("document.getElementById('tip').hidden") is False
    assert f"Trial{best}Statecomplete" in tab.text("#tip")
    assert tab.run("document.querySelectorAll('circle.hot').length") > 5  # in all figures

    tab.run("document.querySelector('svg.lines').scrollIntoView({block: 'center'})")
    x, y, width, height = tab.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('svg.lines').getBoundingClientRect())"
    )
    axis = x + width / 14  # the values, first of seven axes
    tab.drag([(axis, y + 1), (axis, y + height / 4), (axis, y + height / 2)])
    places = tab.run(
        "[...document.querySelectorAll('svg.lines polyline:not(.out)')]"
        ".map((line) => Number(line.getAttribute('points').split(' ')[0].split(',')[1]))"
    )
    assert 0 < len(places) < 87 and max(places) <= 0.51
    tab.run("document.getElementById('clear').click()")
    assert tab.run("document.querySelectorAll('.out').length") == 0
    assert tab.errors == []
