"""A search by Optuna: any number of workers on one database, none of whose trials is lost or run twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from inlier.errors import ConfigError, InlierError
from inlier.experiments.spaces import Value
from inlier.experiments.tuning_storage import AGAIN_OF, connect, disconnect, import_optuna
from inlier.experiments.workers import is_dead, this_worker

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

State = Literal["complete", "pruned", "failed"]
Direction = Literal["maximize", "minimize"]

MAX_ATTEMPTS = 3
"""How often a trial is begun whose workers die, before it counts as failed."""

_TOO_MANY_FAILURES = 5
_POLL_SECONDS = 0.5
_WORKER, _ATTEMPT, _ERROR, _SEARCH = "worker", "attempt", "error", "search"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and for how long.

    Attributes:
        storage: SQLAlchemy URL of a database.
        name: Of the search in it; a database may hold several.
        about: What makes results comparable, such as the photos and the space: who goes on must go on with the same.
        directions: Of each value that a trial gives.
        seed: Of the sampler.
        num_trials: Trials in all, of all workers together.
        deadline: When no further trial is begun, on the clock of ``time.monotonic``; None: never.
    """

    storage: str
    name: str
    about: Mapping[str, Any]
    directions: tuple[Direction, ...]
    seed: int
    num_trials: int
    deadline: float | None = None


@dataclass(frozen=True)
class Finished:
    """A trial that is over.

    Attributes:
        number: From 0, in the order in which trials were begun.
        state: What became of it.
        values: As its judge gave them; none unless it is complete.
        params: What was proposed.
        facts: What the judge noted.
        seconds: How long it took.
        worker: Who ran it.
    """

    number: int
    state: State
    values: tuple[float, ...]
    params: dict[str, Value]
    facts: dict[str, Any]
    seconds: float
    worker: str


class Trial:
    """A trial while it is judged: it proposes values, is told how it goes, and takes notes."""

    def __init__(self, trial: OptunaTrial, *, is_pruned: bool) -> None:
        self._trial = trial
        self._is_pruned = is_pruned

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """See ``Proposer``."""
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """See ``Proposer``."""
        return self._trial.suggest_float(name, low, high, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """See ``Proposer``."""
        value: Value = self._trial.suggest_categorical(name, list(choices))  # type: ignore[assignment]
        return value

    def note(self, **facts: Any) -> None:
        """Keeps facts that JSON can hold, also of a trial that is pruned or fails later."""
        for name, value in facts.items():
            self._trial.set_user_attr(name, value)

    def report(self, value: float, step: int) -> None:
        """Tells how far it is; a trial that is not among the best third at this step ends here.

        Raises:
            optuna.TrialPruned: It ends.
        """
        if not self._is_pruned:
            return
        self._trial.report(value, step)
        if self._trial.should_prune():
            import optuna

            raise optuna.TrialPruned


@contextmanager
def open_study(search: Search) -> Iterator[Study]:
    """The search in its database, begun if it is not there; what others left half-done is given back.

    Raises:
        MissingExtraError: Optuna, or the database's driver, is not installed.
        ConfigError: The database cannot be opened, or holds a search by this name that was begun otherwise.
    """
    optuna = import_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study, database = connect(
            search.storage, search.name, directions=search.directions, seed=search.seed, give_back=_give_back
        )
        try:
            begun = study.user_attrs.get(_SEARCH)
            if begun is None:
                study.set_user_attr(_SEARCH, dict(search.about))
            elif changed := [name for name, value in search.about.items() if begun.get(name) != value]:
                raise ConfigError(
                    f"The search {search.name} was begun otherwise, and cannot go on: {', '.join(changed)} changed "
                    "since; choose another --out, or another --study in the same database."
                )
            yield study
        finally:
            disconnect(database)


def run_trials(
    search: Search,
    study: Study,
    judge: Callable[[Trial], Sequence[float]],
    *,
    advance: Callable[[int], None] = lambda steps: None,
) -> None:
    """Runs trials until there are as many as asked for, or the time is up; other workers may do the same.

    The last to finish waits for those of others that are still running, and takes over what a dead worker left.

    Args:
        search: What ``open_study`` opened.
        study: What it gave.
        judge: Gives the values of a trial; an ``InlierError`` or a ``MemoryError`` makes it a failed one.
        advance: Told of trials done, by anyone.

    Raises:
        InlierError: Trial after trial fails.
    """
    from optuna.trial import TrialState

    told = 0
    objective = partial(_objective, judge, len(search.directions) == 1)
    while True:
        give_back_dead(study)
        over = len(_over(study))
        running = sum(1 for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        waiting = sum(1 for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        told = tell(study, search, told, advance)
        if over >= search.num_trials or (search.deadline is not None and time.monotonic() >= search.deadline):
            return
        if over + running >= search.num_trials and not waiting:
            time.sleep(_POLL_SECONDS)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's, of features that may change
            study.optimize(objective, n_trials=1, catch=(InlierError, MemoryError))
        _check_failures(study)


def once(study: Study, name: str, measure: Callable[[], Any]) -> Any:
    """A fact of the search as a whole that JSON can hold; measured by whoever asks first."""
    if name not in study.user_attrs:
        study.set_user_attr(name, measure())
    return study.user_attrs[name]


def fact(study: Study, name: str) -> Any:
    """What ``once`` measured."""
    return study.user_attrs[name]


def tell(study: Study, search: Search, told: int, advance: Callable[[int], None]) -> int:
    """Tells of trials that are over since so many were told of; how many that makes."""
    over = min(len(_over(study)), search.num_trials)
    advance(over - told)
    return over


def finished_trials(study: Study) -> list[Finished]:
    """The trials that are over, by number; those that were given back, and begun again, are left out."""
    return [_finished(trial) for trial in _over(study)]


def importances(study: Study, *, seed: int) -> dict[str, float]:
    """How much of the first value's variance each parameter explains (fANOVA: Hutter et al., ICML 2014), in [0, 1].

    Only parameters that every complete trial has can be compared; empty with fewer than four such trials, or where all
    values are the same.
    """
    optuna = import_optuna()
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 4 or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: float(trial.values[0])
        )
    return {name: float(value) for name, value in found.items()}


def give_back_dead(study: Study) -> None:
    """Gives back the trials of workers that are dead: on this machine at once, elsewhere when they fell silent."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if is_dead(trial.user_attrs.get(_WORKER, "")):
            try:
                is_mine = study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            if is_mine:
                _give_back(study, trial)


def _objective(judge: Callable[[Trial], Sequence[float]], is_pruned: bool, trial: OptunaTrial) -> list[float]:
    trial.set_user_attr(_WORKER, this_worker())
    try:
        return list(judge(Trial(trial, is_pruned=is_pruned)))
    except (InlierError, MemoryError) as error:
        trial.set_user_attr(_ERROR, str(error) or "out of memory")
        raise
    except KeyboardInterrupt:
        _give_back(trial.study, trial.study._storage.get_trial(trial._trial_id))
        raise


def _give_back(study: Study, trial: FrozenTrial) -> None:
    """Lets a trial that its worker did not finish be run again, unless that happened too often."""
    attempt = trial.user_attrs.get(_ATTEMPT, 1)
    if attempt < MAX_ATTEMPTS:
        study.enqueue_trial(trial.params, user_attrs={_ATTEMPT: attempt + 1, AGAIN_OF: trial.number})


def _check_failures(study: Study) -> None:
    trials = finished_trials(study)
    last = trials[-_TOO_MANY_FAILURES:]
    if len(last) == _TOO_MANY_FAILURES and all(trial.state == "failed" for trial in last):
        raise InlierError(f"{len(last)} trials in a row failed, the last because: {last[-1].facts.get(_ERROR)}")


def _over(study: Study) -> list[FrozenTrial]:
    """The trials that are over, but for those that are, or will be, run again."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(AGAIN_OF) for trial in trials}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in again]


def _finished(trial: FrozenTrial) -> Finished:
    names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned"}
    facts = {name: value for name, value in trial.user_attrs.items() if name not in (_WORKER, _ATTEMPT, AGAIN_OF)}
    if trial.state.name == "FAIL":
        facts.setdefault(_ERROR, "its worker died each time that it was begun")
    return Finished(
        number=trial.number,
        state=names.get(trial.state.name, "failed"),
        values=tuple(trial.values) if trial.state.name == "COMPLETE" and trial.values else (),
        params=dict(trial.params),
        facts=facts,
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        worker=trial.user_attrs.get(_WORKER, ""),
    )
