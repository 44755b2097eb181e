"""Fitted detectors as networks of plain tensor operations, which can be exported: one function a detector.

A detector's ``predict`` works in chunks and in NumPy, keeps memory low and finds evidence. What is here computes the
same scores and maps of one photo, in one piece and without evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.detectors.anomaly_map import pool_map, smooth_map
from inlier.detectors.baselines import Baseline
from inlier.detectors.combined import Combined
from inlier.detectors.components import Components
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Detector
from inlier.detectors.reverse_distillation import ReverseDistillation, combine_maps, cosine_distance
from inlier.detectors.subspace import PatchSubspace, PhotoSubspace
from inlier.errors import ConfigError
from inlier.features.pooling import embed_photos

Shapes = Mapping[int, Sequence[int]]
"""Layer -> (C, h, w) of a photo's map."""

Maps = dict[int, Tensor]
Scored = tuple[Tensor, Tensor | None]
"""The score, shape (1,), and the anomaly map, shape (1, H, W), or None."""


def forward_of(detector: Detector, shapes: Shapes) -> nn.Module:
    """A network that scores the maps of one photo as the detector does: ``Maps`` of (1, C, h, w) -> ``Scored``.

    Args:
        detector: Fitted.
        shapes: Of the maps that will come.

    Raises:
        ConfigError: It is of a kind that cannot be exported.
    """
    make = FORWARDS.get(type(detector))
    if make is None:
        raise ConfigError(f"{type(detector).__name__} cannot be exported; fit another detector.")
    return make(detector, shapes).eval().requires_grad_(False)


class _Constants(nn.Module):
    """A network with tensors that it has learned, or that follow from its settings."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone().float().contiguous(), persistent=False)


class _Neighbors(_Constants):
    """The nearest rows of a bank: those of the smallest |b|^2 - 2 q.b, measured by their differences."""

    bank: Tensor
    factors: Tensor
    lengths: Tensor

    def __init__(self, bank: Tensor) -> None:
        super().__init__(bank=bank, factors=-2 * bank.T, lengths=bank.square().sum(dim=1))

    def forward(self, queries: Tensor, num_neighbors: int = 1) -> tuple[Tensor, Tensor]:
        """Distances from (Q, D), and the rows, shape (Q, K) each; K is at most the number of rows."""
        apart = queries @ self.factors + self.lengths  # (Q, M)
        if num_neighbors == 1:
            rows = apart.argmin(dim=1, keepdim=True)
        else:
            rows = apart.topk(min(num_neighbors, len(self.bank)), dim=1, largest=False).indices
        differences = self.bank[rows] - queries[:, None]  # (Q, K, D)
        return differences.square().sum(dim=2).sqrt(), rows


class _Patches(_Constants):
    """``embed_patches`` of one photo, as averages and interpolation: maps -> (h * w, D)."""

    along: Tensor

    def __init__(self, detector: PatchCore | PatchSubspace, shapes: Shapes, *, grid: Sequence[int], width: int) -> None:
        depth = sum(shapes[layer][0] for layer in detector.layers)
        self.is_narrow = 0 < width < depth
        super().__init__(along=F.adaptive_avg_pool1d(torch.eye(depth), width) if self.is_narrow else torch.empty(0))
        self.layers, self.patch_size, self.grid = detector.layers, detector.patch_size, tuple(grid)
        self.is_cosine = detector.distance == "cosine"
        for layer in self.layers:  # finer maps than the grid are averaged to it: a matrix on either side
            for side, (given, wanted) in enumerate(zip(shapes[layer][1:], grid, strict=True)):
                shrink = F.adaptive_avg_pool1d(torch.eye(given), wanted).T if self._is_finer(shapes[layer]) else None
                self.register_buffer(f"shrink_{layer}_{side}", shrink, persistent=False)

    def _is_finer(self, shape: Sequence[int]) -> bool:
        return shape[1] > self.grid[0] or shape[2] > self.grid[1]

    def forward(self, maps: Maps) -> Tensor:
        """Shape (cells, D)."""
        parts = []
        for layer in self.layers:
            features = maps[layer]
            if getattr(self, f"shrink_{layer}_0") is not None:
                features = getattr(self, f"shrink_{layer}_0") @ features @ getattr(self, f"shrink_{layer}_1").T
            if self.patch_size > 1:
                features = F.avg_pool2d(features, self.patch_size, 1, self.patch_size // 2, count_include_pad=False)
            if features.shape[-2:] != self.grid:
                features = F.interpolate(features, self.grid, mode="bilinear", align_corners=False)
            cells = features.flatten(2)[0].T  # (h * w, C)
            parts.append(F.normalize(cells, dim=1) if self.is_cosine else cells)
        joined = torch.cat(parts, dim=1)
        return joined @ self.along if self.is_narrow else joined


class _Smooth(_Constants):
    """``smooth_map``: patch scores of one photo, (1, h, w) -> (1, size, size)."""

    down: Tensor
    across: Tensor

    def __init__(self, grid: Sequence[int], *, size: int, sigma: float) -> None:
        # Of a map one cell wide, every column is what the rows' matrix makes of it; so a unit vector gives a column.
        down, across = (smooth_map(torch.eye(n)[:, :, None], size=size, sigma=sigma)[:, :, 0] for n in grid)
        super().__init__(down=down.T, across=across)

    def forward(self, patch_scores: Tensor) -> Tensor:
        """Shape (1, size, size)."""
        return self.down @ patch_scores @ self.across


class _PatchCore(nn.Module):
    def __init__(self, detector: PatchCore, shapes: Shapes) -> None:
        super().__init__()
        grid = detector._grid(shapes[detector.layers[0]][1:])
        self.grid, self.pooling, self.top_ratio = grid, detector.pooling, detector.top_ratio
        self.embed = _Patches(detector, shapes, grid=grid, width=detector.embedding_width)
        self.nearest = _Neighbors(detector.memory_bank_)
        self.smooth = _Smooth(grid, size=detector.map_size, sigma=detector.sigma)
        self.num_neighbors = min(detector.num_neighbors, len(detector.memory_bank_))
        self.is_reweighted = detector.is_reweighted and self.num_neighbors > 1

    def forward(self, maps: Maps) -> Scored:
        patches = self.embed(maps)
        distances, rows = self.nearest(patches)
        patch_scores = distances.view(1, *self.grid)
        score = pool_map(patch_scores, pooling=self.pooling, top_ratio=self.top_ratio)
        if self.is_reweighted:
            score = self._reweighted(patches, distances[:, 0], rows[:, 0])
        return score, self.smooth(patch_scores)

    def _reweighted(self, patches: Tensor, distances: Tensor, rows: Tensor) -> Tensor:
        """Eq. 7 of the paper, as ``PatchCore`` has it."""
        worst = distances.argmax(dim=0, keepdim=True)  # (1,)
        largest = distances[worst]
        around = self.nearest(self.nearest.bank[rows[worst]], self.num_neighbors)[1][0]  # (b,)
        apart = (patches[worst] - self.nearest.bank[around]).norm(dim=1)
        return (1 - torch.exp(largest - torch.logsumexp(apart, dim=0, keepdim=True))) * largest


class _Residuals(_Constants):
    """Distance from a subspace: (N, D) -> (N,)."""

    mean: Tensor
    directions: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        """As ``Subspace.residuals``."""
        centred = rows - self.mean
        left = centred - centred @ self.directions @ self.directions.T
        return left.square().sum(dim=1).sqrt()


def _residuals(detector: PatchSubspace | PhotoSubspace) -> nn.Module:
    mean, directions = detector.subspace_.moments.mean, detector.subspace_.directions
    # Exporters know no empty matrices.
    return _Residuals(mean=mean, directions=directions if directions.shape[1] else torch.zeros(len(mean), 1))


class _PatchSubspace(nn.Module):
    def __init__(self, detector: PatchSubspace, shapes: Shapes) -> None:
        super().__init__()
        self.grid = tuple(shapes[detector.layers[0]][1:])
        self.pooling, self.top_ratio = detector.pooling, detector.top_ratio
        self.embed = _Patches(detector, shapes, grid=self.grid, width=0)
        self.residuals = _residuals(detector)
        self.smooth = _Smooth(self.grid, size=detector.map_size, sigma=detector.sigma)

    def forward(self, maps: Maps) -> Scored:
        patch_scores = self.residuals(self.embed(maps)).view(1, *self.grid)
        return pool_map(patch_scores, pooling=self.pooling, top_ratio=self.top_ratio), self.smooth(patch_scores)


class _Photo(nn.Module):
    """Detectors of whole photos: what scores an embedding, (1, D) -> (1,), behind the pooling."""

    def __init__(self, detector: PhotoNeighbors | PhotoSubspace | Baseline, scorer: nn.Module) -> None:
        super().__init__()
        self.layers, self.power, self.scorer = detector.layers, detector.power, scorer

    def forward(self, maps: Maps) -> Scored:
        return cast(Tensor, self.scorer(embed_photos([maps[of] for of in self.layers], power=self.power))), None


class _Whitened(_Constants):
    """Scores of ``PhotoNeighbors``: the mean distance to the nearest photos, and the way towards a background."""

    mean: Tensor
    whitening: Tensor
    towards: Tensor

    def __init__(self, detector: PhotoNeighbors) -> None:
        super().__init__(mean=detector.mean_, whitening=detector.whitening_, towards=detector.towards_)
        self.nearest, self.num_neighbors = _Neighbors(detector.photos_), detector.num_neighbors

    def forward(self, embedding: Tensor) -> Tensor:
        whitened = (embedding - self.mean) @ self.whitening
        distances, _ = self.nearest(whitened, self.num_neighbors)
        return cast(Tensor, distances.mean(dim=1) + (whitened @ self.towards).clamp_min(0))


class _Machine(_Constants):
    """Minus the sum of a support vector machine's kernels."""

    vectors: Tensor
    weights: Tensor

    def __init__(self, vectors: Tensor, weights: Tensor, *, gamma: float) -> None:
        super().__init__(vectors=vectors, weights=weights)
        self.gamma = gamma

    def forward(self, embedding: Tensor) -> Tensor:
        squared = (self.vectors - embedding).square().sum(dim=1)
        return -(torch.exp(-self.gamma * squared) * self.weights).sum(dim=0, keepdim=True)


class _Nearest(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.nearest = _Neighbors(rows)

    def forward(self, embedding: Tensor) -> Tensor:
        return cast(Tensor, self.nearest(embedding)[0])[:, 0]


def _baseline(detector: Baseline, shapes: Shapes) -> nn.Module:
    """The estimator that the detector fits on its photos, fitted once more to see what it learned."""
    rows = detector.photos_.double().numpy()
    method = detector.method if float(np.ptp(rows, axis=0).max()) > 1e-6 else "nearest-neighbor"
    if method == "mahalanobis":
        from sklearn.covariance import LedoitWolf

        gaussian = LedoitWolf().fit(rows)
        variances, directions = np.linalg.eigh(gaussian.covariance_)
        factor = torch.from_numpy(directions / np.sqrt(variances))  # W of W W' = the inverse of the covariance
        return _Photo(detector, _Distance(mean=torch.from_numpy(gaussian.location_), factor=factor))
    if method == "one-class-svm":
        from sklearn.svm import OneClassSVM

        machine = OneClassSVM().fit(rows)
        vectors, weights = torch.from_numpy(machine.support_vectors_), torch.from_numpy(machine.dual_coef_[0])
        return _Photo(detector, _Machine(vectors, weights, gamma=float(machine._gamma)))
    if method == "isolation-forest":
        raise ConfigError(
            "baseline with method isolation-forest cannot be exported: its trees are no operations on tensors; the "
            "other three methods of baseline can be."
        )
    return _Photo(detector, _Nearest(detector.photos_))


class _Distance(_Constants):
    """The length of a whitened row."""

    mean: Tensor
    factor: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        return ((embedding - self.mean) @ self.factor).square().sum(dim=1).sqrt()


class _ReverseDistillation(nn.Module):
    def __init__(self, detector: ReverseDistillation, shapes: Shapes) -> None:
        super().__init__()
        self.detector_layers, self.scoring_layers = detector.layers, detector.scoring_layers
        self.sizes = [tuple(shapes[layer][1:]) for layer in detector.layers]
        self.bottleneck, self.student = detector.bottleneck_, detector.student_
        self.combination, self.size = detector.combination, detector.map_size
        self.pooling, self.top_ratio = detector.pooling, detector.top_ratio
        self.smooth = _Smooth((self.size, self.size), size=self.size, sigma=detector.sigma)

    def forward(self, maps: Maps) -> Scored:
        teacher = [maps[layer] for layer in self.detector_layers]
        student = self.student(self.bottleneck(teacher), self.sizes)
        distances = [
            cosine_distance(theirs, ours)
            for layer, theirs, ours in zip(self.detector_layers, teacher, student, strict=True)
            if layer in self.scoring_layers
        ]
        anomaly_map = self.smooth(combine_maps(distances, combination=self.combination, size=self.size))
        return pool_map(anomaly_map, pooling=self.pooling, top_ratio=self.top_ratio), anomaly_map


class _Combined(_Constants):
    centers: Tensor
    scales: Tensor

    def __init__(self, detector: Combined, shapes: Shapes) -> None:
        super().__init__(centers=detector.centers_, scales=detector.scales_)
        self.members = nn.ModuleList(forward_of(member, shapes) for member in detector.members)

    def forward(self, maps: Maps) -> Scored:
        scored = [member(maps) for member in self.members]
        shares = (torch.cat([score for score, _ in scored]) - self.centers) / self.scales
        anomaly_map = next((of for _, of in scored if of is not None), None)
        return shares.sum(dim=0, keepdim=True), anomaly_map


class ComponentForward(_Constants):
    """What ``Components.suggest`` says of one photo: maps -> the class's number, (1,), and its probability, (1,)."""

    means: Tensor
    whitening: Tensor

    def __init__(self, components: Components) -> None:
        super().__init__(means=components.means_, whitening=components.whitening_)
        self.layers, self.power = components.layers, components.power
        self.spread, self.temperature = float(components.spread_), float(components.temperature_)

    def forward(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """Number of the most similar class, int64, and its probability."""
        whitened = embed_photos([maps[layer] for layer in self.layers], power=self.power) @ self.whitening
        squared = (self.means - whitened).square().sum(dim=1)[None]  # (1, classes)
        likelihood = -self.spread / 2 * torch.log1p(squared / self.spread)
        probability = (likelihood / self.temperature).softmax(dim=1)
        return probability.argmax(dim=1), probability.amax(dim=1)


FORWARDS: dict[type, Callable[[Any, Shapes], nn.Module]] = {
    PatchCore: _PatchCore,
    PatchSubspace: _PatchSubspace,
    PhotoNeighbors: lambda detector, shapes: _Photo(detector, _Whitened(detector)),
    PhotoSubspace: lambda detector, shapes: _Photo(detector, _residuals(detector)),
    Baseline: _baseline,
    ReverseDistillation: _ReverseDistillation,
    Combined: _Combined,
}
"""Detector -> what makes a network of a fitted one."""
