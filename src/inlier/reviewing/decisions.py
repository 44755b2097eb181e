"""Review: photos, what a model says of them, and what each reviewer decides, in a database."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from inlier.data.manifest import NORMAL_LABELS
from inlier.databases import shown
from inlier.errors import ConfigError, ReviewError
from inlier.outputs import as_text
from inlier.reviewing.database import (
    FORMAT_VERSION,
    WRITES,
    decision_table,
    holds_review,
    open_database,
    photo_table,
    refit_table,
    region_table,
    review_table,
    undo_table,
    word_table,
)
from inlier.reviewing.ordering import TOO_HIGH, Position, Query, count_by, differing, next_photos, position_of
from inlier.reviewing.photos import (
    Choice,
    Counts,
    Decision,
    Disagreement,
    RefitRecord,
    ReviewFacts,
    ReviewPhoto,
    Tally,
)
from inlier.reviewing.regions import Region
from inlier.reviewing.rows import (
    check_names,
    check_photos,
    failed,
    insert_photos,
    is_of,
    last_undo,
    now,
    region_row,
    review_row,
    seconds_per_photo,
    tallies,
    to_photo,
    to_region,
    update_photos,
)
from inlier.reviewing.words import Word, read_words, say, say_again

__all__ = ["Choice", "Counts", "Decision", "Disagreement", "Review", "ReviewFacts", "ReviewPhoto", "Tally", "Word"]

_PHOTO, _DECISION, _WORD, _REGION = photo_table.c, decision_table.c, word_table.c, region_table.c


class Review:
    """A review in a database; several threads and processes may work on it at once.

    Decisions are only ever appended, and undone ones marked. A page of them is written in one transaction, so that it
    is there whole or not at all.

    Example:
        >>> review = Review.open("sqlite:////srv/reviews/pumps.db")  # doctest: +SKIP
        >>> photos = review.page(Query(), reviewer="ada")  # doctest: +SKIP
        >>> choices = [Choice(photo.number, is_anomalous=False) for photo in photos]  # doctest: +SKIP
        >>> review.decide(choices, reviewer="ada", page="1")  # doctest: +SKIP
        16
    """

    def __init__(self, engine: Engine) -> None:
        """Of an opened database that holds a review; ``open`` and ``create`` make one."""
        self._engine = engine
        self._totals: dict[Query, dict[tuple[str, str], int]] = {}
        self._firsts: dict[tuple[Query, str], tuple[int, Position]] = {}

    @classmethod
    def open(cls, url: str) -> Self:
        """The review in a database.

        Raises:
            ConfigError: There is none, or one that this version does not read.
            MissingExtraError: The database's driver is not installed.
        """
        if not holds_review(url):
            raise ConfigError(f"There is no review in {shown(url)}; inlier review MODEL DATA makes one.")
        review = cls(open_database(url))
        try:
            with review._reading() as connection:
                version = connection.scalar(select(review_table.c.format_version))
            if version != FORMAT_VERSION:
                raise ConfigError(
                    f"The review in {shown(url)} has format version {version}, and this inlier reads {FORMAT_VERSION}."
                )
        except BaseException:
            review.close()
            raise
        return review

    @classmethod
    def create(
        cls,
        url: str,
        *,
        model: Path | None,
        identity: str,
        data: Path | None,
        fingerprint: str,
        labels: Sequence[str],
        rates: tuple[float, float],
        normal: Sequence[str] = NORMAL_LABELS,
        notes: Sequence[str] = (),
        photos: Sequence[ReviewPhoto] = (),
    ) -> Self:
        """Makes a review with these photos, whole or not at all; the arguments are those of ``ReviewFacts``.

        Raises:
            ConfigError: The database holds a review already, or cannot be used.
            MissingExtraError: Its driver is not installed.
        """
        review = cls(open_database(url))
        row = review_row(identity=identity, labels=labels, rates=rates, notes=notes) | {
            "model": "" if model is None else as_text(model),
            "data": "" if data is None else as_text(data),
            "fingerprint": fingerprint,
            "normal": json.dumps(list(normal)),
        }
        try:
            with review._engine.execution_options(**WRITES).begin() as connection:
                connection.execute(insert(review_table), row)
                insert_photos(connection, photos)
        except IntegrityError as error:
            review.close()
            raise ConfigError(
                f"The database {shown(url)} holds a review already; name another one, or remove it."
            ) from error
        except BaseException:
            review.close()
            raise
        return review

    @cached_property
    def facts(self) -> ReviewFacts:
        """What is reviewed."""
        with self._reading() as connection:
            row = connection.execute(select(review_table)).one()
        rates = row.false_alarm_rate, row.uncertain_rate
        labels, normal, notes = (tuple(json.loads(of)) for of in (row.labels, row.normal, row.notes))
        return ReviewFacts(row.model, row.identity, row.data, row.fingerprint, labels, rates, row.made, normal, notes)

    def add_photos(self, photos: Sequence[ReviewPhoto]) -> None:
        """Adds photos, all or none of them; before anybody reviews."""
        with self._writing() as connection:
            insert_photos(connection, photos)
        self._forget()

    def judge_again(self, photos: Sequence[ReviewPhoto], facts: ReviewFacts) -> None:
        """Puts what another model says in the place of what the first one said, all of it or nothing.

        Args:
            photos: The photos of the review, with what the other model says of each.
            facts: Have the identity, labels, rates and notes of that model.
        """
        row = review_row(identity=facts.identity, labels=facts.labels, rates=facts.rates, notes=facts.notes)
        with self._writing() as connection:
            connection.execute(update(review_table), row)
            update_photos(connection, photos)
        self._forget()

    def photo(self, number: int) -> ReviewPhoto:
        """The photo of this number.

        Raises:
            ReviewError: There is none.
        """
        with self._reading() as connection:
            check_photos(connection, [number])
            row = connection.execute(select(photo_table).where(_PHOTO.number == number)).one()
        return to_photo(row)

    def photos(self) -> list[ReviewPhoto]:
        """All photos, by number."""
        with self._reading() as connection:
            return [to_photo(row) for row in connection.execute(select(photo_table).order_by(_PHOTO.number))]

    def page(self, query: Query, *, reviewer: str, size: int = 16, after: int | None = None) -> list[ReviewPhoto]:
        """The next photos of a queue; whoever asks again after an interruption gets those that are left.

        Args:
            query: Which queue.
            reviewer: Who asks.
            size: How many at most.
            after: Only those behind the photo of this number, as for a page further on.

        Raises:
            ReviewError: There is no photo of this number.
        """
        with self._reading() as connection:
            is_steady = not query.decided and query.queue != "disagreements" and after is None
            num_undone = last_undo(connection, reviewer) if is_steady else 0
            known, first = self._firsts.get((query, reviewer), (num_undone, None))
            start = position_of(connection, query, after) if after is not None else None
            if is_steady and known == num_undone:
                start = first
            rows = connection.execute(next_photos(query, reviewer=reviewer, size=size, after=start)).all()
        if is_steady and rows:  # all before the first one are decided, until the reviewer takes something back
            self._firsts[query, reviewer] = num_undone, (rows[0].place, rows[0].number - 1)
        return [to_photo(row) for row in rows]

    def counts(self, query: Query, *, reviewer: str) -> Counts:
        """How far a reviewer is with a queue, and how fast."""
        with self._reading() as connection:
            totals = self._totals.get(query)
            if totals is None or query.queue == "disagreements":
                totals = self._totals[query] = count_by(connection, query, reviewer=None)
            decided = count_by(connection, query, reviewer=reviewer)
            seconds = seconds_per_photo(connection, reviewer)
        by_verdict, by_component = (tallies(totals, decided, place) for place in (0, 1))
        return Counts(sum(totals.values()), sum(decided.values()), by_verdict, by_component, seconds)

    def decide(self, choices: Sequence[Choice], *, reviewer: str, page: str) -> int:
        """Writes the decisions of one page, all or none; the same page again, as after a lost answer, writes nothing.

        Args:
            choices: One a photo.
            reviewer: Who decides.
            page: A name of this submission, which no other one of the reviewer has.

        Returns:
            How many were written.

        Raises:
            ReviewError: A photo is not there or chosen twice, or a name is empty or too long.
        """
        check_names(reviewer=reviewer, page=page)
        said = {choice.photo: Word(choice.is_anomalous, choice.label) for choice in choices}
        if len(said) < len(choices):
            raise ReviewError("A photo may be decided only once on a page.")
        for choice in choices:
            if choice.label is not None:
                check_names(label=choice.label)
        with self._writing() as connection:
            if connection.scalar(select(_DECISION.number).where(is_of(reviewer, page)).limit(1)) is not None:
                return 0
            check_photos(connection, list(said))
            about = {"reviewer": reviewer, "at": now(), "page": page, "undone": False}
            rows = [
                {"photo": photo, "is_anomalous": word.is_anomalous, "label": word.label, **about}
                for photo, word in said.items()
            ]
            if rows:
                connection.execute(insert(decision_table), rows)
            say(connection, said, reviewer=reviewer)
        return len(rows)

    def undo(self, *, reviewer: str) -> list[int]:
        """Takes back the latest page of a reviewer that was not taken back.

        Returns:
            The numbers of its photos; none if there is no such page.
        """
        stands = and_(_DECISION.reviewer == reviewer, ~_DECISION.undone)
        with self._writing() as connection:
            latest = select(_DECISION.page).where(stands).order_by(_DECISION.number.desc()).limit(1)
            page = connection.scalar(latest)
            if page is None:
                return []
            of_page = is_of(reviewer, page)
            chosen = select(_DECISION.photo).where(of_page).order_by(_DECISION.number)
            photos = list(connection.scalars(chosen))
            connection.execute(update(decision_table).where(of_page).values(undone=True))
            connection.execute(insert(undo_table), {"reviewer": reviewer, "page": page, "at": now()})
            say_again(connection, photos, reviewer=reviewer)
        return photos

    def history(self, photo: int, *, reviewer: str | None) -> list[Decision]:
        """The decisions on a photo, oldest first, undone ones too; of one reviewer, or of all (None)."""
        statement = select(decision_table).where(_DECISION.photo == min(photo, TOO_HIGH - 1)).order_by(_DECISION.number)
        return self._decisions(statement if reviewer is None else statement.where(_DECISION.reviewer == reviewer))

    def decisions(self) -> list[Decision]:
        """All decisions, oldest first, undone ones too."""
        return self._decisions(select(decision_table).order_by(_DECISION.number))

    def words(self) -> dict[int, dict[str, Word]]:
        """What each reviewer says of each photo now, by number and reviewer; photos without a word are left out."""
        with self._reading() as connection:
            return read_words(connection)

    def reviewers(self) -> list[str]:
        """Everybody whose decisions stand, by name."""
        with self._reading() as connection:
            return list(connection.scalars(select(_WORD.reviewer).distinct().order_by(_WORD.reviewer)))

    def disagreements(self) -> list[Disagreement]:
        """The photos on which reviewers differ now, by number."""
        with self._reading() as connection:
            return [Disagreement(*of) for of in read_words(connection, _WORD.photo.in_(differing())).items()]

    def regions(self, photo: int, *, reviewer: str | None) -> list[Region]:
        """The regions drawn in a photo; by one reviewer, or by all (None)."""
        statement = select(region_table).where(_REGION.photo == min(photo, TOO_HIGH - 1)).order_by(_REGION.number)
        if reviewer is not None:
            statement = statement.where(_REGION.reviewer == reviewer)
        with self._reading() as connection:
            return [to_region(row) for row in connection.execute(statement)]

    def set_regions(self, photo: int, regions: Sequence[Region], *, reviewer: str) -> None:
        """Puts these regions in the place of all that this reviewer drew in the photo.

        Raises:
            ReviewError: The photo is not there, or a name is empty or too long.
        """
        check_names(reviewer=reviewer)
        rows = [region_row(photo, region, reviewer=reviewer) for region in regions]
        with self._writing() as connection:
            check_photos(connection, [photo])
            connection.execute(delete(region_table).where(and_(_REGION.photo == photo, _REGION.reviewer == reviewer)))
            if rows:
                connection.execute(insert(region_table), rows)

    def marked(self) -> list[tuple[str, tuple[Region, ...]]]:
        """Path and regions of each photo in which anybody drew some, by number."""
        joined = select(region_table, _PHOTO.path).join(photo_table, _PHOTO.number == _REGION.photo)
        found: defaultdict[str, list[Region]] = defaultdict(list)
        with self._reading() as connection:
            for row in connection.execute(joined.order_by(_REGION.photo, _REGION.number)):
                found[row.path].append(to_region(row))
        return [(path, tuple(regions)) for path, regions in found.items()]

    def add_refit(self, *, reviewer: str, parent: str, identity: str, decisions: str, model: str) -> None:
        """Writes down that a refit was accepted; the arguments are those of ``RefitRecord``."""
        row = {"at": now(), "reviewer": reviewer, "parent": parent, "identity": identity}
        with self._writing() as connection:
            connection.execute(insert(refit_table), row | {"decisions": decisions, "model": model})

    def refits(self) -> list[RefitRecord]:
        """The refits that were accepted, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(select(refit_table).order_by(refit_table.c.number))
            return [RefitRecord(**row._mapping) for row in rows]

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _forget(self) -> None:
        """Lets go of what was known of the photos."""
        self._totals.clear()
        self._firsts.clear()
        self.__dict__.pop("facts", None)

    def _decisions(self, statement: Any) -> list[Decision]:
        with self._reading() as connection:
            return [Decision(**row._mapping) for row in connection.execute(statement)]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise failed(error) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction of which there is one at a time."""
        try:
            with self._engine.execution_options(**WRITES).begin() as connection:
                connection.execute(select(review_table.c.number).with_for_update())
                yield connection
        except SQLAlchemyError as error:
            raise failed(error) from error
