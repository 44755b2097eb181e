from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from inlier.build import build_detector, resolve
from inlier.config import merge
from inlier.errors import ConfigError
from inlier.experiments.spaces import (
    DETECTOR_SPACES,
    MAX_CELLS,
    OBJECTIVE_SPACES,
    Value,
    read_space,
    suggest,
    to_sections,
)
from inlier.objectives import resolve_adaptation


class Drawer:
    """Proposes anything that may be proposed, and keeps the names that it was asked for."""

    def __init__(self, seed: int, fixed: Mapping[str, Value] | None = None) -> None:
        self._random = random.Random(seed)
        self._fixed = fixed or {}
        self.asked: list[str] = []

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        assert low >= 1 or not log
        return int(self._answer(name, self._random.choice(range(low, high + 1, step))))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert low > 0 or not log
        return float(self._answer(name, self._random.uniform(low, high)))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        value = self._answer(name, self._random.choice(list(choices)))
        assert value in choices
        return value

    def _answer(self, name: str, drawn: Value) -> Value:
        self.asked.append(name)
        return self._fixed.get(name, drawn)


@pytest.mark.parametrize("name", DETECTOR_SPACES)
def test_whatever_is_proposed_can_be_built(name: str) -> None:
    for seed in range(60):
        drawer = Drawer(seed)
        values = suggest(drawer, DETECTOR_SPACES[name])
        fixed = {of.name for of in DETECTOR_SPACES[name] if of.is_fixed}
        assert [of for of in values if of not in fixed] == drawer.asked
        sections = merge(to_sections(DETECTOR_SPACES[name], values), "fit", detector=name)
        detector = build_detector(resolve(sections, device="cpu"))
        assert set(detector.layers) <= {1, 2, 3, 4}


@pytest.mark.parametrize("name", OBJECTIVE_SPACES)
def test_whatever_is_proposed_for_a_backbone_can_be_resolved(name: str) -> None:
    for seed in range(20):
        values = suggest(Drawer(seed), OBJECTIVE_SPACES[name])
        sections = merge(to_sections(OBJECTIVE_SPACES[name], values), "finetune", objective=name)
        resolved = resolve_adaptation(sections, device="cpu")
        assert resolved["finetune"]["learning_rate"] == values["learning_rate"]
        assert resolved["finetune"]["betas"] == [values["beta1"], values["beta2"]]


def test_the_ranges_are_those_of_the_thesis() -> None:
    of = {dimension.name: dimension for dimension in DETECTOR_SPACES["patchcore"]}
    assert (of["patch_size"].low, of["patch_size"].high, of["patch_size"].step) == (1, 29, 2)
    assert of["num_neighbors"].high == 10 and of["coreset_ratio"].is_log
    assert len(of["layers"].choices) == 15 and {"4", "1,2,3,4"} <= set(of["layers"].choices)


def test_what_would_mean_nothing_is_not_proposed() -> None:
    for pooling, is_reweighted, expected in (
        ("mean", False, set()),
        ("top", False, {"top_ratio"}),
        ("max", False, {"is_reweighted"}),
        ("max", True, {"is_reweighted", "num_neighbors"}),
    ):
        drawer = Drawer(0, {"pooling": pooling, "is_reweighted": is_reweighted})
        values = suggest(drawer, DETECTOR_SPACES["patchcore"])
        assert set(values) & {"top_ratio", "is_reweighted", "num_neighbors"} == expected
    values = suggest(Drawer(0, {"members": "photo-neighbors+photo-subspace"}), DETECTOR_SPACES["combined"])
    assert not [name for name in values if name.startswith("patchcore.")]


def test_values_become_the_keywords_that_constructors_take() -> None:
    space = DETECTOR_SPACES["reverse-distillation"]
    values: dict[str, Value] = {"layers": "1,3,4", "scoring_layers": "coarsest", "beta1": 0.5, "beta2": 0.95}
    assert to_sections(space, values) == {
        "reverse-distillation": {"layers": [1, 3, 4], "betas": [0.5, 0.95], "scoring_layers": [4]}
    }
    assert to_sections(space, {"scoring_layers": "all", "layers": "2,3"})["reverse-distillation"] == {
        "layers": [2, 3],
        "scoring_layers": [2, 3],
    }
    combined = to_sections(
        DETECTOR_SPACES["combined"], {"members": "patchcore+photo-neighbors", "patchcore.layers": "3"}
    )
    assert combined == {
        "combined": {"members": ["patchcore", "photo-neighbors"]},
        "patchcore": {"layers": [3], "max_cells": MAX_CELLS},
    }


def test_a_space_is_narrowed_widened_and_fixed() -> None:
    given = {
        "patch_size": {"high": 9},
        "coreset_ratio": {"low": 0.01, "high": 0.5, "log": False},
        "layers": ["2,3", "3"],
        "pooling": "mean",
        "distance": "default",
    }
    of = {dimension.name: dimension for dimension in read_space("patchcore", DETECTOR_SPACES["patchcore"], given)}
    assert (of["patch_size"].low, of["patch_size"].high) == (1, 9)
    assert (of["coreset_ratio"].high, of["coreset_ratio"].is_log) == (0.5, False)
    assert of["layers"].choices == ("2,3", "3") and of["pooling"].choices == ("mean",)
    assert "distance" not in of and "embedding_width" in of


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"patchsize": 3}, "patchcore has no parameter to search named patchsize; did you mean patch_size"),
        ({"patch_size": {"low": 9, "high": 3}}, r"patch_size of \[space\] must be a range"),
        ({"coreset_ratio": {"low": 0.0}}, "above 0 where log = true"),
        ({"coreset_ratio": {"low": "a"}}, "must be a range"),
        ({"patch_size": {"lower": 1}}, r"patch_size of \[space\] has no key named lower"),
        ({"layers": []}, "must be a range, a list of values, or one value"),
        ({"layers": [[2, 3]]}, "must be a range, a list of values, or one value"),
        ({name.name: "default" for name in DETECTOR_SPACES["patchcore"]}, "leaves nothing of patchcore"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_space("patchcore", DETECTOR_SPACES["patchcore"], given)
