"""Copies a finished result to MLflow, where configured; whatever trains knows no tracker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from inlier.adapted import AdaptedBackbone
from inlier.errors import InlierError, MissingExtraError

EXPERIMENT = "inlier"
"""What runs are gathered under, unless the environment's MLFLOW_EXPERIMENT_NAME says otherwise."""

_MAX_METRICS, _MAX_PARAMETERS, _MAX_LENGTH = 1000, 100, 500
"""What MLflow takes at once, and how many characters of a parameter every version of it takes."""

_QUIETLY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""MLflow would report to its makers, tell of tables, and try a server that is not there for minutes."""


def check_installed() -> None:
    """Raises MissingExtraError unless MLflow is installed: before the training that is to be tracked."""
    _import()


def track(adapted: AdaptedBackbone, directory: Path, uri: str) -> str:
    """Adds a run: parameters, loss and learning rates step by step, the gate's numbers, and the files that tell.

    Args:
        adapted: What came of a training.
        directory: Where it was saved; ``model.json`` and ``history.csv`` are copied, the weights are not.
        uri: Of a server (``http://...``) or a database (``sqlite:///...``).

    Returns:
        The run's id.

    Raises:
        MissingExtraError: MLflow is not installed.
        InlierError: The tracker cannot be reached, or refuses.
    """
    mlflow = _import()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if known is None else known.experiment_id
        run: str = client.create_run(experiment, run_name=directory.absolute().name).info.run_id
        _log(mlflow, client, run, adapted)
        for file in ("model.json", "history.csv"):
            client.log_artifact(run, str(directory / file))
        client.set_terminated(run)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise InlierError(f"{uri} did not take the metrics: {reason}") from error
    return run


def _log(mlflow: Any, client: Any, run: str, adapted: AdaptedBackbone) -> None:
    facts, now = adapted.facts, int(1000 * time.time())
    parameters = {f"{section}.{key}": value for section, of in adapted.config.items() for key, value in of.items()}
    kept = iter([mlflow.entities.Param(key, str(value)[:_MAX_LENGTH]) for key, value in parameters.items()])
    while batch := list(islice(kept, _MAX_PARAMETERS)):
        client.log_batch(run, params=batch)
    told = ("objective", "data_fingerprint", "num_photos", "num_labelled", "seed")
    tags = {key: facts.get(key) for key in told} | {"identity": adapted.identity}
    gate = facts.get("gate") or {}
    tags |= {"gate.verdict": gate.get("verdict"), "gate.sentence": gate.get("sentence")}
    client.log_batch(
        run, tags=[mlflow.entities.RunTag(key, str(value)) for key, value in tags.items() if value is not None]
    )
    values = iter([mlflow.entities.Metric(key, value, now, step) for key, value, step in _metrics(adapted, gate)])
    while batch := list(islice(values, _MAX_METRICS)):
        client.log_batch(run, metrics=batch)


def _metrics(adapted: AdaptedBackbone, gate: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step: of the history, and of the gate at its end."""
    for row in adapted.history:
        for name, value in row.items():
            if name != "step":
                yield name, float(value), int(row["step"])
    for measure in gate.get("measures", ()):
        prefix = f"gate.{measure['kind'].replace(' ', '_')}"
        gain = measure["gain"]
        figures = {"frozen": measure["frozen"], "adapted": measure["adapted"], "gain": gain["value"]}
        for name, value in (figures | {"gain_low": gain["low"], "gain_high": gain["high"]}).items():
            yield f"{prefix}.{name}", float(value), len(adapted.history)


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
