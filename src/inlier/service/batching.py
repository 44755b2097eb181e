"""A bounded line of photos: decoded by a few threads, inspected together by a few, recorded together by one.

Where a CPU computes, several batches are inspected beside each other, each with its share of the processors, and one
alone with all of them; a GPU is asked by one thread. A batch is made of what waits, and never waited for: one client
alone is served at once, and under load, while batches are inspected, the next one gathers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.loader import Batch
from inlier.data.manifest import Photo
from inlier.data.shares import Shares, open_pool
from inlier.data.transforms import Transform
from inlier.errors import ImageReadError
from inlier.features.runtime import MICRO_BATCH
from inlier.records import Inspection
from inlier.service.decoding import read_photo, reduced
from inlier.service.loaded import Chain, Loaded
from inlier.service.refusals import Refusal
from inlier.service.settings import Limits
from inlier.workflow import inspect_batch

logger = logging.getLogger("inlier.service")

MAX_RECORDED = 64
"""Photos whose verdicts are recorded in one transaction."""


@dataclass(eq=False, slots=True)
class Job:
    """A photo on its way.

    Attributes:
        id: Of the inspection, hexadecimal digits.
        name: What the client calls it.
        content: Its bytes.
        caller: Who sent it.
        chain: Who judges it.
        digest: SHA-256 of the bytes.
        received_ms: How long it took to arrive.
        filter: What the model before the others said; None: there is none.
        condition: What the model for the photo said; None: none was asked.
        judge: That model.
        error: Why it could not be read.
        began: When it was taken.
        decoded: When it was decoded.
        started: When its batch began.
        inspected: When its batch was over.
        recorded: When its verdict was in the record.
    """

    id: str
    name: str
    content: bytes
    caller: str
    chain: Chain
    digest: str = ""
    received_ms: float = 0.0
    filter: Inspection | None = None
    condition: Inspection | None = None
    judge: Loaded | None = None
    error: str | None = None
    began: float = field(default_factory=time.perf_counter)
    decoded: float = 0.0
    started: float = 0.0
    inspected: float = 0.0
    recorded: float = 0.0
    images: dict[Transform, tuple[Tensor, NDArray[np.uint8]]] = field(default_factory=dict)
    is_given_up: bool = False
    failure: Exception | None = None
    over: Callable[[], None] = lambda: None

    @property
    def timing_ms(self) -> dict[str, float]:
        """What its time went into."""
        parts = {
            "receive": self.received_ms / 1000,
            "decode": self.decoded - self.began,
            "wait": self.started - self.decoded,
            "inspect": self.inspected - self.started,
            "record": self.recorded - self.inspected,
        }
        parts["total"] = sum(parts.values())
        return {name: round(1000 * seconds, 2) for name, seconds in parts.items()}


class Line:
    """Photos that are taken and not yet answered, and the threads that work on them."""

    def __init__(
        self, limits: Limits, *, workers: int, record: Callable[[list[Job]], None], num_lanes: int = 1
    ) -> None:
        """Starts the threads.

        Args:
            limits: How many photos, and how large they may be.
            workers: Threads that decode.
            record: Keeps the verdicts of several photos; called by one thread.
            num_lanes: Threads that inspect, which share those that PyTorch computes with.
        """
        self._limits, self._record = limits, record
        self._pool = open_pool(workers, name="decode", each=1)
        self._inspect = _Stage("inspect", self._judge, most=MICRO_BATCH, on_done=self._pass_on, size=num_lanes)
        self._keep = _Stage("record", record, most=MAX_RECORDED, on_done=self._finish)
        self._lock = threading.Lock()
        self.num_waiting, self.is_stopping = 0, False
        self._seconds_each = 0.05

    def take(self, number: int) -> None:
        """Takes room for so many photos, which ``submit`` fills or ``give_back`` frees.

        Raises:
            Refusal: 429: the line is full. 503: the service is stopping.
        """
        with self._lock:
            self.check_open()
            if self.num_waiting + number > self._limits.max_waiting:
                seconds = self.num_waiting * self._seconds_each
                raise Refusal(
                    429, "Too many photos are waiting; try again.", code="busy", retry_seconds=seconds, closes=True
                )
            self.num_waiting += number

    def give_back(self, number: int) -> None:
        """Frees room that was taken."""
        with self._lock:
            self.num_waiting -= number

    def check_open(self) -> None:
        """Raises Refusal, 503, once the service is stopping."""
        if self.is_stopping:
            raise Refusal(503, "The service is stopping.", code="stopping", retry_seconds=2, closes=True)

    async def answer(self, jobs: list[Job]) -> None:
        """Lets photos, for which there is room, be judged and recorded; returns when all are.

        Raises:
            Refusal: 503: it takes too long; what is not recorded by then need not be.
            Exception: What went wrong with one of them.
        """
        loop, done, left = asyncio.get_running_loop(), asyncio.Event(), len(jobs)

        def count_down() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        def tell() -> None:
            loop.call_soon_threadsafe(count_down)

        for job in jobs:
            job.over = tell
            self._pool.submit(self._decode, job)
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                await done.wait()
        except TimeoutError as error:
            for job in jobs:
                job.is_given_up = True
            raise Refusal(
                503, f"There was no verdict within {self._limits.answer_seconds:g} s.", code="timeout", retry_seconds=5
            ) from error
        for job in jobs:
            if job.failure is not None:
                raise job.failure

    def close(self) -> None:
        """Finishes what was taken, and ends the threads."""
        self.is_stopping = True
        self._pool.shutdown()
        self._inspect.close()
        self._keep.close()

    def _decode(self, job: Job) -> None:
        try:
            if not job.is_given_up:
                job.digest = hashlib.sha256(job.content).hexdigest()
                _read(job, self._limits.max_pixels)
        except ImageReadError as error:
            job.error = str(error)
        except Exception as error:  # whatever it is, its request must end
            job.failure = error
        job.decoded = time.perf_counter()
        self._inspect.put(job)

    def _judge(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        wanted = [job for job in jobs if job.error is None and job.failure is None and not job.is_given_up]
        for job in jobs:
            job.started = began
        judge(wanted)
        for job in jobs:
            job.inspected = time.perf_counter()
        if wanted:
            self._seconds_each += 0.1 * ((time.perf_counter() - began) / len(wanted) - self._seconds_each)

    def _pass_on(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.images = {}
            is_over = job.failure is not None or job.is_given_up
            (self._end if is_over else self._keep.put)(job)

    def _finish(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._end(job)

    def _end(self, job: Job) -> None:
        self.give_back(1)
        try:
            job.over()
        except RuntimeError:  # its loop is closed: nobody waits any more
            logger.warning("an answer came too late")


def judge(jobs: list[Job]) -> None:
    """Asks each photo's filter, and then the model for what the filter saw; those of one model pass it together."""
    for loaded, group in _by_model([(job.chain.filter, job) for job in jobs]):
        for job, inspection in zip(group, _inspect(loaded, group), strict=True):
            job.filter, job.judge = inspection, loaded
    for loaded, group in _by_model([(_condition(job), job) for job in jobs]):
        for job, inspection in zip(group, _inspect(loaded, group), strict=True):
            job.condition, job.judge = inspection, loaded


def _condition(job: Job) -> Loaded | None:
    """The model that a photo goes on to; none if it shows nothing that is known."""
    if job.filter is None:
        return job.chain.condition_of(None)
    return None if job.filter.verdict.verdict == "reject" else job.chain.condition_of(job.filter.verdict.component)


def _by_model(pairs: list[tuple[Loaded | None, Job]]) -> list[tuple[Loaded, list[Job]]]:
    groups: dict[Loaded, list[Job]] = {}
    for loaded, job in pairs:
        if loaded is not None:
            groups.setdefault(loaded, []).append(job)
    return [*groups.items()]


def _inspect(loaded: Loaded, jobs: list[Job]) -> list[Inspection]:
    images, pixels = zip(*(job.images[loaded.model.transform] for job in jobs), strict=True)
    photos = tuple(Photo(Path(job.id), "test") for job in jobs)
    outcomes = inspect_batch(loaded.model, Batch(torch.stack(images), photos, pixels, ()))
    return [outcomes[photo] for photo in photos]


def _read(job: Job, max_pixels: int) -> None:
    """Decodes a photo for every model that it may pass: once for each size."""
    pixels: dict[int, NDArray[np.uint8]] = {}
    for transform in dict.fromkeys(loaded.model.transform for loaded in job.chain.all):
        if transform.size not in pixels:
            pixels[transform.size] = read_photo(job.content, min_side=transform.size, max_pixels=max_pixels)
        photo = pixels[transform.size]
        job.images[transform] = transform.to_tensor(photo), reduced(photo)


class _Stage:
    """Threads that take what waits, up to so many, and do one thing with all of it."""

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job]], None],
        *,
        most: int,
        on_done: Callable[[list[Job]], None],
        size: int = 1,
    ) -> None:
        self._work, self._most, self._on_done = work, most, on_done
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._shares, self._lock, self._num_busy = Shares(size), threading.Lock(), 0
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()
        self._shares.settle()

    def put(self, job: Job) -> None:
        """Adds one to what waits."""
        self._queue.put(job)

    def close(self) -> None:
        """Does what waits, and ends."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        self._shares.take()
        is_open = True
        while is_open:
            jobs: list[Job] = []
            try:
                while len(jobs) < self._most:
                    job = self._queue.get_nowait() if jobs else self._queue.get()
                    if job is None:
                        is_open = False
                        break
                    jobs.append(job)
            except Empty:
                pass
            if jobs:
                self._do(jobs)

    def _do(self, jobs: list[Job]) -> None:
        with self._lock:
            self._num_busy += 1
            is_alone = self._num_busy == 1 and self._queue.empty()
        if len(self._threads) > 1:
            self._shares.adjust(is_alone=is_alone)
        try:
            self._work(jobs)
        except Exception as error:  # whatever it is, these requests must end, and the next ones be served
            for job in jobs:
                job.failure = job.failure or error
        finally:
            with self._lock:
                self._num_busy -= 1
        self._on_done(jobs)
