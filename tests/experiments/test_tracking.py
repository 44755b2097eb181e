from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inlier.adapted import AdaptedBackbone
from inlier.errors import InlierError, MissingExtraError
from inlier.experiments.tracking import check_installed, track
from inlier.features.backbone import Backbone, all_layers

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")

GAIN = {"value": 0.1, "low": 0.02, "high": 0.18}
GATE = {
    "verdict": "helps",
    "sentence": "The adapted backbone helps.",
    "measures": [{"kind": "altered copies", "frozen": 0.7, "adapted": 0.8, "gain": GAIN}],
}


@pytest.fixture(scope="module")
def adapted() -> AdaptedBackbone:
    history = [
        {"step": float(step), "loss": 1 / step, "learning_rate.layer1": 1e-4} | ({"drift": 0.1} if step == 600 else {})
        for step in range(1, 601)
    ]
    config = {"finetune": {"objective": "simclr", "betas": [0.9, 0.99]}, "many": {f"key{n}": n for n in range(120)}}
    facts = {"objective": "simclr", "data_fingerprint": "abc", "num_photos": 12, "seed": 0, "gate": GATE}
    backbone = Backbone("resnet10t", layers=all_layers("resnet10t"), is_pretrained=False)
    return AdaptedBackbone(backbone, config, facts, history)


@pytest.fixture
def folder(adapted: AdaptedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it was saved; what MLflow writes beside the database goes to the test's folder too."""
    monkeypatch.chdir(tmp_path)
    adapted.save(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_run_has_parameters_curves_the_gate_and_the_files(
    adapted: AdaptedBackbone, folder: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'tracking.db'}"
    run = track(adapted, folder, uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
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
    assert {name: found.data.metrics[f"gate.altered_copies.{name}"] for name in ("frozen", "adapted", "gain")} == {
        "frozen": 0.7,
        "adapted": 0.8,
        "gain": 0.1,
    }
    assert (found.data.metrics["gate.altered_copies.gain_low"], found.data.tags["gate.verdict"]) == (0.02, "helps")
    assert found.data.tags["identity"] == adapted.identity
    assert sorted(of.path for of in client.list_artifacts(run)) == ["history.csv", "model.json"]
    assert track(adapted, folder, uri) != run  # another run of the same experiment
    assert len(client.search_experiments(filter_string="name = 'inlier'")) == 1


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:9", "nowhere://tracker", "sqlite:////proc/none/tracking.db"],
    ids=["http", "scheme", "path"],
)
def test_a_tracker_that_cannot_be_reached_is_one_sentence(
    adapted: AdaptedBackbone, folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InlierError, match=rf"^{uri} did not take the metrics: [^\n]+$"):
        track(adapted, folder, uri)
    assert AdaptedBackbone.load(folder).identity == adapted.identity


def test_without_mlflow_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"MLflow, .* install it with: pip install 'inlier\[tracking\]'$"):
        check_installed()
