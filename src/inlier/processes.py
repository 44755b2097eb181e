"""Workers that are processes of this machine, each at the other end of a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from inlier.sharing import Answer, Desk, Died, versions_here


class Processes:
    """A ``sharing.Crew``.

    Args:
        make: Gives each process its function.
        size: How many there may be.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], size: int) -> None:
        self.size = size
        self._make = make
        self._hired: list[_Process] = []

    def hire(self) -> _Process:
        """One more, which begins meanwhile."""
        worker = _Process(self._make)
        self._hired.append(worker)
        return worker

    def wait(self, workers: Sequence[_Process], seconds: float) -> Sequence[_Process]:
        """Those that can be heard."""
        ready = wait([worker.connection for worker in workers], timeout=seconds)
        return [worker for worker in workers if worker.connection in ready]

    def close(self) -> None:
        """Ends them, whatever they are at."""
        for worker in self._hired:
            worker.dismiss()


class _Process:
    """A ``sharing.Worker``. It starts clean: a fork would copy the threads' locks, and whatever memory is held here."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make))
        try:
            self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            other.close()

    def give(self, item: Any) -> None:
        """Hands it an item."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it died, which will be heard
            self.connection.send(item)

    def hear(self) -> Answer:
        """Its answer; raises Died."""
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise Died(f"a process ended with exit status {self._process.exitcode}.") from error
        return answer

    def dismiss(self) -> None:
        """Ends it."""
        if not self.connection.closed:
            self._process.terminate()
            self._process.join()
            self._process.close()
            self.connection.close()


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """What a process does: answers, until there is nobody to answer to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all: who asks says so, once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    desk = Desk(make, versions_here())
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(desk.begin())
        while True:
            connection.send(desk.work(connection.recv()))


def _end_with_parent() -> None:
    """Ends the process when its parent has ended, in the middle of an item too: nobody waits for it any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
