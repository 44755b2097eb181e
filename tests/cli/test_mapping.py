from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier.cli.mapping import pair_weights
from inlier.errors import ConfigError

QUICK = ("--size", "64", "--set", "backbone.precision=float32")


def test_a_map_says_what_came_of_it(
    inlier: Callable[..., Any], dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "map.html"
    ran = inlier("map", dataset, "--out", page, "--model", model_folder, "--color", "verdict", *QUICK)
    assert (ran.status, ran.err) == (0, "")
    number = r"-?\d\.\d{3}"
    ends = rf"{number}   95 %: {number} to {number}"
    assert re.fullmatch(
        r"46 photos, \d+ judged by 5 nearest neighbours\n"
        r"efficientnet_lite0 \(layers 3, 4, 64 px\)\n"
        rf"  neighbours agree  {ends}; always guessing the commonest: {number}\n"
        rf"  silhouette        {ends}\n"
        r"  effective rank    \d+\.\d of 46\n"
        rf"Map: {re.escape(str(page))}\n",
        ran.out,
    )
    assert f"<h1>{dataset.name}</h1>" in page.read_text(encoding="utf-8")


def test_json_quiet_notes_and_unreadable_photos(inlier: Callable[..., Any], dataset: Path, tmp_path: Path) -> None:
    photos, page = tmp_path / "photos", tmp_path / "map.html"
    photos.mkdir()
    for number, path in enumerate(sorted((dataset / "photos").rglob("*.jpg"))[:3]):
        (photos / f"{number}{path.suffix}").symlink_to(path)
    ran = inlier("map", photos, "--out", page, "--json", "--seed", "3", "--layers", "2", *QUICK)
    result = json.loads(ran.out)
    assert (ran.status, result["map"], result["seed"]) == (0, str(page), 3)
    assert result["backbones"][0]["layers"] == [2]
    assert ran.err == "Mind: So few photos (3) lie by their two principal components; t-SNE needs at least 7.\n"
    (photos / "empty.jpg").touch()
    assert inlier("map", photos, "--out", page, "--quiet", *QUICK) == (1, "", "")
    ran = inlier("map", photos, "--out", page, *QUICK)
    assert f"  unreadable: {photos / 'empty.jpg'}: the file is empty\n" in ran.err


def test_weights_go_with_backbones_in_order() -> None:
    assert pair_weights([], []) == []
    assert pair_weights(["a", "b"], []) == [("a", None), ("b", None)]
    assert pair_weights(["a", "b"], ["-", "b.pth"]) == [("a", None), ("b", Path("b.pth"))]
    assert pair_weights([], ["a.pth"]) == [("efficientnet_lite0", Path("a.pth"))]
    with pytest.raises(ConfigError, match=r"--weights names 2 files for 1 backbones; give one for each --backbone"):
        pair_weights(["a"], ["a.pth", "b.pth"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--out", "map.png"), "A map is an .html file, and map.png is none; choose another --out."),
        (("--out", "map.html", "--backbone", "resnet1"), "[backbone]: timm has no backbone named resnet1; "),
        (("--out", "map.html", "--color", "verdict"), "Points can be coloured by verdict only with a model;"),
        (("--out", "map.html", "--layers", "two"), "--layers must be whole numbers such as 2,3, got 'two'."),
        (("--out", "map.html", "--weights", "a", "--weights", "b"), "--weights names 2 files for 1 backbones;"),
        (("--out", "map.html", "--weights", "gone.pth"), "The weights file gone.pth does not exist."),
    ],
)
def test_a_map_that_cannot_be_is_one_sentence(
    inlier: Callable[..., Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ran = inlier("map", dataset, *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"inlier: {sentence}") and ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
