from __future__ import annotations

import json
import re
from typing import Any

import pytest

from inlier.data.intake.quality import QualityThresholds
from inlier.data.intake.settings import Settings, read_settings
from inlier.errors import ConfigError, InlierError

DEFAULTS = {
    "longest_side": 512,
    "keep_gps": False,
    "collapse": "same",
    "group_by": "burst",
    "ratios": [0.6, 0.2, 0.2],
    "resplit": False,
    "drop": [],
    "thresholds": {
        "min_sharpness": 0.22,
        "min_brightness": 0.06,
        "max_dark_share": 0.95,
        "max_brightness": 0.93,
        "max_bright_share": 0.8,
        "min_contrast": 0.02,
        "min_side": 100,
    },
    "seed": 0,
}

RATIOS = "ratios of Settings must be three numbers >= 0 that add up to 1, got "


def test_plain_values_are_those_that_json_gives_back() -> None:
    assert Settings().to_dict() == DEFAULTS
    assert json.loads(json.dumps(Settings().to_dict())) == Settings().to_dict()
    assert list(Settings().to_dict()) == list(DEFAULTS)


def test_plain_values_make_the_same_settings() -> None:
    settings = Settings(drop=("dark", "tiny"), ratios=(0.8, 0.2, 0), thresholds=QualityThresholds(min_side=64), seed=7)
    plain = settings.to_dict()
    again = read_settings({"quality": plain.pop("thresholds"), "ingest": plain})
    assert again == settings
    again.check_same(settings.to_dict(), "data")


@pytest.mark.parametrize(
    ("values", "sentence"),
    (
        ({"longest_side": 63}, "longest_side of Settings must be in [64, 16384] pixels, got 63."),
        ({"longest_side": 16_385}, "longest_side of Settings must be in [64, 16384] pixels, got 16385."),
        ({"ratios": (1.2, -0.2, 0.0)}, RATIOS + "(1.2, -0.2, 0.0)."),
        ({"ratios": (0.6, 0.2, 0.1)}, RATIOS + "(0.6, 0.2, 0.1)."),
        ({"ratios": (float("nan"), 0.5, 0.5)}, RATIOS + "(nan, 0.5, 0.5)."),
        (
            {"drop": ("dark", "ugly", "old")},
            "drop of Settings must be of blurred, dark, overexposed, uniform, tiny, got ugly, old.",
        ),
        (
            {"group_by": "week"},
            "group_by must be none, folder, camera, day, burst, burst:SECONDS, digits or regex:PATTERN, got week.",
        ),
        ({"group_by": "burst:-1"}, "seconds of group_by burst must be in (0, 86400], a day, got -1."),
    ),
)
def test_values_that_are_not_allowed(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Settings(**values)
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        read_settings({"ingest": values})


def test_values_that_only_a_program_can_give() -> None:
    """In a configuration they are of another type, and refused as that."""
    with pytest.raises(ValueError, match=r"^collapse of Settings must be bytes, same or near, got 'all'\.$"):
        Settings(collapse="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{re.escape(RATIOS)}\\(0.5, 0.5\\)\\.$"):
        Settings(ratios=(0.5, 0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    (
        {"longest_side": 64},
        {"longest_side": 16_384},
        {"ratios": (1, 0, 0)},
        {"ratios": (0.7, 0.1, 0.2)},
        {"ratios": (1 / 3, 1 / 3, 1 / 3)},
        {"drop": ("blurred", "dark", "overexposed", "uniform", "tiny")},
        {"collapse": "bytes"},
        {"collapse": "near"},
        {"group_by": "regex:unit(\\d+)"},
    ),
)
def test_values_that_are_allowed(values: dict[str, Any]) -> None:
    settings = Settings(**values)
    assert all(getattr(settings, name) == value for name, value in values.items())


def test_sections_are_read_with_defaults_for_what_they_leave_out() -> None:
    assert read_settings({}) == Settings()
    sections = {"ingest": {"longest_side": 256, "ratios": [0.5, 0.25, 0.25], "drop": ["dark"], "keep_gps": True}}
    settings = read_settings({**sections, "quality": {"min_side": 32, "min_sharpness": 0.3}})
    assert settings == Settings(
        longest_side=256,
        keep_gps=True,
        ratios=(0.5, 0.25, 0.25),
        drop=("dark",),
        thresholds=QualityThresholds(min_side=32, min_sharpness=0.3),
    )


@pytest.mark.parametrize(
    ("sections", "sentence"),
    (
        ({"ingets": {}}, "The configuration of ingest has no section named ingets; did you mean ingest?"),
        ({"ingest": {"colapse": "near"}}, "ingest has no keyword named colapse; did you mean collapse?"),
        (
            {"ingest": {"thresholds": {}}},
            "ingest has no keyword named thresholds; it has collapse, drop, group_by, keep_gps, longest_side, ratios, "
            "resplit, seed.",
        ),
        ({"quality": {"min_sharpnes": 1}}, "quality has no keyword named min_sharpnes; did you mean min_sharpness?"),
    ),
)
def test_names_that_are_unknown(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        read_settings(sections)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    (
        ({"ingest": {"longest_side": "large"}}, "ingest.longest_side cannot be 'large': Input should be a valid int"),
        ({"ingest": {"collapse": "all"}}, "ingest.collapse cannot be 'all': Input should be 'bytes', 'same' or 'near'"),
        ({"ingest": {"ratios": [0.5, 0.5]}}, "ingest.ratios cannot be [0.5, 0.5]: "),
        ({"ingest": {"drop": [1]}}, "ingest.drop cannot be 1: Input should be a valid string."),
        ({"quality": {"min_side": 1.5}}, "quality.min_side cannot be 1.5: Input should be a valid integer"),
        ({"quality": {"min_contrast": []}}, "quality.min_contrast cannot be []: Input should be a valid number."),
    ),
)
def test_values_of_another_type(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        read_settings(sections)


def test_the_same_settings_go_on() -> None:
    Settings().check_same(json.loads(json.dumps(DEFAULTS)), "data")
    Settings(ratios=(1, 0, 0)).check_same(Settings(ratios=(1.0, 0.0, 0.0)).to_dict(), "data")


def test_other_settings_are_refused_with_what_differs() -> None:
    made_with = Settings(longest_side=256, drop=("dark",)).to_dict()
    sentence = (
        'my/data was made with longest_side = 256, drop = ["dark"], not longest_side = 512, drop = []; '
        "give the same, or choose another --out."
    )
    with pytest.raises(InlierError, match=f"^{re.escape(sentence)}$"):
        Settings().check_same(made_with, "my/data")


def test_settings_that_a_data_set_does_not_know_are_refused() -> None:
    made_with = Settings().to_dict()
    del made_with["seed"]
    sentence = "data was made with seed = null, not seed = 0; give the same, or choose another --out."
    with pytest.raises(InlierError, match=f"^{re.escape(sentence)}$"):
        Settings().check_same(made_with, "data")
