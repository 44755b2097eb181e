"""amazon's patchcore-inspection: a job in, numbers out (see ``benchmarks/peers.py``).

From a checkout that the job names. Approximate greedy sampling, since its exact one does not fit into memory, and one
neighbour by an exact index of faiss, as in its README.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_CHECKOUT = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["inspection"]
sys.path.insert(0, str(Path(_CHECKOUT) / "src"))

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from jobs import Job, Read, Score, clock, in_bulk, loader, one_by_one, serve, set_trunk  # noqa: E402
from patchcore.common import FaissNN  # noqa: E402
from patchcore.patchcore import PatchCore  # noqa: E402
from patchcore.sampler import ApproximateGreedyCoresetSampler, IdentitySampler  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402
from torchvision import transforms  # noqa: E402

NETWORK = "tf_efficientnet_lite0"
LAYERS = ("blocks.2", "blocks.4")
"""Strides 8 and 16."""

WIDTH = 152
"""Channels of both layers together, which are not averaged down to fewer."""


def main() -> None:
    """Does one job."""
    serve({"fit": fit, "bulk": bulk, "one": one})


def fit(job: Job) -> Job:
    """Fills a memory bank, and keeps it if a folder is named."""
    np.random.seed(0)
    sampler = Timed(ApproximateGreedyCoresetSampler(job["ratio"], torch.device("cpu")))
    model = new_model(job, sampler)
    seconds: dict[str, float] = {}
    with clock(seconds, "all"):
        model.fit(loader(job["photos"], reader(job), batch=job["batch"]))
    seconds["coreset"] = sampler.seconds["all"]
    seconds["features"] = seconds["all"] - seconds["coreset"]
    if job["save"]:
        Path(job["save"]).mkdir(parents=True, exist_ok=True)
        model.anomaly_scorer.save(job["save"])
    return {"seconds": seconds, "num_rows": len(model.anomaly_scorer.detection_features)}


class Timed:
    """A sampler that notes how long it takes."""

    def __init__(self, sampler: ApproximateGreedyCoresetSampler) -> None:
        self.sampler = sampler
        self.seconds: dict[str, float] = {}

    def run(self, features: object) -> object:
        """Rows chosen by the sampler."""
        with clock(self.seconds, "all"):
            return self.sampler.run(features)


def bulk(job: Job) -> Job:
    """Scores photos in batches."""
    return in_bulk(job, reader(job), scorer(job))


def one(job: Job) -> Job:
    """Scores photos one by one."""
    read, score = reader(job), scorer(job)
    return one_by_one(job, lambda path: score(read(path)[None]))


def reader(job: Job) -> Read:
    """How it reads and prepares a photo, but for the crop, since the whole photo is looked at."""
    prepare = transforms.Compose(
        [
            transforms.Resize((job["size"], job["size"])),
            transforms.ToTensor(),
            transforms.Normalize(mean=job["mean"], std=job["std"]),
        ]
    )
    return lambda path: prepare(Image.open(path).convert("RGB"))


def scorer(job: Job) -> Score:
    """A fitted model."""
    model = new_model(job, IdentitySampler())
    model.anomaly_scorer.load(job["model"])

    def score(images: Tensor) -> list[float]:
        scores, _ = model.predict(images)
        return scores

    return score


def new_model(job: Job, sampler: object) -> PatchCore:
    """Its PatchCore over the network that all sides have."""
    network = set_trunk(timm.create_model(NETWORK, pretrained=False), job)
    model = PatchCore(torch.device("cpu"))
    model.load(
        backbone=network,
        layers_to_extract_from=LAYERS,
        device=torch.device("cpu"),
        input_shape=(3, job["size"], job["size"]),
        pretrain_embed_dimension=WIDTH,
        target_embed_dimension=WIDTH,
        anomaly_score_num_nn=1,
        featuresampler=sampler,
        nn_method=FaissNN(False, job["threads"]),
    )
    return model


if __name__ == "__main__":
    main()
