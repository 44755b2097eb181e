from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inlier.errors import CollapseError
from inlier.features.separation import effective_rank
from inlier.finetuning.collapse import Watch, spread
from inlier.finetuning.reverse_distillation import GUARDS, UnfrozenTeacher, _monotony, distance

CHANNELS = {1: 8, 2: 16}
NUM_PHOTOS = 24


class Network(nn.Module):
    """A teacher of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        maps = self.first(images).relu()
        return {1: maps, 2: self.second(maps)}


def new(network: Network, **options: Any) -> UnfrozenTeacher:
    start = copy.deepcopy(network)
    torch.manual_seed(0)
    return UnfrozenTeacher(CHANNELS, **({"teacher": torch.no_grad()(start), "layers": (1, 2), "width": 8} | options))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def images() -> Tensor:
    """Photos of random squares of 4 px."""
    squares = torch.randn(NUM_PHOTOS, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return squares.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def train(network: Network, images: Tensor, objective: UnfrozenTeacher, num_steps: int = 100) -> None:
    optimiser = torch.optim.Adam([*network.parameters(), *objective.parameters()], lr=6e-3)
    for _ in range(num_steps):
        optimiser.zero_grad()
        objective(network, images[None], torch.full((len(images),), -1)).backward()
        optimiser.step()


def slow_distance(maps: list[Tensor], others: list[Tensor]) -> float:
    """Eq. 3.4 cell by cell, averaged over a layer's map and summed over layers."""
    total = 0.0
    for one, other in zip(maps, others, strict=True):
        cells = []
        for photo in range(one.shape[0]):
            for h in range(one.shape[2]):
                for w in range(one.shape[3]):
                    a, b = one[photo, :, h, w].tolist(), other[photo, :, h, w].tolist()
                    dot = sum(x * y for x, y in zip(a, b, strict=True))
                    cells.append(1 - dot / math.hypot(*a) / math.hypot(*b))
        total += sum(cells) / len(cells)
    return total


def slow_monotony(embeddings: Tensor) -> float:
    """VICReg's v(Z) + c(Z) / 25, of rows scaled to a length of sqrt(D)."""
    rows = embeddings.numpy()
    num_photos, width = rows.shape
    rows = np.stack([row / math.sqrt(sum(row**2)) * math.sqrt(width) for row in rows])
    variance = sum(max(0.0, 1 - math.sqrt(rows[:, j].var(ddof=1) + 1e-4)) for j in range(width)) / width
    mean = rows.mean(axis=0)
    matrix = sum(np.outer(row - mean, row - mean) for row in rows) / (num_photos - 1)
    others = sum(matrix[i, j] ** 2 for i in range(width) for j in range(width) if i != j) / width
    return variance + others / 25


def test_the_distance_is_the_equation_written_out() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 3, 5), (2, 6, 2, 2)]
    maps, others = ([torch.randn(*of, generator=draw).double() for of in shapes] for _ in range(2))
    assert distance(maps, others).item() == pytest.approx(slow_distance(maps, others), abs=1e-6)
    assert distance(maps, maps).item() == pytest.approx(0, abs=1e-12)
    assert distance(maps, [-of for of in maps]).item() == pytest.approx(4, abs=1e-12)  # 2 for each layer


def test_the_variance_term_is_the_equations_written_out() -> None:
    embeddings = 1 + torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double()
    assert _monotony(embeddings).item() == pytest.approx(slow_monotony(embeddings), abs=1e-6)
    assert _monotony(100 * embeddings).item() == pytest.approx(slow_monotony(embeddings), abs=1e-6)
    assert torch.autograd.gradcheck(_monotony, embeddings.requires_grad_())
    alike = torch.ones(4, 5, dtype=torch.float64)
    assert _monotony(alike).item() == pytest.approx(1 - 0.01, abs=1e-6)
    corners = torch.cat([torch.eye(4), -torch.eye(4)]).double()  # as apart as can be: a variance of 8 / 7 each
    assert _monotony(corners).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("guard", GUARDS)
def test_the_loss_is_what_student_and_guard_have_to_say(network: Network, images: Tensor, guard: Any) -> None:
    objective = new(network, guard=guard, guard_weight=0.7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # away from the start
    maps = [*network(images).values()]
    answers = objective.student(objective.bottleneck(maps), [(8, 8), (4, 4)])
    expected = distance(maps, answers).item()
    if guard == "anchor":
        frozen = [*objective._teacher(images).values()]
        expected += 0.7 * distance(maps, frozen).item()
        assert distance(maps, frozen).item() > 0.01
    if guard == "variance":
        expected += 0.7 * sum(slow_monotony(of.detach().mean(dim=(2, 3)).double()) for of in maps)
    views = torch.stack([images, torch.zeros_like(images)])  # it looks at the first
    assert objective(network, views, torch.arange(NUM_PHOTOS)).item() == pytest.approx(expected, rel=1e-4)
    assert (objective.name, objective.num_views, objective.uses_labels) == ("reverse-distillation", 1, False)


def test_a_target_whose_gradient_is_stopped_cannot_move_towards_the_student(network: Network, images: Tensor) -> None:
    """A teacher that is not what the bottleneck sees has no gradient then, and has one else."""
    for guard, moves in (("stop-gradient", False), ("none", True)):
        objective = new(network, guard=guard)
        objective.bottleneck.register_forward_pre_hook(lambda module, given: ([of.detach() for of in given[0]],))
        network.zero_grad()
        objective(network, images[None], torch.full((NUM_PHOTOS,), -1)).backward()
        has_moved = any(of.grad is not None and bool(of.grad.any()) for of in network.parameters())
        assert has_moved is moves
        assert all(of.grad is not None for of in objective.student.parameters())


def test_the_frozen_start_is_no_part_of_what_is_trained(network: Network) -> None:
    objective = new(network)
    assert objective.guard == "anchor"
    names = {name.partition(".")[0] for name, _ in objective.named_parameters()}
    assert names == {"bottleneck", "student"}


def figures(network: Network, images: Tensor) -> list[tuple[float, float]]:
    """Effective rank and spread of each layer's embeddings."""
    with torch.no_grad():
        found = [nn.functional.normalize(maps.mean(dim=(2, 3))) for maps in network(images).values()]
    return [(effective_rank(of.numpy()), spread(of)) for of in found]


def test_unguarded_teacher_and_student_come_to_agree_on_nothing(network: Network, images: Tensor) -> None:
    """The thesis's: the loss is as low as can be, and every photo looks like every other."""
    start, watch = figures(network, images), watch_over(network, images)
    objective = new(network, guard="none")
    train(network, images, objective)
    assert objective(network, images[None], torch.full((NUM_PHOTOS,), -1)).item() < 0.02
    for (rank, width), (rank_before, width_before) in zip(figures(network, images), start, strict=True):
        assert rank < 1.2 and rank_before > 3
        assert width < 0.05 * width_before
    with pytest.raises(CollapseError, match="have become all alike"):
        watch()


@pytest.mark.parametrize(
    ("guard", "weight", "least"),
    [("anchor", 1.0, 0.3), ("anchor", 4.0, 0.75), ("stop-gradient", 1.0, 0.75), ("variance", 2.0, 0.75)],
)
def test_a_guard_keeps_photos_apart(network: Network, images: Tensor, guard: Any, weight: float, least: float) -> None:
    start, watch = figures(network, images), watch_over(network, images)
    train(network, images, new(network, guard=guard, guard_weight=weight))
    for (rank, width), (rank_before, width_before) in zip(figures(network, images), start, strict=True):
        assert rank > least * rank_before
        assert width > least * width_before
    watch()


def watch_over(network: Network, images: Tensor) -> Watch:
    return Watch(network, torch.stack([images, images.flip(3)]))


TEACHER: Callable[[Tensor], dict[int, Tensor]] = lambda images: {}  # noqa: E731


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"guard": "hope"},
            r"guard of UnfrozenTeacher must be one of anchor, stop-gradient, variance, none, got 'hope'\.",
        ),
        ({"layers": (1,)}, r"layers of UnfrozenTeacher must be at least two different ones of \[1, 2\], got \[1\]\."),
        ({"layers": (1, 3)}, r"layers of UnfrozenTeacher must be at least two .* of \[1, 2\], got \[1, 3\]\."),
        ({"layers": (2, 2)}, r"layers of UnfrozenTeacher must be at least two .* of \[1, 2\], got \[2, 2\]\."),
        ({"guard_weight": 0.0}, r"guard_weight of UnfrozenTeacher must be above 0 and finite, got 0\.0\."),
        ({"guard_weight": math.inf}, r"guard_weight of UnfrozenTeacher must be above 0 and finite, got inf\."),
        ({"width": 0}, r"width of UnfrozenTeacher must be at least 1, got 0\."),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        UnfrozenTeacher(CHANNELS, **({"teacher": TEACHER, "layers": (1, 2)} | wrong))
