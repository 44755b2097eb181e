from __future__ import annotations

import base64
import gc
import html
import json
import re
import shutil
import subprocess
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from inlier.decision.heatmap import encode
from inlier.decision.report import Card, EvidenceView, explain, write_report
from inlier.records import Verdict

HOSTILE = 'Öl/</script><script>alert("1")</script>\n<!-- \'quoted\' & "quoted"\\.jpg'
PHOTO = encode(np.full((8, 8, 3), 90, dtype=np.uint8), longest_side=8, quality=50)
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


def readable(path: str, verdict: str = "accept", p_value: float = 0.5) -> Card:
    return Card(Verdict(path, 1.25, p_value, verdict), PHOTO)


def unreadable(path: str, error: str) -> Card:
    return Card(Verdict(path, None, None, "unreadable", error=error), None)


def write(path: Path, cards: Iterable[Card], **changes: object) -> str:
    options = {
        "title": "Pumps",
        "counts": {"accept": 1},
        "num_calibration": 99,
        "false_alarm_rate": 0.05,
        "uncertain_rate": 0.2,
        "heat_scale": None,
        "facts": {},
    }
    write_report(path, cards, **{**options, **changes})
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would make of the page: its scripts, its data blocks, its links, its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.blocks: list[str] = []
        self.links: list[str | None] = []
        self.handlers: list[str] = []
        self.words = ""
        self.in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_script = tag in ("script", "style")
        if tag == "script":
            self.scripts.append(dict(attrs))
            self.blocks.append("")
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script and self.blocks:
            self.blocks[-1] += data
        elif not self.in_script:
            self.words += data

    def cards(self) -> list[dict[str, object]]:
        return [
            json.loads(block)
            for block, attributes in zip(self.blocks, self.scripts, strict=True)
            if attributes.get("type") == "application/json"
        ]


def test_a_card_carries_everything_shown_of_a_photo(tmp_path):
    evidence = (EvidenceView(b"here", b"there", 1.2345, "a.jpg"), EvidenceView(None, b"whole", 2.0, "b.jpg"))
    verdict = Verdict("in/x.jpg", 3.14159, 0.02, "reject", component="piston", component_probability=0.916)
    page = Page(write(tmp_path / "report.html", [Card(verdict, PHOTO, b"heat", evidence, ("number 3",))]))
    (card,) = page.cards()
    assert base64.b64decode(card.pop("photo")) == PHOTO
    assert base64.b64decode(card.pop("heatmap")) == b"heat"
    pairs = card.pop("evidence")
    assert card == {
        "path": "in/x.jpg",
        "verdict": "reject",
        "error": None,
        "score": "3.142",
        "p": "0.02",
        "meaning": "About 1 in 50 normal photos looks this unusual.",
        "component": "piston (92 %)",
        "remarks": ["number 3"],
    }
    assert [base64.b64decode(pair["reference_crop"]) for pair in pairs] == [b"there", b"whole"]
    assert [(pair["crop"], pair["distance"], pair["reference"]) for pair in pairs] == [
        (base64.b64encode(b"here").decode(), "1.23", "a.jpg"),
        (None, "2", "b.jpg"),
    ]


def test_hostile_names_stay_text_wherever_they_appear(tmp_path):
    source = write(
        tmp_path / "report.html",
        [readable(HOSTILE), unreadable(HOSTILE, HOSTILE)],
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        notes=[HOSTILE],
    )
    page = Page(source)
    assert [attributes.get("type") for attributes in page.scripts] == [None, *["application/json"] * 2]
    assert [attributes["data-path"] for attributes in page.scripts[1:]] == [HOSTILE] * 2
    assert [card["path"] for card in page.cards()] == [HOSTILE] * 2
    assert page.cards()[1]["error"] == HOSTILE
    assert page.words.count(HOSTILE) == 5  # in title, heading, note, and twice in the facts
    assert page.handlers == []


def test_the_page_asks_nobody_for_anything(tmp_path):
    source = write(tmp_path / "report.html", [readable("a.jpg")], heat_scale=(1.0, 2.0))
    assert [link for link in Page(source).links if not link.startswith(("data:", "#"))] == []
    assert "http://" not in source
    assert "https://" not in source
    assert "url(" not in source.replace("url(#ramp)", "")


def test_the_header_counts_explains_and_warns(tmp_path):
    counts = {"reject": 3, "uncertain": 5, "accept": 40, "unreadable": 2}
    source = write(
        tmp_path / "report.html",
        [],
        counts=counts,
        num_calibration=212,
        false_alarm_rate=0.025,
        heat_scale=(1.5, 4.25),
        facts={"Model": "models/pumps"},
        notes=["With 12 photos nothing can be rejected."],
    )
    words = " ".join(Page(source).words.replace("\xa0", " ").split())
    assert "Of 50 photos, 3 rejected, 5 uncertain, 40 accepted, 2 not readable." in words
    assert "compared with 212 normal photos" in words
    assert "on average at most 2.5 % are rejected and at most 20 % are not accepted" in words
    assert "as normal photos look (1.5)" in words
    assert "far from normal (4.25 and more)" in words
    assert "<dt>Model</dt><dd>models/pumps</dd>" in source
    assert "With 12 photos nothing can be rejected." in words
    widths = re.findall(r'<rect class="(\w+)" x="(\d+)" y="0" width="(\d+)"', source)
    assert widths == [
        ("reject", "0", "3"),
        ("uncertain", "3", "5"),
        ("accept", "8", "40"),
        ("unreadable", "48", "2"),
    ]


def test_a_report_of_no_photos_says_so(tmp_path):
    source = write(tmp_path / "report.html", [], counts={})
    assert "There are no photos in this report." in source
    assert "Could not be read" in source  # the empty list, hidden until something stands in it


def test_the_same_photos_give_the_same_bytes(tmp_path):
    cards = [readable("a.jpg"), unreadable("b.jpg", "The file is empty.")]
    assert write(tmp_path / "one.html", cards) == write(tmp_path / "two.html", cards)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_cards_are_written_as_they_come_and_let_go(tmp_path):
    alive: list[weakref.ref[Card]] = []
    most = 0

    def cards() -> Iterator[Card]:
        nonlocal most
        for index in range(200):
            card = readable(f"{index}.jpg")
            alive.append(weakref.ref(card))
            yield card
            del card
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))

    source = write(tmp_path / "report.html", cards())
    assert len(Page(source).cards()) == 200
    assert most <= 2


@pytest.mark.parametrize(
    ("p_value", "num_calibration", "sentence"),
    [
        (1 / 213, 212, "None of 212 normal photos looks this unusual."),
        (2 / 213, 212, "About 1 in 106 normal photos looks this unusual."),
        (0.02, 99, "About 1 in 50 normal photos looks this unusual."),
        (0.2, 99, "About 1 in 5 normal photos looks this unusual."),
        (0.42, 99, "About 4 in 10 normal photos look at least this unusual."),
        (0.94, 99, "About 9 in 10 normal photos look at least this unusual."),
        (1.0, 99, "Almost every normal photo looks at least this unusual."),
        (0.5, 1, "None of 1 normal photos looks this unusual."),
    ],
)
def test_a_p_value_in_plain_words(p_value, num_calibration, sentence):
    assert explain(p_value, num_calibration=num_calibration) == sentence


def test_an_unknown_verdict_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"counts of write_report must be of reject, .*unreadable, got ok\."):
        write(tmp_path / "report.html", [], counts={"ok": 1})


def test_a_readable_photo_must_be_shown():
    with pytest.raises(ValueError, match=r"photo of Card must be given unless .* got None for 'a\.jpg'\."):
        Card(Verdict("a.jpg", 1.0, 0.5, "accept"), None)


@pytest.fixture(scope="module")
def long_report(tmp_path_factory) -> Path:
    """300 cards: 30 rejected, 60 uncertain, 207 accepted, 3 unreadable."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    verdicts = ["reject"] * 30 + ["uncertain"] * 60 + ["accept"] * 207
    cards = [readable(f"tray {i % 3}/Öl <b>{i}</b>.jpg", verdict) for i, verdict in enumerate(verdicts)]
    cards += [unreadable(f"{i}.jpg", "The file is empty.") for i in range(3)]
    write(path, cards, counts=Counter(card.verdict.verdict for card in cards))
    return path


def browse(page: Path, address: str, profile: Path) -> str:
    """The document as Chromium has it after loading the page and running its script."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split()
    flags += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "--dump-dom", f"{page.as_uri()}{address}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("address", "first", "status", "num_unreadable"),
    [
        ("", "tray 0/Öl <b>0</b>.jpg", "", 3),
        ("#verdict=reject", "tray 0/Öl <b>0</b>.jpg", "30 of 300", 0),
        ("#verdict=uncertain&query=TRAY+1", "tray 1/Öl <b>31</b>.jpg", "20 of 300", 0),
        ("#verdict=unreadable", None, "3 of 300", 3),
        ("#query=nowhere", None, "0 of 300", 0),
    ],
)
def test_the_browser_shows_the_cards_of_a_filter(long_report, tmp_path, address, first, status, num_unreadable):
    document = browse(long_report, address, tmp_path)
    shown = re.findall(r'<article class="card[^"]*" aria-label="([^"]*)"(.*?)</article>', document, re.DOTALL)
    assert [html.unescape(path) for path, _ in shown][:1] == ([first] if first else [])
    assert len(shown) < 100  # far from all: the rest is filled in as it comes into view
    for _, card in shown:
        assert 'src="data:image/webp;base64,' in card
        assert 'class="verdict' in card
    verdict = re.search(r"verdict=(\w+)", address)
    if verdict:
        assert all(f'class="verdict {verdict[1]}"' in card for _, card in shown)
    assert re.search(r'<p id="status" role="status">([^<]*)</p>', document)[1] == status
    assert document.count('<span class="quiet">The file is empty.</span>') == num_unreadable
    assert ('id="nothing" class="quiet" hidden' in document) == (status != "0 of 300")
