"""Databases as users name them and as messages call them; SQLAlchemy is imported where it is needed."""

from __future__ import annotations

import os

_SQLITE = "sqlite:///"


def as_url(database: str) -> str:
    """The URL of a database that a user names: itself, or that of a SQLite file; PostgreSQL goes by psycopg."""
    if "://" not in database:
        return _SQLITE + os.path.abspath(database)
    scheme, _, rest = database.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else database


def shown(url: str) -> str:
    """The URL without its password; a SQLite file goes by its path."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        text = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
    return text.removeprefix(_SQLITE) or text


def reason_of(error: Exception) -> str:
    """What a driver says in its first line, without what SQLAlchemy wraps around it and without a full stop."""
    return str(error.__cause__ or error).strip().partition("\n")[0][:300].rstrip(".")
