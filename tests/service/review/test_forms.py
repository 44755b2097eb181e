"""Addresses and forms, there and back."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from inlier.reviewing.ordering import Query
from inlier.service.review.forms import Form, FormError, Grid, choices_of, grid_of


@pytest.mark.parametrize(
    "grid",
    [
        Grid(Query()),
        Grid(Query("labels", verdict="reject", label="a & b = c?", decided=True), columns=6),
        Grid(Query("all", component="Kolben/Krone", split="dev"), columns=5),
    ],
)
def test_an_address_says_all_of_a_grid(grid: Grid) -> None:
    assert grid_of(Form(parse_qs(grid.address))) == grid
    again = grid_of(Form(parse_qs(grid.with_photos([3, 1, 2]))))
    assert again == Grid(grid.query, grid.columns, (3, 1, 2))


def test_nothing_asked_is_the_doubtful_ones() -> None:
    assert grid_of(Form({})) == Grid(Query("doubtful"), 4, ())


def test_choices_are_read_by_photo() -> None:
    form = Form({"photo": ["5", "2", "9"], "word-5": ["normal"], "word-2": ["anomalous"], "label-9": ["crack"]})
    choices = choices_of(form, labels=["crack"])
    assert [(of.photo, of.is_anomalous, of.label) for of in choices] == [
        (5, False, None),
        (2, True, None),
        (9, None, "crack"),
    ]
    with pytest.raises(FormError, match="none of this review"):
        choices_of(form, labels=["scratch"])
