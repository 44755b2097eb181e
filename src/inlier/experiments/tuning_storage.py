"""Where a search by Optuna is kept, and what proposes its values."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inlier.databases import reason_of, shown
from inlier.errors import ConfigError, InlierError, MissingExtraError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 60
"""How often a worker says that it is alive, and how long after its last word its trial is given to another one."""

KEPT_PERCENT, NUM_STARTUP = 33.0, 4
"""How many of a hundred trials go on at each look, and after how many the first is ended."""

AGAIN_OF = "again_of"
"""Fact of a trial that is another one begun again: which."""

_ATTEMPTS = 8

GiveBack = Callable[["Study", "FrozenTrial"], None]


def connect(storage: str, name: str, *, directions: Sequence[str], seed: int, give_back: GiveBack) -> tuple[Study, Any]:
    """Opens a search in a database, or makes it.

    Two workers that make the tables of one database at once get into each other's way, so it is tried several times.

    Args:
        storage: SQLAlchemy URL.
        name: Of the search.
        directions: ``maximize`` or ``minimize``, of each value.
        seed: Of the sampler.
        give_back: Told of trials whose workers fell silent.

    Returns:
        The search, and its database, to be let go by ``disconnect``.

    Raises:
        MissingExtraError: Optuna, or the database's driver, is not installed.
        ConfigError: The database cannot be opened.
    """
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    arguments: dict[str, Any] = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            database = optuna.storages.RDBStorage(
                storage,
                engine_kwargs={"pool_pre_ping": True, **arguments},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=give_back,
            )
            study = optuna.create_study(
                storage=database,
                study_name=name,
                directions=list(directions),
                sampler=_sampler(optuna, seed),
                pruner=optuna.pruners.PercentilePruner(KEPT_PERCENT, n_startup_trials=NUM_STARTUP),
                load_if_exists=True,
            )
            return study, database
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
            _refuse_if_trackers(storage)
            if attempt == _ATTEMPTS or _is_hopeless(error):
                raise _unusable(storage, error) from error
            time.sleep(random.uniform(0.1, 0.5) * attempt)
        except (ImportError, ValueError) as error:
            raise _unusable(storage, error) from error
    raise AssertionError("the loop returns or raises")


def disconnect(database: Any) -> None:
    """Closes all connections."""
    database.remove_session()
    database.engine.dispose()


def _refuse_if_trackers(storage: str) -> None:
    """Optuna and MLflow both write down in a table ``alembic_version`` which form theirs have.

    Raises:
        ConfigError: The database is one of MLflow's.
    """
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(storage)
        try:
            tables = sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError):
        return  # the error at hand says more
    if {"experiments", "runs", "registered_models"} <= set(tables):
        raise ConfigError(
            f"The database {shown(storage)} holds MLflow's runs, and the tables of the two do not go together: give "
            "the search a database of its own."
        )


def _is_hopeless(error: Exception) -> bool:
    """Whether trying again is no use: nobody answers, or who does refuses."""
    text = str(error).lower()
    return any(
        words in text
        for words in ("refused", "could not translate", "authentication", "unable to open", "not a", "could not parse")
    )


def _unusable(storage: str, error: Exception) -> InlierError:
    name = shown(storage)
    if isinstance(error, ImportError):
        return MissingExtraError(
            f"The driver of {name} is not installed ({error}); for PostgreSQL: pip install 'inlier[tuning]', and a "
            "URL that begins with postgresql+psycopg://."
        )
    return ConfigError(f"The database {name} cannot be used: {reason_of(error)}.")


def _sampler(optuna: Any, seed: int) -> Any:
    """TPE (Bergstra et al., NeurIPS 2011) whose random numbers depend on the seed and the trial's place alone.

    So a search that was interrupted goes on as it would have, and two workers with one seed propose different things.
    Trials that were begun again do not count, so that those after them have the place that they would have had.
    """

    class SeededByNumber(optuna.samplers.BaseSampler):  # type: ignore[misc]
        def __init__(self) -> None:
            self._number, self._sampler = -1, optuna.samplers.TPESampler(seed=seed)

        def _of(self, study: Study, trial: FrozenTrial) -> Any:
            if trial.number != self._number:
                trials = study.get_trials(deepcopy=False)
                num_again = sum(1 for of in trials if AGAIN_OF in of.user_attrs and of.number <= trial.number)
                own = random.Random(f"{seed} {trial.number - num_again}").randrange(2**32)
                self._number, self._sampler = trial.number, optuna.samplers.TPESampler(seed=own)
            return self._sampler

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Any:
            return self._of(study, trial).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Any:
            return self._of(study, trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
            return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            self._of(study, trial).before_trial(study, trial)

        def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
            self._of(study, trial).after_trial(study, trial, state, values)

    return SeededByNumber()


def import_optuna() -> Any:
    """Optuna, which says nothing by itself.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "Searches are run by Optuna, which is not installed; install it with: pip install 'inlier[tuning]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna
