from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.errors import CollapseError
from inlier.features.separation import effective_rank
from inlier.finetuning import collapse as module
from inlier.finetuning.collapse import Watch, alignment, drift, spread, uniformity


def _unit(num: int, width: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(num, width, generator=torch.Generator().manual_seed(seed)))


class Scene:
    """Maps of two layers that a test can bend; images are ignored but for which view they are."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.views = torch.stack([torch.zeros(12, 3, 2, 2), torch.ones(12, 3, 2, 2)])
        self.maps = {layer: torch.rand(12, 16, 3, 3, generator=generator) for layer in (2, 3)}
        self.other = {layer: m + 0.01 for layer, m in self.maps.items()}

    def embed(self, images: Tensor) -> dict[int, Tensor]:
        assert not torch.is_grad_enabled()
        return self.other if images.any() else self.maps

    def draw_together(self, layer: int, *, factor: float) -> None:
        mean = self.maps[layer].mean(dim=0)
        self.maps = self.maps | {layer: mean + factor * (self.maps[layer] - mean)}


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 5)


def test_values_worked_out_by_hand() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(one, one) == 0
    assert alignment(one, one.flip(0)) == pytest.approx(2)
    assert alignment(one, -one) == pytest.approx(4)
    assert uniformity(one) == pytest.approx(-2 * 2)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert uniformity(three) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
    assert spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(1)
    assert spread(one) == pytest.approx(math.sqrt(0.5))
    assert drift({1: one, 2: one}, {1: 5 * one, 2: one.flip(0)}) == {1: pytest.approx(0), 2: pytest.approx(1)}


def test_alignment_and_uniformity_are_the_papers_code() -> None:
    """As printed in the paper's figure 5."""
    one, other = _unit(20, 5), _unit(20, 5, seed=1)
    assert alignment(one, other) == pytest.approx(float((one - other).norm(p=2, dim=1).pow(2).mean()), rel=1e-6)
    pairs = [(one[i] - one[j]).norm().pow(2) for i in range(20) for j in range(i)]
    assert uniformity(one) == pytest.approx(math.log(np.mean([math.exp(-2 * float(d)) for d in pairs])), rel=1e-5)


def test_alike_embeddings_are_at_the_end_of_each_scale() -> None:
    alike = _unit(1, 5).expand(8, 5)
    assert uniformity(alike) == pytest.approx(0, abs=1e-6)
    assert spread(alike) == pytest.approx(0, abs=1e-6)


def test_the_watch_says_what_each_layer_and_all_together_are_like() -> None:
    scene = Scene()
    watch = Watch(scene.embed, scene.views)
    assert watch.start["drift"] == pytest.approx(0, abs=1e-6)
    scene.maps = scene.maps | {3: scene.maps[3].flip(0)}
    now = watch()
    pooled = {layer: F.normalize(features.mean(dim=(2, 3))) for layer, features in scene.maps.items()}
    joined = F.normalize(torch.cat([pooled[2], pooled[3]], dim=1))
    other = F.normalize(torch.cat([F.normalize(m.mean(dim=(2, 3))) for m in scene.other.values()], dim=1))
    assert set(now) == {
        "effective_rank", "spread", "alignment", "uniformity", "drift",
        *(f"{name}.layer{layer}" for name in ("effective_rank", "spread", "drift") for layer in (2, 3)),
    }  # fmt: skip
    assert now["effective_rank.layer3"] == pytest.approx(effective_rank(pooled[3].numpy()))
    assert now["effective_rank"] == pytest.approx(effective_rank(joined.numpy()))
    assert now["alignment"] == pytest.approx(alignment(joined, other))
    assert now["uniformity"] == pytest.approx(uniformity(joined))
    assert now["spread.layer2"] == pytest.approx(spread(pooled[2]))
    assert now["drift.layer2"] == pytest.approx(0, abs=1e-6) and now["drift.layer3"] > 0.01
    assert now["drift"] == pytest.approx(now["drift.layer3"] / 2, abs=1e-6)
    assert all(type(value) is float for value in now.values())


@pytest.mark.parametrize("layer", [2, 3])
def test_one_layer_that_collapses_is_enough(layer: int) -> None:
    scene = Scene()
    watch = Watch(scene.embed, scene.views, least_rank_ratio=0.3)
    scene.draw_together(layer, factor=0.9)
    watch()
    scene.draw_together(layer, factor=1e-3)
    sentence = (
        rf"^embeddings of layer {layer} have become all alike: their effective rank was \d+\.\d and is 1\.\d, their "
        r"spread was 0\.\d+ and is \S+; choose lower learning rates, or a higher anchor_weight\.$"
    )
    with pytest.raises(CollapseError, match=sentence):
        watch()


def test_a_low_rank_and_a_narrow_spread_each_stop_it() -> None:
    scene = Scene()
    scene.maps = {2: F.one_hot(torch.arange(12), 16)[:, :, None, None].float() + 1e-3}
    scene.other = scene.maps
    watch = Watch(scene.embed, scene.views)
    scene.maps = {2: scene.maps[2][torch.arange(12) % 2]}  # far apart, but two kinds only
    with pytest.raises(
        CollapseError, match=r"effective rank was 1\d\.\d and is 2\.\d, their spread was 0.96 and is 0.7"
    ):
        watch()
    scene.maps = {2: torch.rand(12, 16, 1, 1, generator=torch.Generator().manual_seed(0))}
    unsure = Watch(scene.embed, scene.views, least_rank_ratio=0.01)  # a rank that can never be reached
    scene.draw_together(2, factor=1e-3)
    with pytest.raises(CollapseError, match="all alike"):
        unsure()


def test_numbers_that_are_none_are_a_collapse() -> None:
    scene = Scene()
    watch = Watch(scene.embed, scene.views)
    scene.maps = scene.maps | {2: torch.zeros(12, 16, 3, 3)}
    with pytest.raises(CollapseError, match="embeddings of layer 2"):
        watch()


def test_a_ratio_of_zero_measures_only() -> None:
    scene = Scene()
    watch = Watch(scene.embed, scene.views, least_rank_ratio=0)
    scene.draw_together(2, factor=0.0)
    assert watch()["effective_rank.layer2"] == pytest.approx(1, abs=0.01)
