"""A model as MLflow loads and serves it; MLflow calls this module by the name in the model's ``MLmodel`` file."""

from __future__ import annotations

import base64
import binascii
import json
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from inlier.data.manifest import Photo
from inlier.model import Model
from inlier.workflow import inspect_photos

COLUMNS = ("path", "image")
"""Of tables: paths, or encoded photos."""

_DATA_URI = "data:"

_OUTPUTS = [
    {"name": "path", "type": "string", "required": True},
    {"name": "score", "type": "double", "required": False},
    {"name": "p_value", "type": "double", "required": False},
    {"name": "verdict", "type": "string", "required": True},
    {"name": "component", "type": "string", "required": False},
    {"name": "component_probability", "type": "double", "required": False},
    {"name": "error", "type": "string", "required": False},
]
"""Of MLflow's signature; it has no inputs, as MLflow would drop columns, or bytes, that the signature does not name."""

_DATA = "data"


def write_package(directory: Path, folder: Path, *, model_id: str, run_id: str, mlflow_version: str) -> str:
    """Writes what makes a copy of a MODEL folder one that MLflow loads: ``MLmodel``, requirements, an example.

    No code and no pickle is packed: MLflow imports this module from the inlier that the requirements name.

    Args:
        directory: Where to.
        folder: The MODEL.
        model_id: MLflow's.
        run_id: Of the run that it belongs to.
        mlflow_version: Of the MLflow that takes it.

    Returns:
        The name below which the files of the MODEL folder must lie.
    """
    example = _example(folder)
    described = {
        "flavors": {
            "python_function": {
                "loader_module": __name__,
                "data": _DATA,
                "python_version": platform.python_version(),
                "env": {"virtualenv": "python_env.yaml"},
            }
        },
        "mlflow_version": mlflow_version,
        "model_id": model_id,
        "model_uuid": model_id,
        "run_id": run_id,
        "utc_time_created": str(datetime.now(UTC).replace(tzinfo=None)),
        "signature": {"inputs": None, "outputs": json.dumps(_OUTPUTS), "params": None},
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
    }
    requirements = [f"inlier=={version('inlier')}", f"mlflow=={mlflow_version}"]
    environment = {"python": platform.python_version(), "build_dependencies": ["pip"]}
    texts = {
        "MLmodel": json.dumps(described, indent=2),  # all JSON is YAML too
        "python_env.yaml": json.dumps(environment | {"dependencies": ["-r requirements.txt"]}, indent=2),
        "requirements.txt": "\n".join(requirements),
        "input_example.json": json.dumps(example),
        "serving_input_example.json": json.dumps({"inputs": example}),
    }
    for name, text in texts.items():
        (directory / name).write_text(text + "\n", encoding="utf-8")
    return _DATA


def _example(folder: Path) -> list[str]:
    """A normal photo of the model itself, encoded, which works on every machine; else a path, as a pattern."""
    thumbnails = pq.read_table(folder / "references.parquet", columns=["thumbnail"])["thumbnail"].to_pylist()
    encoded = next((base64.b64encode(image).decode() for image in thumbnails if image), None)
    return [f"{_DATA_URI}image/webp;base64,{encoded}" if encoded else "photos/photo.jpg"]


@dataclass(frozen=True)
class ServedModel:
    """A model behind MLflow's ``predict``.

    Attributes:
        model: Loaded.
    """

    model: Model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The outcome of each photo, in the order given.

        Args:
            model_input: A list, or a table with a column ``path`` or ``image``. Each entry is a path on this machine,
                an encoded photo as bytes, or one as text, ``data:image/jpeg;base64,...``, for requests in JSON.
            params: MLflow's; there are none.

        Returns:
            For each photo ``path`` ("photo 2" for the second if it came encoded), ``score`` (higher is more
            anomalous), ``p_value`` in (0, 1], ``verdict`` (accept, uncertain, reject or unreadable), ``component``,
            ``component_probability`` and ``error``; None where there is none.

        Raises:
            TypeError: An entry is neither text nor bytes.
            ValueError: The table has neither column, or the text of an encoded photo is no Base64.
        """
        entries = _entries(model_input)
        with tempfile.TemporaryDirectory(prefix="inlier-") as folder:
            paths = [_path(entry, Path(folder) / str(place)) for place, entry in enumerate(entries)]
            photos = [Photo(path, "test") for path in paths]
            found = [asdict(inspection.verdict) for inspection in inspect_photos(self.model, photos, workers=0)]
            for place, (path, row) in enumerate(zip(paths, found, strict=True)):
                if path.parent == Path(folder):
                    row["path"] = f"photo {place + 1}"
        return found


def _load_pyfunc(data_path: str) -> ServedModel:
    """What MLflow calls with the copy of the MODEL folder."""
    return ServedModel(Model.load(Path(data_path), device="cuda" if torch.cuda.is_available() else "cpu"))


def _entries(model_input: Any) -> list[str | bytes]:
    """The photos, from any form that MLflow hands on: a list, an array, a mapping, a series or a data frame."""
    if isinstance(model_input, str | bytes):
        return [model_input]
    is_table = hasattr(model_input, "columns") or isinstance(model_input, Mapping)
    keys = list(model_input) if is_table else []
    if keys:
        chosen = next((key for key in (*COLUMNS, *keys[: len(keys) == 1]) if key in keys), None)
        if chosen is None:
            raise ValueError(f"The table needs a column {' or '.join(COLUMNS)}, got {', '.join(map(str, keys))}.")
        model_input = model_input[chosen]
    entries = [model_input] if isinstance(model_input, str | bytes) else list(model_input)
    for entry in entries:
        if not isinstance(entry, str | bytes):
            raise TypeError(f"Each photo must be a path or an encoded image, got {type(entry).__name__}.")
    return entries


def _path(entry: str | bytes, unpacked: Path) -> Path:
    """Where the photo is; one that came encoded is written there first."""
    if isinstance(entry, str) and not entry.startswith(_DATA_URI):
        return Path(entry)
    try:
        data = entry if isinstance(entry, bytes) else base64.b64decode(entry.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError("An encoded photo as text must be data:image/...;base64, and its Base64.") from error
    unpacked.write_bytes(data)
    return unpacked
