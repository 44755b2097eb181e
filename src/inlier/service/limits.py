"""What bounds all requests together: photos a second of each key, and bytes in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inlier.service.refusals import Refusal

_BURST_SECONDS = 2.0


class Rate:
    """Photos a second for each name: a token bucket, filled at that rate, of two seconds' worth."""

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Everybody's bucket is full.

        Args:
            rate: Photos a second, > 0; None: no bound.
            clock: Seconds, ever rising.
        """
        self._rate, self._clock = rate, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # of each name what is in it, and since when

    def take(self, name: str, number: int = 1) -> None:
        """Takes so many photos out of a name's bucket.

        Raises:
            Refusal: 429, with when to try again.
        """
        if self._rate is None:
            return
        room, now = max(1.0, _BURST_SECONDS * self._rate, float(number)), self._clock()
        left, since = self._buckets.get(name, (room, now))
        left = min(room, left + (now - since) * self._rate)
        if left < number:
            raise Refusal(
                429,
                f"This key may send {self._rate:g} photos a second; try again later.",
                code="rate_exceeded",
                retry_seconds=(number - left) / self._rate,
                closes=True,
            )
        self._buckets[name] = (left - number, now)


class Room:
    """Bytes of photos that are in memory at a time; only what has come counts, not what a client says will come."""

    def __init__(self, size: int) -> None:
        """It is empty.

        Args:
            size: In bytes.
        """
        self.size, self.taken = size, 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes room for more bytes; all of it is free again at the end of the block.

        Raises:
            Refusal: 429, when taking: there is no room at the moment.
        """
        held = 0

        def grow(num_bytes: int) -> None:
            nonlocal held
            if self.taken + num_bytes > self.size:
                message = "Too many photos are being received at the moment; try again."
                raise Refusal(429, message, code="busy", retry_seconds=1, closes=True)
            held += num_bytes
            self.taken += num_bytes

        try:
            yield grow
        finally:
            self.taken -= held
