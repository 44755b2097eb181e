from __future__ import annotations

import json
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inlier.adapted import AdaptedBackbone
from inlier.errors import ConfigError, InlierError, MissingExtraError
from inlier.experiments import tracking
from inlier.experiments.runs import read_run
from inlier.experiments.tracking import check_installed, store_uri, track, track_or_note
from inlier.experiments.tuning import Search, open_study
from inlier.features.backbone import Backbone, all_layers

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fabricated.py"))))

GAIN = {"value": 0.1, "low": 0.02, "high": 0.18}
GATE = {
    "verdict": "helps",
    "sentence": "The adapted backbone helps.",
    "measures": [{"kind": "altered copies", "frozen": 0.7, "adapted": 0.8, "gain": GAIN}],
}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of the test's own; whatever MLflow writes below the current folder would be seen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    return str(shutil.copy(empty_database, tmp_path / "store"))


def client_of(database: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{database}")


def runs_in(database: str) -> list[Any]:
    return list(client_of(database).search_runs(["1"], max_results=1000))


def test_a_backbone_has_parameters_curves_the_gate_and_the_files(tmp_path: Path) -> None:
    history = [
        {"step": float(step), "loss": 1 / step, "learning_rate.layer1": 1e-4} | ({"drift": 0.1} if step == 600 else {})
        for step in range(1, 601)
    ]
    config = {"finetune": {"objective": "simclr", "betas": [0.9, 0.99]}, "many": {f"key{n}": n for n in range(120)}}
    facts = {"objective": "simclr", "data_fingerprint": "abc", "num_photos": 12, "seed": 0, "gate": GATE}
    backbone = Backbone("resnet10t", layers=all_layers("resnet10t"), is_pretrained=False)
    adapted = AdaptedBackbone(backbone, config, facts, history)
    adapted.save(tmp_path / "backbone")
    database = str(tmp_path / "new" / "mlflow.db")  # neither the file nor its folder is there
    run = track(tmp_path / "backbone", database)
    client = client_of(database)
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.info.run_name == "backbone"
    assert found.data.params["finetune.objective"] == "simclr"
    assert found.data.params["finetune.betas"] == "[0.9, 0.99]"
    assert found.data.params["many.key119"] == "119"
    losses = client.get_metric_history(run, "loss")
    assert [(of.step, of.value) for of in losses] == [(step, 1 / step) for step in range(1, 601)]
    assert found.data.metrics["learning_rate.layer1"] == 1e-4
    assert [of.step for of in client.get_metric_history(run, "drift")] == [600]
    assert "step" not in found.data.metrics
    gate = {name: found.data.metrics[f"gate.altered_copies.{name}"] for name in ("frozen", "adapted", "gain")}
    assert gate == {"frozen": 0.7, "adapted": 0.8, "gain": 0.1}
    assert (found.data.metrics["gate.altered_copies.gain_low"], found.data.tags["gate.verdict"]) == (0.02, "helps")
    assert found.data.tags["identity"] == adapted.identity
    note = "**resnet10t** adapted to 12 photos by simclr. The adapted backbone helps."
    assert found.data.tags["mlflow.note.content"] == note
    assert sorted(of.path for of in client.list_artifacts(run)) == ["history.csv", "model.json"]


def test_a_model_is_sent_as_one_that_mlflow_loads(database: str, model_folder: Path) -> None:
    run = track(model_folder, database)
    client = client_of(database)
    (output,) = client.get_run(run).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, logged.source_run_id, str(logged.status)) == ("model", run, "READY")
    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert json.loads((folder / "MLmodel").read_text())["model_id"] == output.model_id
    for file in model_folder.iterdir():
        assert (folder / "data" / file.name).read_bytes() == file.read_bytes()
    assert [of.path for of in client.list_artifacts(run)] == ["model.json"]
    without = track(model_folder, database, with_models=False)
    assert without != run and not client.get_run(without).outputs.model_outputs


def test_a_search_is_a_run_with_one_for_each_trial_below_it(database: str, tmp_path: Path) -> None:
    folder = made.write_tuning(tmp_path / "tuned")
    parent = track(folder, database)
    runs = {run.info.run_name: run for run in runs_in(database)}
    assert set(runs) == {"tuned", "trial 0", "trial 1", "trial 2", "trial 3"}
    below = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(below) == 4 and all(run.data.tags["inlier.kind"] == "trial" for run in below)
    assert runs["trial 1"].data.params == {"coreset_ratio": "0.02", "layers": "2,3"}
    assert runs["trial 1"].info.end_time - runs["trial 1"].info.start_time == pytest.approx(5000, abs=1)
    assert (runs["trial 1"].info.status, runs["trial 3"].info.status) == ("FINISHED", "KILLED")
    whole = runs["tuned"]
    assert whole.info.end_time == int(1000 * (folder / "tuning.json").stat().st_mtime)
    assert whole.info.end_time - whole.info.start_time == pytest.approx(10_000, abs=1)
    assert whole.data.tags["mlflow.source.name"].startswith("inlier tune data")
    client = client_of(database)
    assert [of.step for of in client.get_metric_history(parent, "best_so_far")] == [0, 1, 2]
    assert [of.path for of in client.list_artifacts(parent, "evaluation")] == [
        "evaluation/evaluation.html",
        "evaluation/metrics.json",
    ]


def test_a_study_nests_searches_below_cells(database: str, tmp_path: Path) -> None:
    told: list[int] = []

    def progress(task: str, total: int) -> Callable[[int], None]:
        assert (task, total) == ("Sending runs", 9)  # the study, four cells, a search of three trials
        return told.append

    parent = track(made.write_study(tmp_path / "study"), database, progress=progress)
    runs = {run.info.run_id: run for run in runs_in(database)}
    named = {run.info.run_name: run for run in runs.values()}
    search = named["search of piston/imagenet/patchcore/seed-0"]
    cell = runs[search.data.tags["mlflow.parentRunId"]]
    assert cell.info.run_name == "piston/imagenet/patchcore/seed-0"
    assert cell.data.tags["mlflow.parentRunId"] == parent
    assert sum(told) == len(runs) == 9


def test_what_was_sent_is_not_sent_again_even_from_another_place(database: str, tmp_path: Path) -> None:
    folder = made.write_tuning(tmp_path / "tuned")
    first = track(folder, database)
    assert track(folder, database) == first
    assert track(Path(shutil.copytree(folder, tmp_path / "copy")), database) == first
    assert len(runs_in(database)) == 5
    (folder / "tuning.html").write_text("drawn anew", encoding="utf-8")
    assert track(folder, database) != first


def test_what_was_half_sent_is_sent_anew_and_leaves_nothing(
    database: str, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.write_study(tmp_path / "study")
    shutil.copytree(model_folder, folder / "cells/piston/simclr/patchcore/seed-0/model")
    whole = tracking.write_package

    def full(*_: Any, **__: Any) -> str:
        raise OSError("no space is left")

    monkeypatch.setattr(tracking, "write_package", full)
    with pytest.raises(InlierError, match="did not take the run: no space is left; "):
        track(folder, database)
    client = client_of(database)
    (half,) = client.search_runs(["1"], "tags.`inlier.kind` = 'study'")
    assert half.info.status == "RUNNING"
    assert len(client.search_logged_models(["1"])) == 1
    monkeypatch.setattr(tracking, "write_package", whole)
    sent = track(folder, database)
    assert sent != half.info.run_id
    runs = runs_in(database)
    assert len(runs) == read_run(folder).num_runs
    assert {run.info.status for run in runs} <= {"FINISHED"}
    (model,) = client.search_logged_models(["1"])
    assert str(model.status) == "READY"


def test_files_lie_beside_the_database_and_nothing_below_the_current_folder(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.write_evaluation(tmp_path / "judged")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "turbines")
    monkeypatch.chdir(tmp_path)
    run = track(folder, "store/mlflow.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judged", "store"]
    assert (tmp_path / "store" / "mlartifacts" / run / "artifacts" / "metrics.json").is_file()
    experiment = client_of(database).get_experiment_by_name("turbines")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert track(folder, f"sqlite:///{database}") == track(folder, "sqlite:///store/mlflow.db") == run


def test_any_label_makes_a_name_that_the_store_takes(database: str, tmp_path: Path) -> None:
    labels = ["a/../b", "  ", "ü" * 300, "100 %", "x:y", "-"]
    classes = {label: {"num_photos": 3, "verdicts": {"accept": number}} for number, label in enumerate(labels)}
    run = track(made.write_evaluation(tmp_path / "judged", classes=classes, notes=["long " * 3000]), database)
    found = client_of(database).get_run(run).data
    accepted = sorted(value for name, value in found.metrics.items() if name.endswith(".num_accept"))
    assert accepted == [0, 1, 2, 3, 4, 5]
    assert len(found.tags["mlflow.note.content"]) == 5000


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9",
        "https://me:secret@127.0.0.1:9/mlflow",
        "nowhere://tracker",
        "sqlite:////proc/none/tracking.db",
        "postgresql://me:secret@127.0.0.1:9/mlflow",
    ],
    ids=["http", "https", "scheme", "path", "postgresql"],
)
def test_a_store_that_cannot_be_reached_is_one_sentence_at_once(tmp_path: Path, uri: str) -> None:
    folder, began = made.write_evaluation(tmp_path / "judged"), time.monotonic()
    with pytest.raises(InlierError) as raised:
        track(folder, uri)
    shown = uri.replace("secret", "***")
    said = str(raised.value)
    assert said.startswith(f"{shown} did not take the run: ") and "\n" not in said and "secret" not in said
    send = f"; the results are in {folder}; send them later with: inlier track {folder} --to "
    assert send in said and time.monotonic() - began < 10
    assert track_or_note(folder, uri) == said


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InlierError, match=r"did not take the run: .*not a database"):
        track(made.write_evaluation(tmp_path / "judged"), str(tmp_path / "mlflow.db"))
    assert (tmp_path / "mlflow.db").read_bytes().startswith(b"no database")


@pytest.mark.parametrize("uri", ["mlruns", "", "server:5000", "http://host:port"])
def test_what_is_no_store_is_refused_before_anything_is_read(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^A tracker must be a database such as mlflow\.db, or an address .*, got "):
        track(tmp_path, uri)


def test_forms_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_uri("runs.sqlite") == f"sqlite:///{tmp_path}/runs.sqlite"
    assert store_uri("sqlite:///x/y.db") == f"sqlite:///{tmp_path}/x/y.db"
    assert store_uri("/x/y.db") == store_uri("sqlite:////x/y.db") == "sqlite:////x/y.db"
    assert store_uri("postgresql://me@host/x") == "postgresql+psycopg://me@host/x"
    assert store_uri("postgresql+psycopg2://me@host/x") == "postgresql+psycopg2://me@host/x"
    assert store_uri("https://host/mlflow") == "https://host/mlflow"


def test_passwords_are_left_out_of_what_is_sent(database: str, tmp_path: Path) -> None:
    command = "inlier tune data --storage postgresql://me:secret@host/x --track https://you:word@host"
    run = track(made.write_evaluation(tmp_path / "judged", command=command), database)
    tags = client_of(database).get_run(run).data.tags
    shown = "inlier tune data --storage postgresql://me:***@host/x --track https://you:***@host"
    assert tags["command"] == tags["mlflow.source.name"] == shown


def test_a_note_is_none_where_the_store_took_it(database: str, tmp_path: Path) -> None:
    assert track_or_note(made.write_evaluation(tmp_path / "judged"), database) is None
    assert len(runs_in(database)) == 1


def test_a_search_and_a_tracker_are_told_to_keep_apart(database: str, tmp_path: Path) -> None:
    searched = f"sqlite:///{tmp_path / 'search.db'}"

    def open_search(storage: str) -> None:
        about = {"data": "abc"}
        with open_study(
            Search(storage=storage, name="one", about=about, directions=("maximize",), seed=0, num_trials=1)
        ):
            pass

    open_search(searched)
    evaluation = made.write_evaluation(tmp_path / "judged")
    with pytest.raises(InlierError, match=r"holds a search, and the tables of the two do not go together"):
        track(evaluation, searched)
    open_search(searched)  # which nothing was done to
    track(evaluation, database)
    with pytest.raises(ConfigError, match=r"holds MLflow's runs, .* give the search a database of its own"):
        open_search(f"sqlite:///{database}")


@pytest.mark.slow
def test_a_postgresql_server_takes_a_search(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = made.write_tuning(tmp_path / "tuned")
    uri = postgres.replace("postgresql+psycopg", "postgresql")
    run = track(folder, uri)
    assert track(folder, uri) == run
    assert len(mlflow.MlflowClient(tracking_uri=postgres).search_runs(["1"])) == 5


def test_without_mlflow_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"MLflow, .* install it with: pip install 'inlier\[tracking\]'$"):
        check_installed()
