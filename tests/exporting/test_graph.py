from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from inlier.build import DETECTORS
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest
from inlier.decision.calibration import Calibration
from inlier.detectors.combined import Combined
from inlier.exporting import graph
from inlier.exporting.portable import DECISIONS
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import Model

QUICK = {"reverse-distillation": {"num_samples": 16, "batch_size": 4, "width": 16, "map_size": 16}}
SIZES = [(64, 64), (65, 64), (80, 64), (127, 900), (300, 401), (16, 16), (40, 200), (333, 57), (1024, 768)]


def session_of(piece: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(piece.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_the_square_in_the_graph_is_that_of_python(model: Model, shape: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    (square,) = session_of(graph._square(model)).run(None, {"photo": photo})
    wanted = model.transform.to_tensor(photo).numpy()
    level = 1 / (255 * np.array(model.transform.std)[:, None, None])  # of 256, in the square's unit
    off = np.abs(square[0] - wanted) / level
    assert off.max() <= 1.001  # a sum of 16-bit numbers in float32 may round to the next level
    assert (off > 0.001).mean() < 1e-4


def judge(session: onnxruntime.InferenceSession, score: float) -> tuple[float, float, str]:
    found = session.run(["score", "p_value", "verdict"], {"scores": np.array([score], dtype=np.float32)})
    return float(found[0]), float(found[1]), DECISIONS[int(found[2])]


@pytest.mark.parametrize("num_photos", [1, 3, 19, 50])
def test_the_decision_in_the_graph_is_that_of_the_calibration(model: Model, num_photos: int) -> None:
    scores = np.random.default_rng(num_photos).normal(size=num_photos)
    calibration = Calibration(scores)
    decided = replace(model, calibration=calibration)
    session = session_of(graph._decision(decided, 0.0))
    ties = calibration.normal_scores.astype(np.float32)  # a calibration photo ties with itself
    for score in [*ties.tolist(), *np.linspace(-4, 4, 41).tolist(), -math.inf, math.inf]:
        given, p_value, verdict = judge(session, score)
        assert given == np.float32(score)
        assert p_value == pytest.approx(calibration.p_values(np.array([score]))[0])
        assert [verdict] == calibration.decide(np.array([score]), **model.config["decide"])


def test_a_score_that_is_off_by_the_last_digit_still_ties(model: Model) -> None:
    calibration = Calibration(np.linspace(1.0, 2.0, 19))
    session = session_of(graph._decision(replace(model, calibration=calibration), 0.0))
    assert judge(session, 2.0)[2] == "uncertain"
    assert judge(session, float(np.nextafter(np.float32(2.0), np.float32(3.0))))[2] == "uncertain"
    assert judge(session, 2.001)[2] == "reject"


def test_without_calibration_all_are_accepted_and_what_is_no_number_never_is(model: Model) -> None:
    empty = session_of(graph._decision(replace(model, calibration=Calibration(np.empty(0))), 0.0))
    assert judge(empty, 1e9)[1:] == (1.0, "accept")
    some = session_of(graph._decision(replace(model, calibration=Calibration(np.arange(30.0))), 0.0))
    assert judge(some, math.nan)[2] == "reject"


@pytest.fixture(scope="module")
def features(model: Model, data: Manifest) -> Iterator[FeatureSet]:
    photos = data.select("train").photos
    with FeatureCache(dtype=torch.float32) as cache:
        for batch in load_batches(photos, model.transform, workers=0):
            cache.append(model.backbone.extract(batch.images), groups=[of.group for of in batch.photos])
        yield cache.features()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_scores_photos_as_before(model: Model, data: Manifest, features: FeatureSet, name: str) -> None:
    members = [DETECTORS[of]() for of in ("photo-subspace", "photo-neighbors")]
    detector = Combined(members) if name == "combined" else DETECTORS[name](**QUICK.get(name, {}))
    fitted = replace(model, detector=detector.fit(features), components=None)
    photos = data.select("dev").photos[:6]
    (batch,) = load_batches(photos, model.transform, workers=0)
    maps = model.backbone.extract(batch.images)
    head = graph.build_head(fitted, {layer: tuple(of.shape[1:]) for layer, of in maps.items()})
    session = session_of(head)
    names = {of.name for of in session.get_inputs()}
    prediction = detector.predict(maps)
    spread = float(prediction.score.std())
    for place in range(len(photos)):
        given = {f"map_{layer}": of[place : place + 1].numpy() for layer, of in maps.items()}
        found = session.run(None, {key: value for key, value in given.items() if key in names})
        assert found[0][0] == pytest.approx(float(prediction.score[place]), abs=1e-3 * spread)
        assert (prediction.anomaly_map is not None) == (len(found) == 2)
        if prediction.anomaly_map is not None:
            wanted = prediction.anomaly_map[place].numpy()
            assert np.abs(found[1] - wanted).max() <= 1e-3 * (wanted.max() - wanted.min())
