from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inlier.features.student import Bottleneck, InvertedResidual, Student, count_activations

SHAPES = [(12, 28, 28), (20, 14, 14), (56, 7, 7)]


@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES,
        SHAPES[:2],
        [(6, 56, 56), *SHAPES],
        [(8, 5, 9), (16, 3, 4)],  # not square, and no whole ratio
        [(8, 4, 4), (8, 4, 4)],  # a transformer's, all of one size
        [(8, 2, 2), (8, 1, 1)],
    ],
)
def test_the_student_answers_in_the_shapes_of_the_teacher(shapes: list[tuple[int, int, int]]) -> None:
    maps = [torch.randn(3, *shape) for shape in shapes]
    channels = [shape[0] for shape in shapes]
    embedding = Bottleneck(channels, width=16)(maps)
    height, width = shapes[-1][1:]
    assert embedding.shape == (3, 16, (height + 1) // 2, (width + 1) // 2)
    answer = Student(channels, width=16)(embedding, [shape[1:] for shape in shapes])
    assert [features.shape[1:] for features in answer] == shapes


def test_enlarging_before_the_expansion_would_give_the_same() -> None:
    block = InvertedResidual(6, 5).eval()
    maps = torch.randn(2, 6, 4, 4)
    enlarged = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(block(maps, (8, 8)), block(enlarged), atol=1e-6)


def test_a_block_that_changes_nothing_adds_to_what_it_was_given() -> None:
    block = InvertedResidual(6, 6).eval()
    nn.init.zeros_(block.project[0].weight)
    maps = torch.randn(2, 6, 4, 4)
    assert torch.equal(block(maps), maps)
    assert not block(maps, (8, 8)).any() and not InvertedResidual(6, 7).eval()(maps).isnan().any()


def test_what_is_seen_in_one_cell_reaches_all_layers() -> None:
    maps = [torch.randn(1, *shape) for shape in SHAPES]
    channels = [shape[0] for shape in SHAPES]
    bottleneck, student = Bottleneck(channels, width=16).eval(), Student(channels, width=16).eval()
    sizes = [shape[1:] for shape in SHAPES]
    before = student(bottleneck(maps), sizes)
    maps[0][0, :, 3, 3] += 100
    for old, new in zip(before, student(bottleneck(maps), sizes), strict=True):
        assert not torch.allclose(old, new)


def test_the_networks_are_as_small_as_the_default_teacher() -> None:
    """Layers 2 to 4 of efficientnet_lite0, whose trunk has some 3.4 million parameters."""
    channels = (40, 112, 320)
    networks = Bottleneck(channels, width=128), Student(channels, width=128)
    assert sum(parameter.numel() for network in networks for parameter in network.parameters()) < 1_100_000


@pytest.mark.parametrize("layers", [(2, 3, 4), (1, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("width", [16, 128])
def test_activations_and_weights_are_those_of_the_networks(layers: tuple[int, ...], width: int) -> None:
    shapes = {1: (24, 56, 56), 2: (40, 28, 28), 3: (112, 14, 14), 4: (320, 7, 7)}
    kept, widest, num_weights = count_activations([shapes[layer] for layer in layers], width=width)
    channels = [shapes[layer][0] for layer in layers]
    networks = nn.ModuleList([Bottleneck(channels, width=width), Student(channels, width=width)])
    assert sum(parameter.numel() for parameter in networks.parameters()) == num_weights
    maps = [torch.rand(1, *shapes[layer]) for layer in layers]
    saved: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and len(tensor) == 1 and not isinstance(tensor, nn.Parameter):
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        found = networks[1](networks[0](maps), [of.shape[-2:] for of in maps])
    num_saved = sum(saved.values()) - sum(saved.get(of.data_ptr(), 0) for of in maps) + sum(of.numel() for of in found)
    assert kept == pytest.approx(num_saved, rel=0.1)
    assert widest == max(saved.values())
