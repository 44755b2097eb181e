"""API keys: a file with the digest of each, who has it, and what it is good for.

A key is 256 random bits, so it cannot be guessed, and a plain SHA-256 of it is as safe to keep as a slow hash of a
password: there is no dictionary to try. The key itself is shown once, and stands nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inlier.errors import ConfigError
from inlier.outputs import as_text

SCOPES = ("inspect", "review", "admin")
"""What a key can be good for: verdicts; the pages for experts; the record of everybody and all else too."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = "inlier_"


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key.

    Attributes:
        name: Who has it; what the record and reviews call them.
        scopes: Some of ``SCOPES``.
        digest: SHA-256 of the key, 64 hexadecimal digits.
        made: When, ISO 8601, UTC.
    """

    name: str
    scopes: tuple[str, ...]
    digest: str
    made: str


@dataclass(frozen=True, slots=True)
class KeyFile:
    """All keys of a file.

    Attributes:
        keys: Of each name one.
        secret: With which the cookies of pages are signed.
    """

    keys: tuple[Key, ...]
    secret: bytes

    def find(self, text: str) -> Key | None:
        """The key that this text is; None if it is none."""
        digest = digest_of(text)
        found = None
        for key in self.keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def named(self, name: str) -> Key | None:
        """The key of a name."""
        return next((key for key in self.keys if key.name == name), None)


def digest_of(text: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """The keys in a file.

    Raises:
        ConfigError: It cannot be read, is no such file, or others than its owner may read or write it.
    """
    shown = as_text(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(16 << 20)
    except FileNotFoundError as error:
        raise ConfigError(
            f"The key file {shown} does not exist; `inlier keys add NAME --keys {shown}` makes it."
        ) from error
    except OSError as error:
        raise ConfigError(f"The key file {shown} cannot be read: {error.strerror}.") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"The key file {shown} can be used by others than its owner; run chmod 600 on it.")
    try:
        whole = json.loads(content)
        keys = tuple(Key(of["name"], tuple(of["scopes"]), of["digest"], of["made"]) for of in whole["keys"])
        return KeyFile(keys, bytes.fromhex(whole["secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{shown} is no key file of inlier, or damaged.") from error


def add_key(path: Path, name: str, scopes: Iterable[str]) -> str:
    """Makes a key, and returns it: the only time that it can be seen.

    Args:
        path: The file; made if need be, readable by its owner alone.
        name: Letters, digits and ``. _ @ -``, at most 64.
        scopes: Some of ``SCOPES``.

    Raises:
        ConfigError: The name or a scope cannot be used, the name has a key already, or the file cannot be used.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if not _NAME.fullmatch(name):
        raise ConfigError(f"The name of a key must be letters, digits and . _ @ -, at most 64, got {name!r}.")
    for scope in wanted:
        if scope not in SCOPES:
            raise ConfigError(f"--scope must be {', '.join(SCOPES[:-1])} or {SCOPES[-1]}, got {scope}.")
    if not wanted:
        raise ConfigError("A key needs at least one --scope.")
    before = read_keys(path) if os.path.lexists(path) else KeyFile((), secrets.token_bytes(32))
    if before.named(name):
        raise ConfigError(f"{name} has a key already; revoke it first, or take another name.")
    text = _PREFIX + secrets.token_urlsafe(32)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    _write(path, KeyFile((*before.keys, Key(name, wanted, digest_of(text), made)), before.secret))
    return text


def revoke_key(path: Path, name: str) -> None:
    """Takes a key out of the file; a running service stops taking it within a second.

    Raises:
        ConfigError: Nobody of this name has a key, or the file cannot be used.
    """
    before = read_keys(path)
    if not before.named(name):
        raise ConfigError(f"Nobody named {name!r} has a key in {as_text(path)}.")
    _write(path, KeyFile(tuple(key for key in before.keys if key.name != name), before.secret))


def _write(path: Path, content: KeyFile) -> None:
    """Writes the file beside its name, closed to others from its first byte, and renames it."""
    whole: dict[str, Any] = {
        "version": 1,
        "secret": content.secret.hex(),
        "keys": [asdict(key) for key in content.keys],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(json.dumps(whole, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise ConfigError(f"The key file {as_text(path)} cannot be written: {error.strerror}.") from error
