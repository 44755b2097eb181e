from __future__ import annotations

from typing import Any

import pytest
import torch

from inlier.finetuning.heads import ProjectionHead, embed_views, layer_heads, pooled


def test_a_head_is_two_layers_with_what_is_positive_in_between() -> None:
    head = ProjectionHead(5, hidden=7, width=3)
    features = torch.randn(4, 5)
    (first, first_bias), (last, last_bias) = ((of.weight, of.bias) for of in (head.layers[0], head.layers[2]))
    expected = (features @ first.T + first_bias).clamp(min=0) @ last.T + last_bias
    assert torch.allclose(head(features), expected, atol=1e-6)
    assert (first.shape, last.shape) == ((7, 5), (3, 7))


def test_pooling_is_the_mean_over_cells() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 6.0]], [[0.0, 0.0, 3.0]]]])
    assert pooled(maps).tolist() == [[3.0, 1.0]]


def test_each_layer_has_a_head_and_views_stay_with_their_photos() -> None:
    heads = layer_heads({2: 3, 3: 6, 4: 9}, layers=(4, 2), hidden=8, width=5, owner="Someone")
    views = torch.randn(2, 4, 3, 8, 8)
    found = embed_views(heads, lambda images: {2: images, 4: images.repeat(1, 3, 1, 1)}, views)
    assert [of.shape for of in found] == [(2, 4, 5), (2, 4, 5)]
    for view in range(2):
        for photo in range(4):
            features = views[view, photo].mean(dim=(1, 2))
            assert torch.allclose(found[0][view, photo], heads["2"](features), atol=1e-6)
            assert torch.allclose(found[1][view, photo], heads["4"](features.repeat(3)), atol=1e-6)


def test_where_no_layer_is_named_it_is_the_coarsest() -> None:
    assert [*layer_heads({3: 6, 4: 9, 2: 3}, layers=(), hidden=8, width=5, owner="Someone")] == ["4"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layers": (2, 5)}, r"layers of Someone must be different ones of \[2, 3\], got \[2, 5\]\."),
        ({"layers": (2, 2)}, r"layers of Someone must be different ones of \[2, 3\], got \[2, 2\]\."),
        ({"hidden": 0}, r"hidden of Someone must be at least 1, got 0\."),
        ({"width": -1}, r"width of Someone must be at least 1, got -1\."),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    options: dict[str, Any] = {"layers": (), "hidden": 8, "width": 5, "owner": "Someone"}
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        layer_heads({2: 3, 3: 6}, **(options | wrong))
