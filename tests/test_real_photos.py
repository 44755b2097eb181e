"""What is claimed on real photos, which do not come with the repository: skipped where they are absent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.detectors.crossfit import score_photos
from inlier.evaluation import Evaluation, evaluate
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.fitting import fit_and_calibrate
from inlier.workflow import fit

pytestmark = [pytest.mark.real, pytest.mark.slow]

NUM_SPLITS = 20
NUM_NEW = 30
RATE = 0.05


def test_the_mvtec_bottle_is_solved_by_photo_and_by_pixel(real_data: Path) -> None:
    metrics = _fit_and_evaluate(real_data / "mvtec-bottle").metrics
    assert metrics["num_normal"] == 20 and metrics["num_anomalous"] == 63
    assert metrics["image_auroc"]["value"] >= 0.995
    assert metrics["pixel_auroc"]["value"] >= 0.97


def test_hand_held_pistons_are_told_apart_beyond_doubt(real_data: Path) -> None:
    metrics = _fit_and_evaluate(real_data / "piston").metrics
    assert metrics["image_auroc"]["low"] > 0.8  # one statistic alone reaches 0.79; see the next line
    assert metrics["trivial"]["auroc"] < metrics["image_auroc"]["low"]


@pytest.fixture(scope="module")
def tiles(real_data: Path) -> Iterator[FeatureSet]:
    """Features of normal tiles, each photographed up to six times: photos of one tile are a group."""
    config = resolve({}, device="cpu")
    backbone = build_backbone(config, build_detector(config).layers)
    photos = Manifest.read(real_data / "magnetic-tile").select("train").normal().photos
    transform = Transform(config["input"]["size"], backbone.mean, backbone.std)
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        for batch in load_batches(photos, transform):
            cache.append(backbone.extract(batch.images), groups=[photo.group for photo in batch.photos])
        yield cache.features()


@pytest.mark.parametrize(
    ("detector", "num_train", "num_dev"),
    [("photo-neighbors", 48, 0), ("combined", 12, 20)],
    ids=["cross-conformal", "split conformal"],
)
def test_normal_photos_are_rejected_no_more_often_than_promised(
    tiles: FeatureSet, detector: str, num_train: int, num_dev: int
) -> None:
    # The promise holds for any detector; few patches, a small bank and maps left as they are keep twenty fits quick.
    quick = {"layers": [3], "coreset_ratio": 0.01, "map_size": 14, "sigma": 0.0}
    config = resolve({"fit": {"detector": detector}, "patchcore": quick}, device="cpu")
    names = sorted(set(tiles.groups))
    shares = []
    for seed in range(NUM_SPLITS):
        drawn = np.random.default_rng(seed).permutation(names).tolist()
        ends = (0, num_train, num_train + num_dev, num_train + num_dev + NUM_NEW)
        train, dev, new = (_of_groups(tiles, drawn[start:end]) for start, end in pairwise(ends))
        fitted = build_detector(config)
        calibration = fit_and_calibrate(fitted, train, dev, seed=seed).calibration
        scores = score_photos(fitted, new).values
        verdicts = calibration.decide(scores, false_alarm_rate=RATE, uncertain_rate=RATE)
        shares.append(verdicts.count("reject") / len(new))
    # The splits are drawn independently of each other, so this is the error of their mean.
    error = np.std(shares, ddof=1) / np.sqrt(NUM_SPLITS)
    assert np.mean(shares) <= RATE + 1 / (len(calibration.normal_scores) + 1) + 2 * error


def _fit_and_evaluate(data: Path) -> Evaluation:
    manifest = Manifest.read(data)
    model, unreadable = fit({}, manifest)
    assert not unreadable
    return evaluate(model, manifest)


def _of_groups(features: FeatureSet, groups: list[str]) -> FeatureSet:
    wanted = set(groups)
    return features.select([place for place, group in enumerate(features.groups) if group in wanted])
