from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inlier.databases import as_url
from inlier.errors import ReviewError
from inlier.reviewing.decisions import Choice, Review, Word
from inlier.reviewing.exchange import Form, export_review, import_decisions
from inlier.reviewing.regions import Region

TRIANGLE = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
MakeReal = Callable[[str], Review]


@pytest.fixture
def make_real(tmp_path: Path, made_photo: Callable[[int], Any]) -> MakeReal:
    """Makes reviews of three photos that are there, under a name."""
    for number in (1, 2, 3):
        folder = tmp_path / "photos" / ("left" if number == 1 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20 + number)).save(folder / f"{number}.png")

    def make(name: str) -> Review:
        rows = [
            replace(made_photo(number), path=str(tmp_path / "photos" / folder / f"{number}.png"))
            for number, folder in ((1, "left"), (2, "right"), (3, "right"))
        ]
        return Review.create(
            as_url(str(tmp_path / f"{name}.db")),
            model=None,
            identity="abcdefabcdef",
            data=None,
            fingerprint="1" * 64,
            labels=["valve", "a & b"],
            rates=(0.05, 0.2),
            photos=rows,
        )

    return make


def _decide(review: Review) -> None:
    review.decide([Choice(1, True, "valve"), Choice(2, False)], reviewer="ada", page="1")
    review.decide([Choice(1, True), Choice(2, None, "a & b")], reviewer="bob", page="1")
    review.set_regions(1, [Region("defect", "crack", TRIANGLE), Region("interest", "", TRIANGLE)], reviewer="ada")


@pytest.mark.parametrize("form", ["csv", "label-studio"])
def test_what_each_said_comes_back_as_it_was(make_real: MakeReal, tmp_path: Path, form: Form) -> None:
    review, other = make_real("one"), make_real("other")
    _decide(review)
    out = tmp_path / "out" / "file"
    assert export_review(review, out, form=form) == 2
    assert import_decisions(other, out, form=form, reviewer=None) == 4
    assert other.words() == review.words()
    if form == "label-studio":
        assert other.regions(1, reviewer="ada") == review.regions(1, reviewer="ada")
    assert import_decisions(other, out, form=form, reviewer=None) == 0  # the same file again
    assert import_decisions(other, out, form=form, reviewer="cy") == 2  # under another name: the last word on each
    assert other.words()[1]["cy"].is_anomalous is True


def test_coco_holds_what_reviewers_say_together(make_real: MakeReal, tmp_path: Path) -> None:
    review, other = make_real("one"), make_real("other")
    _decide(review)
    export_review(review, tmp_path / "coco.json", form="coco")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert {"info", "licenses", "images", "categories", "annotations"} == set(content)
    assert [image["file_name"] for image in content["images"]] == ["left/1.png", "right/2.png", "right/3.png"]
    assert [(image["width"], image["height"]) for image in content["images"]] == [(40, 21), (40, 22), (40, 23)]
    assert [image["tags"] for image in content["images"]] == [["anomalous", "valve"], ["normal", "a & b"], []]
    _check_coco(content)
    crack = content["annotations"][0]
    assert crack["segmentation"] == [[0.0, 0.0, 20.0, 0.0, 0.0, 10.5]]
    assert (crack["bbox"], crack["area"]) == ([0.0, 0.0, 20.0, 10.5], 105.0)
    assert import_decisions(other, tmp_path / "coco.json", form="coco", reviewer="cy") == 2
    assert other.words() == {1: {"cy": Word(True, "valve")}, 2: {"cy": Word(False, "a & b")}}
    assert other.regions(1, reviewer="cy") == review.regions(1, reviewer="ada")
    with pytest.raises(ReviewError, match=r"coco\.json does not say who decided; name the reviewer\."):
        import_decisions(other, tmp_path / "coco.json", form="coco", reviewer=None)


def _check_coco(content: dict[str, Any]) -> None:
    """What readers such as FiftyOne's and pycocotools' rely on."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert len(images) == len(content["images"])
    assert all({"id", "name", "supercategory"} <= set(category) for category in content["categories"])
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["category_id"] in categories and annotation["iscrowd"] == 0
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= image["width"] and y + height <= image["height"]
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in annotation["segmentation"])


def test_a_table_has_a_row_for_each_word(make_real: MakeReal, tmp_path: Path) -> None:
    review = make_real("one")
    _decide(review)
    review.decide([Choice(2, True)], reviewer="ada", page="2")
    export_review(review, tmp_path / "words.csv", form="csv")
    rows = list(csv.DictReader((tmp_path / "words.csv").read_text().splitlines()))
    assert [(row["reviewer"], row["anomalous"], row["label"]) for row in rows] == [
        ("ada", "1", "valve"),
        ("bob", "1", ""),
        ("ada", "1", ""),
        ("bob", "", "a & b"),
    ]
    assert rows[2]["at"] > rows[0]["at"]
    assert (rows[0]["verdict"], rows[0]["given_label"], rows[0]["score"]) == ("accept", "pump", "1.0")


def test_label_studio_tasks_have_predictions_and_an_interface(make_real: MakeReal, tmp_path: Path) -> None:
    review = make_real("one")
    _decide(review)
    export_review(review, tmp_path / "tasks.json", form="label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=left/1.png"
    assert tasks[2]["predictions"][0]["result"][0]["value"]["choices"] == ["anomalous"]
    polygon = tasks[0]["annotations"][0]["result"][2]
    assert polygon["value"]["points"] == [[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]
    assert (polygon["original_width"], polygon["original_height"]) == (40, 21)
    interface = ElementTree.fromstring((tmp_path / "tasks.xml").read_text())
    names = {element.get("name"): element for element in interface}
    used = {of["from_name"] for task in tasks for made in task["annotations"] for of in made["result"]}
    assert used <= set(names)
    assert [choice.get("value") for choice in names["class"]] == ["valve", "a & b"]


def test_what_label_studio_gives_back_is_understood(make_real: MakeReal, tmp_path: Path) -> None:
    review = make_real("one")
    choice = {"from_name": "condition", "type": "choices", "value": {"choices": ["anomalous"]}}
    tasks = [
        {"data": {"image": "/data/upload/4/0a1b2c3d-2.png"}, "annotations": [{"result": [choice], "completed_by": 7}]},
        {
            "data": {"image": "/data/upload/4/0a1b2c3d-3.png"},
            "annotations": [
                {"result": [choice], "completed_by": {"email": "ada@ship"}},
                {"result": [choice], "was_cancelled": True},
            ],
        },
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    assert import_decisions(review, tmp_path / "tasks.json", form="label-studio", reviewer=None) == 2
    assert review.words() == {2: {"7": Word(True, None)}, 3: {"ada@ship": Word(True, None)}}


@pytest.mark.parametrize(
    ("form", "content", "sentence"),
    [
        ("csv", "name,anomalous\na,1\n", "cannot be read as csv: it needs the column path or sha256, and anomalous"),
        ("csv", "path,anomalous\n1.png,maybe\n", "anomalous must be 0 or 1 .or empty., and line 2 has 'maybe'"),
        ("csv", "path,anomalous\n1.png,1\n9.png,1\n", "The review has no such photos: 9.png"),
        ("coco", "{", "cannot be read as coco: "),
        ("coco", '{"categories": []}', "cannot be read as coco: it has no images"),
        ("coco", "[1]", "cannot be read as coco: "),
        ("label-studio", '[{"data": {}}]', None),
        ("label-studio", '[{"annotations": []}]', "cannot be read as label-studio: it has no data"),
    ],
)
def test_files_that_say_something_else_are_refused(
    make_real: MakeReal, tmp_path: Path, form: Form, content: str, sentence: str | None
) -> None:
    review = make_real("one")
    (tmp_path / "file").write_text(content)
    if sentence is None:
        assert import_decisions(review, tmp_path / "file", form=form, reviewer="ada") == 0
    else:
        with pytest.raises(ReviewError, match=sentence):
            import_decisions(review, tmp_path / "file", form=form, reviewer="ada")
    assert review.words() == {}
    with pytest.raises(ReviewError, match="cannot be read: No such file"):
        import_decisions(review, tmp_path / "gone", form=form, reviewer="ada")
