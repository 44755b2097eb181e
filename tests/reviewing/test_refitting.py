from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inlier.data.manifest import Manifest, Photo
from inlier.databases import as_url
from inlier.errors import ConfigError, ManifestError, ReviewError
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.reviewing.decisions import Choice, Review, ReviewPhoto, Word
from inlier.reviewing.effective import corrected, effective
from inlier.reviewing.effects import compare_on_dev, summary
from inlier.reviewing.preparing import prepare
from inlier.reviewing.refitting import Refit, refit, write_refit_report
from inlier.workflow import fit, inspect_photos


def _named(review: Review, name: str) -> ReviewPhoto:
    return next(photo for photo in review.photos() if Path(photo.path).name == name)


def _correct(review: Review, *, reviewer: str = "ada") -> None:
    """Takes the two foreign photos out of the bank, and the one that is wrongly called cracked into it."""
    cracked = next(photo for photo in review.photos() if photo.split == "train" and photo.given_anomalous)
    choices = [Choice(_named(review, name).number, True) for name in ("cat.png", "landscape.png")]
    review.decide([*choices, Choice(cracked.number, False, "piston-crown")], reviewer=reviewer, page="1")


def test_most_reviewers_win_and_ties_say_nothing(review: Review) -> None:
    for name, flag, label in (("ada", True, "valve"), ("bob", True, None), ("cy", False, "pump")):
        review.decide([Choice(1, flag, label)], reviewer=name, page="1")
    review.decide([Choice(2, True)], reviewer="ada", page="2")
    review.decide([Choice(2, False)], reviewer="bob", page="2")
    assert effective(review) == {1: Word(True, None, 3), 2: Word(None, None, 2)}


def test_the_data_are_corrected_where_that_is_right(review: Review, polluted_data: Manifest) -> None:
    photos = review.photos()
    of_test = next(photo for photo in photos if photo.split == "test" and not photo.given_anomalous)
    of_dev = [photo for photo in photos if photo.split == "dev"]
    dev_normal, dev_anomalous = (next(of for of in of_dev if of.given_anomalous is flag) for flag in (False, True))
    tied, sure, classed = [photo for photo in photos if photo.split == "train" and not photo.given_anomalous][:3]
    _correct(review)
    review.decide(
        [
            Choice(of_test.number, True),
            Choice(dev_normal.number, True),
            Choice(dev_anomalous.number, False),
            Choice(tied.number, True),
            Choice(sure.number, False),
            Choice(classed.number, None, "lid"),
        ],
        reviewer="ada",
        page="2",
    )
    review.decide([Choice(tied.number, False)], reviewer="bob", page="1")
    now, changes = corrected(polluted_data, review)
    rows = {str(photo.path): photo for photo in now.photos}
    assert [photo.path.name for photo in changes.left] == ["cat.png", "landscape.png"]
    assert [(photo.label, photo.is_anomalous, photo.split) for photo in changes.joined] == [
        ("piston-crown", False, "train")
    ]
    assert [str(photo.path) for photo in changes.dev_left] == [dev_normal.path]
    assert [str(photo.path) for photo in changes.dev_joined] == [dev_anomalous.path]
    assert rows[dev_anomalous.path].label == ""  # what it was called before said that it is anomalous
    assert rows[dev_anomalous.path].mask is None
    assert [(str(photo.path), photo.label) for photo in changes.relabelled] == [(classed.path, "lid")]
    assert rows[of_test.path].is_anomalous is False
    assert rows[tied.path].is_anomalous is False
    assert (changes.num_of_test, changes.num_undecided, changes.num_confirmed) == (1, 1, 1)
    assert [note.partition(" ")[0] for note in changes.notes()] == ["On", "1"]


def test_a_photo_is_known_again_by_its_bytes(review: Review, polluted_data: Manifest, tmp_path: Path) -> None:
    _correct(review)
    moved = []
    for photo in polluted_data.photos:
        copy = tmp_path / "moved" / f"{len(moved)}.png"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(photo.path, copy)
        moved.append(replace(photo, path=copy))
    _, changes = corrected(Manifest(tuple(moved)), review)
    assert (len(changes.left), len(changes.joined), changes.num_missing) == (2, 1, 0)
    (tmp_path / "moved" / f"{len(moved) - 3}.png").write_bytes(b"another photo")
    _, changes = corrected(Manifest(tuple(moved)), review)
    assert (len(changes.left), changes.num_missing) == (1, 1)


@pytest.fixture(scope="module")
def refitted(
    prepared: Path,
    polluted_model: Model,
    polluted_data: Manifest,
    store: FeatureStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Refit:
    path = tmp_path_factory.mktemp("refitted") / "review.db"
    shutil.copy(prepared, path)
    review = Review.open(f"sqlite:///{path}")
    _correct(review)
    num_filled = store.num_filled
    outcome = refit(polluted_model, polluted_data, review, store=store)
    assert store.num_filled == num_filled  # no photo was read again
    review.close()
    return outcome


def test_a_refit_is_what_fitting_the_corrected_data_gives(
    refitted: Refit, polluted_data: Manifest, polluted_model: Model, review: Review
) -> None:
    _correct(review)
    now, changes = corrected(polluted_data, review)
    whole, _ = fit(polluted_model.config, now)
    assert refitted.model.references.names == whole.references.names
    assert refitted.model.calibration.normal_scores == pytest.approx(whole.calibration.normal_scores, rel=1e-4)
    test = polluted_data.select("test").photos
    ours, theirs = ([of.verdict.score for of in inspect_photos(model, test)] for model in (refitted.model, whole))
    assert ours == pytest.approx(theirs, rel=1e-4)
    facts = refitted.model.facts
    assert facts["parent"] == polluted_model.identity != refitted.model.identity
    assert facts["data_fingerprint"] == whole.facts["data_fingerprint"]
    assert facts["decisions"]["digest"] == changes.digest
    assert facts["decisions"]["reviewers"] == ["ada"]
    assert (facts["num_fitted"], facts["num_unreadable"]) == (18, 1)
    assert [photo.path.name for photo, _ in refitted.unreadable] == ["broken.png"]


def test_the_report_says_what_changed(refitted: Refit, polluted_model: Model, polluted_data: Manifest) -> None:
    report = json.loads(json.dumps(refitted.report))
    assert (report["parent"], report["identity"]) == (polluted_model.identity, refitted.model.identity)
    assert [Path(row["path"]).name for row in report["left"]] == ["cat.png", "landscape.png"]
    assert report["counts"]["num_joined"] == 1
    assert report["learned"] == {"before": 19, "after": 18}
    assert {row["split"] for row in report["flips"]} <= {"train", "dev"}  # test decides nothing
    assert all(row["before"]["verdict"] != row["after"]["verdict"] for row in report["flips"])
    dev = report["dev"]
    assert (dev["num_normal"], dev["num_anomalous"]) == (8, 6)
    assert dev["gain"]["value"] == pytest.approx(dev["after"]["value"] - dev["before"]["value"])
    assert dev["gain"]["low"] <= dev["gain"]["value"] <= dev["gain"]["high"]
    assert "he model before" in dev["sentence"] and "No detector learns from photos of dev" in dev["mind"]
    photos = [photo for photo in polluted_data.select("dev").photos]
    flags = np.array([photo.is_anomalous for photo in photos], dtype=np.bool_)
    for name, model in (("before", polluted_model), ("after", refitted.model)):
        scores = np.array([found.verdict.score for found in inspect_photos(model, photos)])
        above = (scores[flags][:, None] > scores[~flags]).mean()
        assert dev[name]["value"] == pytest.approx(above, abs=0.01)
    assert summary(report).startswith("1 photo joined those to learn from, 2 left them: 19 before, 18 now.\n")


def test_a_review_goes_on_with_the_model_of_the_refit(
    refitted: Refit, review: Review, polluted_data: Manifest, store: FeatureStore, tmp_path: Path
) -> None:
    _correct(review)
    before = {photo.number: photo for photo in review.photos()}
    again = prepare(refitted.model, polluted_data, as_url(str(tmp_path / "copy.db")), store=store)
    assert again.facts.identity == refitted.model.identity
    assert again.facts.data == review.facts.data
    assert again.words() == review.words()
    cat = _named(again, "cat.png")
    assert cat.score is not None and cat.score != before[cat.number].score
    after = {Path(row["path"]): row["after"] for row in refitted.report["flips"]}
    for photo in again.photos():
        if Path(photo.path) in after:  # what the report promised
            assert photo.verdict == after[Path(photo.path)]["verdict"]
            assert photo.p_value == pytest.approx(after[Path(photo.path)]["p_value"])
    again.close()


def test_the_page_shows_it(refitted: Refit, tmp_path: Path) -> None:
    write_refit_report(refitted, tmp_path / "reports" / "report.html")
    page = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
    assert "1 photo joined, 2 photos left; " in page
    assert "Learned no more" in page and "cat.png" in page
    assert page.count("data:image/webp;base64,") >= 3
    assert refitted.model.identity in page
    assert "Image AUROC" in page


def test_without_both_kinds_on_dev_nothing_is_compared() -> None:
    found = compare_on_dev([])
    assert found["gain"] is None
    assert found["sentence"].startswith("dev has no labelled photos, so that AUROC before and after cannot")


def test_decisions_that_change_nothing_are_no_reason_to_refit(
    review: Review, polluted_model: Model, polluted_data: Manifest
) -> None:
    with pytest.raises(ReviewError, match=r"^Nothing was decided that a refit could learn from\.$"):
        refit(polluted_model, polluted_data, review)
    normal = next(photo for photo in review.photos() if not photo.given_anomalous)
    review.decide([Choice(normal.number, False)], reviewer="ada", page="1")
    with pytest.raises(ReviewError, match="The reviewers say of 1 photo what the data say too"):
        refit(polluted_model, polluted_data, review)
    everything = [Choice(photo.number, True) for photo in review.photos() if photo.split == "train"]
    review.decide(everything, reviewer="ada", page="2")
    with pytest.raises(ManifestError, match="no normal photo of train is left"):
        refit(polluted_model, polluted_data, review)


def test_a_model_whose_photos_are_gone_is_updated(
    review: Review, polluted_model: Model, polluted_data: Manifest
) -> None:
    _correct(review)
    decided = {review.photo(number).path for number in review.words()}
    here = Manifest(
        tuple(photo for photo in polluted_data.photos if photo.split != "train" or os.fspath(photo.path) in decided)
    )
    outcome = refit(polluted_model, here, review)
    assert outcome.report["method"] == "updated"
    assert outcome.report["notes"][0].startswith("17 photos that the model learned from are not in the data")
    names = {Path(name).name for name in outcome.model.references.names}
    assert not names & {"cat.png", "landscape.png"}
    facts = outcome.model.facts
    assert (facts["num_fitted"], facts["num_removed"], facts["num_added"]) == (18, 2, 1)
    assert facts["parent"] == polluted_model.identity
    assert facts["decisions"]["num_left"] == 2
    assert not {"photos that leave by a review"} & {*outcome.model.references.groups}
    trained = replace(polluted_model, detector=_Trained())
    with pytest.raises(ConfigError, match="patchcore learns from all photos at once: give all of them with --data"):
        refit(trained, here, review)


class _Trained:
    """A detector that cannot be updated."""

    layers, is_trained = (2, 3), True

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


def test_classes_that_reviewers_name_become_components(
    review: Review, polluted_model: Model, polluted_data: Manifest, store: FeatureStore
) -> None:
    train = [photo for photo in review.photos() if photo.split == "train" and photo.given_anomalous is False]
    review.decide([Choice(photo.number, None, "lid") for photo in train[:4]], reviewer="ada", page="1")
    outcome = refit(polluted_model, polluted_data, review, store=store)
    assert outcome.model.components is not None
    assert "lid" in outcome.model.components.names
    assert outcome.report["counts"]["num_relabelled"] == 4


def test_photos_of_one_path_and_other_bytes_are_left_out(review: Review, polluted_data: Manifest) -> None:
    _correct(review)
    gone = [photo for photo in polluted_data.photos if photo.path.name != "cat.png"]
    _, changes = corrected(Manifest(tuple(gone)), review)
    assert changes.num_missing == 1
    assert "is not in the data, or has changed since, and was left out." in changes.notes()[-1]
    assert Photo(Path("x"), "train") not in gone
