from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from inlier.errors import ConfigError
from inlier.service.keys import add_key, read_keys, revoke_key


def test_a_key_is_shown_once_and_kept_as_a_digest_that_only_the_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "secret" / "keys.json"
    text = add_key(path, "app", ["inspect"])
    other = add_key(path, "ann@ships", ["review", "admin", "review"])
    assert re.fullmatch(r"inlier_[A-Za-z0-9_-]{43}", text) and other != text
    content = path.read_text(encoding="utf-8")
    assert text not in content and hashlib.sha256(text.encode()).hexdigest() in content
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    keys = read_keys(path)
    assert [(key.name, key.scopes) for key in keys.keys] == [("app", ("inspect",)), ("ann@ships", ("review", "admin"))]
    assert keys.find(text) == keys.named("app")
    assert keys.find(text + "x") is None and keys.find("") is None and keys.find("\udcff") is None


def test_a_revoked_key_is_none_any_more(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, secret = add_key(path, "app", ["inspect"]), read_keys(path).secret
    revoke_key(path, "app")
    assert read_keys(path).find(text) is None
    assert read_keys(path).secret == secret  # others stay logged in
    with pytest.raises(ConfigError, match="Nobody named 'app' has a key"):
        revoke_key(path, "app")


def test_what_cannot_be_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for name in ("", "../x", "a b", "x" * 65, "-a"):
        with pytest.raises(ConfigError, match="name of a key must be letters"):
            add_key(path, name, ["inspect"])
    with pytest.raises(ConfigError, match="--scope must be inspect, review or admin, got root"):
        add_key(path, "app", ["root"])
    with pytest.raises(ConfigError, match="at least one --scope"):
        add_key(path, "app", [])
    assert not path.exists()
    add_key(path, "app", ["inspect"])
    with pytest.raises(ConfigError, match="app has a key already"):
        add_key(path, "app", ["inspect"])


def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match="does not exist; `inlier keys add NAME"):
        read_keys(path)
    for content in (b"{}", b"\xff", b'{"keys": [{"name": 1}], "secret": ""}', b'{"keys": [], "secret": "x"}', b"[]"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="no key file of inlier, or damaged"):
            read_keys(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="run chmod 600"):
        read_keys(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        add_key(tmp_path / "file" / "keys.json", "app", ["inspect"])


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "app", ["inspect"])
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        add_key(path, "other", ["inspect"])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
