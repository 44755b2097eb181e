from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.cli.sharding import fit_shards
from inlier.data.manifest import Manifest, Photo
from inlier.model import Model
from inlier.scale import Workers
from inlier.workflow import no_progress

Run = Callable[..., Any]
QUICK = ("--detector", "patchcore", "--size", "64", "--augment", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for number in range(10):
        noise = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def test_shards_give_one_model_here_and_in_processes(inlier: Run, folder: Path, tmp_path: Path) -> None:
    ran = inlier("fit", folder, "--out", tmp_path / "here", *QUICK, "--shards", "2", "--json")
    assert ran.status == 0
    shown = json.loads(ran.out)
    assert (shown["num_shards"], shown["num_fitted"], shown["num_calibration"]) == (2, 8, 2)
    ran = inlier("fit", folder, "--out", tmp_path / "there", *QUICK, "--processes", "2")
    assert ran.status == 0
    assert ran.out == (
        f"Learned from 8 normal photos, calibrated on 2 (scores of held-out photos): {tmp_path / 'there'}\n"
    )
    here, there = (Model.load(tmp_path / name) for name in ("here", "there"))
    assert here.facts == there.facts
    assert here.references == there.references
    rows = [model.detector.state_dict()["memory_bank_"].numpy() for model in (here, there)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
    np.testing.assert_allclose(here.calibration.normal_scores, there.calibration.normal_scores, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--select", "synthetic"), "--select"), (("--background", "FOLDER"), "--background")],
)
def test_what_needs_all_photos_at_once_is_refused(
    inlier: Run, folder: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    given = [str(folder) if option == "FOLDER" else option for option in options]
    ran = inlier("fit", folder, "--out", tmp_path / "model", *QUICK, "--shards", "2", *given)
    assert ran.status == 2
    assert ran.err == f"inlier: Shards are learned without a look at the others; leave out {named}.\n"
    ran = inlier("fit", folder, "--out", tmp_path / "model", "--update", tmp_path / "model", "--shards", "2")
    assert ran.status == 2
    assert ran.err == "inlier: --update keeps the configuration of the model; leave out --shards.\n"


def test_a_detector_that_cannot_be_merged_is_named(inlier: Run, folder: Path, tmp_path: Path) -> None:
    options = ("--detector", "reverse-distillation", "--shards", "2")
    ran = inlier("fit", folder, "--out", tmp_path / "model", "--size", "64", *options)
    assert ran.status == 2
    assert "reverse-distillation" in ran.err


def test_without_a_number_there_is_a_shard_for_every_thousand_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def note(sections: object, data: Manifest, *, num_shards: int, **others: object) -> tuple[None, list[Any]]:
        asked.append(num_shards)
        return None, []

    monkeypatch.setattr("inlier.sharding.fit_in_shards", note)
    for number in (10, 1, 2500, 3500):
        data = Manifest(tuple(Photo(Path(f"{name}.png"), "train") for name in range(number)))
        fit_shards({}, data, shards=None, on=Workers(2), layers=None, device="cpu", workers=0, progress=no_progress)
    assert asked == [2, 1, 3, 4]
