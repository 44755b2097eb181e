"""anomalib's PatchCore and reverse distillation: a job in, numbers out (see ``benchmarks/peers.py``).

Its models, its reading of files and its preprocessing in plain loops, without its trainer, which would add to the
time. Each photo is resized by itself, as batches of different sizes cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from anomalib.data.utils import read_image
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
from anomalib.pre_processing import PreProcessor
from jobs import Job, Read, Score, clock, in_bulk, loader, one_by_one, serve, set_trunk
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

NETWORK = "tf_efficientnet_lite0"
LAYERS = ("blocks.2", "blocks.4")
"""Strides 8 and 16."""

STUDENT_LAYERS = ("blocks.1", "blocks.2", "blocks.4")
"""Strides 4, 8 and 16, as those of a ResNet that it distils by default."""

STUDENT_CHANNELS = (64, 128, 256)
"""Of ResNet-18's, the smallest network that it has a bottleneck and a decoder for."""

LEARNING_RATE, BETAS = 0.005, (0.5, 0.99)
"""As in its ``ReverseDistillation.configure_optimizers``."""


class Joined(nn.Module):
    """Its bottleneck or decoder for another network's channels, by 1 x 1 convolutions before or behind."""

    def __init__(self, inner: nn.Module, before: Sequence[nn.Module], behind: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inner = inner
        self.before = nn.ModuleList(before)
        self.behind = nn.ModuleList(behind)

    def forward(self, given: list[Tensor] | Tensor) -> list[Tensor] | Tensor:
        """Maps through the convolutions, where there are any, and the network."""
        if self.before:
            given = [fit(of) for fit, of in zip(self.before, given, strict=True)]
        found = self.inner(given)
        return [fit(of) for fit, of in zip(self.behind, found, strict=True)] if self.behind else found


def main() -> None:
    """Does one job."""
    serve({"fit": fit, "bulk": bulk, "one": one, "distill": distill})


def fit(job: Job) -> Job:
    """Fills a memory bank, and keeps it if a folder is named."""
    model, read = empty_model(), reader(job)
    set_trunk(model.feature_extractor.feature_extractor, job)
    model.train()
    seconds: dict[str, float] = {}
    with clock(seconds, "all"):
        with clock(seconds, "features"):
            for images in loader(job["photos"], read, batch=job["batch"]):
                model(images)
        with clock(seconds, "coreset"):
            model.subsample_embedding(job["ratio"])
    if job["save"]:
        Path(job["save"]).mkdir(parents=True, exist_ok=True)
        torch.save(model.memory_bank, Path(job["save"]) / "memory_bank.pth")
    return {"seconds": seconds, "num_rows": len(model.memory_bank)}


def bulk(job: Job) -> Job:
    """Scores photos in batches."""
    return in_bulk(job, reader(job), scorer(job))


def one(job: Job) -> Job:
    """Scores photos one by one."""
    read, score = reader(job), scorer(job)
    return one_by_one(job, lambda path: score(read(path)[None]))


def distill(job: Job) -> Job:
    """Trains a student; after each number of steps asked for: the seconds so far, and the scores of other photos."""
    model, read = student(job), reader(job)
    optimizer = torch.optim.Adam(
        [*model.decoder.parameters(), *model.bottleneck.parameters()], lr=LEARNING_RATE, betas=BETAS
    )
    loss_of = ReverseDistillationLoss()
    photos = torch.cat(list(loader(job["photos"], read, batch=job["batch"])))
    generator = torch.Generator().manual_seed(0)
    marks, seconds = [], 0.0
    for step in range(1, max(job["marks"]) + 1):
        drawn = torch.randperm(len(photos), generator=generator)[: job["batch"]]
        of_step: dict[str, float] = {}
        with clock(of_step, "all"):
            optimizer.zero_grad()
            loss_of(*model.train()(photos[drawn])).backward()
            optimizer.step()
        seconds += of_step["all"]
        if step in job["marks"]:
            model.eval()
            with torch.no_grad():
                batches = loader(job["others"], read, batch=job["batch"]) if job["others"] else ()
                scores = [float(of) for images in batches for of in model(images).pred_score]
            marks.append({"num_steps": step, "seconds": seconds, "scores": scores})
    return {"marks": marks}


def reader(job: Job) -> Read:
    """How it reads and prepares a photo."""
    size = [job["size"], job["size"]]
    prepare = PreProcessor(
        Compose([Resize(size, antialias=True), Normalize(mean=job["mean"], std=job["std"])])
    ).transform
    return lambda path: prepare(read_image(path, as_tensor=True))


def scorer(job: Job) -> Score:
    """A fitted model."""
    model = empty_model()
    set_trunk(model.feature_extractor.feature_extractor, job)
    model.memory_bank = torch.load(Path(job["model"]) / "memory_bank.pth", weights_only=True)
    model.eval()

    def score(images: Tensor) -> list[float]:
        with torch.no_grad():
            found: list[float] = model(images).pred_score.flatten().tolist()
        return found

    return score


def empty_model() -> PatchcoreModel:
    """Its PatchCore over the network that all sides have, with random weights."""
    return PatchcoreModel(layers=LAYERS, backbone=NETWORK, pre_trained=False)


def student(job: Job) -> ReverseDistillationModel:
    """Its reverse distillation of that network; it has bottleneck and decoder for ResNets only, so ResNet-18's."""
    size = (job["size"], job["size"])
    model = ReverseDistillationModel(
        "resnet18", size, ("layer1", "layer2", "layer3"), AnomalyMapGenerationMode.ADD, pre_trained=False
    )
    model.encoder = TimmFeatureExtractor(NETWORK, layers=STUDENT_LAYERS, pre_trained=False)
    set_trunk(model.encoder.feature_extractor, job)
    pairs = list(zip(model.encoder.out_dims, STUDENT_CHANNELS, strict=True))
    model.bottleneck = Joined(model.bottleneck, [nn.Conv2d(own, its, 1) for own, its in pairs], ())
    model.decoder = Joined(model.decoder, (), [nn.Conv2d(its, own, 1) for own, its in pairs])
    return model


if __name__ == "__main__":
    main()
