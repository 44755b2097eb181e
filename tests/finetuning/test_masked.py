from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inlier.finetuning.masked import MaskedReconstruction, draw_mask

CHANNELS = {1: 4, 2: 6, 3: 8}
UNLABELLED = torch.full((3,), -1)


class Network(nn.Module):
    """A backbone of three layers, which notes what it saw."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 6, 8)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        self.seen.append(images)
        maps, found = images, {}
        for layer, stage in enumerate(self.stages, start=1):
            maps = found[layer] = stage(maps).tanh()
        return found


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def views() -> Tensor:
    """One view of three photos of 32 px, nowhere 0."""
    return 1 + torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def new(teacher: Network, **options: Any) -> MaskedReconstruction:
    torch.manual_seed(2)
    given = {"teacher": torch.no_grad()(teacher), "layers": (1, 2), "patch_px": 8, "width": 8}
    return MaskedReconstruction(CHANNELS, **(given | options))


def slow_loss(targets: list[Tensor], answers: list[Tensor]) -> float:
    """For each layer the mean over photos and cells of 1 - cos, cell by cell, and the sum of these."""
    total = 0.0
    for target, answer in zip(targets, answers, strict=True):
        distances = []
        for photo in range(target.shape[0]):
            for h in range(target.shape[2]):
                for w in range(target.shape[3]):
                    a, b = target[photo, :, h, w].tolist(), answer[photo, :, h, w].tolist()
                    dot = sum(x * y for x, y in zip(a, b, strict=True))
                    distances.append(1 - dot / math.hypot(*a) / math.hypot(*b))
        total += sum(distances) / len(distances)
    return total


def test_the_loss_is_what_the_decoder_makes_of_holes_against_the_teachers_whole_view(
    network: Network, views: Tensor
) -> None:
    teacher = Network()
    objective = new(teacher)
    loss = objective(network, views, UNLABELLED)
    assert len(teacher.seen) == len(network.seen) == 1
    assert torch.equal(teacher.seen[0], views[0])
    is_seen = (network.seen[0] != 0).all(dim=1, keepdim=True)
    assert torch.equal(network.seen[0], views[0] * is_seen)
    assert (~is_seen).sum(dim=(1, 2, 3)).tolist() == [6 * 8 * 8] * 3  # of 16 patches 0.4, to the nearest whole one
    deepest = network(network.seen[0])[3]
    answers = objective.decoder(objective.narrow(deepest), [(16, 16), (8, 8)])
    targets = teacher(views[0])
    assert loss.item() == pytest.approx(slow_loss([targets[1], targets[2]], answers), abs=1e-5)
    assert (objective.name, objective.num_views, objective.uses_labels) == ("masked", 1, False)


def test_backbone_and_decoder_learn_from_it_and_the_teacher_does_not(network: Network, views: Tensor) -> None:
    teacher = Network()
    objective = new(teacher)
    parameters = [*network.parameters(), *objective.parameters()]
    optimiser, losses = torch.optim.Adam(parameters, lr=0.01), []
    for _ in range(60):
        optimiser.zero_grad()
        loss = objective(network, views, UNLABELLED)
        loss.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {name.partition(".")[0] for name, _ in objective.named_parameters()} == {"narrow", "decoder"}


def test_a_mask_blanks_whole_patches_each_photo_its_own() -> None:
    torch.manual_seed(0)
    mask = draw_mask(torch.rand(200, 3, 20, 30), patch_px=10, ratio=0.4)
    assert mask.shape == (200, 1, 20, 30)
    patches = mask.view(200, 2, 10, 3, 10).movedim(2, 3)  # (B, rows, columns, 10, 10)
    assert torch.equal(patches.amin(dim=(3, 4)), patches.amax(dim=(3, 4)))
    kept = patches[..., 0, 0]
    assert kept.sum(dim=(1, 2)).tolist() == [4] * 200  # of 6 patches 2.4, to the nearest whole one
    assert len({tuple(of.flatten().tolist()) for of in kept}) == 15  # all the ways in which two of six are blanked
    assert bool(((kept.mean(dim=0) > 0.45) & (kept.mean(dim=0) < 0.9)).all())


@pytest.mark.parametrize("patch_px", [3, 7, 11])
def test_patches_at_the_edges_are_cut_off(patch_px: int) -> None:
    mask = draw_mask(torch.rand(2, 3, 32, 20), patch_px=patch_px, ratio=0.5)
    assert mask.shape == (2, 1, 32, 20)
    rows, columns = (torch.arange(side) // patch_px for side in (32, 20))
    corners = mask[:, :, ::patch_px, ::patch_px]
    assert torch.equal(mask, corners[:, :, rows][..., columns])


@pytest.mark.parametrize(("ratio", "num_kept"), [(0.01, 3), (0.99, 1)])
def test_something_is_blanked_and_something_is_seen(ratio: float, num_kept: int) -> None:
    mask = draw_mask(torch.rand(4, 3, 16, 16), patch_px=8, ratio=ratio)
    assert mask[:, 0, ::8, ::8].sum(dim=(1, 2)).tolist() == [num_kept] * 4


def test_masks_are_drawn_anew_and_by_the_generator(network: Network, views: Tensor) -> None:
    objective = new(network)
    torch.manual_seed(3)
    first, second = (objective(network, views, UNLABELLED).item() for _ in range(2))
    torch.manual_seed(3)
    assert objective(network, views, UNLABELLED).item() == first != second


def test_layers_left_out_means_those_of_a_detector(network: Network, views: Tensor) -> None:
    channels = {2: 4, 3: 6, 4: 8}
    objective = MaskedReconstruction(channels, teacher=lambda images: {}, patch_px=8)
    assert (objective.layers, objective.coarsest, objective.mask_ratio) == ((2, 3, 4), 4, 0.4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layers": ()}, r"layers of MaskedReconstruction must be different ones of \[1, 2, 3\], got \[\]\."),
        ({"layers": (3, 4)}, r"layers of MaskedReconstruction must be different ones of \[1, 2, 3\], got \[3, 4\]\."),
        ({"layers": (2, 2)}, r"layers of MaskedReconstruction must be different ones of \[1, 2, 3\], got \[2, 2\]\."),
        ({"mask_ratio": 0.0}, r"mask_ratio of MaskedReconstruction must be in \(0, 1\), got 0\.0\."),
        ({"mask_ratio": 1.0}, r"mask_ratio of MaskedReconstruction must be in \(0, 1\), got 1\.0\."),
        ({"patch_px": 0}, r"patch_px of MaskedReconstruction must be at least 1, got 0\."),
        ({"width": 0}, r"width of MaskedReconstruction must be at least 1, got 0\."),
    ],
)
def test_parameters_outside_their_range_are_refused(network: Network, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        new(network, **wrong)


def test_a_patch_that_is_the_whole_view_is_refused(network: Network, views: Tensor) -> None:
    sentence = r"^patch_px of MaskedReconstruction must be less than the side of a view, 32, got 32\.$"
    with pytest.raises(ValueError, match=sentence):
        new(network, patch_px=32)(network, views, UNLABELLED)
