from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from inlier.config import check_names, merge, read_config
from inlier.errors import ConfigError

FILE = """
[fit]
detector = "patchcore"
seed = 3

[patchcore]
layers = [3, 4]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_file_gives_its_sections(file: Path) -> None:
    assert read_config(file) == {"fit": {"detector": "patchcore", "seed": 3}, "patchcore": {"layers": [3, 4]}}
    assert read_config(None) == {}


def test_overrides_beat_the_file_and_the_last_one_wins(file: Path) -> None:
    config = read_config(file, ["fit.seed=4", "fit.seed = 5", "input.size=64"])
    assert config["fit"] == {"detector": "patchcore", "seed": 5}
    assert config["input"] == {"size": 64}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.05", 0.05),
        ("64", 64),
        ("true", True),
        ("[3, 4]", [3, 4]),
        ('"float32"', "float32"),
        ("float32", "float32"),
        ("", ""),
        ("a=b", "a=b"),
        ("C:\\weights.pth", "C:\\weights.pth"),
        ("2024-05-01", date(2024, 5, 1)),
    ],
)
def test_a_value_is_read_as_toml_and_else_as_text(text: str, value: object) -> None:
    assert read_config(None, [f"section.key={text}"]) == {"section": {"key": value}}


@pytest.mark.parametrize("override", ["seed=3", "fit.seed", "=3", "fit.=3", ".seed=3", ""])
def test_an_override_needs_section_key_and_value(override: str) -> None:
    with pytest.raises(ConfigError, match=rf"^An override must look like section\.key=value, got {override!r}\.$"):
        read_config(None, [override])


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^The configuration file .*none\.toml does not exist\.$"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read as TOML: .*Is a directory"):
        read_config(tmp_path)
    path = tmp_path / "plan.toml"
    path.write_text("[fit\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^The configuration file .*plan\.toml cannot be read as TOML: Expected"):
        read_config(path)
    path.write_bytes(b'[fit]\ndetector = "\xff"\n')
    with pytest.raises(ConfigError, match=r"cannot be read as TOML: 'utf-8' codec"):
        read_config(path)
    path.write_text("seed = 3\n[fit]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^seed in .* stands outside any section; write it below a \[section\]\.$"):
        read_config(path)


def test_merging_sets_what_is_given_and_copies_the_rest() -> None:
    config = {"fit": {"seed": 3, "detector": "patchcore"}}
    merged = merge(config, "fit", seed=4, detector=None)
    assert merged == {"fit": {"seed": 4, "detector": "patchcore"}}
    assert config["fit"]["seed"] == 3
    assert merge(config, "input", size=None) == config
    assert merge(config, "input", size=64) == config | {"input": {"size": 64}}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    check_names(["seed"], ["seed", "detector"], kind="key", owner="[fit]")
    with pytest.raises(ConfigError, match=r"^\[fit\] has no key named sed; did you mean seed\?$"):
        check_names(["seed", "sed"], ["seed", "detector"], kind="key", owner="[fit]")
    with pytest.raises(ConfigError, match=r"^\[fit\] has no key named xyz; it has detector, seed\.$"):
        check_names(["xyz"], ["seed", "detector"], kind="key", owner="[fit]")
