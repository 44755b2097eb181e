"""The refit in the background: at most one at a time, its progress, and its outcome until somebody decides on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from inlier.errors import InlierError
from inlier.workflow import Progress

State = Literal["idle", "running", "done", "failed"]
Outcome = TypeVar("Outcome")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status(Generic[Outcome]):
    """How far it is.

    Attributes:
        state: ``idle`` before the first one, and after its outcome was taken or dropped.
        task: What it is doing.
        num_done: Steps of it that are done.
        num_steps: All of them; 0 if not known.
        outcome: What came of it, if done.
        error: A sentence on why it failed.
    """

    state: State = "idle"
    task: str = ""
    num_done: int = 0
    num_steps: int = 0
    outcome: Outcome | None = None
    error: str = ""


class Background(Generic[Outcome]):
    """Does one piece of work in a thread, and keeps its outcome until it is cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status: Status[Outcome] = Status()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> Status[Outcome]:
        """How far it is now."""
        with self._lock:
            return self._status

    def start(self, work: Callable[[Progress], Outcome]) -> bool:
        """Starts it, unless one is under way or its outcome waits to be decided on.

        Args:
            work: Is given what it tells of its progress.

        Returns:
            Whether it was started.
        """
        with self._lock:
            if self._status.state in ("running", "done"):
                return False
            self._status = Status("running")
            # Not waited for when the process ends: nothing is written before a reviewer says so.
            self._thread = threading.Thread(target=self._do, args=(work,), name="refit", daemon=True)
            self._thread.start()
            return True

    def clear(self) -> Outcome | None:
        """Takes the outcome away, and is ready for the next one; None if there was none."""
        with self._lock:
            if self._status.state == "running":
                return None
            outcome, self._status = self._status.outcome, Status()
            return outcome

    def wait(self, timeout: float) -> None:
        """Waits until it is over, at most so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _do(self, work: Callable[[Progress], Outcome]) -> None:
        try:
            outcome = work(self._progress)
        except InlierError as error:
            self._end(Status("failed", error=str(error)))
        except BaseException:
            _LOG.exception("The refit broke off.")
            self._end(Status("failed", error="It broke off for a reason that the log of the service tells."))
            raise
        else:
            self._end(Status("done", outcome=outcome))

    def _end(self, status: Status[Outcome]) -> None:
        with self._lock:
            self._status = status

    def _progress(self, task: str, total: int) -> Callable[[int], None]:
        with self._lock:
            self._status = replace(self._status, task=task, num_done=0, num_steps=total)

        def advance(steps: int) -> None:
            with self._lock:
                self._status = replace(self._status, num_done=self._status.num_done + steps)

        return advance
