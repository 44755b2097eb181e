from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from inlier.features.backbone import Backbone
from inlier.finetuning import passes
from inlier.finetuning.passes import anchor_loss, anchored, embedder, micro_batch_for, training_precision


def _backbone() -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(2, 3, 4), is_pretrained=False)
    with torch.no_grad():
        for parameter in backbone.parameters():  # whose last scale of each block is 0 at first
            parameter += 0.1 * torch.randn(parameter.shape)
    return backbone.to(memory_format=torch.channels_last)


IMAGES = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _contrastive_loss(maps: dict[int, Tensor]) -> Tensor:
    """In which each photo is compared with all others."""
    embeddings = nn.functional.normalize(torch.cat([m.mean(dim=(2, 3)) for m in maps.values()], dim=1))
    return nn.functional.cross_entropy(embeddings @ embeddings.T / 0.1, torch.arange(len(embeddings)).roll(5))


@pytest.mark.parametrize("micro_batch", [1, 4, 9, 10, 64])
def test_micro_batches_give_the_loss_and_the_gradients_of_the_whole_batch(micro_batch: int) -> None:
    whole, parts = _backbone(), _backbone()
    expected = _contrastive_loss(embedder(whole, micro_batch=None, precision="float32")(IMAGES))
    expected.backward()  # type: ignore[no-untyped-call]
    loss = _contrastive_loss(embedder(parts, micro_batch=micro_batch, precision="float32")(IMAGES))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-4 * float(one.grad.abs().max()) + 1e-9)


def test_maps_are_those_of_the_backbone() -> None:
    backbone = _backbone()
    with torch.no_grad():
        expected = backbone(IMAGES)
        found = embedder(backbone, micro_batch=3, precision="float32")(IMAGES)
    assert list(found) == [2, 3, 4]
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(expected, found.values(), strict=True))


def test_activations_of_one_micro_batch_exist_at_a_time() -> None:
    """Counted as what autograd keeps, with every micro-batch but the last passing a second time."""

    def kept(micro_batch: int | None) -> tuple[int, int]:
        backbone, sizes, passed = _backbone(), list[int](), list[int]()
        backbone.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
        embed = embedder(backbone, micro_batch=micro_batch, precision="float32")
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            maps = embed(IMAGES)
        sum(m.mean() for m in maps.values()).backward()  # type: ignore[union-attr]
        return sum(sizes), sum(passed)

    (whole, once), (part, twice) = kept(None), kept(2)
    assert part < 0.5 * whole
    assert (once, twice) == (10, 18)


def test_half_precision_is_of_the_backbone_alone() -> None:
    backbone = _backbone()
    exact = embedder(backbone, micro_batch=4, precision="float32")(IMAGES)
    maps = embedder(backbone, micro_batch=4, precision="bfloat16")(IMAGES)
    assert all(features.dtype == torch.float32 for features in maps.values())
    one, two = maps[4].detach(), exact[4].detach()
    assert not torch.equal(one, two) and torch.allclose(one, two, atol=0.1 * float(two.max()))


def test_a_cpu_trains_in_single_precision_and_small_micro_batches() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert training_precision(cpu) == "float32"
    assert (micro_batch_for(160, cpu), micro_batch_for(320, cpu), micro_batch_for(4000, cpu)) == (48, 12, 1)
    assert micro_batch_for(160, cuda) == 4 * 48


def test_the_anchor_is_the_cosine_of_each_cell_by_hand() -> None:
    one = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 1, 2)
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None, :]  # the same in one cell, at right angles in one
    assert anchor_loss({1: one, 2: one}, {1: other, 2: -one}, layers=[1]).item() == pytest.approx(0.5)
    assert anchor_loss({1: one, 2: one}, {1: other, 2: -one}, layers=[1, 2]).item() == pytest.approx((0.5 + 2) / 2)


class Asking(nn.Module):
    """An objective that asks for maps in one way or another."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, embed: passes.Embed, views: Tensor, labels: Tensor) -> Tensor:
        asked = {
            "all": lambda: embed(views.flatten(0, 1)),
            "first": lambda: embed(views[0]),
            "first last": lambda: [embed(views[1]), embed(views[0])][1],
            "second": lambda: embed(views[1]),
            "changed": lambda: embed(0.5 * views[0]),
            "few": lambda: embed(views[0, :2]),
        }[self.way]()
        return asked[3].mean() + labels.sum()


@pytest.mark.parametrize("way", ["all", "first", "first last", "second", "changed", "few"])
def test_the_anchor_is_of_the_first_view_however_an_objective_asks(way: str) -> None:
    views, labels = IMAGES.view(2, 5, 3, 32, 32), torch.arange(5)
    backbone, start = _backbone(), _backbone()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.05
    passed = list[int]()
    embed = embedder(backbone, micro_batch=None, precision="float32")

    def counting(images: Tensor) -> dict[int, Tensor]:
        passed.append(len(images))
        return embed(images)

    objective, embed_start = Asking(way), embedder(start, micro_batch=None, precision="float32")
    found = anchored(objective, counting, embed_start, weight=2.0, layers=[2, 4])(views, labels)
    assert len(passed) == (1 if way in {"all", "first"} else 2)
    expected = 2 * anchor_loss(embed(views[0]), embed_start(views[0]), layers=[2, 4])
    assert expected.item() > 1e-3
    assert found.item() == pytest.approx((objective(embed, views, labels) + expected).item(), rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in start.parameters())
    assert any(parameter.grad is not None for parameter in backbone.parameters())


def test_without_a_weight_the_start_is_never_run() -> None:
    def never(images: Tensor) -> dict[int, Tensor]:
        raise AssertionError

    views = IMAGES.view(2, 5, 3, 32, 32)
    embed = embedder(_backbone(), micro_batch=None, precision="float32")
    loss = anchored(Asking("all"), embed, never, weight=0.0, layers=[2])(views, torch.zeros(5))
    assert math.isfinite(loss.item())


def test_dropout_draws_the_same_when_a_micro_batch_passes_again() -> None:
    class Dropping(nn.Module):
        layers = (1,)

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.dropout = nn.Conv2d(3, 4, 1), nn.Dropout(0.5)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.dropout(self.convolution(images).relu())]

    torch.manual_seed(0)
    backbone = Dropping()
    other = copy.deepcopy(backbone)
    torch.manual_seed(1)
    loss = embedder(backbone, micro_batch=4, precision="float32")(IMAGES)[1].square().mean()  # type: ignore[arg-type]
    loss.backward()
    torch.manual_seed(1)
    expected = (
        torch.cat([other(part.to(memory_format=torch.channels_last))[0] for part in IMAGES.split(4)]).square().mean()
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(backbone.convolution.weight.grad, other.convolution.weight.grad)  # type: ignore[arg-type]
