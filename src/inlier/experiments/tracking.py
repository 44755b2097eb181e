"""Copies finished results to MLflow, now or later; whatever made them knows no tracker, and their folder stays."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlier.errors import ConfigError, InlierError, MissingExtraError
from inlier.experiments.run import Run
from inlier.experiments.runs import read_run
from inlier.experiments.served import write_package
from inlier.outputs import as_text
from inlier.workflow import Progress, no_progress

EXPERIMENT = "inlier"
"""What runs are gathered under, unless the environment's MLFLOW_EXPERIMENT_NAME says otherwise."""

CONTENT = "inlier.content"
"""Tag that tells whether a result was sent before."""

_MAX_METRICS, _MAX_PARAMETERS = 1000, 100
_MAX_KEY, _MAX_VALUE = 250, 5000
"""What MLflow takes at once, and how many characters of a name and of a text."""

_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's pages show runs and models, and not conversations."""

_PATIENCE_SECONDS = 10.0
"""How long a server may take to answer the door."""

_STATUSES = {"failed": "FAILED", "pruned": "KILLED"}
"""Of trials that did not come to their end."""

_DATABASES = (".db", ".sqlite", ".sqlite3")
_SQLITE = "sqlite:///"

_QUIETLY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow would report to its makers, tell of tables and of every run, and try a server that is away for minutes."""


@dataclass(frozen=True)
class _Store:
    """Where runs go: MLflow with its client, and the experiment's id."""

    mlflow: Any
    client: Any
    experiment: str


def check_installed() -> None:
    """Raises MissingExtraError unless MLflow is installed: before the work whose result is to be tracked."""
    _import()


def track(folder: Path, uri: str, *, with_models: bool = True, progress: Progress = no_progress) -> str:
    """Sends a finished result: parameters, metrics, curves, pages, the model, and the runs that it consists of.

    The same result is sent once: if the store has it, its run is returned, and what an interrupted call left of it
    is deleted and sent anew.

    Args:
        folder: That a command wrote; see ``read_run``.
        uri: Of a server (``http://...``) or a database: a file such as ``mlflow.db``, ``sqlite:///...``,
            ``postgresql://...``.
        with_models: Send the models too, which ``mlflow.pyfunc.load_model`` loads.
        progress: Told how far it is.

    Returns:
        The run's id.

    Raises:
        MissingExtraError: MLflow is not installed.
        ConfigError: ``uri`` names neither a server nor a database.
        InlierError: The folder holds no finished result, or the store cannot be reached, or refuses.
    """
    mlflow = _import()
    address = store_uri(uri)
    run = read_run(folder)
    run = run if with_models else run.without_models()
    try:
        store = _open(mlflow, address)
        before = _sent(store, run)
        return before or _send(store, run, progress("Sending runs", run.num_runs))
    except (mlflow.exceptions.MlflowException, OSError, ImportError, _database_error()) as error:
        reason = without_password(str(error).strip().partition("\n")[0][:300]).rstrip(".")
        shown, target = as_text(folder), without_password(uri)
        raise InlierError(
            f"{target} did not take the run: {reason}; the results are in {shown}; send them later with: "
            f"inlier track {shlex.quote(shown)} --to {shlex.quote(target)}"
        ) from error


def track_or_note(folder: Path, uri: str, *, progress: Progress = no_progress) -> str | None:
    """Sends a result that a command has just made; a sentence for its user if the store does not take it.

    Args:
        folder: As for ``track``.
        uri: The same.
        progress: The same.
    """
    try:
        track(folder, uri, progress=progress)
    except InlierError as error:  # what took hours is in the folder, and stays so
        return str(error)
    return None


def store_uri(uri: str) -> str:
    """The address as MLflow takes it; a path of a database becomes absolute.

    Raises:
        ConfigError: It names neither a server nor a database.
    """
    parts = _parts(uri)
    if "://" not in uri and Path(uri).suffix in _DATABASES:
        return _SQLITE + os.path.abspath(uri)
    if parts is None or "://" not in uri:
        raise ConfigError(
            "A tracker must be a database such as mlflow.db, or an address such as http://server:5000, "
            f"got {without_password(uri)}."
        )
    if uri.startswith(_SQLITE):
        return _SQLITE + os.path.abspath(uri.removeprefix(_SQLITE))
    if parts.scheme == "postgresql":  # SQLAlchemy would take the older psycopg2
        return uri.replace("postgresql", "postgresql+psycopg", 1)
    return uri


def without_password(text: str) -> str:
    """The text with *** for the password of each address in it."""
    return re.sub(r"(://[^/:@\s]*):[^@/\s]*@", r"\1:***@", text)


def _parts(uri: str) -> urllib.parse.SplitResult | None:
    """The address taken apart; None if it is none."""
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts if parts.port is None or parts.hostname else None
    except ValueError:
        return None


def _import() -> Any:
    for name, value in _QUIETLY.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
        import mlflow.entities
        import mlflow.exceptions
    except ImportError as error:
        raise MissingExtraError(
            "Metrics are tracked by MLflow, which is not installed; install it with: pip install 'inlier[tracking]'"
        ) from error
    return mlflow


def _database_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _open(mlflow: Any, address: str) -> _Store:
    """The store, with the experiment in it; files of a database file lie beside it."""
    _reach(address)
    client = mlflow.MlflowClient(tracking_uri=address)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return _Store(mlflow, client, found.experiment_id)
    is_file = address.startswith(_SQLITE)
    beside = Path(address.removeprefix(_SQLITE)).with_name("mlartifacts").as_uri() if is_file else None
    return _Store(mlflow, client, client.create_experiment(name, beside, _OF_EXPERIMENT))


def _reach(address: str) -> None:
    """Fails at once where nobody answers; MLflow would try for minutes, and for longer with a database."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        import sqlalchemy

        if parts.scheme == "sqlite":
            Path(address.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        engine = sqlalchemy.create_engine(address)
        try:
            tables = sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()
        if {"studies", "trials", "trial_values"} <= set(tables):  # each writes its form in a table alembic_version
            raise OSError("the database holds a search, and the tables of the two do not go together")
    elif parts.scheme not in urllib.request.getproxies() and parts.hostname:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=_PATIENCE_SECONDS).close()


def _sent(store: _Store, run: Run) -> str | None:
    """The run with the same content if there is a whole one; what is left of an interrupted call is deleted."""
    whole = None
    for found in _search(store, f"tags.`{CONTENT}` = '{run.content}'"):
        if found.info.status == "FINISHED":
            whole = str(found.info.run_id)
        else:
            _delete(store, found.info.run_id)
    return whole


def _delete(store: _Store, run: str) -> None:
    for child in _search(store, f"tags.`mlflow.parentRunId` = '{run}'"):
        _delete(store, child.info.run_id)
    for of in store.client.search_logged_models([store.experiment], filter_string=f"source_run_id = '{run}'"):
        store.client.delete_logged_model(of.model_id)
    store.client.delete_run(run)


def _search(store: _Store, condition: str) -> list[Any]:
    found, token = [], None
    while True:
        page = store.client.search_runs([store.experiment], condition, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _send(store: _Store, run: Run, advance: Callable[[int], None], *, parent: str | None = None) -> str:
    """Sends a run, then those below it; it is finished only after them, so that a part is known as one."""
    client, began, ended = store.client, int(1000 * run.began), int(1000 * run.ended)
    tags = {"inlier.kind": run.kind} | run.tags | _system_tags(run)
    tags |= {CONTENT: run.content} if parent is None else {"mlflow.parentRunId": parent}
    tags = {_key(name): without_password(value)[:_MAX_VALUE] for name, value in tags.items()}
    sent: str = client.create_run(store.experiment, start_time=began, run_name=run.name, tags=tags).info.run_id
    _log(store, sent, run)
    for file in run.artifacts:
        below = file.parent.relative_to(run.folder).as_posix()
        client.log_artifact(sent, str(file), None if below == "." else below)
    if run.model is not None:
        _send_model(store, sent, run.model)
    advance(1)
    for child in run.children:
        _send(store, child, advance, parent=sent)
    client.set_terminated(sent, _STATUSES.get(run.tags.get("state", ""), "FINISHED"), end_time=ended)
    return sent


def _system_tags(run: Run) -> dict[str, str]:
    """Tags that MLflow's pages know: the description, the source, who sent it."""
    tags = {"mlflow.note.content": run.note, "mlflow.source.type": "LOCAL"}
    tags["mlflow.source.name"] = run.tags.get("command") or "inlier"
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        pass
    return {name: value for name, value in tags.items() if value}


def _log(store: _Store, sent: str, run: Run) -> None:
    """Parameters and metrics, as many at once as MLflow takes."""
    entities, when = store.mlflow.entities, int(1000 * run.ended)
    params = [entities.Param(_key(name), value[:_MAX_VALUE]) for name, value in run.params.items()]
    metrics = [entities.Metric(_key(name), value, when, step) for name, value, step in run.metrics]
    while params or metrics:
        store.client.log_batch(sent, params=params[:_MAX_PARAMETERS], metrics=metrics[:_MAX_METRICS])
        params, metrics = params[_MAX_PARAMETERS:], metrics[_MAX_METRICS:]


def _send_model(store: _Store, sent: str, folder: Path) -> None:
    """The MODEL folder with what MLflow needs to load it, as the model of this run."""
    client = store.client
    made = client.create_logged_model(store.experiment, name="model", source_run_id=sent, model_type="inlier")
    with tempfile.TemporaryDirectory(prefix="inlier-") as directory:
        data = write_package(
            Path(directory), folder, model_id=made.model_id, run_id=sent, mlflow_version=store.mlflow.__version__
        )
        client.log_model_artifacts(made.model_id, directory)
    client.log_model_artifacts(made.model_id, str(folder), data)
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(sent, [store.mlflow.entities.LoggedModelOutput(made.model_id, step=0)])


def _key(name: str) -> str:
    return re.sub(r"[^\w.\- /:]", "_", name)[:_MAX_KEY]
