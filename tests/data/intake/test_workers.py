"""Functions for worker processes are those of the standard library: what a test defines, they could not import."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from operator import neg
from pathlib import Path
from typing import Any

import pytest

from inlier.data.intake import workers
from inlier.data.intake.workers import alone, map_in_processes, wait_for_workers
from inlier.errors import InlierError
from inlier.sharing import AHEAD

ABORT = "__import__('os').abort()"
KILL = f"__import__('os').kill(__import__('os').getpid(), {signal.SIGKILL:d})"
EXIT = "__import__('os')._exit(0)"


def results_of(
    function: Callable[[Any], Any], items: Iterable[Any], presence: Path, *, workers: int = 2
) -> Iterator[tuple[Any, Any]]:
    return map_in_processes(function, items, workers=workers, presence=presence, on_crash="crashed: {}".format)


def is_locked(folder: Path) -> bool:
    """Whether some process holds a lock on it."""
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def wait_until(is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether a process lives; one that has ended and was not asked for its status does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", (0, 1, 8, 9, 300))
def test_every_item_gets_its_result(tmp_path: Path, number: int) -> None:
    assert sorted(results_of(neg, range(number), tmp_path)) == [(item, -item) for item in range(number)]


def test_slow_items_do_not_change_results(tmp_path: Path) -> None:
    items = [f"__import__('time').sleep({0.3 if item == 3 else 0}) or {item}" for item in range(60)]
    done = list(results_of(eval, items, tmp_path))
    assert sorted(done) == sorted((item, eval(item)) for item in items)
    assert done.index((items[3], 3)) > 3  # the slow one is not waited for


def test_the_work_is_done_in_other_processes_at_once(tmp_path: Path) -> None:
    items = [f"({item}, __import__('time').sleep(0.02), __import__('os').getpid())" for item in range(48)]
    processes = {result[2] for _, result in results_of(eval, items, tmp_path)}
    assert len(processes) == 2 and os.getpid() not in processes


def test_without_workers_everything_happens_here_and_in_order(tmp_path: Path) -> None:
    done = list(results_of(lambda item: (item, os.getpid()), range(20), tmp_path, workers=0))
    assert done == [(item, (item, os.getpid())) for item in range(20)]
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("workers", (0, 2))
def test_items_are_asked_for_as_they_are_needed(tmp_path: Path, workers: int) -> None:
    asked = count()
    results = results_of(neg, map(neg, asked), tmp_path, workers=workers)
    assert len(list(islice(results, 40))) == 40
    results.close()  # type: ignore[attr-defined]
    assert next(asked) <= (40 + AHEAD * workers if workers else 40)


@pytest.mark.parametrize("crash", (ABORT, KILL, EXIT), ids=("abort", "kill", "exit"))
@pytest.mark.parametrize("bad", ({0}, {17, 18, 40}), ids=("first", "several"))
def test_an_item_whose_process_dies_costs_only_itself(tmp_path: Path, crash: str, bad: set[int]) -> None:
    items = [crash if item in bad else str(item) for item in range(70)]
    done = list(results_of(eval, items, tmp_path))
    assert sorted(result for _, result in done if isinstance(result, int)) == sorted(set(range(70)) - bad)
    assert [result for _, result in done if not isinstance(result, int)] == [f"crashed: {crash}"] * len(bad)


def test_items_that_all_crash(tmp_path: Path) -> None:
    assert list(results_of(eval, [KILL] * 3, tmp_path)) == [(KILL, f"crashed: {KILL}")] * 3


@pytest.mark.parametrize(("before", "workers"), (("1", 0), ("1", 2), (KILL, 2)), ids=("here", "there", "after a crash"))
def test_an_exception_reaches_the_caller(tmp_path: Path, before: str, workers: int) -> None:
    items = [before, *map(str, range(20)), "1 / 0", *map(str, range(20))]
    with pytest.raises(ZeroDivisionError, match=r"^division by zero(\n|$)"):
        list(results_of(eval, items, tmp_path, workers=workers))
    assert not is_locked(tmp_path)


def test_workers_hold_a_lock_while_they_live(tmp_path: Path) -> None:
    results = results_of(neg, range(500), tmp_path)
    assert not is_locked(tmp_path)
    next(results)
    assert is_locked(tmp_path)
    assert len(list(results)) == 499
    assert not is_locked(tmp_path)
    wait_for_workers(tmp_path)


def test_workers_that_a_killed_run_left_behind_end_and_are_waited_for(tmp_path: Path) -> None:
    presence, seen = tmp_path / "presence", tmp_path / "seen"
    presence.mkdir()
    seen.mkdir()
    script = """if __name__ == "__main__":
        import sys
        from pathlib import Path
        from inlier.data.intake.workers import map_in_processes

        presence, seen = sys.argv[1:]
        item = "open('" + seen + "/' + str(__import__('os').getpid()), 'w').close() or __import__('time').sleep(100)"
        list(map_in_processes(eval, [item] * 64, workers=2, presence=Path(presence), on_crash=str))
    """
    with start(script, presence, seen) as run:
        wait_until(lambda: len(os.listdir(seen)) == 2)
        processes = [int(name) for name in os.listdir(seen)]
        assert all(map(is_running, processes)) and is_locked(presence)
        run.kill()
        run.wait()
        begin = time.monotonic()
        wait_for_workers(presence)
        assert time.monotonic() - begin < 10
        assert not is_locked(presence)
        wait_until(lambda: not any(map(is_running, processes)), seconds=5)


HOLD = """
import sys, time
from pathlib import Path
from inlier.data.intake.workers import alone

with alone(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
    time.sleep(0.2)
    Path(sys.argv[2]).touch()
"""


def test_only_one_process_is_alone_and_others_are_refused_or_wait(tmp_path: Path) -> None:
    folder, left = tmp_path / "folder", tmp_path / "left"
    folder.mkdir()
    with start(HOLD, folder, left) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InlierError, match=r"^Somebody is there\.$"), alone(folder, "Somebody is there."):
            pytest.fail("nobody else may be in here")
        with alone(tmp_path, "Somebody is there."):
            pass
        other.stdin.write("\n")
        other.stdin.flush()
        with alone(folder):
            assert left.exists()
    with alone(folder, "Somebody is there."):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_a_killed_process_is_not_alone_any_more(tmp_path: Path) -> None:
    with start(HOLD, tmp_path, tmp_path / "left") as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        other.kill()
        other.wait()
        with alone(tmp_path, "Somebody is there."):
            assert not (tmp_path / "left").exists()


def test_what_is_raised_while_alone_is_not_taken_for_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"^'a fault'$"), alone(tmp_path, "Somebody is there."):
        raise KeyError("a fault")
    with alone(tmp_path, "Somebody is there."):
        pass


def test_where_the_file_system_knows_no_locks_everybody_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(workers.fcntl, "flock", unsupported)
    with alone(tmp_path, "Somebody is there."), alone(tmp_path, "Somebody is there."):
        wait_for_workers(tmp_path)
