"""Whether a training still keeps photos apart: effective rank, alignment, uniformity, and drift from the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.errors import CollapseError
from inlier.features.pooling import embed_photos
from inlier.features.separation import effective_rank

LEAST_SPREAD_RATIO = 0.05
"""Share of the start's spread below which embeddings count as all alike, whatever their rank."""


def alignment(one: Tensor, other: Tensor) -> float:
    """How far two views of a photo are apart: mean |x - y|**2 (Wang & Isola, ICML 2020, arXiv:2005.10242, alpha = 2).

    Args:
        one: Embeddings of photos, shape (N, D), each of length 1.
        other: Of other views of the same photos, likewise.

    Returns:
        In [0, 4]; lower is better.
    """
    return float((one - other).square().sum(dim=1).mean())


def uniformity(embeddings: Tensor) -> float:
    """How evenly photos cover the sphere: log of the mean of exp(-2 |x - y|**2) over pairs (same paper, t = 2).

    Args:
        embeddings: Shape (N, D), each of length 1, N >= 2.

    Returns:
        In [-8, 0]; 0 where all are alike.
    """
    return float(torch.pdist(embeddings).square().mul(-2).exp().mean().log())


def drift(maps: Mapping[int, Tensor], start: Mapping[int, Tensor]) -> dict[int, float]:
    """How far each layer's embeddings of the same photos have turned: the mean of 1 - cos.

    Args:
        maps: Layer -> embeddings now, shape (N, C_l).
        start: Likewise at the start.

    Returns:
        Layer -> in [0, 2].
    """
    return {layer: float((1 - F.cosine_similarity(maps[layer], start[layer])).mean()) for layer in maps}


def spread(embeddings: Tensor) -> float:
    """Standard deviation of embeddings: the root of their mean squared distance from their mean.

    Args:
        embeddings: Shape (N, D), each of length 1.

    Returns:
        In [0, 1]; 0 where all are alike.
    """
    return float((embeddings - embeddings.mean(dim=0)).square().sum(dim=1).mean().sqrt())


class Watch:
    """Measures a backbone on the same views of the same photos again and again, and stops it when it collapses.

    A backbone whose embeddings become all alike has nothing left that tells an odd photo from others, however low its
    loss is: the thesis lost up to thirty points of AUROC in this way. An embedding is a layer's map, averaged. Each
    layer is watched by itself, since one may collapse while those before it are well.

    Collapsed is a layer whose effective rank (RankMe) falls below ``least_rank_ratio`` of what it was at the start,
    or whose spread below a twentieth. A fifth, the default, is the rank where photos have come, all together, about
    ten times as near to one another: with the default backbone and four sets of inspection photos between 0.14 and
    0.35 of the start's in any layer. If photos come ten times as near to those of their own of eight classes only, as
    supervised contrastive learning wants them to, it is 0.28 at least.

    Attributes:
        start: The figures at the start.

    Example:
        >>> images = torch.rand(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> weight = torch.ones(3)
        >>> watch = Watch(lambda images: {1: images * weight[:, None, None]}, images, least_rank_ratio=0)
        >>> weight[1:] = 0
        >>> watch.start["spread"] > 0.1 > 1e-6 > watch()["spread"]
        True
    """

    def __init__(
        self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, *, least_rank_ratio: float = 0.2
    ) -> None:
        """Measures the start.

        Args:
            embed: Runs the backbone that is trained: images (N, 3, S, S) -> layer -> map (N, C_l, h_l, w_l).
            views: Two views of each of N >= 2 photos, shape (2, N, 3, S, S), normalised.
            least_rank_ratio: In [0, 1); 0 measures, but never stops.
        """
        self._embed = embed
        self._views = views
        self._least_rank_ratio = least_rank_ratio
        with torch.no_grad():
            self._pooled = self._pool(views[0])
            self.start = self._measure()

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """The figures now: what the history is to say.

        ``effective_rank``, ``spread``, ``alignment`` and ``uniformity`` are of all layers' embeddings joined, each
        layer's part of the same length; ``drift`` is the layers' mean. ``effective_rank.layer4``, ``spread.layer4``
        and ``drift.layer4`` are of one layer, and so on.

        Raises:
            CollapseError: A layer has collapsed.
        """
        now = self._measure()
        for layer in self._pooled if self._least_rank_ratio else ():
            rank, width = f"effective_rank.layer{layer}", f"spread.layer{layer}"
            is_low = now[rank] < self._least_rank_ratio * self.start[rank]
            is_narrow = now[width] < LEAST_SPREAD_RATIO * self.start[width]
            if is_low or is_narrow or not math.isfinite(now[rank]):
                raise CollapseError(
                    f"embeddings of layer {layer} have become all alike: their effective rank was "
                    f"{self.start[rank]:.1f} and is {now[rank]:.1f}, their spread was {self.start[width]:.2g} and is "
                    f"{now[width]:.2g}; choose lower learning rates, or a higher anchor_weight."
                )
        return now

    def _measure(self) -> dict[str, float]:
        one, other = self._pool(self._views[0]), self._pool(self._views[1])
        joined, joined_other = (F.normalize(torch.cat([*pooled.values()], dim=1)) for pooled in (one, other))
        turned = drift(one, self._pooled)
        figures = {
            "effective_rank": effective_rank(joined.numpy()),
            "spread": spread(joined),
            "alignment": alignment(joined, joined_other),
            "uniformity": uniformity(joined),
            "drift": sum(turned.values()) / len(turned),
        }
        for layer, embeddings in one.items():
            figures[f"effective_rank.layer{layer}"] = effective_rank(embeddings.numpy())
            figures[f"spread.layer{layer}"] = spread(embeddings)
            figures[f"drift.layer{layer}"] = turned[layer]
        return figures

    def _pool(self, images: Tensor) -> dict[int, Tensor]:
        maps = self._embed(images)
        return {layer: embed_photos([features.float().cpu()], power=1) for layer, features in maps.items()}
