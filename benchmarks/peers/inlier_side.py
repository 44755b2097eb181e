"""inlier: a job in, numbers out (see ``benchmarks/peers.py``)."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from jobs import Job, clock, one_by_one, serve

from inlier.build import build_backbone, build_detector, resolve
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.detectors.crossfit import score_photos
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import Model
from inlier.reading import Reader, normal_groups
from inlier.workflow import fit as fit_model
from inlier.workflow import inspect_photos

NUM_WARM = 8
"""Photos that are inspected before those that are timed: one batch."""

MAX_BANK_ROWS = 1_000_000
"""Beyond any here, so that the bank has the share of patches asked for."""

ENDLESS = 1_000_000
"""Looks without improvement after which a training stops: never, since it shall take all steps."""


def main() -> None:
    """Does one job."""
    serve({"fit": fit, "fit_calibrated": fit_calibrated, "bulk": bulk, "one": one, "distill": distill})


def fit(job: Job) -> Job:
    """Fills a memory bank as the command does, thumbnails for reports included, and calibrates nothing."""
    config = configured(job)
    detector = build_detector(config)
    seconds: dict[str, float] = {}
    with Features(config, detector.layers) as features, clock(seconds, "all"):
        with clock(seconds, "features"):
            of_train = features.read(photos_of(job))
        with clock(seconds, "coreset"):
            detector.fit(of_train)
    return {"seconds": seconds, "num_rows": len(detector.state_dict()["memory_bank_"])}


def fit_calibrated(job: Job) -> Job:
    """Fits a model, calibration included, and keeps it if a folder is named."""
    seconds: dict[str, float] = {}
    with clock(seconds, "all"):
        model, _ = fit_model(configured(job), Manifest(photos_of(job)))
    if job["save"]:
        shutil.rmtree(job["save"], ignore_errors=True)
        model.save(Path(job["save"]))
    return {
        "seconds": seconds,
        "num_rows": sum(len(of) for name, of in model.detector.state_dict().items() if name.endswith("memory_bank_")),
        "calibration": model.facts["calibration"],
    }


def bulk(job: Job) -> Job:
    """Inspects photos as they come, with the settings that it has by itself."""
    model = Model.load(Path(job["model"]))
    photos = [Photo(Path(path), "test") for path in job["photos"]]
    for _ in inspect_photos(model, photos[:NUM_WARM]):
        pass
    seconds: dict[str, float] = {}
    with clock(seconds, "all"):
        scores = [inspection.verdict.score for inspection in inspect_photos(model, photos)]
    return {"runs": [{"batch": None, "workers": None, "seconds": seconds["all"]}], "scores": scores}


def one(job: Job) -> Job:
    """Inspects photos one by one."""
    model = Model.load(Path(job["model"]))
    return one_by_one(job, lambda path: next(inspect_photos(model, [Photo(Path(path), "test")], workers=0)))


def distill(job: Job) -> Job:
    """Trains a student for each number of steps asked for: the seconds, and the scores of other photos."""
    marks = []
    for num_steps in job["marks"]:
        batch = job["batch"]
        settings = {"num_samples": num_steps * batch, "batch_size": batch, "patience": ENDLESS}
        config = resolve({"fit": {"detector": "reverse-distillation"}, "reverse-distillation": settings}, device="cpu")
        detector = build_detector(config)
        seconds: dict[str, float] = {}
        with Features(config, detector.layers) as features:
            with clock(seconds, "features"):
                of_train = features.read(photos_of(job))
            with clock(seconds, "steps"):
                detector.fit(of_train)
            others = tuple(Photo(Path(path), "test") for path in job["others"])
            scores = score_photos(detector, features.read(others)).values.tolist() if others else []
        assert math.ceil(settings["num_samples"] / batch) == num_steps
        marks.append(
            {"num_steps": num_steps, "seconds": seconds["steps"], "features": seconds["features"], "scores": scores}
        )
    return {"marks": marks}


class Features:
    """Photos as their features, read as ``inlier fit`` reads them, in the order of their names."""

    def __init__(self, config: Config, layers: tuple[int, ...]) -> None:
        self.backbone = build_backbone(config, layers)
        self.transform = Transform(config["input"]["size"], self.backbone.mean, self.backbone.std)
        self.cache = FeatureCache(dtype=getattr(torch, self.backbone.precision))

    def __enter__(self) -> Features:
        self.cache.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self.cache.__exit__(*problem)

    def read(self, photos: tuple[Photo, ...]) -> FeatureSet:
        """The photos' features."""
        data = Manifest(photos)
        features, _ = Reader(self.backbone, self.transform, self.cache, normal_groups(data)).read(
            data, lambda done: None
        )
        return features


def photos_of(job: Job) -> tuple[Photo, ...]:
    """The photos to learn from."""
    return tuple(
        Photo(Path(path), "train", label="good", is_anomalous=False, group=group)
        for path, group in zip(job["photos"], job["groups"], strict=True)
    )


def configured(job: Job) -> Config:
    """Its PatchCore over the layers of all sides, with a bank of the share asked for; without one, its default."""
    if job["ratio"] is None:
        return resolve({}, device="cpu")
    settings = {"layers": [2, 3], "coreset_ratio": job["ratio"], "max_bank_rows": MAX_BANK_ROWS}
    backbone = {"precision": job["precision"]} if job["precision"] else {}
    fit = {"detector": "patchcore", "augment": 0}
    return resolve({"fit": fit, "backbone": backbone, "patchcore": settings}, device="cpu")


if __name__ == "__main__":
    main()
