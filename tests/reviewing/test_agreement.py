from __future__ import annotations

from collections.abc import Callable

import pytest
from sklearn.metrics import cohen_kappa_score

from inlier.reviewing.agreement import measure_agreement
from inlier.reviewing.decisions import Choice, Review


def test_reviewers_are_compared_on_what_they_said_blindly(make_review: Callable[[int], Review]) -> None:
    review = make_review(8)
    ada = [True, True, False, False, True, False, True, True]
    bob = [True, False, False, False, True, False, False, True]
    for name, flags in (("ada", ada), ("bob", bob)):
        review.decide([Choice(n, flag) for n, flag in enumerate(flags, 1)], reviewer=name, page="1")
    review.decide([Choice(1, True, "pump"), Choice(2, None, "valve")], reviewer="cy", page="1")
    before = measure_agreement(review)
    review.decide([Choice(2, True), Choice(7, True)], reviewer="bob", page="2")  # gives in, which is no agreement
    found = measure_agreement(review)
    assert found == before
    assert (found.num_photos, len(found.pairs)) == (8, 3)
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.num_photos, pair.num_alike) == ("ada", "bob", 8, 6)
    assert pair.kappa is not None and pair.kappa.value == pytest.approx(cohen_kappa_score(ada, bob))
    assert [(of.second, of.num_photos, of.kappa) for of in found.pairs[1:]] == [("cy", 1, None), ("cy", 1, None)]
    assert found.sentence.startswith("Fleiss' kappa on whether photos are anomalous is 0.")
    assert found.sentence.endswith("on 8 photos that two or more decided; 1 is full agreement, 0 what chance would do.")


def test_agreement_on_classes_and_without_any(make_review: Callable[[int], Review]) -> None:
    review = make_review(3)
    assert measure_agreement(review, question="class").sentence == (
        "No photo has two reviewers' word on what photos show yet."
    )
    for name in ("ada", "bob"):
        review.decide([Choice(1, None, "pump"), Choice(2, None, "pump")], reviewer=name, page="1")
    assert measure_agreement(review, question="class").sentence == (
        "All reviewers say one and the same on 2 photos that two or more decided, so that no kappa tells how far they "
        "agree on what photos show."
    )
    for name in ("ada", "bob"):
        review.decide([Choice(3, None, "valve")], reviewer=name, page="2")
    found = measure_agreement(review, question="class")
    assert found.kappa is not None and found.kappa.value == 1.0
    assert found.pairs[0].num_alike == 3
    review.undo(reviewer="bob")
    assert measure_agreement(review, question="class").num_photos == 2
