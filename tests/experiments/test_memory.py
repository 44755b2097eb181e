from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from inlier.build import DETECTORS, build_detector, resolve
from inlier.config import Config, read_config
from inlier.errors import ConfigError
from inlier.experiments import memory
from inlier.experiments.memory import (
    current_bytes,
    peak_bytes,
    predict_peak_bytes,
    release_promptly,
    reset_peak,
    within_budget,
)

SHAPES = {1: (24, 56, 56), 2: (40, 28, 28), 3: (112, 14, 14), 4: (320, 7, 7)}
MIB, GIB = 2**20, 2**30
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")


def _config(*overrides: str) -> Config:
    return resolve(read_config(None, overrides), device="cpu")


def _predict(*overrides: str, num_photos: int = 200) -> int:
    return predict_peak_bytes(_config(*overrides), shapes=SHAPES, num_photos=num_photos, num_judged=64)


def _within(config: Config, budget_bytes: int, num_photos: int = 1000) -> tuple[Config, int, list[str]]:
    return within_budget(
        config, budget_bytes, shapes=SHAPES, num_photos=num_photos, num_judged=64, base_bytes=300 * MIB
    )


@on_linux
def test_the_peak_is_seen_and_forgotten() -> None:
    release_promptly()
    reset_peak()
    before = current_bytes()
    held = torch.ones(32 * MIB)  # 128 MiB
    assert current_bytes() - before == pytest.approx(128 * MIB, rel=0.1)
    del held
    assert current_bytes() - before < 32 * MIB
    assert peak_bytes() - before == pytest.approx(128 * MIB, rel=0.1)
    reset_peak()
    assert peak_bytes() - before < 32 * MIB


def test_elsewhere_the_peak_is_that_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nothing")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "no folder" / "nothing")
    reset_peak()
    assert current_bytes() == peak_bytes() > 50 * MIB


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_has_a_prediction(name: str) -> None:
    assert 10 * MIB < _predict(f"fit.detector={name}") < 2 * GIB


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (["patchcore.layers=[3]"], ["patchcore.layers=[2,3]"]),
        (["fit.memory_budget=128MiB"], ["fit.memory_budget=256MiB"]),
        (["patchcore.max_bank_rows=1000"], ["patchcore.max_bank_rows=9000"]),
        (["patchcore.map_size=224"], ["patchcore.map_size=4000"]),
    ],
)
def test_what_takes_more_is_predicted_to_take_more(less: Sequence[str], more: Sequence[str]) -> None:
    name = "fit.detector=patchcore"
    assert _predict(name, *less, num_photos=1000) < _predict(name, *more, num_photos=1000)


def test_what_fits_stays_as_it_is() -> None:
    config = _config("fit.detector=photo-neighbors")
    fitting, peak, lowered = _within(config, GIB)
    assert (fitting, lowered) == (config, [])
    assert peak == 300 * MIB + predict_peak_bytes(config, shapes=SHAPES, num_photos=1000, num_judged=64)


@pytest.mark.parametrize(
    ("overrides", "budget_bytes", "lowered_first"),
    [
        (["fit.detector=patchcore"], GIB, "fit.memory_budget="),
        (["fit.detector=patchcore", "patchcore.layers=[1,2,3,4]"], GIB, "fit.memory_budget="),
        (["fit.detector=reverse-distillation", "reverse-distillation.batch_size=64"], GIB, "reverse-distillation.b"),
        (["fit.detector=combined"], 700 * MIB, "fit.memory_budget="),
        (['combined.members=["patchcore", "reverse-distillation"]'], 650 * MIB, "fit.memory_budget="),
    ],
)
def test_a_configuration_is_lowered_until_it_fits(overrides: list[str], budget_bytes: int, lowered_first: str) -> None:
    config = _config(*overrides)
    fitting, peak, lowered = _within(config, budget_bytes)
    assert peak <= budget_bytes < 300 * MIB + _predict(*overrides, num_photos=1000)
    assert lowered[0].startswith(lowered_first)
    assert fitting == _config(*overrides, *lowered)  # what is said is what was done, and can be set so
    build_detector(fitting)


def test_no_more_is_lowered_than_has_to_be() -> None:
    config = _config("fit.detector=patchcore")
    fitting, peak, lowered = _within(config, GIB)
    assert lowered == [f'fit.memory_budget="{fitting["fit"]["memory_budget"]}"']
    assert peak > 0.7 * GIB


def test_what_cannot_fit_is_refused() -> None:
    config = _config("fit.detector=patchcore", "patchcore.layers=[1,2,3,4]")
    sentence = (
        r"^patchcore takes at least \d+MiB with 1000 photos and these layers, 300MiB of them for the process itself, "
        r"and may take 350MiB; raise the memory budget, or choose coarser layers\.$"
    )
    with pytest.raises(ConfigError, match=sentence):
        _within(config, 350 * MIB)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["fit.detector=patchcore", "patchcore.layers=[2,3]", "patchcore.max_bank_rows=500"],
        ["fit.detector=patchcore", "patchcore.layers=[1,2]", "patchcore.max_bank_rows=200", "fit.memory_budget=256MiB"],
        ["fit.detector=reverse-distillation", "reverse-distillation.num_samples=48"],
        ["fit.detector=photo-neighbors"],
    ],
)
def test_predictions_agree_with_what_is_measured(overrides: list[str]) -> None:
    job = json.dumps({"overrides": overrides, "num_photos": 100})
    done = subprocess.run([sys.executable, str(BENCHMARK), "--one", job], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["predicted"] == pytest.approx(result["measured"], rel=0.25)
