"""Contrastive losses: photos of a kind close together, all others apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def supcon_loss(embeddings: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv:2004.11362; thesis eq. 3.6).

    L = mean over i of -1 / |P(i)| sum over p in P(i) of log( exp(z_i . z_p / t) / sum over a in A(i) of
    exp(z_i . z_a / t) ), with z of length one, A(i) all others of the batch and P(i) those of them with i's label.
    The mean stands where the equation has a sum, so that the learning rate does not depend on the batch. An anchor
    without another of its label has no term, as it has no P(i).

    Args:
        embeddings: Shape (N, D), of any length but zero.
        labels: Shape (N,), whole numbers.
        temperature: t > 0.

    Returns:
        A scalar; 0, with gradients of 0, if no two have one label.

    Raises:
        ValueError: The temperature is not positive, or shapes do not fit.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings and labels of supcon_loss must have shapes (N, D) and (N,), "
            f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}."
        )
    return _mean_over_anchors(embeddings, labels, embeddings[:0], temperature)


def nt_xent(embeddings: Tensor, *, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """The normalised, temperature-scaled cross entropy of SimCLR (arXiv:2002.05709, eq. 1; thesis eq. 3.5).

    L = mean over i of -log( exp(z_i . z_j(i) / t) / sum over a in A(i) of exp(z_i . z_a / t) ), with j(i) the other
    view of i's photo: the supervised loss with each photo a class of its own, and computed as such. The mean stands
    where the thesis has a sum. With more than two views, the loss is averaged over the others.

    Args:
        embeddings: Shape (V, B, D), of V >= 2 views of B photos, of any length but zero.
        temperature: t > 0.
        negatives: Shape (N, D), of what no photo shall be close to, such as photos with planted defects; they belong
            to every A(i), and are no anchors.

    Raises:
        ValueError: The temperature is not positive, or shapes do not fit.
    """
    if embeddings.ndim != 3 or len(embeddings) < 2:
        raise ValueError(
            f"embeddings of nt_xent must have shape (V, B, D) with V of at least 2, got {tuple(embeddings.shape)}."
        )
    num_views, num_photos, width = embeddings.shape
    if negatives is None:
        negatives = embeddings.new_empty(0, width)
    if negatives.ndim != 2 or negatives.shape[1] != width:
        raise ValueError(f"negatives of nt_xent must have shape (N, {width}), got {tuple(negatives.shape)}.")
    photos = torch.arange(num_photos, device=embeddings.device).repeat(num_views)
    return _mean_over_anchors(embeddings.flatten(0, 1), photos, negatives, temperature)


def _mean_over_anchors(embeddings: Tensor, labels: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Eq. 3.6 of N embeddings, averaged, with M negatives in each of their A(i)."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature of a contrastive loss must be above 0 and finite, got {temperature}.")
    num_anchors = len(embeddings)
    unit = F.normalize(torch.cat([embeddings, negatives]), dim=1)
    similarity = unit[:num_anchors] @ unit.T / temperature  # (N, N + M)
    is_other = ~torch.eye(num_anchors, len(unit), dtype=torch.bool, device=unit.device)
    log_share = similarity - similarity.masked_fill(~is_other, -math.inf).logsumexp(dim=1, keepdim=True)
    is_positive = F.pad(labels[:, None] == labels, (0, len(negatives))) & is_other
    num_positives = is_positive.sum(dim=1)
    per_anchor = -log_share.masked_fill(~is_positive, 0).sum(dim=1) / num_positives.clamp(min=1)
    return per_anchor.sum() / (num_positives > 0).sum().clamp(min=1)
