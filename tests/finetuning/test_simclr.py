from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inlier.finetuning.contrastive import nt_xent
from inlier.finetuning.simclr import SimCLR, paste_pieces

CHANNELS = {3: 6, 4: 10}
NO_LABELS = torch.full((5,), -1)


class Network(nn.Module):
    """A backbone of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 10, 3, stride=2)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        maps = self.first(images)
        return {3: maps, 4: self.second(maps.relu())}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def views() -> Tensor:
    return torch.randn(2, 5, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [(3, 4), (4,), ()])
def test_it_is_the_mean_over_layers_of_the_loss_of_pooled_and_projected_maps(
    network: Network, views: Tensor, layers: tuple[int, ...]
) -> None:
    objective = SimCLR(CHANNELS, layers=layers, temperature=0.3, hidden=8, width=4)
    losses = []
    for layer in layers or (4,):
        head = objective.heads[str(layer)]
        embeddings = torch.stack([head(network(view)[layer].flatten(2).mean(dim=2)) for view in views])
        losses.append(nt_xent(embeddings, temperature=0.3).item())
    loss = objective(network, views, NO_LABELS)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert [*objective.heads] == [str(layer) for layer in layers or (4,)]


def test_altered_copies_are_further_negatives(network: Network, views: Tensor) -> None:
    objective = SimCLR(CHANNELS, is_altered=True, temperature=0.3, hidden=8, width=4)
    torch.manual_seed(5)
    loss = objective(network, views, NO_LABELS)
    torch.manual_seed(5)
    copies = paste_pieces(views[0])

    def embedded(images: Tensor) -> Tensor:
        return objective.heads["4"](network(images)[4].flatten(2).mean(dim=2))

    pairs = torch.stack([embedded(view) for view in views])
    expected = nt_xent(pairs, temperature=0.3, negatives=embedded(copies))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss > nt_xent(pairs, temperature=0.3)


def test_a_pasted_piece_is_a_rectangle_of_the_same_photo() -> None:
    torch.manual_seed(0)
    images = torch.arange(4 * 3 * 40 * 60, dtype=torch.float32).view(4, 3, 40, 60)  # each pixel unlike all others
    copies = paste_pieces(images)
    for image, copy in zip(images, copies, strict=True):
        is_new = (copy != image).any(dim=0)
        rows, columns = is_new.any(dim=1).nonzero()[:, 0], is_new.any(dim=0).nonzero()[:, 0]
        assert is_new.sum() == len(rows) * len(columns)
        assert 0.015 < float(is_new.float().mean()) < 0.16
        shift = (copy - image)[:, is_new]
        assert torch.equal(shift, shift[:1, :1].expand_as(shift))  # from one other place


def test_backbone_and_heads_learn(network: Network, views: Tensor) -> None:
    objective = SimCLR(CHANNELS, layers=(3, 4), hidden=16, width=8)
    parameters = [*network.parameters(), *objective.parameters()]
    optimiser, losses = torch.optim.Adam(parameters, lr=0.01), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective(network, views, NO_LABELS)
        loss.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_labels_and_the_order_of_photos_change_nothing(network: Network, views: Tensor) -> None:
    objective = SimCLR(CHANNELS)
    loss = objective(network, views, NO_LABELS)
    assert torch.allclose(objective(network, views[:, [3, 1, 0, 4, 2]], torch.arange(5)), loss)
    assert (objective.name, objective.num_views, objective.uses_labels) == ("simclr", 2, False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temperature": 0.0}, r"temperature of SimCLR must be above 0 and finite, got 0\.0\."),
        ({"temperature": math.inf}, r"temperature of SimCLR must be above 0 and finite, got inf\."),
        ({"layers": (1,)}, r"layers of SimCLR must be different ones of \[3, 4\], got \[1\]\."),
        ({"hidden": 0}, r"hidden of SimCLR must be at least 1, got 0\."),
        ({"width": 0}, r"width of SimCLR must be at least 1, got 0\."),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        SimCLR(CHANNELS, **wrong)
