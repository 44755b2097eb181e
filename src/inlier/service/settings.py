"""Settings: all that a service is told when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from inlier.errors import ConfigError

MIB = 1 << 20

MAX_HEAD_BYTES = 16 << 10
"""Of a request's line and all its headers."""

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a browser on this machine may call a service that asks for no key."""

FILTER = "filter"
"""Name of the model that stands before the others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        max_bytes: Of a photo, as it is sent.
        max_body_bytes: Of a request with several photos.
        max_pixels: Of a photo, as its header says; checked before it is decoded.
        max_photos: In a request.
        max_parts: In a form.
        max_held_bytes: Of all photos that are received and not yet answered.
        max_waiting: Photos that are taken and not yet answered; more are refused with 429.
        rate: Photos a second for each key, in the long run; None: no bound. Two seconds' worth may come at once.
        header_seconds: In which the head of a request must have come.
        body_seconds: In which its body must have come.
        answer_seconds: In which the verdict must have come after that.
        max_connections: Open at a time.
    """

    max_bytes: int = 20 * MIB
    max_body_bytes: int = 64 * MIB
    max_pixels: int = 64_000_000
    max_photos: int = 32
    max_parts: int = 40
    max_held_bytes: int = 256 * MIB
    max_waiting: int = 128
    rate: float | None = None
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    max_connections: int = 1000

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be kept to."""
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} of the service must be more than 0, got {value:g}.")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is served, to whom, and what is kept of it.

    Attributes:
        models: Name -> MODEL folder; behind a filter, the name is the component that the model judges.
        filter: MODEL folder of the model that tells whether a photo shows a part that is known, and which.
        host: Address to listen on.
        port: Likewise; 0 takes any that is free.
        keys: File of API keys; None: nobody is asked for one, which only a service for this machine alone may do.
        hosts: Names under which browsers may call it; none: any where keys are asked for, else those of this machine.
        record: SQLAlchemy URL of the database of all verdicts.
        keep_photos: Folder in which photos are kept by their digest; None: nowhere.
        review: SQLAlchemy URL of a review whose pages are shown too; None: none.
        device: Where models run.
        workers: Threads that decode photos.
        rates: False-alarm and uncertain rate; None: those of each model.
        limits: What requests may take.
        reload_seconds: How often the folders are looked at.
        is_tls: Whether browsers come by HTTPS, so that cookies go by nothing else.
    """

    models: Mapping[str, Path]
    filter: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    hosts: tuple[str, ...] = ()
    record: str = "sqlite:///inlier-verdicts.db"
    keep_photos: Path | None = None
    review: str | None = None
    device: str = "cpu"
    workers: int = 2
    rates: tuple[float | None, float | None] = (None, None)
    limits: Limits = field(default_factory=Limits)
    reload_seconds: float = 1.0
    is_tls: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError where it would be open to strangers, or serve nothing."""
        if not self.models and self.filter is None:
            raise ConfigError("There is no model to serve.")
        if self.filter is not None and FILTER in self.models:
            raise ConfigError(f"With --filter no other model may be named {FILTER}: give it another as NAME=FOLDER.")
        if self.workers < 1:
            raise ConfigError(f"A service needs at least 1 thread that decodes, got {self.workers}.")
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached by others, so it needs --keys FILE; `inlier keys add NAME --keys "
                "FILE` makes a key. Without keys the service listens on 127.0.0.1 alone."
            )

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names that a request may have been sent to; none: any."""
        return self.hosts or (() if self.keys is not None else LOCAL_HOSTS)


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
