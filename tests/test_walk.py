"""The walk of one photo from disk to verdict, each stage called by hand; the documentation opens with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.detectors.anomaly_map import pool_map, smooth_map
from inlier.detectors.neighbors import nearest_rows
from inlier.detectors.patchcore import PatchCore
from inlier.features.patches import embed_patches
from inlier.model import Model
from inlier.records import Verdict
from inlier.workflow import fit, inspect_photos

SIZE = 64


@pytest.fixture(scope="module")
def patchcore(data: Manifest) -> Model:
    sections = {
        "fit": {"detector": "patchcore"},
        "input": {"size": SIZE},
        "backbone": {"precision": "float32"},
        "patchcore": {"layers": [2, 3], "patch_size": 3, "distance": "cosine", "pooling": "top", "top_ratio": 0.1},
    }
    return fit(sections, data)[0]


def test_one_photo_from_disk_to_verdict(patchcore: Model, data: Manifest) -> None:
    path: Path = data.select("test").photos[0].path
    backbone, detector, calibration = patchcore.backbone, patchcore.detector, patchcore.calibration
    assert isinstance(detector, PatchCore)

    pixels = read_image(path, min_side=SIZE)
    assert pixels.shape == (64, 80, 3)
    image = Transform(SIZE, backbone.mean, backbone.std).to_tensor(pixels)
    assert image.shape == (3, SIZE, SIZE)

    maps = backbone.extract(image[None])
    assert {layer: features.shape[2] for layer, features in maps.items()} == {2: 8, 3: 4, 4: 2}
    patches = embed_patches([maps[2], maps[3]], patch_size=3, is_cosine=True)
    assert patches.shape == (1, 8, 8, 40 + 112)
    distances, _ = nearest_rows(patches.flatten(0, 2), detector.memory_bank_)
    patch_scores = distances.view(1, 8, 8)
    anomaly_map = smooth_map(patch_scores, size=detector.map_size, sigma=detector.sigma)
    score = pool_map(patch_scores, pooling="top", top_ratio=0.1)

    p_value = calibration.p_values(score.numpy())
    (decision,) = calibration.decide(score.numpy(), false_alarm_rate=0.05, uncertain_rate=0.2)
    assert patchcore.components is not None  # the photos are sorted into two components
    ((component, probability),) = patchcore.components.suggest(maps)
    verdict = Verdict(str(path), float(score), float(p_value[0]), decision, component, probability)

    (inspection,) = inspect_photos(patchcore, [Photo(path, "test")])
    assert inspection.verdict == verdict
    assert inspection.anomaly_map is not None
    assert torch.equal(torch.from_numpy(inspection.anomaly_map), anomaly_map[0])
    assert inspection.pixels is not None and (inspection.pixels == pixels).all()
    assert inspection.evidence[0].distance == float(patch_scores.max())
