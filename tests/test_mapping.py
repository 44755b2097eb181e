from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from inlier import mapping
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, InlierError
from inlier.mapping import draw_map
from inlier.model import Model

TINY = {"input": {"size": 64}, "backbone": {"precision": "float32"}}


def content(path: Path) -> dict[str, Any]:
    source = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', source, re.DOTALL)
    assert found
    page: dict[str, Any] = json.loads(found[1])
    return page


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


def test_two_backbones_are_drawn_side_by_side_with_the_models_verdicts(
    data: Manifest, model: Model, random_weights: Path, tmp_path: Path
) -> None:
    backbones = [("efficientnet_lite0", None), ("resnet18", random_weights)]
    drawn = draw_map(TINY, data, tmp_path / "new" / "map.html", backbones=backbones, model=model, title="Visits")
    page = content(tmp_path / "new" / "map.html")
    assert [panel["name"] for panel in page["panels"]] == ["efficientnet_lite0", "resnet18"]
    assert [field["key"] for field in page["fields"]] == ["label", "verdict", "anomalous", "split"]
    assert page["color"] == "label"
    assert {Path(page["root"] + name) for name in page["names"]} == {photo.path for photo in data.photos}
    assert drawn.unreadable == () and len(drawn.photos) == len(data) == 46
    assert [places.shape for places in drawn.places] == [(46, 2)] * 2
    first, second = drawn.metrics["backbones"]
    assert (first["layers"], first["size"], first["num_dimensions"]) == ([3, 4], 64, 46)
    assert second["weights"] == str(random_weights)
    for of in (first, second):
        assert of["knn_accuracy"]["low"] <= of["knn_accuracy"]["value"] <= of["knn_accuracy"]["high"]
        shares = [(kind["num_photos"], kind["found_share"]) for kind in of["classes"].values()]
        assert sum(count for count, _ in shares) == of["num_judged"]
        found = sum(count * share for count, share in shares) / of["num_judged"]
        assert of["knn_accuracy"]["value"] == pytest.approx(found)
    assert json.loads(json.dumps(drawn.metrics)) == drawn.metrics


def test_an_adapted_backbone_goes_by_its_folders_name(data: Manifest, backbone_folder: Path, tmp_path: Path) -> None:
    backbones = [("efficientnet_lite0", None), (str(backbone_folder), None)]
    drawn = draw_map(TINY, data, tmp_path / "map.html", backbones=backbones)
    assert [panel["name"] for panel in content(tmp_path / "map.html")["panels"]] == ["efficientnet_lite0", "ships"]
    assert "layers 3, 4, 64 px, test_resnet" in (tmp_path / "map.html").read_text(encoding="utf-8")
    of = drawn.metrics["backbones"][1]
    assert (of["name"], of["network"], of["adapted"]["verdict"]) == ("ships", "test_resnet", "no evidence")


def test_same_seed_same_page_whatever_the_order(data: Manifest, tmp_path: Path) -> None:
    pages = []
    for name, photos in (("a.html", data.photos), ("b.html", data.photos[::-1])):
        draw_map({**TINY, "fit": {"seed": 4}}, Manifest(photos), tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_what_is_drawn_of_many_is_chosen_by_the_seed_and_said(data: Manifest, tmp_path: Path) -> None:
    def names(seed: int) -> list[Path]:
        drawn = draw_map({**TINY, "fit": {"seed": seed}}, data, tmp_path / "map.html", max_points=9)
        assert drawn.notes == (
            f"9 of 46 photos are drawn, chosen at random with seed {seed}; --max-points draws more.",
        )
        return [photo.path for photo in drawn.photos]

    assert len(names(0)) == 9
    assert names(0) == names(0) != names(1)


@pytest.mark.parametrize("number", [1, 3, 8])
def test_few_unlabelled_photos_are_drawn(data: Manifest, tmp_path: Path, number: int) -> None:
    photos = tuple(Photo(photo.path, "train") for photo in data.photos[:number])
    drawn = draw_map(TINY, Manifest(photos), tmp_path / "map.html")
    page = content(tmp_path / "map.html")
    assert [field["key"] for field in page["fields"]] == ["split"] and page["color"] == "split"
    (of,) = drawn.metrics["backbones"]
    assert of["knn_accuracy"] is of["silhouette"] is None and of["effective_rank"] >= 1
    few = [f"So few photos ({number}) lie by their two principal components; t-SNE needs at least 7."]
    assert list(drawn.notes) == (few if number < 7 else [])
    assert drawn.metrics["perplexity"] == (None if number < 7 else pytest.approx(7 / 3))


def test_labels_are_judged_by_photos_of_other_groups(data: Manifest) -> None:
    """Two visits, each with photos of its own kind: nobody outside a visit knows its label."""
    photos = [
        dataclasses.replace(data.photos[0], path=Path(f"{i}.jpg"), label="ab"[i % 2], group=str(i % 2))
        for i in range(8)
    ]
    embeddings = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    assert mapping._measure(photos, embeddings, [photo.group for photo in photos])["num_judged"] == 0
    alone = mapping._measure(photos, embeddings, [str(i) for i in range(8)])
    assert alone["num_judged"] == 8 and alone["commonest_label_share"] == 0.5


def test_without_a_label_the_condition_is_the_label() -> None:
    assert mapping._label(Photo(Path("a"), "train", label="piston", is_anomalous=True)) == "piston"
    assert mapping._label(Photo(Path("a"), "train", is_anomalous=True)) == "anomalous"
    assert mapping._label(Photo(Path("a"), "train", is_anomalous=False)) == "normal"
    assert mapping._label(Photo(Path("a"), "train")) == ""


def test_unreadable_photos_are_listed_on_the_page(data: Manifest, tmp_path: Path) -> None:
    missing = Photo(tmp_path / "gone.jpg", "train")
    drawn = draw_map(TINY, Manifest((*data.photos[:3], missing)), tmp_path / "map.html")
    assert drawn.unreadable == ((missing, "the file does not exist"),)
    source = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "1 photo could not be read" in source and f"<code>{missing.path}</code>" in source
    with pytest.raises(InlierError, match=r"None of the 1 photos could be read, the first because: the file does not"):
        draw_map(TINY, Manifest((missing,)), tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"color": "size"}, r"coloured by one of label, verdict, anomalous, split, got size\."),
        ({"color": "verdict"}, r"by verdict only with a model; give one with --model\."),
        ({"color": "label"}, r"cannot be coloured by label, for the data say nothing of it; take --color split\."),
        ({"perplexity": 0.0}, r"The perplexity of a map must be greater than 0, got 0\."),
        ({"max_points": 0}, r"The points of a map must be at least 1, got 0\."),
        ({"backbones": [("resnet1", None)]}, r"timm has no backbone named resnet1"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    data: Manifest, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    photos = Manifest(tuple(Photo(photo.path, "train") for photo in data.photos[:3]))
    with pytest.raises(ConfigError, match=sentence):
        draw_map(TINY, photos, tmp_path / "map.html", **options)


def test_a_page_goes_where_a_page_may_be(data: Manifest, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    for name, sentence in [
        ("map.png", r"A map is an \.html file, and .*map\.png is none; choose another --out\."),
        ("folder.html", r"A map is an \.html file, and .*folder\.html is none; choose another --out\."),
        ("file/map.html", r"Nothing can be written to .*file is no folder that may be written to\."),
    ]:
        with pytest.raises(InlierError, match=sentence):
            draw_map(TINY, data, tmp_path / name)
