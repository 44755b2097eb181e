"""Work on many items in processes of their own, where a crash costs one item.

A decoder in C that meets hostile bytes may not raise but end its process. Then the items that were being worked on are
given out again, one at a time, until the one that does it is found.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeVar

from inlier.errors import InlierError

if sys.platform != "win32":
    import fcntl

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 8
_CHUNKS_AHEAD = 3
"""Chunks that wait for each worker, so that none is idle and few items are held."""


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    presence: Path,
    on_crash: Callable[[Item], Result],
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the order in which they are done; few items are held at a time.

    Args:
        function: What is done with an item; it and its result must be picklable.
        items: They are asked for as they are needed.
        workers: Number of processes; 0: none, everything happens here, and a crash is a crash.
        presence: A folder that every worker holds a lock on while it lives, for ``wait_for_workers``.
        on_crash: The result for an item whose process died.
    """
    if not workers:
        yield from ((item, function(item)) for item in items)
        return
    pending = iter(items)
    while chunks := _next_chunks(pending, 1):
        crashed = yield from _map_until_crash(function, chunks, pending, workers, presence)
        yield from _map_one_by_one(function, crashed, presence, on_crash)


def wait_for_workers(presence: Path) -> None:
    """Returns once no worker lives that an earlier, killed run has left behind: it might still write a file."""
    with _locked(presence, is_shared=False):
        pass


@contextmanager
def alone(folder: Path, refusal: str = "") -> Iterator[None]:
    """A block in which no other process is that names the same folder.

    Args:
        folder: Which; where the file system knows no locks, every process may enter.
        refusal: If given, nobody waits.

    Raises:
        InlierError: Another process is in such a block; the message is `refusal`.
    """
    try:
        with _locked(folder, is_shared=False, waits=not refusal):
            yield
    except BlockingIOError as error:
        raise InlierError(refusal) from error


def _map_until_crash(
    function: Callable[[Item], Result],
    first: deque[list[Item]],
    pending: Iterator[Item],
    workers: int,
    presence: Path,
) -> Generator[tuple[Item, Result], None, list[Item]]:
    """Works on all items; returns those that were not done when a worker died, if one does."""
    running: dict[Future[list[Result]], list[Item]] = {}
    chunks = first
    pool = _pool(workers, presence)
    try:
        while True:
            chunks += _next_chunks(pending, workers * _CHUNKS_AHEAD - len(running) - len(chunks))
            while chunks:
                running[pool.submit(_work, function, chunks[0])] = chunks[0]
                chunks.popleft()
            if not running:
                return []
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                results = future.result()
                yield from zip(running.pop(future), results, strict=True)
    except BrokenProcessPool:
        return [item for chunk in (*running.values(), *chunks) for item in chunk]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_one_by_one(
    function: Callable[[Item], Result], items: Iterable[Item], presence: Path, on_crash: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result]]:
    left = deque(items)
    while left:
        with _pool(1, presence) as pool:
            try:
                while left:
                    yield left[0], pool.submit(function, left[0]).result()
                    left.popleft()
            except BrokenProcessPool:
                yield left[0], on_crash(left[0])
                left.popleft()


def _next_chunks(items: Iterator[Item], num_chunks: int) -> deque[list[Item]]:
    chunks = (list(islice(items, _CHUNK)) for _ in range(num_chunks))
    return deque(chunk for chunk in chunks if chunk)


def _work(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _pool(workers: int, presence: Path) -> ProcessPoolExecutor:
    """A pool whose processes start clean: a fork would copy the threads' locks, and whatever memory is held here."""
    name = "spawn" if sys.platform == "win32" else "forkserver"
    context: BaseContext = multiprocessing.get_context(name)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(presence,))


def _begin(presence: Path) -> None:
    """Makes a process a worker: the parent alone answers Ctrl-C, and its death ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # odd metadata, of photos that are fine
    is_present = threading.Event()
    threading.Thread(target=_stay, args=(presence, is_present), daemon=True).start()
    is_present.wait()


def _stay(presence: Path, is_present: threading.Event) -> None:
    """Ends the process, and with it the lock, when its parent does: a worker would wait for work for ever."""
    try:
        with _locked(presence, is_shared=True):
            is_present.set()
            parent = multiprocessing.parent_process()
            if parent is not None:
                parent.join()
    finally:  # also where there is no such folder, for whoever waits
        os._exit(1)


@contextmanager
def _locked(folder: Path, *, is_shared: bool, waits: bool = True) -> Iterator[None]:
    """A block that holds a lock on a folder.

    Raises:
        BlockingIOError: It does not wait, and another process holds one.
    """
    if sys.platform == "win32":
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # a network drive without locks
        yield
    finally:
        os.close(file)
