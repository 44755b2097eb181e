from __future__ import annotations

import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from inlier.data.manifest import Manifest
from inlier.experiments import served
from inlier.experiments.served import ServedModel, write_package
from inlier.model import Model
from inlier.workflow import inspect_photos


@pytest.fixture(scope="module")
def paths(data: Manifest) -> list[str]:
    return [str(photo.path) for photo in data.select("test").photos[:3]]


@pytest.fixture(scope="module")
def truth(model: Model, data: Manifest) -> list[tuple[Any, ...]]:
    """Score, p-value and verdict of the same photos, as ``inlier inspect`` has them."""
    found = [of.verdict for of in inspect_photos(model, data.select("test").photos[:3])]
    return [(of.score, of.p_value, of.verdict) for of in found]


def outcomes(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["score"], row["p_value"], row["verdict"]) for row in rows]


def as_text(path: str) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def test_paths_give_what_inspect_gives(model: Model, paths: list[str], truth: list[tuple[Any, ...]]) -> None:
    rows = ServedModel(model).predict(paths)
    assert [row["path"] for row in rows] == paths
    assert outcomes(rows) == truth
    assert json.loads(json.dumps(rows)) == rows


def test_encoded_photos_give_the_same(model: Model, paths: list[str], truth: list[tuple[Any, ...]]) -> None:
    of = ServedModel(model)
    for encoded in ([Path(path).read_bytes() for path in paths], [as_text(path) for path in paths]):
        rows = of.predict(encoded)
        assert outcomes(rows) == truth
        assert [row["path"] for row in rows] == ["photo 1", "photo 2", "photo 3"]


def test_tables_name_their_column(model: Model, paths: list[str], truth: list[tuple[Any, ...]]) -> None:
    of = ServedModel(model)
    assert outcomes(of.predict({"id": ["a", "b", "c"], "path": paths})) == truth
    assert outcomes(of.predict({"image": [as_text(path) for path in paths]})) == truth
    assert outcomes(of.predict({0: paths})) == truth  # what MLflow makes of a list
    (score, *rest), *none = outcomes(of.predict({"path": paths[0]}))
    assert none == [] and (pytest.approx(score, rel=1e-5), *rest) == truth[0]
    assert outcomes(of.predict(paths[0])) == [(score, *rest)]


def test_a_photo_that_cannot_be_read_is_an_outcome_and_not_an_error(model: Model, paths: list[str]) -> None:
    absent, broken, whole = ServedModel(model).predict(["absent.jpg", b"no photo", paths[0]])
    assert (absent["path"], absent["verdict"], absent["score"]) == ("absent.jpg", "unreadable", None)
    assert (broken["path"], broken["verdict"]) == ("photo 2", "unreadable") and broken["error"]
    assert whole["verdict"] != "unreadable"
    assert ServedModel(model).predict([]) == []


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ([1, 2], TypeError, r"^Each photo must be a path or an encoded image, got int\.$"),
        ({"a": ["x"], "b": ["y"]}, ValueError, r"^The table needs a column path or image, got a, b\.$"),
        (["data:image/png;base64,???"], ValueError, r"^An encoded photo as text must be data:image/"),
    ],
)
def test_what_are_no_photos_is_refused(model: Model, given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        ServedModel(model).predict(given)


def test_the_package_names_its_loader_its_version_and_an_example_that_works(model_folder: Path, tmp_path: Path) -> None:
    data = write_package(tmp_path, model_folder, model_id="m-1", run_id="r", mlflow_version="3.2.1")
    described = json.loads((tmp_path / "MLmodel").read_text(encoding="utf-8"))
    flavor = described["flavors"]["python_function"]
    assert (flavor["data"], described["model_id"], described["run_id"]) == (data, "m-1", "r")
    assert sys.modules[flavor["loader_module"]] is served
    needed = (tmp_path / "requirements.txt").read_text(encoding="utf-8").split()
    assert needed == [f"inlier=={version('inlier')}", "mlflow==3.2.1"]
    loaded = served._load_pyfunc(str(model_folder))
    (row,) = loaded.predict(json.loads((tmp_path / "input_example.json").read_text(encoding="utf-8")))
    assert row["verdict"] != "unreadable"
    assert [of["name"] for of in json.loads(described["signature"]["outputs"])] == list(row)
    assert not any(b"\x80\x04" in path.read_bytes() for path in tmp_path.iterdir())  # no pickle


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_loads_what_was_sent(
    model_folder: Path,
    paths: list[str],
    truth: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed, which mlflow.pyfunc needs")
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    from inlier.experiments.tracking import store_uri, track

    monkeypatch.chdir(tmp_path)
    run = track(model_folder, "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri("mlflow.db"))
    try:
        loaded = mlflow.pyfunc.load_model(f"runs:/{run}/model")
    finally:
        mlflow.set_tracking_uri(before)
    table = pandas.DataFrame({"id": [1, 2, 3], "path": paths})
    images = pandas.DataFrame({"image": [Path(path).read_bytes() for path in paths]})
    for given in (paths, table, images, [as_text(path) for path in paths]):
        assert outcomes(loaded.predict(given)) == truth
    assert loaded.predict(loaded.input_example)[0]["verdict"] != "unreadable"
    assert "component" in loaded.metadata.signature.outputs.input_names()
