from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inlier.decision.doctor_page import ADVICE, write_doctor_page
from inlier.decision.heatmap import encode

HOSTILE = '</style><script>alert("1")</script> & photo'


def photo(path: str, split: str = "train", label: str = "good", remark: str = "") -> dict[str, str]:
    return {"path": path, "split": split, "label": label, "group": "", "remark": remark}


def report(**changes: Any) -> dict[str, Any]:
    labels = [("train", "good", "normal", 7), ("test", "good", "normal", 4), ("test", "crack", "anomalous", 3)]
    return {
        "data": "parts",
        "counts": {
            "num_photos": 15, "num_unreadable": 1, "num_groups": 5, "num_masks": 2, "num_regions": 4,
            "labels": [dict(zip(("split", "label", "condition", "num_photos"), of, strict=True)) for of in labels]
            + [{"split": "train", "label": "", "condition": "unlabelled", "num_photos": 1}],
        },
        "num_leaks": 2,
        "findings": [
            {
                "kind": "near-duplicates", "severity": "leak", "message": "2 clusters of photos that look the same.",
                "clusters": [
                    [photo("/data/a.jpg"), photo("/data/deep/b.jpg", "test", "crack")],
                    [photo("/data/c.jpg"), photo("/data/d.jpg", "test")],
                ],
            },
            {
                "kind": "unreadable", "severity": "warning", "message": "2 photos cannot be read.",
                "photos": [photo("/data/a.jpg", remark="is odd"), photo(f"/data/{HOSTILE}", remark="is empty")],
            },
            {"kind": "few-photos", "severity": "note", "message": "test has no photos.", "photos": []},
        ],
        "data_fingerprint": "9f2c61d0",
        "command": "inlier doctor parts --html page.html",
        "versions": {"inlier": "0.1.0"},
        **changes,
    }  # fmt: skip


class Reader(HTMLParser):
    """Text of a page with its headings, and whether each tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"


@pytest.fixture
def pictures() -> dict[str, bytes]:
    pixels = np.zeros((20, 30, 3), np.uint8)
    return {path: encode(pixels, longest_side=16, quality=50) for path in ("/data/a.jpg", "/data/deep/b.jpg")}


def write(path: Path, pictures: dict[str, bytes], **changes: Any) -> str:
    write_doctor_page(path, title="Parts", report=report(**changes), pictures=pictures)
    return path.read_text(encoding="utf-8")


def test_the_page_says_what_was_found(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    page = Reader(write(tmp_path / "page.html", pictures))
    assert page.open == [] and "script" not in page.tags
    for shown in (
        "2 leaks, 1 warning and 1 note",
        "15 photos, 1 of them unreadable, 5 groups, 2 masks, 4 regions.",
        "Label train test all",
        "good normal 7 4 11",
        "crack anomalous – 3 3",  # noqa: RUF001
        "without a label unlabelled 1 – 1",  # noqa: RUF001
        "leak Near duplicates 2 clusters of photos that look the same.",
        ADVICE["near-duplicates"],
        "train good a.jpg test crack deep/b.jpg",
        "is odd",
        "is empty",
        HOSTILE,
        "inlier doctor parts --html page.html",
        "9f2c61d0",
        "/data",
    ):
        assert shown in page.text


def test_photos_without_a_picture_are_listed_by_name(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    page = write(tmp_path / "page.html", pictures)
    assert len(re.findall(r"<img ", page)) == 3  # one photo is in two findings
    text = Reader(page).text
    assert "1 cluster without pictures train good c.jpg test good d.jpg" in text
    assert "1 photo without pictures" in text
    del pictures["/data/deep/b.jpg"]
    assert "no picture test crack deep/b.jpg" in Reader(write(tmp_path / "page.html", pictures)).text


def test_a_sound_data_set_has_a_short_page(tmp_path: Path) -> None:
    text = Reader(write(tmp_path / "page.html", {}, findings=[], num_leaks=0, data_fingerprint=None)).text
    assert "Nothing wrong was found" in text
    assert "none, since the manifest cannot be used as it is" in text
    assert "Folder of these photos" not in text
