from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from inlier.errors import ConfigError, InlierError, MissingExtraError
from inlier.experiments import tuning_storage
from inlier.experiments.tuning import (
    MAX_ATTEMPTS,
    Finished,
    Search,
    Trial,
    finished_trials,
    importances,
    open_study,
    run_trials,
)
from inlier.experiments.workers import is_dead, this_worker

pytest.importorskip("optuna", reason="Optuna is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

fork = multiprocessing.get_context("fork")


def search(folder: Path, **changes: object) -> Search:
    base = Search(
        storage=f"sqlite:///{folder / 'search.db'}",
        name="parabola",
        about={"data": "abc", "space": ["x", "y"]},
        directions=("maximize",),
        seed=0,
        num_trials=12,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def parabola(trial: Trial) -> Sequence[float]:
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 1, 9)
    trial.note(product=x * y)
    return [-((x - 0.3) ** 2) - 0.001 * y]


def run(of: Search, judge: Callable[[Trial], Sequence[float]] = parabola) -> list[Finished]:
    with open_study(of) as study:
        run_trials(of, study, judge)
        return finished_trials(study)


def proposals(trials: Sequence[Finished]) -> list[dict[str, object]]:
    return [dict(trial.params) for trial in trials]


def test_a_search_finds_the_maximum_and_keeps_what_was_noted(tmp_path: Path) -> None:
    trials = run(search(tmp_path, num_trials=40))
    best = max(trials, key=lambda trial: trial.values[0])
    assert abs(float(best.params["x"]) - 0.3) < 0.1
    assert [trial.number for trial in trials] == list(range(40))
    assert {trial.state for trial in trials} == {"complete"}
    assert best.facts == {"product": best.params["x"] * best.params["y"]}  # type: ignore[operator]
    assert best.worker == this_worker()


def test_the_seed_decides_and_an_interrupted_search_goes_on_as_it_would_have(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "parts", "other")]
    for folder in folders:
        folder.mkdir()
    whole = proposals(run(search(folders[0], num_trials=20)))
    run(search(folders[1], num_trials=7))
    run(search(folders[1], num_trials=13))
    assert proposals(run(search(folders[1], num_trials=20))) == whole
    assert proposals(run(search(folders[2], num_trials=20, seed=1))) != whole


def test_what_is_interrupted_by_hand_is_run_again(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> Sequence[float]:
        values = parabola(trial)
        if trial.suggest_int("y", 1, 9) and len(seen) == 3:
            seen.append(trial)
            raise KeyboardInterrupt
        seen.append(trial)
        return values

    seen: list[Trial] = []
    with pytest.raises(KeyboardInterrupt):
        run(search(tmp_path, num_trials=6), interrupted)
    trials = run(search(tmp_path, num_trials=6))
    assert len(trials) == 6 and {trial.state for trial in trials} == {"complete"}
    plain = tmp_path / "plain"
    plain.mkdir()
    assert proposals(run(search(plain, num_trials=6)))[3] in proposals(trials)


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    def deadly(trial: Trial) -> Sequence[float]:
        values = parabola(trial)
        if not (tmp_path / "killed").exists() and len(list(tmp_path.glob("trial-*"))) == 3:
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / f"trial-{time.monotonic_ns()}").touch()
        return values

    worker = fork.Process(target=run, args=(search(tmp_path, num_trials=8), deadly))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    trials = run(search(tmp_path, num_trials=8), deadly)
    assert len(trials) == 8 and {trial.state for trial in trials} == {"complete"}
    assert len({tuple(trial.params.items()) for trial in trials}) == 8


def test_a_trial_that_kills_each_of_its_workers_is_given_up(tmp_path: Path) -> None:
    def deadly(trial: Trial) -> Sequence[float]:
        trial.suggest_float("x", -1, 1)
        os._exit(9)

    for _ in range(MAX_ATTEMPTS):
        worker = fork.Process(target=run, args=(search(tmp_path, num_trials=1), deadly))
        worker.start()
        worker.join(60)
        assert worker.exitcode == 9
    (trial,) = run(search(tmp_path, num_trials=1), deadly)
    assert trial.state == "failed" and "its worker died" in trial.facts["error"]


def test_a_trial_that_fails_is_counted_and_the_search_goes_on(tmp_path: Path) -> None:
    def sometimes(trial: Trial) -> Sequence[float]:
        values = parabola(trial)
        if len(seen := list(tmp_path.glob("seen-*"))) % 4 == 1:
            (tmp_path / f"seen-{len(seen)}").touch()
            raise InlierError("no room for this.")
        (tmp_path / f"seen-{len(seen)}").touch()
        return values

    trials = run(search(tmp_path, num_trials=8), sometimes)
    assert [trial.state for trial in trials].count("failed") == 2
    assert [trial.facts.get("error") for trial in trials if trial.state == "failed"] == ["no room for this."] * 2


def test_a_search_in_which_everything_fails_says_why(tmp_path: Path) -> None:
    def always(trial: Trial) -> Sequence[float]:
        raise InlierError("there is no such layer.")

    with pytest.raises(InlierError, match="5 trials in a row failed, the last because: there is no such layer"):
        run(search(tmp_path), always)


def test_a_mistake_of_ours_is_no_failed_trial(tmp_path: Path) -> None:
    def mistaken(trial: Trial) -> Sequence[float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(search(tmp_path), mistaken)


def test_a_trial_worse_than_the_others_ends_early(tmp_path: Path) -> None:
    def watched(trial: Trial) -> Sequence[float]:
        value = parabola(trial)[0] if len(started) < 8 else -9.0
        started.append(value)
        for step in range(3):
            trial.report(value, step)
        finished.append(value)
        return [value]

    started: list[float] = []
    finished: list[float] = []
    trials = run(search(tmp_path, num_trials=10), watched)
    assert [trial.state for trial in trials][-2:] == ["pruned", "pruned"]
    assert -9.0 not in finished and trials[-1].values == ()


def test_two_values_are_searched_together(tmp_path: Path) -> None:
    def both(trial: Trial) -> Sequence[float]:
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 0)  # not pruned: which of two values would it be?
        return [x, 1 - x]

    trials = run(search(tmp_path, directions=("maximize", "minimize")), both)
    assert all(trial.values == (trial.params["x"], 1 - float(trial.params["x"])) for trial in trials)


def test_what_matters_more_is_more_important(tmp_path: Path) -> None:
    of = search(tmp_path, num_trials=3)
    run(of)
    with open_study(of) as study:
        assert importances(study, seed=0) == {}
    of = replace(of, num_trials=30)
    run(of)
    with open_study(of) as study:
        found = importances(study, seed=0)
        assert found == importances(study, seed=0)
    assert found["x"] > 0.8 > found["y"] and sum(found.values()) == pytest.approx(1)


def test_going_on_with_other_photos_is_refused(tmp_path: Path) -> None:
    run(search(tmp_path, num_trials=1))
    with pytest.raises(ConfigError, match="was begun otherwise, and cannot go on: data changed"):
        run(search(tmp_path, about={"data": "other", "space": ["x", "y"]}))


def test_time_that_is_up_ends_the_search(tmp_path: Path) -> None:
    assert run(search(tmp_path, deadline=time.monotonic())) == []


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("sqlite:////nowhere/search.db", "unable to open database file"),
        ("postgresql+psycopg://me:secret@127.0.0.1:9/x", r"The database .*me:\*\*\*@127.0.0.1:9/x cannot be used"),
        ("no url", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence_without_its_password(
    tmp_path: Path, storage: str, sentence: str
) -> None:
    with pytest.raises(InlierError, match=sentence):
        run(search(tmp_path, storage=storage))


def test_without_optuna_there_is_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inlier\[tuning\]'"):
        run(search(tmp_path))


def test_who_lives_is_not_dead(tmp_path: Path) -> None:
    assert not is_dead(this_worker())
    assert not is_dead("another-host:1@5") and not is_dead("")
    host, _, process = this_worker().rpartition(":")
    assert is_dead(f"{host}:{process}1") and is_dead(f"{host}:4194305@1")


WORKER = """
import os, sys, time
from pathlib import Path
from inlier.experiments import tuning, tuning_storage

folder, name, study, num_trials, how = Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6]
tuning_storage.HEARTBEAT_SECONDS, tuning_storage.GRACE_SECONDS = 1, 2
if how == "silent":
    tuning.this_worker = lambda: "another-host:1@1"

def judge(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 1, 9)
    if how == "silent":
        os._exit(9)
    with (folder / name).open("a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.05)
    return [-((x - 0.3) ** 2) - 0.001 * y]

about = {"data": "abc", "space": ["x", "y"]}
search = tuning.Search(
    storage=sys.argv[1], name=study, about=about, directions=("maximize",), seed=0, num_trials=num_trials
)
with tuning.open_study(search) as study:
    tuning.run_trials(search, study, judge)
"""


def start_worker(storage: str, folder: Path, name: str, study: str, num_trials: int, how: str) -> subprocess.Popen[str]:
    """A process of its own, as on another machine."""
    arguments = [storage, str(folder), name, study, str(num_trials), how]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stderr=subprocess.PIPE, text=True)


def await_worker(worker: subprocess.Popen[str], status: int = 0) -> None:
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == status, errors


@pytest.mark.slow
def test_two_workers_share_a_search_on_postgresql_and_one_that_dies_loses_nothing(
    postgres: str, tmp_path: Path
) -> None:
    names = ("one", "two", "three")
    workers = [start_worker(postgres, tmp_path, name, "parabola", 24, "lively") for name in names]
    while not (tmp_path / "one").exists() or len((tmp_path / "one").read_text().splitlines()) < 2:
        assert workers[0].poll() is None, await_worker(workers[0])
        time.sleep(0.02)
    workers[0].kill()
    await_worker(workers[0], -signal.SIGKILL)
    for worker in workers[1:]:
        await_worker(worker)
    trials = run(search(tmp_path, storage=postgres, num_trials=24))
    assert len(trials) in (24, 25)  # two workers may begin a last one at the same moment
    assert {trial.state for trial in trials} == {"complete"}
    run_by = {name: (tmp_path / name).read_text().split() for name in names if (tmp_path / name).exists()}
    everything = [x for xs in run_by.values() for x in xs]
    assert len(set(everything)) >= len(everything) - 1  # but for the one whose worker was killed
    assert {str(trial.params["x"]) for trial in trials} == set(everything)
    assert len(run_by) >= 2


@pytest.mark.slow
def test_a_worker_of_another_machine_that_falls_silent_is_replaced(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(tuning_storage, "GRACE_SECONDS", 2)
    await_worker(start_worker(postgres, tmp_path, "silent", "silent", 3, "silent"), 9)
    trials = run(search(tmp_path, storage=postgres, name="silent", num_trials=3))
    assert len(trials) == 3 and {trial.state for trial in trials} == {"complete"}
