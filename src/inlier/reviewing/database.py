"""The database of a review: its tables, and how it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlier.databases import reason_of, shown
from inlier.errors import ConfigError, MissingExtraError

try:
    from sqlalchemy import (
        Boolean,
        Column,
        Connection,
        Engine,
        Float,
        ForeignKey,
        Index,
        Integer,
        MetaData,
        Table,
        Text,
        UniqueConstraint,
        create_engine,
        event,
        inspect,
    )
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
except ImportError as problem:
    raise MissingExtraError(
        "Reviews are kept by SQLAlchemy, which is not installed; install it with: pip install 'inlier[service]'"
    ) from problem

FORMAT_VERSION = 1
"""Of the tables; a review of another version is refused."""

WRITES = {"is_writing": True}
"""Execution option of connections that will write: they wait for other writers first, and never in the middle."""

_PATIENCE_SECONDS = 30

metadata = MetaData()

review_table = Table(
    "review",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("format_version", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("labels", Text, nullable=False),  # JSON
    Column("false_alarm_rate", Float, nullable=False),
    Column("uncertain_rate", Float, nullable=False),
    Column("normal", Text, nullable=False),  # JSON
    Column("notes", Text, nullable=False),  # JSON
    Column("made", Text, nullable=False),
)

photo_table = Table(
    "review_photo",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("path", Text, nullable=False, unique=True),
    Column("split", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("given_label", Text, nullable=False),
    Column("given_anomalous", Boolean),
    Column("score", Float),
    Column("p_value", Float),
    Column("verdict", Text, nullable=False),
    Column("component", Text),
    Column("component_probability", Float),
    Column("suspicion", Float, nullable=False),
    Column("suspicion_reason", Text, nullable=False),
    Column("doubt", Float, nullable=False),
    Column("trust", Float, nullable=False),  # less suspicion, so that every queue ascends
    *(
        Index(f"review_photo_by_{'_'.join(columns)}", *columns, "number")
        for columns in (
            ("doubt",),
            ("trust",),
            ("verdict", "doubt"),
            ("component", "doubt"),
            ("given_label", "doubt"),
            ("split", "doubt"),
        )
    ),
)

decision_table = Table(
    "review_decision",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("photo", Integer, ForeignKey(photo_table.c.number), nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("is_anomalous", Boolean),
    Column("label", Text),
    Column("page", Text, nullable=False),
    Column("undone", Boolean, nullable=False),
    UniqueConstraint("reviewer", "page", "photo"),
    Index("review_decision_by_photo", "photo", "reviewer", "number"),
    Index("review_decision_by_reviewer", "reviewer", "undone", "number"),
)

undo_table = Table(
    "review_undo",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("reviewer", Text, nullable=False),
    Column("page", Text, nullable=False),
    Column("at", Text, nullable=False),
    Index("review_undo_by_reviewer", "reviewer", "number"),
)

word_table = Table(  # what each reviewer says now, made of the decisions in the same transaction
    "review_word",
    metadata,
    Column("reviewer", Text, primary_key=True),
    Column("photo", Integer, ForeignKey(photo_table.c.number), primary_key=True, autoincrement=False),
    Column("is_anomalous", Boolean),
    Column("label", Text),
    Column("is_settled", Boolean, nullable=False),  # said when the reviewers already differed
    Index("review_word_by_photo", "photo"),
)

region_table = Table(
    "review_region",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("photo", Integer, ForeignKey(photo_table.c.number), nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("polygon", Text, nullable=False),  # JSON
    Index("review_region_by_photo", "photo", "reviewer", "number"),
)

refit_table = Table(
    "review_refit",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("parent", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("decisions", Text, nullable=False),  # digest of those that were used
    Column("model", Text, nullable=False),
)


def open_database(url: str) -> Engine:
    """Opens a database, and makes what tables of a review it lacks.

    Args:
        url: SQLAlchemy URL. SQLite keeps a write-ahead log, so that readers never wait for a writer.

    Raises:
        ConfigError: It cannot be used.
        MissingExtraError: Its driver is not installed.
    """
    try:
        engine = _connectable(url)
        try:
            with engine.execution_options(**WRITES).begin() as connection:
                _lock_tables(connection)
                metadata.create_all(connection)
        except BaseException:
            engine.dispose()
            raise
    except ImportError as error:
        raise MissingExtraError(
            f"The driver of {shown(url)} is not installed ({error}); for PostgreSQL: pip install 'inlier[service]'"
        ) from error
    except (SQLAlchemyError, ValueError, OSError) as error:
        raise _unusable(url, error) from error
    return engine


def holds_review(url: str) -> bool:
    """Whether there is a review in the database; nothing is made to find out.

    Raises:
        ConfigError: It cannot be opened.
        MissingExtraError: Its driver is not installed.
    """
    file = _sqlite_file(url)
    if file is not None and not file.exists():
        return False
    try:
        engine = _connectable(url)
        try:
            if not inspect(engine).has_table(review_table.name):
                return False
            with engine.connect() as connection:
                return connection.execute(review_table.select()).first() is not None
        finally:
            engine.dispose()
    except ImportError as error:
        raise MissingExtraError(
            f"The driver of {shown(url)} is not installed ({error}); for PostgreSQL: pip install 'inlier[service]'"
        ) from error
    except (SQLAlchemyError, ValueError, OSError) as error:
        raise _unusable(url, error) from error


def _connectable(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    file = _sqlite_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _PATIENCE_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: Any) -> None:
    """Leaves transactions to ``_begin_sqlite``; a finished one outlives the process, and the machine's power."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that will write takes the lock at once: one that begins by reading could not get it later."""
    is_writing = connection.get_execution_options().get("is_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _lock_tables(connection: Connection) -> None:
    """Lets one process at a time look for tables and make them."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7226312)")


def _sqlite_file(url: str) -> Path | None:
    try:
        parts = make_url(url)
    except ArgumentError:
        return None
    if parts.get_backend_name() != "sqlite" or parts.database in (None, "", ":memory:"):
        return None
    return Path(str(parts.database))


def _unusable(url: str, error: Exception) -> ConfigError:
    return ConfigError(f"The database {shown(url)} cannot be used: {reason_of(error)}.")
