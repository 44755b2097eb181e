"""map_items(): one function on many items: here, in processes of this machine, or on a cluster by Ray.

A worker makes its function once (so that a model is loaded once) and is given one item at a time; whoever dies is
replaced, and its item is given to another. Few items are taken from `items` that are not yet given back as results, so
that a generator of millions takes no memory.

Behind ``--ray`` stand actors, and not Ray Data. Ray Data (2.60) can keep the order and runs again what a dead node
had, but it takes items as one list (`from_items`), bounds what is in flight by bytes in its object store and not by
number, wraps what a function raises, has no say where an item kills every worker, and imports pandas. With the loop
that processes need anyway a cluster differs from them in how workers are hired and heard, and in nothing else.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from inlier.errors import ConfigError, MissingExtraError
from inlier.processes import Processes
from inlier.sharing import Answer, Desk, Died, call, share, versions_here

Item = TypeVar("Item")
Result = TypeVar("Result")

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Workers:
    """Where work is done.

    Attributes:
        processes: Workers; 0: one for each CPU there is, of the machine or of the cluster (or for each of its GPUs,
            where each worker is given some).
        ray: Address of a Ray cluster; ``auto``: the one at hand, else one of this machine alone; None: no Ray.
        num_gpus: GPUs that each of Ray's workers is given.
        is_apart: Whether even a single worker has a process of its own, so that its memory goes with it.

    Example:
        >>> Workers().is_here, Workers(4).is_here, Workers(ray="auto").is_here
        (True, False, False)
    """

    processes: int = 1
    ray: str | None = None
    num_gpus: int = 0
    is_apart: bool = False

    def __post_init__(self) -> None:
        for name, value in (("processes", self.processes), ("num_gpus", self.num_gpus)):
            if value < 0:
                raise ValueError(f"{name} of Workers must be at least 0, got {value}.")

    @property
    def is_here(self) -> bool:
        """Whether there is no worker but this process."""
        return self.ray is None and self.processes == 1 and not self.is_apart

    @property
    def num_threads(self) -> int:
        """Threads that a worker may compute with: its share of the machine; of Ray's each has one CPU."""
        num_cpus = os.cpu_count() or 1
        return 1 if self.ray else max(1, num_cpus // (self.processes or num_cpus))


HERE = Workers()
"""No worker but this process."""


def map_items(
    make: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    *,
    on: Workers,
    in_order: bool = True,
    on_death: Callable[[Item], Result] | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """The result of every item, once each. Closing the generator, or Ctrl-C, ends the workers.

    What `make` or its function raises is raised here as it is; if it is no InlierError, a note names the item.

    Args:
        make: Called once in each worker; gives the function. For workers it and the items are pickled, so it is a
            function of a module that they can import, or a ``functools.partial`` of one.
        items: They are asked for as they are needed: no more than ``sharing.AHEAD`` for each worker are taken and not
            yet given back.
        on: Where.
        in_order: Whether results come in the order of the items, else as they are done.
        on_death: The result of an item that ``sharing.MAX_TRIES`` workers did not survive; None: that is an error.
        on_wait: Called about every second while workers are waited for.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
        ConfigError: There is no such cluster, or a node has other versions.
        InlierError: Worker after worker dies.
    """
    if on.is_here:
        function = make()
        for item in items:
            yield call(function, item)
        return
    crew = _Actors(make, on) if on.ray else Processes(make, on.processes or os.cpu_count() or 1)
    with closing(crew):
        yield from share(crew, items, in_order=in_order, on_death=on_death, on_wait=on_wait)


def map_function(function: Callable[[Item], Result], items: Iterable[Item], *, on: Workers) -> Iterator[Result]:
    """Like ``map``: results in order; for ``fit_in_shards(..., map_shards=partial(map_function, on=on))``.

    Workers keep to their share of the threads, for what computes with torch.

    Args:
        function: As for ``map_items``: workers must be able to import it.
        items: Likewise.
        on: Where.
    """
    return map_items(partial(_sharing_threads, function, on), items, on=on)


def _sharing_threads(function: Callable[[Item], Result], on: Workers) -> Callable[[Item], Result]:
    if not on.is_here:
        import torch  # here alone: a worker that decodes has no use for it

        torch.set_num_threads(min(on.num_threads, torch.get_num_threads()))
    return function


def check_installed() -> None:
    """Raises MissingExtraError unless Ray is installed."""
    _import_ray()


@contextmanager
def reached(on: Workers) -> Iterator[tuple[int, int]]:
    """Keeps a cluster at hand for all that is done in the block; how many nodes there are, and how many workers.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
        ConfigError: There is no such cluster, or it has no room for a worker.
    """
    if on.ray is None:
        yield 1, on.processes or os.cpu_count() or 1
        return
    with _connected(on.ray) as ray:
        yield sum(bool(node["Alive"]) for node in ray.nodes()), _num_workers(ray, on)


def _num_workers(ray: Any, on: Workers) -> int:
    """How many workers are asked for, or what there is room for."""
    there = ray.cluster_resources()
    number = on.processes or int(there.get("GPU", 0) // on.num_gpus if on.num_gpus else there.get("CPU", 0))
    if not number:
        raise ConfigError(f"The Ray cluster at {on.ray} has no {'GPUs' if on.num_gpus else 'CPUs'} for a worker.")
    return number


class _Actors:
    """A ``sharing.Crew`` of a Ray cluster."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], on: Workers) -> None:
        assert on.ray is not None  # map_items
        with ExitStack() as stack:
            ray = stack.enter_context(_connected(on.ray))
            self.size = _num_workers(ray, on)
            # One copy for each node, however many of its workers need it.
            self._make = ray.put(make)
            # Replaced by hand: what Ray restarts keeps its queue, but waits for room on a node with its task given.
            options = {"num_cpus": 1, "num_gpus": on.num_gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
            self._desk = ray.remote(**options)(Desk)
            self._ray = ray
            self._hired: list[_Actor] = []
            self._end = stack.pop_all()

    def hire(self) -> _Actor:
        """One more, which begins once a node has room for it."""
        worker = _Actor(self._ray, self._desk.remote(self._make, versions_here()))
        self._hired.append(worker)
        return worker

    def wait(self, workers: Sequence[_Actor], seconds: float) -> Sequence[_Actor]:
        """Those that can be heard."""
        done, _ = self._ray.wait([worker.answer for worker in workers], num_returns=1, timeout=seconds)
        return [worker for worker in workers if worker.answer in done]

    def close(self) -> None:
        """Ends them, whatever they are at; and the cluster, if it was begun for them."""
        with self._end:
            for worker in self._hired:
                worker.dismiss()


class _Actor:
    """A ``sharing.Worker``."""

    def __init__(self, ray: Any, desk: Any) -> None:
        self._ray, self._desk = ray, desk
        self.answer = desk.begin.remote()

    def give(self, item: Any) -> None:
        """Hands it an item."""
        self.answer = self._desk.work.remote(item)

    def hear(self) -> Answer:
        """Its answer; raises Died, also if the answer was lost with its node."""
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(self.answer)
        except errors.RayTaskError:  # the item or the answer cannot be pickled
            raise
        except errors.RayError as error:
            first = str(error).strip().partition("\n")[0]
            raise Died(f"{type(error).__name__}: {first}") from error
        return answer

    def dismiss(self) -> None:
        """Ends it."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._desk)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected; what was begun here is ended here."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster, or begins one.

    Raises:
        ConfigError: None answers there, or it has another version of Ray or Python.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        if address == AUTO and isinstance(error, ConnectionError):
            ray.init(include_dashboard=False, **quiet)
            return
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(f"No Ray cluster can be used at {address}: {first}") from error


def _knock(address: str) -> None:
    """Raises OSError or ValueError if nobody is at an address: Ray itself would try again for minutes."""
    host, colon, port = address.rpartition(":")
    if address == AUTO or "://" in address:
        return
    if not (colon and port.isdecimal()):
        raise ValueError("an address is auto or like HOST:6379.")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _import_ray() -> Any:
    """Ray, which says nothing by itself, and sends nothing to its makers.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of what will change one day
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it tells on stdout, beside results, of who died
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "Work is spread over machines by Ray, which is not installed; install it with: pip install 'inlier[scale]'"
        ) from error
    return ray
