"""share(): gives items to workers, one at a time, and their results back; whoever dies is replaced.

What a worker is, a process of this machine or an actor of Ray, a ``Crew`` tells; what it does inside, a ``Desk``.
"""

from __future__ import annotations

import logging
import platform
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, Protocol, TypeVar

from inlier.errors import ConfigError, InlierError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items for each worker that are taken and not yet given back: others go on while the first in order is waited for."""

MAX_TRIES = 3
"""How often an item is begun whose worker dies each time, and how many workers in a row may die as they begin."""

_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_SAME = ("inlier", "numpy", "pillow", "torch", "torchvision", "timm")
_log = logging.getLogger(__name__)

Answer = tuple[bool, Any]
"""Whether it went well, and the result or the error."""


class Died(Exception):
    """A worker is no more; the message is a sentence that says what is known of it."""


class Worker(Protocol):
    """One that is hired and not yet dismissed. The first thing to be heard of it is that it can begin."""

    def give(self, item: Any) -> None:
        """Hands it an item; the answer to the one before has been heard."""

    def hear(self) -> Answer:
        """Its answer; raises Died."""

    def dismiss(self) -> None:
        """Ends it."""


class Crew(Protocol):
    """How workers come about; `size` is how many there may be."""

    size: int

    def hire(self) -> Worker:
        """One more, which begins meanwhile."""

    def wait(self, workers: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those of the workers that can be heard; none if there are none for so long."""


def share(
    crew: Crew,
    items: Iterable[Item],
    *,
    in_order: bool,
    on_death: Callable[[Item], Result] | None,
    on_wait: Callable[[], None],
) -> Generator[Result, None, None]:
    """The result of every item, once each; for what the arguments mean, and is raised, see ``scale.map_items``."""
    tasks = (_Task(number, item) for number, item in enumerate(items))
    board = _Board(crew, on_death)
    held: dict[int, Result] = {}
    num_taken = num_given_back = 0
    while True:
        most = crew.size * AHEAD - (num_taken - num_given_back)
        new = list(islice(tasks, max(0, min(board.num_wanted(), most))))
        num_taken += len(new)
        board.assign(new)
        if board.is_empty():
            return
        held.update(board.listen(on_wait))
        while held and (not in_order or num_given_back in held):
            result = held.pop(num_given_back if in_order else next(iter(held)))
            num_given_back += 1
            yield result


@dataclass
class _Task:
    number: int
    item: Any
    num_deaths: int = 0


class _Board:
    """Who does what: tasks that wait, workers that begin, are idle, or are at a task."""

    def __init__(self, crew: Crew, on_death: Callable[[Any], Any] | None) -> None:
        self._crew, self._on_death = crew, on_death
        self._waiting: deque[_Task] = deque()
        self._starting: dict[Worker, None] = {}
        self._idle: list[Worker] = []
        self._busy: dict[Worker, _Task] = {}  # the one that is at it longest first, so that each is heard in its turn
        self._num_false_starts = 0
        self._last_busy, self._is_told = time.monotonic(), False

    def num_wanted(self) -> int:
        """How many more tasks there could be workers for."""
        return self._crew.size - len(self._busy) - len(self._waiting)

    def is_empty(self) -> bool:
        return not self._waiting and not self._busy

    def assign(self, tasks: Iterable[_Task]) -> None:
        """Gives tasks to who is idle, and hires for the others; one that begins is given none: it may wait for long."""
        self._waiting.extend(tasks)
        while self._idle and self._waiting:
            worker, task = self._idle.pop(), self._waiting.popleft()
            worker.give(task.item)
            self._busy[worker] = task
        num_most = self._crew.size - len(self._busy)
        while len(self._starting) < min(len(self._waiting), num_most):
            self._starting[self._crew.hire()] = None

    def listen(self, on_wait: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """Waits a while; numbers and results of tasks that are done then."""
        heard = self._crew.wait([*self._starting, *self._busy], _LOOK_SECONDS)
        if not heard:
            on_wait()
            self._complain()
        for worker in heard:
            if worker in self._starting:
                del self._starting[worker]
                self._welcome(worker)
            else:
                yield from self._settle(worker, self._busy.pop(worker))

    def _welcome(self, worker: Worker) -> None:
        try:
            is_good, value = worker.hear()
        except Died as death:
            worker.dismiss()
            self._num_false_starts += 1
            if self._num_false_starts >= MAX_TRIES:
                raise InlierError(f"Workers die as they begin: {death}") from death
            return
        if not is_good:
            raise value
        self._num_false_starts = 0
        self._idle.append(worker)

    def _settle(self, worker: Worker, task: _Task) -> Iterator[tuple[int, Any]]:
        try:
            is_good, value = worker.hear()
        except Died as death:
            worker.dismiss()
            task.num_deaths += 1
            if task.num_deaths < MAX_TRIES:
                self._waiting.appendleft(task)
            elif self._on_death is None:
                sentence = f"{MAX_TRIES} workers died one after another at {_name(task.item)}: {death}"
                raise InlierError(sentence) from death
            else:
                yield task.number, self._on_death(task.item)
            return
        if not is_good:
            raise value
        self._idle.append(worker)
        yield task.number, value

    def _complain(self) -> None:
        """Says, once, that nobody has been working for a while."""
        if self._busy:
            self._last_busy = time.monotonic()
        elif not self._is_told and time.monotonic() - self._last_busy > _PATIENCE_SECONDS:
            self._is_told = True
            _log.warning(
                "No worker could begin for a minute; the work goes on as soon as one can. Are there free CPUs?"
            )


def _name(item: object) -> str:
    text = repr(item)
    return text if len(text) <= 200 else f"{text[:200]}…"


def call(function: Callable[[Item], Result], item: Item) -> Result:
    """The function's result; what it raises has a note that names the item, unless it is a sentence for users."""
    try:
        return function(item)
    except InlierError:
        raise
    except Exception as error:  # it goes on as it is
        error.add_note(f"This was about {_name(item)}.")
        raise


class Desk:
    """What a worker is inside: a function that is made once, and answers that are never exceptions."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], versions: Mapping[str, str]) -> None:
        self._make, self._versions = make, versions

    def begin(self) -> Answer:
        """Makes the function, unless this is another inlier than the one that asks."""
        try:
            _check_same(self._versions)
            self._function = self._make()
        except Exception as error:
            return False, _to_be_raised(error)
        return True, None

    def work(self, item: Any) -> Answer:
        """The item's result, or what was raised."""
        try:
            return True, call(self._function, item)
        except Exception as error:
            return False, _to_be_raised(error)


def _to_be_raised(error: Exception) -> Exception:
    """The error for who asked; where it is no user's, with the place in the worker, which does not travel."""
    if not isinstance(error, InlierError):
        error.add_note("".join(traceback.format_exception(error)).strip())
    return error


def versions_here() -> dict[str, str]:
    """Versions of what results depend on, of which a worker must have the same."""
    found = {"python": platform.python_version()}
    for name in _SAME:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check_same(asked: Mapping[str, str]) -> None:
    """Raises ConfigError if this worker has other versions: they might give other scores."""
    here = versions_here()
    others = [f"{name} {here.get(name, 'none')} (not {of})" for name, of in asked.items() if here.get(name) != of]
    if others:
        raise ConfigError(
            f"The worker on {socket.gethostname()} has {', '.join(others)}; install the same versions on all nodes."
        )
