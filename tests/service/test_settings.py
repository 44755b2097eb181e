from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inlier.errors import ConfigError
from inlier.service.settings import LOCAL_HOSTS, Limits, Settings, is_loopback

MODELS = {"parts": Path("model")}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_who_can_be_reached_by_others_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached by others, so it needs --keys FILE"):
        Settings(models=MODELS, host=host)
    settings = Settings(models=MODELS, host=host, keys=Path("keys.json"))
    assert settings.allowed_hosts == ()


def test_a_service_for_this_machine_answers_to_its_names_only() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.3.4.5", "::1", "localhost"))
    assert Settings(models=MODELS).allowed_hosts == LOCAL_HOSTS
    assert Settings(models=MODELS, hosts=("inlier.ships",)).allowed_hosts == ("inlier.ships",)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"models": {}}, "no model to serve"),
        ({"models": {"filter": Path("model")}, "filter": Path("model")}, "no other model may be named filter"),
        ({"workers": 0}, "at least 1 thread that decodes, got 0"),
    ],
)
def test_what_cannot_be_served_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Settings(**({"models": MODELS} | settings))


def test_limits_are_more_than_nothing() -> None:
    with pytest.raises(ConfigError, match="max_bytes of the service must be more than 0, got 0"):
        Limits(max_bytes=0)
    with pytest.raises(ConfigError, match="rate of the service must be more than 0, got -1"):
        Limits(rate=-1)
