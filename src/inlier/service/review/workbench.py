"""Workbench: a review with the model and the data that it is about, as the pages work on them."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from inlier.data.manifest import Manifest
from inlier.databases import as_url
from inlier.errors import ConfigError, ReviewError
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.outputs import as_text, write_whole
from inlier.reviewing.decisions import Review
from inlier.reviewing.refitting import Refit, refit
from inlier.reviewing.regions import location_key
from inlier.service.review.loop import Background, Status
from inlier.service.review.pictures import Pictures
from inlier.workflow import Progress


@dataclass(eq=False)
class Workbench:
    """What the pages work on.

    Attributes:
        review: In its database.
        model: The model that is in use.
        data: The photos, as they are labelled without the review.
        folder: Where the model lies; None if it was not saved, and cannot be replaced.
        store: Where features of the photos may be already, so that a refit reads few of them.
        reviewer: Who decides where nobody signs in.
        workers: Threads that decode photos for a refit.
    """

    review: Review
    model: Model
    data: Manifest
    folder: Path | None = None
    store: FeatureStore | None = None
    reviewer: str = ""
    workers: int = 2
    pictures: Pictures = field(init=False)
    _refit: Background[Refit] = field(init=False, default_factory=Background)
    _deciding: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        regions = {location_key(photo.path): photo.roi for photo in self.data.photos if photo.roi is not None}
        self.pictures = Pictures(self.model, regions)

    @classmethod
    def open(cls, database: str, *, store: FeatureStore | None = None, device: str = "cpu") -> Self:
        """Opens a review with the model and the data that it names.

        Args:
            database: URL, or file of SQLite.
            store: As above.
            device: Where the model runs.

        Raises:
            ConfigError: There is no review, or it names no model or no data.
            ModelError: The model is gone or damaged.
            ManifestError: The data are gone.
        """
        review = Review.open(as_url(database))
        try:
            facts = review.facts
            if {facts.model, facts.data} & {"", "."}:
                raise ConfigError(
                    "The review does not say where its model and photos lie; begin one with: inlier review MODEL DATA"
                )
            model = Model.load(Path(facts.model), device=device)
            data = Manifest.read(Path(facts.data), normal=facts.normal)
            return cls(review, model, data, folder=Path(facts.model), store=store)
        except BaseException:
            review.close()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the verdicts on the pages are those of the model in use."""
        return self.model.identity == self.review.facts.identity

    @property
    def status(self) -> Status[Refit]:
        """How far the refit is."""
        return self._refit.status

    @cached_property
    def numbers(self) -> dict[str, int]:
        """SHA-256 of a photo's bytes -> its number in the review."""
        return {photo.digest: photo.number for photo in self.review.photos() if photo.digest}

    @cached_property
    def places(self) -> dict[str, int]:
        """A photo's path -> its number in the review."""
        return {photo.path: photo.number for photo in self.review.photos()}

    def start_refit(self) -> bool:
        """Fits the model anew in the background; False if that is under way, or its outcome waits."""

        def work(progress: Progress) -> Refit:
            model = _with_own_network(self.model)
            return refit(model, self.data, self.review, store=self.store, workers=self.workers, progress=progress)

        return self._refit.start(work)

    def wait(self, timeout: float) -> None:
        """Waits for the refit, at most so many seconds."""
        self._refit.wait(timeout)

    def discard(self) -> None:
        """Drops what a refit came to."""
        with self._deciding:
            self._refit.clear()

    def use(self, *, reviewer: str) -> str:
        """Puts the model of the refit in the place of the one in use: whole, or not at all.

        Args:
            reviewer: Who said yes.

        Returns:
            Its id.

        Raises:
            ReviewError: There is none that waits, or the one in use was replaced meanwhile.
            ModelError: It cannot be written.
        """
        with self._deciding:
            outcome = self.status.outcome
            if outcome is None:
                raise ReviewError("There is no refit to be used; start one first.")
            if self.folder is None:
                raise ReviewError("The model in use was not saved, so that it cannot be replaced.")
            parent = self.model.identity
            if Model.load(self.folder).identity != parent:
                raise ReviewError(
                    f"{as_text(self.folder)} holds another model than the one that was refitted; discard this refit, "
                    "and begin a review of that one."
                )
            outcome.model.save(self.folder)
            write_whole(self.folder / "refit.json", json.dumps(outcome.report, indent=2) + "\n")
            self._refit.clear()
            self.model = outcome.model
            self.pictures.replace(outcome.model)
            self.review.add_refit(
                reviewer=reviewer,
                parent=parent,
                identity=outcome.model.identity,
                decisions=str(outcome.model.facts["decisions"]["digest"]),
                model=as_text(self.folder),
            )
            return outcome.model.identity

    def close(self) -> None:
        """Closes the database."""
        self.review.close()


def _with_own_network(model: Model) -> Model:
    """The same model with a network that nobody else asks: pages are drawn by the other one meanwhile."""
    old = model.backbone
    backbone = old.select(old.layers, precision=old.precision, runtime=old.runtime)
    backbone.runs_in = old.runs_in
    return replace(model, backbone=backbone)
