"""Work on many items in processes of their own, where a crash costs one item.

A decoder in C that meets hostile bytes may not raise but end its process. Then the item that it was at is given to
another one, for it may have been no fault of its own, and given up if that does not help.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from inlier.errors import InlierError
from inlier.scale import Workers, map_items

if sys.platform != "win32":
    import fcntl

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    presence: Path,
    on_crash: Callable[[Item], Result],
    ray: str | None = None,
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in the order in which they are done; few items are held at a time.

    Args:
        function: What is done with an item; it and its result must be picklable.
        items: They are asked for as they are needed.
        workers: Number of processes; 0: none, everything happens here, and a crash is a crash; of a cluster: all CPUs.
        presence: A folder that every worker holds a lock on while it lives, for ``wait_for_workers``.
        on_crash: The result for an item whose process died, and died again where it was tried again.
        ray: Address of a Ray cluster whose workers reach the same files, as for ``scale.Workers``; None: no Ray.
    """
    if not workers and ray is None:
        yield from ((item, function(item)) for item in items)
        return
    on = Workers(workers, ray, is_apart=True)
    make = partial(_make, function, presence)
    yield from map_items(make, items, on=on, in_order=False, on_death=lambda item: (item, on_crash(item)))


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


def _make(function: Callable[[Item], Result], presence: Path) -> Callable[[Item], tuple[Item, Result]]:
    """Makes a process a worker, which is present as long as it lives."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # odd metadata, of photos that are fine
    is_present = threading.Event()
    threading.Thread(target=_stay, args=(presence, is_present), daemon=True).start()
    is_present.wait()
    return lambda item: (item, function(item))


def _stay(presence: Path, is_present: threading.Event) -> None:
    """Holds the lock until the process ends, as it does when who asked for it has ended."""
    try:
        with _locked(presence, is_shared=True):
            is_present.set()
            threading.Event().wait()
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
