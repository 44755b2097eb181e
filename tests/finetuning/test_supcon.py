from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from inlier.finetuning.contrastive import supcon_loss
from inlier.finetuning.simclr import SimCLR
from inlier.finetuning.supcon import SupCon, own_classes

CHANNELS = {3: 3, 4: 6}
LABELS = torch.tensor([0, 1, 0, -1, -1])


def embed(images: Tensor) -> dict[int, Tensor]:
    return {3: images, 4: torch.cat([images, images.square()], dim=1)}


def objective(**options: Any) -> SupCon:
    torch.manual_seed(0)
    return SupCon(CHANNELS, **({"layers": (3, 4), "hidden": 8, "width": 4} | options))


@pytest.fixture
def views() -> Tensor:
    return torch.randn(2, 5, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_it_is_the_mean_over_layers_of_the_loss_with_each_unlabelled_photo_a_class_of_its_own(views: Tensor) -> None:
    supcon = objective(temperature=0.3)
    labels = [0, 1, 0, 100, 200]
    losses = []
    for layer in (3, 4):
        rows = [supcon.heads[str(layer)](embed(view)[layer].flatten(2).mean(dim=2)) for view in views]
        losses.append(supcon_loss(torch.cat(rows), torch.tensor(labels * 2), temperature=0.3).item())
    assert supcon(embed, views, LABELS).item() == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_without_any_label_it_is_simclr(views: Tensor) -> None:
    torch.manual_seed(0)
    simclr = SimCLR(CHANNELS, layers=(3, 4), hidden=8, width=4)
    unlabelled = torch.full((5,), -1)
    assert torch.allclose(objective()(embed, views, unlabelled), simclr(embed, views, unlabelled))


def test_labels_count_by_who_shares_them_only(views: Tensor) -> None:
    supcon, order = objective(), torch.tensor([4, 2, 0, 3, 1])
    loss = supcon(embed, views, LABELS)
    assert torch.allclose(supcon(embed, views[:, order], LABELS[order]), loss)
    assert torch.allclose(supcon(embed, views, torch.tensor([5, 2, 5, -1, -1])), loss)
    assert not torch.allclose(supcon(embed, views, torch.tensor([0, 0, 1, -1, -1])), loss)
    assert not torch.allclose(supcon(embed, views, torch.tensor([0, 1, 0, 2, 2])), loss)  # -1 is no label
    assert (supcon.name, supcon.num_views, supcon.uses_labels) == ("supcon", 2, True)


def test_photos_of_one_label_come_together_and_unlabelled_ones_stay_apart(views: Tensor) -> None:
    supcon = objective(layers=(4,), hidden=32, width=8, temperature=0.5)
    optimiser = torch.optim.Adam(supcon.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        supcon(embed, views, LABELS).backward()
        optimiser.step()
    with torch.no_grad():
        found = supcon.heads["4"](embed(views[0])[4].mean(dim=(2, 3)))
    cosine = torch.nn.functional.cosine_similarity(found[:, None], found, dim=2)
    assert cosine[0, 2] > 0.9
    assert max(cosine[0, 1], cosine[0, 3], cosine[1, 3], cosine[3, 4]) < 0.5


def test_each_unlabelled_photo_gets_a_class_that_no_other_has() -> None:
    classes = own_classes(torch.tensor([3, -1, 0, -1, 3])).tolist()
    assert classes[0] == classes[4] == 3 and classes[2] == 0
    assert len(set(classes)) == 4 and max(classes[1], classes[3]) < 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"temperature": -0.5}, r"temperature of SupCon must be above 0 and finite, got -0\.5\."),
        ({"temperature": math.nan}, r"temperature of SupCon must be above 0 and finite, got nan\."),
        ({"layers": (4, 4)}, r"layers of SupCon must be different ones of \[3, 4\], got \[4, 4\]\."),
        ({"hidden": 0}, r"hidden of SupCon must be at least 1, got 0\."),
        ({"width": 0}, r"width of SupCon must be at least 1, got 0\."),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        objective(**wrong)
