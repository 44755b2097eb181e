"""The models in use: loaded once, and again, beside the old ones, when a folder is replaced."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from inlier.errors import InlierError
from inlier.features.runtime import MICRO_BATCH
from inlier.model import Model
from inlier.service.metrics import Metrics
from inlier.service.refusals import Refusal
from inlier.service.settings import FILTER, Settings

logger = logging.getLogger("inlier.service")

_State = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """A model in use; whoever has it keeps it, whatever takes its place.

    Attributes:
        name: What it is called here.
        model: Itself.
        identity: Its digits.
    """

    name: str
    model: Model
    identity: str

    @property
    def num_calibration(self) -> int:
        """Photos that its p-values are counted among."""
        return len(self.model.calibration.normal_scores)


@dataclass(frozen=True, eq=False, slots=True)
class Chain:
    """The models that judge a photo.

    Attributes:
        filter: Tells first whether it shows a part that is known; None: nobody asks.
        conditions: Component -> the model that judges its condition; of one model alone, "" -> it.
    """

    filter: Loaded | None
    conditions: Mapping[str, Loaded]

    @property
    def all(self) -> tuple[Loaded, ...]:
        """All models that may be asked."""
        return (*([self.filter] if self.filter else []), *self.conditions.values())

    def condition_of(self, component: str | None) -> Loaded | None:
        """The model for what the filter saw; None if there is none."""
        return self.conditions.get(component or "")


class Models:
    """Name -> model, as the folders are now."""

    def __init__(self, settings: Settings, metrics: Metrics, *, on_change: Callable[[Loaded], None]) -> None:
        """Loads all of them.

        Args:
            settings: Names and folders.
            metrics: Told of every change.
            on_change: Told of every model before it is used.

        Raises:
            InlierError: One of them cannot be loaded.
        """
        self._folders = dict(settings.models) | ({FILTER: settings.filter} if settings.filter else {})
        self._settings, self._metrics, self._on_change = settings, metrics, on_change
        self._states = {name: _state_of(folder) for name, folder in self._folders.items()}
        self._current: dict[str, Loaded] = {}
        self.refused: dict[str, str] = {}
        for name in self._folders:
            self._use(self._load(name))
        self._end, self._num_threads = threading.Event(), torch.get_num_threads()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)
        self._thread.start()

    @property
    def all(self) -> tuple[Loaded, ...]:
        """Those in use, the filter last."""
        return tuple(self._current[name] for name in self._folders)

    def named(self, name: str) -> Loaded:
        """A model by its name.

        Raises:
            Refusal: 404: there is none.
        """
        if name not in self._current:
            raise Refusal(404, f"There is no model of this name; there is {', '.join(self._folders)}.")
        return self._current[name]

    def chain(self, name: str | None) -> Chain:
        """The models for a request, which keeps them to its end.

        Args:
            name: The one asked for; None: the filter and those behind it, or the only one there is.

        Raises:
            Refusal: 404: there is none of this name. 422: there are several, none is named, and no filter chooses.
        """
        current = self._current
        if name is not None:
            return Chain(None, {"": self.named(name)})
        if FILTER in current and self._settings.filter is not None:
            return Chain(current[FILTER], {key: of for key, of in current.items() if key != FILTER})
        if len(current) > 1:
            raise Refusal(422, f"Say which model: ?model= {', '.join(self._folders)}.", code="model_needed")
        return Chain(None, {"": next(iter(current.values()))})

    def close(self) -> None:
        """Stops looking at the folders."""
        self._end.set()
        self._thread.join()

    def look(self) -> None:
        """Loads what changed. A damaged folder is refused, and the model before it stays in use."""
        for name, folder in self._folders.items():
            state = _state_of(folder)
            if state == self._states[name] or not state:  # nothing there: it is about to be renamed into place
                continue
            self._states[name] = state
            try:
                self._use(self._load(name))
                self.refused.pop(name, None)
            except (InlierError, OSError, RuntimeError) as error:
                # A folder that is copied file by file is whole only later; its state changes with each file.
                # Whoever asks whether the service is ready learns what is wrong, and not where on the machine.
                self.refused[name] = str(error).partition("\n")[0].replace(str(folder), name)
                self._metrics.refuse_model(name)
                logger.error("model refused", extra={"about": {"model": name, "reason": self.refused[name]}})

    def _watch(self) -> None:
        torch.get_num_threads()  # takes over what was set last, by whoever inspects
        torch.set_num_threads(self._num_threads)
        while not self._end.wait(self._settings.reload_seconds):
            self.look()

    def _load(self, name: str) -> Loaded:
        false_alarm_rate, uncertain_rate = self._settings.rates
        model = Model.load(self._folders[name], device=self._settings.device)
        model = model.with_rates(false_alarm_rate=false_alarm_rate, uncertain_rate=uncertain_rate)
        # What is read lies in files that are mapped; they may be written over by who copies a new model into place.
        for part in (model.detector, model.components):
            if part is not None:
                part.load_state_dict({key: tensor.clone() for key, tensor in part.state_dict().items()})
        _warm_up(model)
        return Loaded(name, model, model.identity)

    def _use(self, loaded: Loaded) -> None:
        before = self._current.get(loaded.name)
        self._on_change(loaded)
        self._current = self._current | {loaded.name: loaded}
        same = before is not None and before.identity == loaded.identity
        self._metrics.use_model(
            loaded.name, loaded.identity, before=None if same or before is None else before.identity
        )
        logger.info("model in use", extra={"about": {"model": loaded.name, "identity": loaded.identity}})


def _warm_up(model: Model) -> None:
    """Lets blank photos pass, as many as will ever come together, so that no request waits for what is made once."""
    size, num_channels = model.transform.size, model.transform.num_channels
    for number in (1, MICRO_BATCH):
        model.detector.predict(model.backbone.extract(torch.zeros(number, num_channels, size, size)))


def _state_of(folder: Path) -> _State:
    """What changes when a folder is replaced, or written to; () if there is no whole one."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError:
        return ()
    return tuple(sorted((name, of.st_mtime_ns, of.st_size, of.st_ino) for name, of in entries))
