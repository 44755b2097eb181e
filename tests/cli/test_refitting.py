from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.databases import as_url
from inlier.model import Model
from inlier.reviewing.decisions import Choice, Review

Run = Callable[..., Any]
QUICK = ("--detector", "photo-neighbors", "--size", "64", "--precision", "float32", "--augment", "0")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Photos of noise in one folder, one of which is a plain picture."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    Image.new("RGB", (50, 40), (200, 30, 30)).save(folder / "odd.png")
    return folder


@pytest.fixture
def fitted(inlier: Run, archive: Path, tmp_path: Path) -> Path:
    assert inlier("fit", archive, "--out", tmp_path / "model", *QUICK).status == 0
    return tmp_path / "model"


def _decide(database: Path) -> None:
    review = Review.open(as_url(str(database)))
    odd = next(photo for photo in review.photos() if photo.path.endswith("odd.png"))
    review.decide([Choice(odd.number, True)], reviewer="ada", page="1")
    review.close()


def test_from_a_review_to_a_model_in_the_place_of_the_old_one(
    inlier: Run, archive: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, database = Model.load(fitted), tmp_path / "model.review.db"
    ran = inlier("review", fitted, archive, "--export", "csv", "--out", tmp_path / "none.csv")
    assert (ran.status, ran.out) == (0, "0 decided photos exported.\n")
    _decide(database)
    ran = inlier("refit", fitted, "--decisions", database)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("0 photos joined those to learn from, 1 left them: 9 before, 8 now.\n")
    made = tmp_path / "model-refit"
    assert ran.out.endswith(f"Model: {made}\nReport: {made / 'report.html'}\n")
    assert Model.load(fitted).identity == before.identity  # nothing is replaced before a yes
    assert Model.load(made).facts["parent"] == before.identity
    report = json.loads((made / "refit.json").read_text())
    assert report["identity"] == Model.load(made).identity
    assert "1 photo left" in (made / "report.html").read_text(encoding="utf-8")
    ran = inlier("refit", fitted, "--decisions", database, "--replace")
    assert ran.status == 2
    assert "--replace asks before it replaces the model, and nobody is there to answer; add --yes." in ran.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, is_replaced in ((False, False), (True, True)):
        monkeypatch.setattr("typer.confirm", lambda *asked, answer=answer, **options: answer)
        ran = inlier("refit", fitted, "--decisions", database, "--replace", "--json", "--quiet")
        assert ran.status == 0, ran.err
        assert json.loads(ran.out)["is_replaced"] is is_replaced
        assert (Model.load(fitted).identity == before.identity) is not is_replaced
    review = Review.open(as_url(str(database)))
    assert [(of.parent, of.identity) for of in review.refits()] == [(before.identity, Model.load(fitted).identity)]
    review.close()
    assert (fitted / "report.html").is_file()
    ran = inlier("review", fitted, archive, "--export", "csv", "--out", tmp_path / "words.csv", "--json")
    assert json.loads(ran.out) == {"num_exported": 1}  # the review goes on with the new model


def test_decisions_come_and_go_in_other_forms(inlier: Run, archive: Path, fitted: Path, tmp_path: Path) -> None:
    options = ("review", fitted, archive, "--decisions", tmp_path / "one.db")
    assert inlier(*options, "--export", "csv", "--out", tmp_path / "a.csv").status == 0
    _decide(tmp_path / "one.db")
    for form, name in (("csv", "a.csv"), ("coco", "a.json"), ("label-studio", "b.json")):
        ran = inlier(*options, "--export", form, "--out", tmp_path / name)
        assert ran.out == "1 decided photo exported.\n"
        into = (
            "review",
            fitted,
            archive,
            "--decisions",
            tmp_path / f"{form}.db",
            "--cache",
            tmp_path / "one.db.features",
        )
        ran = inlier(*into, "--import", tmp_path / name, "--reviewer", "bob")
        assert ran.out == "1 decision imported.\n", ran.err
        copy = Review.open(as_url(str(tmp_path / f"{form}.db")))
        assert copy.reviewers() == ["bob"]
        copy.close()
    ran = inlier(*options, "--export", "masks", "--out", tmp_path / "masks")
    assert ran.out == "0 masks written.\n"
    for given, sentence in (
        (("--export", "yolo", "--out", "x"), "--export must be one of csv, coco, label-studio, masks, got yolo."),
        (("--export", "csv"), "--export and --out go together."),
        (("--import", tmp_path / "odd.txt"), "odd.txt cannot be read: No such file or directory."),
    ):
        ran = inlier(*options, *given)
        assert ran.status == 2 and sentence in ran.err


def test_refits_that_cannot_be(inlier: Run, archive: Path, fitted: Path, tmp_path: Path) -> None:
    ran = inlier("refit", fitted, "--decisions", tmp_path / "none.db")
    assert ran.status == 2 and "There is no review in" in ran.err
    assert inlier("review", fitted, archive, "--export", "csv", "--out", tmp_path / "a.csv").status == 0
    ran = inlier("refit", fitted, "--decisions", f"{fitted}.review.db")
    assert ran.status == 2 and "Nothing was decided that a refit could learn from." in ran.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("not a model")
    ran = inlier("refit", fitted, "--decisions", f"{fitted}.review.db", "--out", tmp_path / "full")
    assert ran.status == 2 and "holds something else than a model" in ran.err
