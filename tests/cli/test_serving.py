from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from inlier.cli import serving
from inlier.errors import ConfigError, InlierError
from inlier.service.settings import MIB, Settings

pytest.importorskip("fastapi", reason="FastAPI is not installed")

app = typer.Typer()
app.command("serve")(serving.serve)
app.command("keys")(serving.keys)


def run(*arguments: str | Path) -> Any:
    """What a command printed; what it raised, raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InlierError):
        raise result.exception
    return result


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would be served."""
    found: list[Settings] = []
    monkeypatch.setattr("inlier.service.server.serve", found.append)
    return found


def test_a_key_is_printed_once_listed_by_name_and_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = run("keys", "add", "app", "--keys", path)
    assert made.exit_code == 0 and made.stdout.startswith("inlier_") and len(made.stdout.split()) == 1
    assert "It is shown only now." in made.stderr
    told = json.loads(
        run("keys", "add", "ann", "--keys", path, "--scope", "review", "--scope", "admin", "--json").stdout
    )
    assert told["scopes"] == ["review", "admin"] and told["key"].startswith("inlier_")
    listed = run("keys", "list", "--keys", path).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["app", "ann"] and "review, admin" in listed
    assert made.stdout.strip() not in listed
    run("keys", "revoke", "app", "--keys", path)
    assert [of["name"] for of in json.loads(run("keys", "list", "--keys", path, "--json").stdout)["keys"]] == ["ann"]
    run("keys", "revoke", "ann", "--keys", path)
    assert "Nobody has a key." in run("keys", "list", "--keys", path).stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drop", "app"], "can add, list or revoke, got drop"),
        (["add"], "takes the NAME"),
        (["list", "app"], "takes no name"),
        (["revoke", "app", "--scope", "admin"], "--scope is for `inlier keys add`"),
        (["revoke", "app"], "does not exist; `inlier keys add"),
    ],
)
def test_keys_says_what_it_takes(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run("keys", *arguments, "--keys", tmp_path / "keys.json")


def test_options_become_settings(served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("serve", "parts", "ring=models/7", "--filter", "known", "--port", "9000", "--rate", "5", "--max-bytes", "40MiB")
    (settings,) = served
    assert settings.models == {"parts": Path("parts"), "ring": Path("models/7")}
    assert (settings.filter, settings.host, settings.port) == (Path("known"), "127.0.0.1", 9000)
    assert settings.record == f"sqlite:///{tmp_path / 'inlier-verdicts.db'}" and settings.keep_photos is None
    limits = settings.limits
    assert (limits.rate, limits.max_bytes, limits.max_body_bytes) == (5.0, 40 * MIB, 80 * MIB)


def test_what_strangers_could_reach_is_refused(served: list[Settings]) -> None:
    with pytest.raises(ConfigError, match="needs --keys FILE"):
        run("serve", "parts", "--host", "0.0.0.0")
    with pytest.raises(ConfigError, match="--replicas needs --ray"):
        run("serve", "parts", "--replicas", "2")
    assert served == []


def test_names_of_models_are_told_apart(tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert serving.named_models([odd, Path("c=d")]) == {"a=b": odd, "c": Path("d")}
    with pytest.raises(ConfigError, match="Two models are named x"):
        serving.named_models([Path("x"), Path("x=y")])
    with pytest.raises(ConfigError, match="cannot be the name of a model"):
        serving.named_models([Path("=y")])


def test_sizes_are_read_with_their_units() -> None:
    assert [serving.parse_photo_size(text) for text in ("5000", "2MB", "20MiB", "1 gib")] == [
        5000,
        2_000_000,
        20 << 20,
        1 << 30,
    ]
    for text in ("", "x", "20 apples", "-5MB", "1", "0MiB"):
        with pytest.raises(ConfigError, match="--max-bytes must be a size such as 20MiB"):
            serving.parse_photo_size(text)
