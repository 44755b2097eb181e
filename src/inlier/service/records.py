"""The record: a row for every verdict, in any database of SQLAlchemy, written before the verdict is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from inlier.databases import reason_of, shown
from inlier.errors import ConfigError, InlierError, MissingExtraError
from inlier.service.refusals import Refusal

try:
    import sqlalchemy as sql
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as problem:
    raise MissingExtraError(
        "Verdicts are recorded by SQLAlchemy, which is not installed; install it with: pip install 'inlier[service]'"
    ) from problem

FORMAT_VERSION = 1

_PATIENCE_SECONDS = 10

_metadata = sql.MetaData()
_version = sql.Table("service_record", _metadata, sql.Column("format_version", sql.Integer, primary_key=True))
_verdict = sql.Table(
    "service_verdict",
    _metadata,
    sql.Column("number", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("inspection", sql.Text, nullable=False),
    sql.Column("step", sql.Text, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
    sql.Column("caller", sql.Text, nullable=False),
    sql.Column("photo", sql.Text, nullable=False),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("kept", sql.Text),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("identity", sql.Text, nullable=False),
    sql.Column("num_calibration", sql.Integer, nullable=False),
    sql.Column("false_alarm_rate", sql.Float, nullable=False),
    sql.Column("score", sql.Float),
    sql.Column("p_value", sql.Float),
    sql.Column("verdict", sql.Text, nullable=False),
    sql.Column("component", sql.Text),
    sql.Column("component_probability", sql.Float),
    sql.Column("error", sql.Text),
    sql.Index("service_verdict_by_inspection", "inspection"),
    sql.Index("service_verdict_by_model", "model", "identity", "number"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict of one model on one photo.

    Attributes:
        inspection: Id of the inspection; the verdicts of a filter and of the model behind it share one.
        step: ``filter`` or ``condition``.
        at: Seconds since 1970, UTC.
        caller: Whose key it was.
        photo: What they called the photo.
        digest: SHA-256 of its bytes.
        kept: Name of the file in the folder for photos; None where they are not kept.
        model: What the model is called here.
        identity: Its digits.
        num_calibration: Photos that its p-value is counted among.
        false_alarm_rate: At which it decided.
        score: Raw; None if the photo is unreadable.
        p_value: Likewise.
        verdict: accept, uncertain, reject or unreadable.
        component: As the model named it.
        component_probability: Likewise.
        error: Why the photo could not be read.
    """

    inspection: str
    step: str
    at: float
    caller: str
    photo: str
    digest: str
    kept: str | None
    model: str
    identity: str
    num_calibration: int
    false_alarm_rate: float
    score: float | None
    p_value: float | None
    verdict: str
    component: str | None = None
    component_probability: float | None = None
    error: str | None = None


_COLUMNS = [_verdict.c[field.name] for field in fields(Row)]


class Record:
    """The database of all verdicts."""

    def __init__(self, url: str) -> None:
        """Opens it, and makes its tables where there are none.

        Args:
            url: Of SQLAlchemy. SQLite keeps a write-ahead log: what is recorded outlives the process, however it ends;
                what the machine's power takes with it is at most the last moment.

        Raises:
            ConfigError: It cannot be used.
            MissingExtraError: Its driver is not installed.
        """
        self.shown = shown(url)
        try:
            self._engine = _connect(url)
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":  # two that make tables at once get into each other's way
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7226313)")
                _metadata.create_all(connection)
                versions = connection.execute(sql.select(_version)).scalars().all()
                if not versions:
                    connection.execute(_version.insert().values(format_version=FORMAT_VERSION))
        except ImportError as error:
            raise MissingExtraError(
                f"The driver of {self.shown} is not installed ({error}); for PostgreSQL: pip install 'inlier[service]'"
            ) from error
        except (SQLAlchemyError, ValueError, OSError) as error:
            raise self._unusable(error) from error
        if versions and list(versions) != [FORMAT_VERSION]:
            self.close()
            raise ConfigError(f"The record {self.shown} was written by another version of inlier; take another one.")

    def write(self, rows: Sequence[Row]) -> None:
        """Writes several in one transaction: all of them, or none.

        Raises:
            Refusal: 503: the database does not take them.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(_verdict.insert(), [asdict(row) for row in rows])
        except SQLAlchemyError as error:
            raise Refusal(
                503, "The verdict cannot be recorded, so it is not given.", code="record_failed", retry_seconds=5
            ) from error

    def find(self, inspection: str) -> list[Row]:
        """The verdicts of an inspection, the filter's first; () if there is none."""
        return [*self._rows(_verdict.c.inspection == inspection)]

    def latest(self, number: int, *, before: int | None = None) -> list[tuple[int, Row]]:
        """The latest verdicts of all models, the last first, each with its number.

        Args:
            number: At most so many.
            before: Number that theirs are below; None: any.
        """
        query = sql.select(_verdict.c.number, *_COLUMNS).order_by(_verdict.c.number.desc()).limit(number)
        if before is not None:
            query = query.where(_verdict.c.number < before)
        with self._engine.connect() as connection:
            return [(row[0], Row(*row[1:])) for row in connection.execute(query)]

    def of_model(self, model: str, identity: str) -> list[tuple[float, float, str]]:
        """Time, p-value and verdict of every readable photo that a model judged, in the order recorded."""
        query = (
            sql.select(_verdict.c.at, _verdict.c.p_value, _verdict.c.verdict)
            .where(_verdict.c.model == model, _verdict.c.identity == identity, _verdict.c.p_value.is_not(None))
            .order_by(_verdict.c.number)
        )
        with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def models(self) -> list[tuple[str, str, int, float, int]]:
        """Name, digits, calibration photos, false-alarm rate and number of verdicts of all models that judged."""
        columns = _verdict.c.model, _verdict.c.identity, _verdict.c.num_calibration, _verdict.c.false_alarm_rate
        query = (
            sql.select(*columns, sql.func.count())
            .where(_verdict.c.p_value.is_not(None))
            .group_by(*columns)
            .order_by(sql.func.max(_verdict.c.number).desc())
        )
        with self._engine.connect() as connection:
            return [(row[0], row[1], row[2], row[3], row[4]) for row in connection.execute(query)]

    def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            with self._engine.connect() as connection:
                connection.execute(sql.select(sql.literal(1)))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _rows(self, where: Any) -> Iterator[Row]:
        with self._engine.connect() as connection:
            for row in connection.execute(sql.select(*_COLUMNS).where(where).order_by(_verdict.c.number)):
                yield Row(*row)

    def _unusable(self, error: Exception) -> InlierError:
        return ConfigError(f"The record {self.shown} cannot be used: {reason_of(error)}.")


def iso_time(seconds: float) -> str:
    """A row's time for people and programs: ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_columns(row: Row) -> Mapping[str, Any]:
    """A row as JSON shows it."""
    return asdict(row) | {"at": iso_time(row.at)}


def _connect(url: str) -> sql.Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return sql.create_engine(url, pool_pre_ping=True)
    engine = sql.create_engine(url, connect_args={"timeout": _PATIENCE_SECONDS})

    def set_up(connection: Any, record: Any) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}").close()

    sql.event.listen(engine, "connect", set_up)
    return engine
