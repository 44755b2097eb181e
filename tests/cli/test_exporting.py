from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

Run = Callable[..., Any]


def test_a_model_becomes_one_file_that_inspect_takes(
    inlier: Run, model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    file, with_file, with_model = tmp_path / "model.onnx", tmp_path / "file", tmp_path / "model"
    ran = inlier("export", model_folder, "--out", file, "--data", dataset)
    assert (ran.status, ran.err) == (0, "")
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    compared = "Compared with the model on 14 photos of dev: scores, verdicts and maps agree."
    assert ran.out == f"{file}: {size}\n{compared}\n"

    photos = dataset / "photos"
    ran = inlier("inspect", file, photos, "--out", with_file, "--json")
    assert ran.status == 0 and ran.err.startswith("Mind: An exported model knows no reasons")
    counts = json.loads(ran.out)["counts"]
    assert counts == json.loads(inlier("inspect", model_folder, photos, "--out", with_model, "--json").out)["counts"]
    assert (with_file / "report.html").exists() and (with_file / "verdicts.csv").exists()


def test_json_is_one_object_and_rates_are_kept(inlier: Run, model_folder: Path, dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    rates = ("--false-alarm-rate", "0.1", "--uncertain-rate", "0.4")
    ran = inlier("export", model_folder, "--out", file, "--data", dataset, *rates, "--json")
    said = json.loads(ran.out)
    assert said["bytes"] == file.stat().st_size and said["page"] is None
    assert said["parity"]["num_photos"] == 14 and said["parity"]["auroc"] is None
    ran = inlier("inspect", file, dataset / "photos", "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "10&nbsp;% are rejected" in page and "40&nbsp;% are not accepted" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--out", "model"), "--out of an export must end in .onnx, got model."),
        (("--out", "a.onnx", "--onnxruntime-web", "package"), "--onnxruntime-web goes with --web."),
        (("--out", "a.onnx", "--int8"), "--int8 needs --data: "),
        (
            ("--out", "a.onnx", "--web", "page", "--onnxruntime-web", "package"),
            "is missing; --onnxruntime-web must name",
        ),
    ],
    ids=str,
)
def test_requests_that_cannot_be_met(
    inlier: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = inlier("export", model_folder, *arguments)
    assert (ran.status, ran.out) == (2, "") and sentence in ran.err
    assert [*tmp_path.iterdir()] == []


def test_a_page_needs_npm_or_its_package(
    inlier: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = inlier("export", model_folder, "--out", tmp_path / "a.onnx", "--web", tmp_path / "page")
    assert ran.status == 2 and "--web needs the npm package onnxruntime-web" in ran.err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--false-alarm-rate", "0.1"), "An exported model decides at the rates that it was exported with; give"),
        (("--processes", "2"), "An exported model runs in this process and on its CPU; leave --ray, --processes and"),
        (("--device", "cuda"), "An exported model runs in this process and on its CPU; leave --ray, --processes and"),
    ],
    ids=str,
)
def test_what_a_file_does_not_do(inlier: Run, tmp_path: Path, arguments: Any, sentence: str) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    ran = inlier("inspect", tmp_path / "model.onnx", tmp_path, "--out", tmp_path / "out", *arguments)
    assert ran.status == 2 and ran.err.startswith(f"inlier: {sentence}")


def test_a_damaged_file_is_refused(inlier: Run, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    ran = inlier("inspect", tmp_path / "model.onnx", tmp_path, "--out", tmp_path / "out")
    assert ran.status == 2 and "model.onnx is damaged, or no ONNX file that can be run here" in ran.err
