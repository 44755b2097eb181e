"""Who runs a trial or a cell, and whether it still lives."""

from __future__ import annotations

import os
import socket


def this_worker() -> str:
    """This process: host, number, and when it began where that can be known, for numbers are given again."""
    return f"{socket.gethostname()}:{os.getpid()}@{_began(os.getpid())}"


def is_dead(worker: str) -> bool:
    """Whether a process that ``this_worker`` named has ended; of those on other machines that is not known: False."""
    host, _, process = worker.rpartition(":")
    number, _, began = process.partition("@")
    if host != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except PermissionError:  # it is another user's, and lives
        pass
    except OSError:
        return True
    return _began(int(number)) != began


def _began(process: int) -> str:
    """When a process began, in ticks since the machine did; "" where that is not known."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "over" if fields[0] in "ZX" else fields[19]  # one that ended is there until its parent has noticed
