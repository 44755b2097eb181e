from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from inlier.decision.pages import write_page


def test_the_policy_allows_the_page_its_own_style_and_script_and_nothing_else(tmp_path):
    write_page(
        tmp_path / "page.html",
        "report.html",
        styles=("page.css", "report.css"),
        script="report.js",
        values=report_values(cards=()),
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    for name, element in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[name] == f"'sha256-{digest}'"


def test_a_page_that_fails_half_way_leaves_the_one_before(tmp_path):
    def breaking() -> Iterator[tuple[object, str]]:
        yield {"verdict": "accept", "path": "a.jpg"}, "{}"
        raise RuntimeError("the disk of the photos is gone")

    path = tmp_path / "page.html"
    path.write_text("the page before")
    with pytest.raises(RuntimeError, match="the disk"):
        write_page(path, "report.html", styles=(), script=None, values=report_values(cards=breaking()))
    assert path.read_text() == "the page before"


def test_a_name_that_is_not_text_is_written_as_a_replacement(tmp_path):
    path = tmp_path / "page.html"
    name = Path(b"k\xfchler.jpg".decode("utf-8", "surrogateescape")).name
    cards = [({"verdict": "accept", "path": name}, "{}")]
    write_page(path, "report.html", styles=(), script=None, values=report_values(cards=cards))
    assert 'data-path="k&#56572;hler.jpg"' in path.read_text(encoding="utf-8")


def report_values(cards: object) -> dict[str, object]:
    return {
        "title": "Pumps",
        "counts": {},
        "total": 0,
        "num_calibration": 20,
        "false_alarm_rate": 0.05,
        "uncertain_rate": 0.2,
        "heat_scale": None,
        "facts": {},
        "notes": (),
        "cards": cards,
    }
