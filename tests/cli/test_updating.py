from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.model import Model

Run = Callable[..., Any]
QUICK = ("--detector", "photo-neighbors", "--size", "64", "--precision", "float32", "--augment", "0")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders of photos without groups."""
    folders = []
    for name, numbers in (("old", range(6)), ("new", range(6, 9))):
        (tmp_path / name).mkdir()
        for number in numbers:
            noise = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
        folders.append(tmp_path / name)
    return folders


def test_an_update_replaces_the_model_whole_or_writes_another(inlier: Run, folders: list[Path], tmp_path: Path) -> None:
    old, new = folders
    model, other = tmp_path / "model", tmp_path / "other"
    inlier("fit", old, "--out", model, *QUICK)
    before = Model.load(model)
    shutil.copy(old / "0.png", new / "known.png")
    ran = inlier("fit", new, "--update", model, "--out", other)
    method = (
        f"{before.facts['calibration']}; further photos scored by the model before the update, joined with the other"
    )
    assert ran.status == 0
    assert ran.out == (
        f"Added 3 (1 more known already); learned from 9 normal photos, calibrated on 9 ({method} folds of the new "
        f"photos): {other}\n"
    )
    assert Model.load(model).identity == before.identity  # it stays as it was
    ran = inlier("fit", new, "--update", model, "--out", model, "--remove", "photo 3.png", "--json", "--quiet")
    shown = json.loads(ran.out)
    assert (shown["num_added"], shown["num_removed"], shown["num_known"], shown["num_fitted"]) == (3, 1, 1, 8)
    assert shown["parent"] == before.identity != shown["identity"]
    updated = Model.load(model)
    assert updated.identity == shown["identity"]
    assert [Path(name).name for name in updated.references.names] == [f"{k}.png" for k in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "new", "old", "other"]
    ran = inlier("inspect", model, new / "7.png", "--out", tmp_path / "inspection")
    assert ran.status == 0 and ran.out.startswith("1 photos: ")


def test_options_that_an_update_cannot_follow_are_refused(inlier: Run, folders: list[Path], tmp_path: Path) -> None:
    ran = inlier("fit", folders[1], "--update", tmp_path / "model", "--out", tmp_path / "other", *QUICK)
    sentence = "--update keeps the configuration of the model; leave out --detector, --precision, --size, --augment."
    assert ran.status == 2 and sentence in ran.err
    ran = inlier("fit", folders[1], "--out", tmp_path / "other", "--remove", "a")
    assert ran.status == 2 and "--remove takes groups out of a model; name it with --update." in ran.err
    assert not (tmp_path / "other").exists()


def test_rates_may_change_with_an_update(inlier: Run, folders: list[Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    inlier("fit", folders[0], "--out", model, *QUICK)
    inlier("fit", folders[1], "--update", model, "--out", model, "--false-alarm-rate", "0.1")
    assert Model.load(model).config["decide"]["false_alarm_rate"] == 0.1
