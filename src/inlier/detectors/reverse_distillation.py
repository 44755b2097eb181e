"""ReverseDistillation: how badly a student that knows only normal photos imitates its teacher (arXiv:2201.10703)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.data.splits import hold_out
from inlier.detectors.anomaly_map import POOLINGS, Pooling, pool_map, smooth_map
from inlier.detectors.protocol import check_features, check_is_fitted, take
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.student import Bottleneck, Student
from inlier.records import Prediction
from inlier.training import Schedule, draw_places, train

Loss = Literal["flattened", "per-position"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

Combination = Literal["sum", "product"]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)

ENOUGH_GROUPS = 10
"""Groups from which on some are held out to tell when to stop; fewer are all learned from."""

NUM_TOGETHER = 8
"""Photos that the networks see at once where they do not learn; inside, a photo takes many times what its maps do."""

NUM_CHECKS = 20
"""Looks at the held-out loss, and checkpoints, in a training that is not stopped early."""


class ReverseDistillation:
    """A small student learns to tell the teacher's maps of normal photos from a narrow embedding of them.

    The teacher is the backbone, frozen, and its maps are cached, so that a step of training never runs it. What it
    sees of an odd photo does not pass the bottleneck, which has learned to pass normal ones only, and the student's
    answer differs (Deng & Li, CVPR 2022; the thesis's 3.3). Where and how much says eq. 3.4 of the thesis,
    M_l(h, w) = 1 - cos(teacher's vector, student's vector), for each of ``scoring_layers``, enlarged and combined.

    Departures from the paper, beside those of the networks (see ``student``):

    - The loss. The paper prints the mean of M_l; its authors' code takes the cosine of a layer's flattened maps,
      which weighs cells by their length (their issue 22). Flattened is the default, since it finds more of the
      development anomalies of magnetic tiles, and others report the same; ``loss="per-position"`` is the paper's.
    - The score averages the worst part of the map, where the paper takes the worst pixel (``pooling="max"``) and the
      thesis the mean (``"mean"``).
    - A budget of photos shown in place of epochs, Adam on one cycle, and an early stop when photos that are held out
      are no longer imitated better (the thesis's appendix B), in place of 200 epochs at a constant rate.

    Learns the networks ``bottleneck_`` and ``student_``.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({2: torch.rand(4, 6, 8, 8), 3: torch.rand(4, 8, 4, 4)}, groups=list("abcd"))
        ...     detector = ReverseDistillation(layers=(2, 3), num_samples=32).fit(cache.features())
        >>> detector.predict({2: torch.rand(2, 6, 8, 8), 3: torch.rand(2, 8, 4, 4)}).score.shape
        torch.Size([2])
    """

    is_trained = True

    def __init__(
        self,
        *,
        layers: Sequence[int] = (2, 3, 4),
        scoring_layers: Sequence[int] = (),
        loss: Loss = "flattened",
        combination: Combination = "sum",
        pooling: Pooling = "top",
        top_ratio: float = 0.2,
        map_size: int = 224,
        sigma: float = 4.0,
        width: int = 128,
        num_samples: int = 6_400,
        batch_size: int = 16,
        bottleneck_rate: float = 4e-4,
        student_rate: float = 4e-4,
        cycle_factor: float = 10.0,
        betas: Sequence[float] = (0.9, 0.99),
        held_out_ratio: float = 0.1,
        patience: int = 5,
        seed: int = 0,
        checkpoints: Path | None = None,
        watch: Callable[[ReverseDistillation, float], None] | None = None,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers the student imitates, at least two, as a rule three.
            scoring_layers: Which of these contribute to map and score (thesis, 5.4); none named: all, but of three
                and more not the finest, which by itself tells least.
            loss: ``flattened`` compares a layer's whole maps as one vector, ``per-position`` each cell's vector.
            combination: ``sum`` or ``product`` of the layers' maps.
            pooling: ``max``, ``mean`` or ``top``, over the anomaly map.
            top_ratio: Share of the map that ``top`` averages, in (0, 1].
            map_size: Height and width of the anomaly map, in pixels.
            sigma: Of the Gaussian over the anomaly map, in its pixels; 0 for none.
            width: Channels of the embedding, and the most that a block of the student has.
            num_samples: Photos shown in training, each as often as another; the budget that sets the time it takes.
            batch_size: Photos a step.
            bottleneck_rate: Learning rate of the bottleneck where the cycle begins.
            student_rate: Likewise of the student.
            cycle_factor: How many times these the learning rates reach.
            betas: Adam's two, in [0, 1).
            held_out_ratio: Share of the photos, whole groups, that tell when to stop, in (0, 1).
            patience: Looks at these without improvement after which training stops, of twenty in all.
            seed: Of weights, order and held-out groups.
            checkpoints: Folder from which an interrupted fit goes on; None: keeps none.
            watch: Called twenty times while it trains, with this detector as it is then, which can predict, and the
                share of the training that is done; what it raises ends the training.

        Raises:
            ValueError: A parameter is outside its range.
        """
        self.layers = check_layers("ReverseDistillation", layers)
        _check_choices(loss=(loss, LOSSES), combination=(combination, COMBINATIONS), pooling=(pooling, POOLINGS))
        if not set(scoring_layers) <= set(self.layers) or len(set(scoring_layers)) != len(scoring_layers):
            raise ValueError(
                "scoring_layers of ReverseDistillation must be different ones of its layers, "
                f"{list(self.layers)}, got {list(scoring_layers)}."
            )
        if not 0 < top_ratio <= 1:
            raise ValueError(f"top_ratio of ReverseDistillation must be in (0, 1], got {top_ratio}.")
        if not 0 < held_out_ratio < 1:
            raise ValueError(f"held_out_ratio of ReverseDistillation must be in (0, 1), got {held_out_ratio}.")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma of ReverseDistillation must be at least 0, got {sigma}.")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas of ReverseDistillation must be two numbers in [0, 1), got {list(betas)}.")
        for name, rate in (("bottleneck_rate", bottleneck_rate), ("student_rate", student_rate)):
            if not 0 < rate < math.inf:
                raise ValueError(f"{name} of ReverseDistillation must be above 0, got {rate}.")
        for name, number, least in (
            ("batch_size", batch_size, 1),
            ("num_samples", num_samples, 1),
            ("map_size", map_size, 1),
            ("width", width, 1),
            ("patience", patience, 1),
            ("cycle_factor", cycle_factor, 1),
            ("seed", seed, 0),
        ):
            if not least <= number < math.inf:
                raise ValueError(f"{name} of ReverseDistillation must be at least {least}, got {number}.")
        self.scoring_layers = tuple(sorted(scoring_layers)) or self.layers[-max(2, len(self.layers) - 1) :]
        self.loss = loss
        self.combination = combination
        self.pooling = pooling
        self.top_ratio = top_ratio
        self.map_size = map_size
        self.sigma = sigma
        self.width = width
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.learning_rates = {"bottleneck_": bottleneck_rate, "student_": student_rate}
        self.cycle_factor = cycle_factor
        self.betas = (betas[0], betas[1])
        self.held_out_ratio = held_out_ratio
        self.patience = patience
        self.seed = seed
        self.checkpoints = checkpoints
        self.watch = watch

    def fit(self, features: FeatureSet) -> Self:
        """Trains bottleneck and student on the photos' maps; with ``checkpoints`` it goes on where it stopped."""
        check_features(self, features)
        features = features.select(np.argsort(features.indices, kind="stable").tolist())  # their order tells nothing
        learned, held_out = self._divide(features)
        channels = [self._teacher(learned, [0])[place].shape[1] for place in range(len(self.layers))]
        networks = self._new_networks(channels, self.width)

        def batches_from(step: int) -> Iterator[list[Tensor]]:
            drawn = draw_places(len(learned), batch_size=self.batch_size, seed=self.seed, first_step=step)
            return (self._teacher(learned, places) for places in drawn)

        def loss_of(teacher: list[Tensor]) -> Tensor:
            return distillation_loss(teacher, _answer(networks, teacher), loss=self.loss).mean()

        def held_out_loss() -> float:
            losses = [
                distillation_loss(teacher, _answer(networks, teacher), loss=self.loss)
                for maps in held_out.batches()
                for teacher in self._in_parts(maps)
            ]
            return float(torch.cat(losses).mean())

        num_looks = 0

        def look() -> dict[str, float]:
            nonlocal num_looks
            num_looks += 1
            self.bottleneck_, self.student_ = networks["bottleneck_"], networks["student_"]
            assert self.watch is not None  # else nobody looks
            self.watch(self, min(1.0, num_looks * schedule.check_every / schedule.num_steps))
            return {}

        schedule = self._schedule()
        train(
            networks,
            loss_of,
            batches_from,
            schedule,
            held_out_loss=held_out_loss if held_out else None,
            watch=look if self.watch else None,
            checkpoint=self._checkpoint(features),
        )
        self.bottleneck_, self.student_ = networks["bottleneck_"], networks["student_"]
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; there is no evidence, for the student does not know from which photo it has something."""
        check_is_fitted(self, "student_")
        with torch.no_grad():
            combined = torch.cat([self._distance_maps(teacher) for teacher in self._in_parts(maps)])
        anomaly_map = smooth_map(combined, size=self.map_size, sigma=self.sigma)
        score = pool_map(anomaly_map, pooling=self.pooling, top_ratio=self.top_ratio)
        return Prediction(score, anomaly_map, None)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights of both networks, behind their names."""
        check_is_fitted(self, "student_")
        return {
            f"{name}.{key}": tensor
            for name, network in self._networks().items()
            for key, tensor in network.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's networks, of whatever width and for whatever backbone."""
        width = len(take(self, state, "bottleneck_.join.0.weight"))
        channels = [len(take(self, state, f"student_.heads.{place}.weight")) for place in range(len(self.layers))]
        networks = self._new_networks(channels, width)
        for name, network in networks.items():
            network.load_state_dict({key: take(self, state, f"{name}.{key}") for key in network.state_dict()})
            network.eval()
        self.bottleneck_, self.student_ = networks["bottleneck_"], networks["student_"]
        return self

    def _divide(self, features: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
        """Photos to learn from, and photos of other groups that tell when to stop; none if there are few."""
        if len(set(features.groups)) < ENOUGH_GROUPS:
            return features, features.select([])
        is_held_out = hold_out(features.groups, ratio=self.held_out_ratio, seed=self.seed)
        learned, held_out = (features.select(np.flatnonzero(of).tolist()) for of in (~is_held_out, is_held_out))
        return learned, held_out.originals()

    def _chosen(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """The teacher's maps of all layers, finest first, in the order of memory that convolutions work fastest in."""
        return [maps[layer].contiguous(memory_format=torch.channels_last) for layer in self.layers]

    def _in_parts(self, maps: Mapping[int, Tensor]) -> Iterator[list[Tensor]]:
        """The same as ``_chosen`` of a few photos at a time."""
        parts = zip(*(torch.split(maps[layer], NUM_TOGETHER) for layer in self.layers), strict=True)
        return (self._chosen(dict(zip(self.layers, part, strict=True))) for part in parts)

    def _distance_maps(self, teacher: Sequence[Tensor]) -> Tensor:
        """How far the student is from the teacher, layers combined: shape (B, map_size, map_size)."""
        distances = [
            cosine_distance(of_teacher, of_student)
            for layer, of_teacher, of_student in zip(
                self.layers, teacher, _answer(self._networks(), teacher), strict=True
            )
            if layer in self.scoring_layers
        ]
        return combine_maps(distances, combination=self.combination, size=self.map_size)

    def _teacher(self, features: FeatureSet, places: Sequence[int]) -> list[Tensor]:
        return self._chosen(features.select(places).with_layers(self.layers).read())

    def _new_networks(self, channels: Sequence[int], width: int) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left where they were
            torch.manual_seed(self.seed)
            networks = {"bottleneck_": Bottleneck(channels, width=width), "student_": Student(channels, width=width)}
        return {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}

    def _networks(self) -> dict[str, nn.Module]:
        return {"bottleneck_": self.bottleneck_, "student_": self.student_}

    def _schedule(self) -> Schedule:
        num_steps = math.ceil(self.num_samples / self.batch_size)
        return Schedule(
            num_steps=num_steps,
            learning_rates=self.learning_rates,
            cycle_factor=self.cycle_factor,
            betas=self.betas,
            check_every=math.ceil(num_steps / NUM_CHECKS),
            patience=self.patience,
            seed=self.seed,
        )

    def _checkpoint(self, features: FeatureSet) -> Path | None:
        """A file of this detector and these photos alone, so that each fold's fit finds its own."""
        if self.checkpoints is None:
            return None
        settings = {
            name: value
            for name, value in vars(self).items()
            if not name.endswith("_") and name not in ("checkpoints", "watch")
        }
        digest = hashlib.sha256(json.dumps([settings, features.indices, features.groups]).encode())
        for tensor in self._teacher(features, range(min(len(features), self.batch_size))):
            digest.update(tensor.contiguous().numpy().tobytes())
        return self.checkpoints / f"reverse-distillation-{digest.hexdigest()[:16]}.safetensors"


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Eq. 3.4 of the thesis, eq. 1 of the paper: 1 - cos of the two vectors in each cell.

    Args:
        teacher: Shape (B, C, h, w).
        student: Likewise.

    Returns:
        Shape (B, h, w), in [0, 2]; 1 where a vector is zero.
    """
    return 1 - F.cosine_similarity(teacher, student, dim=1)


def distillation_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], *, loss: Loss) -> Tensor:
    """How far the student is from the teacher, summed over layers (the paper's eq. 2).

    The paper prints the mean of the cells' distances, here ``per-position``; the authors' code flattens each layer's
    map and takes one distance, here ``flattened``, which weighs cells by their length and binds these to each other.

    Args:
        teacher: For each layer shape (B, C_l, h_l, w_l).
        student: Likewise.
        loss: ``flattened`` or ``per-position``.

    Returns:
        Shape (B,), in [0, 2 * number of layers].
    """
    pairs = list(zip(teacher, student, strict=True))
    if loss == "flattened":
        distances = [1 - F.cosine_similarity(wanted.flatten(1), got.flatten(1)) for wanted, got in pairs]
    else:
        distances = [cosine_distance(wanted, got).mean(dim=(1, 2)) for wanted, got in pairs]
    return torch.stack(distances).sum(dim=0)


def combine_maps(distances: Sequence[Tensor], *, combination: Combination, size: int) -> Tensor:
    """The layers' maps, enlarged bilinearly to shape (B, size, size), as one: their sum, or their product."""
    enlarged = torch.stack(
        [
            F.interpolate(distance[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
            for distance in distances
        ]
    )
    return enlarged.sum(dim=0) if combination == "sum" else enlarged.prod(dim=0)


def _answer(networks: Mapping[str, nn.Module], teacher: Sequence[Tensor]) -> list[Tensor]:
    """What the student makes of the teacher's maps: shape (B, C_l, h_l, w_l) for each layer."""
    sizes = [features.shape[-2:] for features in teacher]
    answer: list[Tensor] = networks["student_"](networks["bottleneck_"](teacher), sizes)
    return answer


def _check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (chosen, allowed) in choices.items():
        if chosen not in allowed:
            raise ValueError(f"{name} of ReverseDistillation must be one of {', '.join(allowed)}, got {chosen!r}.")
