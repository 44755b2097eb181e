from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from inlier.decision import embedding_map
from inlier.decision.embedding_map import THUMBNAILS_IN_BLOCK, Field, Panel, write_embedding_map
from inlier.decision.heatmap import encode
from inlier.decision.intervals import Interval

HOSTILE = 'Öl/</script><script>alert("1")</script>\n<!-- \'quoted\' & "quoted"\\.jpg'
PHOTO = encode(np.full((8, 8, 3), 90, dtype=np.uint8), longest_side=8, quality=50)
TEMPLATES = Path(embedding_map.__file__).parent / "templates"


def panel(places: np.ndarray, name: str = "resnet18", **changes: object) -> Panel:
    options = {
        "knn_accuracy": Interval(0.75, 0.5, 0.9),
        "silhouette": Interval(0.25, -0.125, 0.5),
        "effective_rank": 12.25,
        "num_dimensions": 64,
        "found": {"pump": 0.5, "valve": 1.0},
    }
    return Panel(name, "layers 3, 4, 64 px", places, **{**options, **changes})


def write(
    path: Path, panels: list[Panel], fields: list[Field], thumbnails: Iterable[bytes] = (), **changes: object
) -> str:
    options = {
        "title": "Pumps",
        "root": "/archive/",
        "names": [f"{i}.jpg" for i in range(len(panels[0].places) if panels else 0)],
        "num_neighbors": 5,
        "facts": {},
    }
    write_embedding_map(path, panels=panels, fields=fields, thumbnails=thumbnails, **{**options, **changes})
    return path.read_text(encoding="utf-8")


def content(source: str) -> dict[str, object]:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', source, re.DOTALL)[1])


def numbers(text: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text), dtype="<u2").tolist()


def test_places_keep_their_shape_and_point_upwards(tmp_path):
    places = np.array([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]])
    shown = content(write(tmp_path / "map.html", [panel(places)], []))["panels"][0]
    x, y = numbers(shown["places"])[::2], numbers(shown["places"])[1::2]
    assert x == [0, 65535, 32768]
    assert y == [49151, 16384, 32768]  # half as high as wide, in the middle, and the highest on top


@pytest.mark.parametrize("places", [np.zeros((3, 2)), np.array([[7, 7], [7 + 1e-13, 7], [7, 7 + 1e-13]])])
def test_photos_that_are_all_alike_lie_in_the_middle(tmp_path, places):
    shown = content(write(tmp_path / "map.html", [panel(places)], []))["panels"][0]
    assert set(numbers(shown["places"])) == {32768}


def test_values_are_numbered_the_most_frequent_first_and_the_unknown_last(tmp_path):
    values = ["", "b", "", "a", "c", "", "c"]
    page = content(write(tmp_path / "map.html", [panel(np.zeros((7, 2)))], [Field("label", "Label", values)]))
    (field,) = page["fields"]
    assert field["values"] == ["c", "a", "b", ""]
    assert [field["values"][code] for code in numbers(field["codes"])] == values
    assert page["color"] == "label"


def test_thumbnails_stand_in_blocks_and_are_taken_one_at_a_time(tmp_path):
    num_photos = 2 * THUMBNAILS_IN_BLOCK + 1
    pictures = [b"" if i == 1 else b"%d" % i for i in range(num_photos)]
    source = write(tmp_path / "map.html", [panel(np.zeros((num_photos, 2)))], [], iter(pictures))
    blocks = re.findall(r'<script type="text/plain">(.*?)</script>', source, re.DOTALL)
    assert len(blocks) == 3
    assert [base64.b64decode(line) for block in blocks for line in block.split("\n")] == pictures


def test_the_page_tells_what_the_numbers_mean(tmp_path):
    panels = [
        panel(np.zeros((4, 2)), "first"),
        panel(np.zeros((4, 2)), "second", knn_accuracy=None, silhouette=None, found={}),
    ]
    fields = [Field("label", "Label", ["pump", "pump", "pump", "valve"])]
    source = write(
        tmp_path / "map.html", panels, fields, guess=0.75, notes=["Only some."], unreadable=[("x.jpg", "empty")]
    )
    words = " ".join(
        html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", source, flags=re.DOTALL))
        .replace("\xa0", " ")
        .split()
    )
    assert "4 photos as first and second see them." in words
    assert "75.0 % 50.0 % to 90.0 % 0.250 -0.125 to 0.500 12.2 of 64" in words
    assert "none to judge none to judge" in words
    assert "whose 5 nearest vote for their own label. Always naming the commonest label would reach 75.0 %." in words
    assert "Label Photos first second pump 3 50 % valve 1 100 %" in words  # the worst first
    assert "1 photo could not be read x.jpg empty" in words
    assert '<p class="note">Only some.</p>' in source


def test_without_labels_there_is_nothing_about_them(tmp_path):
    bare = panel(np.zeros((1, 2)), knn_accuracy=None, silhouette=None, found={})
    source = write(tmp_path / "map.html", [bare], [])
    assert "1 photo as <strong>resnet18</strong> sees them." in source.replace("\n", " ")
    assert "Effective rank" in source and "Silhouette" not in source and "Label by label" not in source


def test_hostile_names_stay_text_wherever_they_appear(tmp_path):
    source = write(
        tmp_path / "map.html",
        [panel(np.zeros((1, 2)), HOSTILE, found={HOSTILE: 1.0})],
        [Field("label", HOSTILE, [HOSTILE])],
        title=HOSTILE, root=HOSTILE, names=[HOSTILE], facts={HOSTILE: HOSTILE}, notes=[HOSTILE],
        unreadable=[(HOSTILE, HOSTILE)],
    )  # fmt: skip
    assert source.count("<script") == 2 and "alert(" in source
    page = content(source)
    assert page["names"] == [HOSTILE] and page["root"] == HOSTILE and page["panels"][0]["name"] == HOSTILE


def test_the_page_asks_nobody_and_is_the_same_each_time(tmp_path):
    fields = [Field("label", "Label", ["a", "b"])]
    first = write(tmp_path / "a.html", [panel(np.eye(2))], fields, [PHOTO] * 2)
    assert first == write(tmp_path / "b.html", [panel(np.eye(2))], fields, [PHOTO] * 2)
    assert not re.search(r"https?://|url\(|\son\w+=", first)
    assert "eval" not in first.replace("medieval", "")


def test_what_does_not_fit_is_refused(tmp_path):
    for panels, fields, changes, sentence in [
        ([], [], {"names": []}, r"panels of write_embedding_map must be at least one, got none\."),
        (
            [panel(np.zeros((2, 3)))],
            [],
            {},
            r"places of resnet18 must be two for each of 2 photos, got shape \(2, 3\)\.",
        ),
        (
            [panel(np.eye(2))],
            [Field("split", "Split", ["a"])],
            {},
            r"values of split must be one for each of 2 photos, got 1",
        ),
        (
            [panel(np.eye(2))],
            [Field("split", "Split", ["a", "b"])],
            {"color": "x"},
            r"color of .* one of split, got x\.",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            write(tmp_path / "map.html", panels, fields, **({"names": ["0", "1"]} | changes))


SIMULATED = {  # Machado, Oliveira & Fernandes (IEEE TVCG 2009), full severity, on linear light
    "usual sight": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("sight", SIMULATED)
def test_colours_stay_apart_for_everybody(sight):
    style = (TEMPLATES / "map.css").read_text(encoding="utf-8")
    surfaces = re.findall(r"--surface: #(\w{6})", (TEMPLATES / "page.css").read_text(encoding="utf-8"))
    palettes = re.findall(r"--c\d+: #(\w{6})", style)
    assert len(palettes) == 24
    for surface, palette in zip(surfaces, (palettes[:12], palettes[12:]), strict=True):
        colours = np.array([[int(code[k : k + 2], 16) / 255 for k in (0, 2, 4)] for code in [*palette, surface]])
        linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.transpose(SIMULATED[sight]), 0, 1)
        lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))
        differences = deltaE_ciede2000(lab[:, None], lab[None]) + np.diag([np.inf] * 13)
        assert differences.min() > 10  # 2 is just to be seen, side by side


@pytest.fixture(scope="module")
def two_maps(tmp_path_factory) -> Path:
    """Pumps left and valves right in the first map; valves on top and pumps below, of another order, in the second."""
    path = tmp_path_factory.mktemp("map") / "map.html"
    rng = np.random.default_rng(0)
    is_pump = np.arange(200) < 80
    first = np.where(is_pump[:, None], [-10, 0], [10, 0]) + rng.uniform(-2, 2, size=(200, 2))
    second = np.where(is_pump[:, None], [0, -10], [0, 10]) + rng.uniform(-2, 2, size=(200, 2))
    labels = np.where(is_pump, "pump", "valve").tolist()
    fields = [Field("label", "Label", labels), Field("split", "Split", ["train", "test"] * 100)]
    names = [f"{label}/Öl <b>{i}</b>.jpg" for i, label in enumerate(labels)]
    write(path, [panel(first, "first"), panel(second, "second")], fields, [PHOTO] * 200, names=names)
    return path


def around(box: tuple[float, float, float, float], left: float, right: float) -> list[tuple[float, float]]:
    """A line round part of a map, between shares of its width."""
    x, y, width, height = box
    return [
        (x + share * width, y + tall * height) for share, tall in ((left, 0.1), (right, 0.1), (right, 0.9), (left, 0.9))
    ]


@pytest.mark.browser
def test_a_line_drawn_round_photos_selects_them_in_every_map(tab, two_maps):
    tab.open(two_maps)
    tab.drag(around(tab.box(), 0.02, 0.5))
    assert tab.text("#selection-heading") == "80 selected"
    assert tab.text("#shares") == "pump80 of 80"
    assert tab.run("document.querySelectorAll('#strip img').length") == 80
    tab.drag(around(tab.box(), 0.5, 0.98), modifiers=8)  # with Shift, added
    assert tab.text("#status") == "200 of 200 selected"
    tab.drag(around(tab.box(), 0.02, 0.5), modifiers=1)  # with Alt, taken away
    assert tab.text("#shares") == "valve120 of 120"
    tab.key("Escape")
    assert tab.text("#selection-heading") == "Nothing selected"
    assert tab.errors == []


@pytest.mark.browser
def test_what_is_not_selected_fades_in_every_map(tab, two_maps):
    def ink(number: int) -> tuple[int, int]:
        """How many pixels of a map have the full colour of pumps, and of valves."""
        script = (
            f"(() => {{ const c = document.querySelectorAll('.points')[{number}];"
            "return [...new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)] })()"
        )
        pixels = tab.run(script)
        return pixels.count(0xFFBB3322), pixels.count(0xFF00AACC)  # valves, the more frequent, have the first colour

    tab.open(two_maps, "#find=pump")
    for number in (0, 1):
        of_valves, of_pumps = ink(number)
        assert of_valves == 0 and of_pumps > 80
    assert tab.text("#status") == "80 of 200 selected"
    tab.run("document.querySelectorAll('#legend .toggle')[1].click()")
    tab.settle()
    assert ink(0)[1] == 0  # hidden


@pytest.mark.browser
def test_pointing_shows_the_photo_and_keys_go_from_one_to_the_next(tab, two_maps):
    tab.open(two_maps, "#color=split")
    assert tab.run("document.querySelector('[data-color=split]').getAttribute('aria-pressed')") == "true"
    assert tab.run("document.getElementById('tip').hidden") is True
    tab.run("document.querySelector('.points').focus()")
    tab.key("ArrowRight")
    tab.key("ArrowRight")
    name = html.unescape(tab.text("#tip .name"))
    assert re.fullmatch(r"(pump|valve)/Öl <b>\d+</b>\.jpg", name)
    number = int(name.split("b>")[1].removesuffix("</"))
    assert tab.text("#tip .what") == f"{name.split('/')[0]} · {('train', 'test')[number % 2]}"
    assert tab.text("#spoken").startswith(name)
    assert tab.run("document.querySelector('#tip img').naturalWidth") == 8
    tab.key("Enter")
    assert tab.text("#status") == "1 of 200 selected"
    assert tab.errors == []


@pytest.mark.browser
def test_a_map_zooms_at_the_wheel_moves_and_comes_back(tab, two_maps):
    tab.open(two_maps)
    before = tab.run("document.querySelector('.points').toDataURL()")
    x, y, width, height = tab.box()
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=x + width / 2, y=y + height / 2, deltaX=0, deltaY=-200)
    tab.settle()
    zoomed = tab.run("document.querySelector('.points').toDataURL()")
    tab.run("document.querySelector('[data-mode=move]').click()")
    tab.drag([(x + width / 2, y + height / 2), (x + width / 2 + 60, y + height / 2)])
    moved = tab.run("document.querySelector('.points').toDataURL()")
    assert len({before, zoomed, moved}) == 3
    assert tab.text("#selection-heading") == "Nothing selected"
    tab.run("document.querySelector('[data-zoom=all]').click()")
    tab.settle()
    assert tab.run("document.querySelector('.points').toDataURL()") == before


@pytest.mark.slow
@pytest.mark.browser
def test_twenty_thousand_photos_fit_into_a_page_and_draw_at_once(tab, tmp_path):
    rng = np.random.default_rng(0)
    noise = [
        encode(rng.integers(256, size=(64, 48, 3), dtype=np.uint8), longest_side=64, quality=20) for _ in range(10)
    ]
    assert 800 < np.mean([len(picture) for picture in noise]) < 1600
    places = rng.normal(size=(20_000, 2))
    fields = [Field("label", "Label", [f"part {i % 9}" for i in range(20_000)])]
    names = [f"vessel {i % 40:02d}/visit {i % 7}/IMG_{i:05d}.jpg" for i in range(20_000)]
    path = tmp_path / "map.html"
    write(
        path,
        [panel(places), panel(rng.normal(size=(20_000, 2)))],
        fields,
        (noise[i % 10] for i in range(20_000)),
        names=names,
    )
    assert path.stat().st_size < 45e6
    began = time.monotonic()
    tab.open(path)
    assert time.monotonic() - began < 15
    tab.drag(around(tab.box(), 0.02, 0.5))
    assert 8000 < int(re.sub(r"\D", "", tab.text("#selection-heading"))) < 12_000
