from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor

from inlier.finetuning.contrastive import nt_xent, supcon_loss

LABELS = torch.tensor([2, 0, 2, 1, 0, 2, 7])  # 1 and 7 are alone
TEMPERATURES = [0.05, 0.2, 1.0]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_exp(one: Tensor, other: Tensor, temperature: float) -> float:
    """exp(z_i . z_a / t), of unit vectors, number by number."""
    a, b = one.tolist(), other.tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return math.exp(dot / lengths / temperature)


def slow_supervised(rows: Sequence[Tensor], labels: Sequence[int], temperature: float) -> float:
    """Eq. 3.6, over the number of its anchors that have a P(i)."""
    terms = []
    for i in range(len(rows)):
        others = [a for a in range(len(rows)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(slow_exp(rows[i], rows[a], temperature) for a in others)
            logs = [math.log(slow_exp(rows[i], rows[p], temperature) / total) for p in positives]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


def slow_self_supervised(one: Tensor, other: Tensor, negatives: Sequence[Tensor], temperature: float) -> float:
    """Eq. 3.5, over the number of its anchors."""
    rows, num_photos = [*one, *other], len(one)
    total = 0.0
    for i in range(len(rows)):
        j = (i + num_photos) % len(rows)
        others = [rows[a] for a in range(len(rows)) if a != i] + [*negatives]
        below = sum(slow_exp(rows[i], row, temperature) for row in others)
        total -= math.log(slow_exp(rows[i], rows[j], temperature) / below)
    return total / len(rows)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_losses_are_their_equations_written_out(temperature: float) -> None:
    rows, views, negatives = random(7, 5), random(2, 4, 5, seed=1), random(3, 5, seed=2)
    expected = slow_supervised([*rows], LABELS.tolist(), temperature)
    assert supcon_loss(rows, LABELS, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)
    expected = slow_self_supervised(views[0], views[1], [], temperature)
    assert nt_xent(views, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)
    expected = slow_self_supervised(views[0], views[1], [*negatives], temperature)
    found = nt_xent(views, temperature=temperature, negatives=negatives).item()
    assert found == pytest.approx(expected, abs=1e-6)


def test_with_more_views_each_other_view_of_a_photo_counts_alike() -> None:
    views = random(3, 4, 5)
    expected = slow_supervised([*views.flatten(0, 1)], [0, 1, 2, 3] * 3, 0.3)
    assert nt_xent(views, temperature=0.3).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_losses_agree_with_an_independent_library(temperature: float) -> None:
    rows, views = random(7, 5), random(2, 4, 5, seed=1)
    expected = SupConLoss(temperature=temperature)(rows, LABELS)
    assert torch.allclose(supcon_loss(rows, LABELS, temperature=temperature), expected, atol=1e-6)
    expected = NTXentLoss(temperature=temperature)(views.flatten(0, 1), torch.arange(4).repeat(2))
    assert torch.allclose(nt_xent(views, temperature=temperature), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda rows: supcon_loss(rows, LABELS, temperature=0.3), [(7, 4)]),
        (lambda views: nt_xent(views, temperature=0.3), [(2, 4, 3)]),
        (lambda views, negatives: nt_xent(views, temperature=0.3, negatives=negatives), [(2, 3, 3), (2, 3)]),
    ],
)
def test_their_gradients_are_right(loss: Callable[..., Tensor], shapes: list[tuple[int, ...]]) -> None:
    given = [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, given)
    loss(*given).backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in given)


def test_values_worked_out_by_hand() -> None:
    """Photos at right angles: each anchor has its other view at cosine 1, and two others at 0."""
    views = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    expected = math.log(math.e + 2) - 1
    assert nt_xent(views, temperature=1.0).item() == pytest.approx(expected, abs=1e-12)
    assert nt_xent(3 * views, temperature=0.5).item() == pytest.approx(math.log(math.e**2 + 2) - 2, abs=1e-12)
    opposite = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)  # exp(-1 / sqrt(2)) more below
    found = nt_xent(views, temperature=1.0, negatives=opposite).item()
    assert found == pytest.approx(math.log(math.e + 2 + math.exp(-math.sqrt(0.5))) - 1, abs=1e-12)
    alike = torch.ones(6, 3, dtype=torch.float64)  # nothing tells any of five others from another
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert supcon_loss(alike, labels, temperature=0.1).item() == pytest.approx(math.log(5), abs=1e-12)


def test_order_length_and_the_names_of_labels_tell_nothing() -> None:
    rows, views = random(7, 5), random(2, 4, 5, seed=1)
    loss, order = supcon_loss(rows, LABELS, temperature=0.2), torch.randperm(7)
    lengths = 0.1 + torch.rand(7, 1, dtype=torch.float64)
    assert torch.allclose(supcon_loss(rows[order], LABELS[order], temperature=0.2), loss)
    assert torch.allclose(supcon_loss(lengths * rows, -3 * LABELS, temperature=0.2), loss)
    loss = nt_xent(views, temperature=0.2)
    for other in (views.flip(0), views[:, torch.randperm(4)], 7 * views):
        assert torch.allclose(nt_xent(other, temperature=0.2), loss)


def test_it_is_finite_however_low_the_temperature() -> None:
    views = random(2, 4, 5).float().requires_grad_()
    nt_xent(views, temperature=1e-3).backward()
    assert views.grad is not None and views.grad.isfinite().all()


@pytest.mark.parametrize("num_photos", [0, 1, 3])
def test_where_no_two_have_one_label_there_is_nothing_to_learn(num_photos: int) -> None:
    rows = random(num_photos, 4).requires_grad_()
    loss = supcon_loss(rows, torch.arange(num_photos), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert rows.grad is not None and not rows.grad.any()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_must_be_above_zero(temperature: float) -> None:
    sentence = rf"^temperature of a contrastive loss must be above 0 and finite, got {temperature}\.$"
    with pytest.raises(ValueError, match=sentence):
        supcon_loss(random(2, 3), torch.zeros(2), temperature=temperature)
    with pytest.raises(ValueError, match=sentence):
        nt_xent(random(2, 2, 3), temperature=temperature)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: supcon_loss(random(4, 3), torch.zeros(3), temperature=1.0),
            r"embeddings and labels of supcon_loss must have shapes \(N, D\) and \(N,\), got \(4, 3\) and \(3,\)\.",
        ),
        (
            lambda: nt_xent(random(1, 4, 3), temperature=1.0),
            r"embeddings of nt_xent must have shape \(V, B, D\) with V of at least 2, got \(1, 4, 3\)\.",
        ),
        (
            lambda: nt_xent(random(2, 4, 3), temperature=1.0, negatives=random(5, 2)),
            r"negatives of nt_xent must have shape \(N, 3\), got \(5, 2\)\.",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        call()
