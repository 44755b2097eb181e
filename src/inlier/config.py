"""Configuration: a TOML file and ``--set`` overrides -> plain sections of keywords."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inlier.errors import ConfigError

Config = dict[str, dict[str, Any]]
"""Section -> keyword -> value. A section names a class or a function, and holds its keywords."""


def read_config(path: Path | None, overrides: Sequence[str] = (), sections: Config | None = None) -> Config:
    """The sections of a TOML file, or those given, changed by overrides of the form ``section.key=value``.

    A value is read as TOML (``0.05``, ``true``, ``[3, 4]``, ``"text"``), and as text where it is not TOML.

    Raises:
        ConfigError: The file cannot be read, is not TOML or not made of sections, or an override has no such form.
    """
    config = _read_file(path) if path else {name: dict(keywords) for name, keywords in (sections or {}).items()}
    for override in overrides:
        place, equals, text = override.partition("=")
        section, dot, key = place.strip().rpartition(".")
        if not (equals and dot and section and key):
            raise ConfigError(f"An override must look like section.key=value, got {override!r}.")
        config.setdefault(section, {})[key] = _value(text.strip())
    return config


def merge(config: Mapping[str, Mapping[str, Any]], section: str, **values: Any) -> Config:
    """The configuration with these keywords of one section set; None leaves a keyword as it is."""
    given = {key: value for key, value in values.items() if value is not None}
    merged = {name: dict(keywords) for name, keywords in config.items()}
    if given:
        merged[section] = merged.get(section, {}) | given
    return merged


def check_names(names: Collection[str], allowed: Collection[str], *, kind: str, owner: str) -> None:
    """Raises ConfigError for the first name that is not allowed, and offers the nearest one that is."""
    for name in names:
        if name not in allowed:
            close = get_close_matches(name, allowed, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(allowed))}."
            raise ConfigError(f"{owner} has no {kind} named {name}; {hint}")


def _read_file(path: Path) -> Config:
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"The configuration file {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read as TOML: {error}") from error
    loose = [key for key, value in loaded.items() if not isinstance(value, dict)]
    if loose:
        raise ConfigError(f"{loose[0]} in {path} stands outside any section; write it below a [section].")
    return loaded


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
