from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from inlier.features.patches import embed_patches


def _slow_local(features: Tensor, patch_size: int) -> Tensor:
    """Eq. 2 of the paper with the mean as f_agg: each cell's neighbourhood, as far as it lies in the photo."""
    _, height, width = features.shape
    reach = patch_size // 2
    local = torch.empty_like(features)
    for row in range(height):
        for column in range(width):
            rows = [r for r in range(row - reach, row + reach + 1) if 0 <= r < height]
            columns = [c for c in range(column - reach, column + reach + 1) if 0 <= c < width]
            cells = [features[:, r, c] for r in rows for c in columns]
            local[:, row, column] = torch.stack(cells).mean(dim=0)
    return local


def _slow_enlarged(features: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation between the centres of cells, flat beyond the outermost ones."""

    def between(place: int, size: int, old_size: int) -> tuple[int, int, float]:
        position = min(max((place + 0.5) * old_size / size - 0.5, 0.0), old_size - 1.0)
        low = math.floor(position)
        return low, min(low + 1, old_size - 1), position - low

    enlarged = torch.empty(len(features), height, width)
    for row in range(height):
        above, below, down = between(row, height, features.shape[1])
        for column in range(width):
            left, right, across = between(column, width, features.shape[2])
            top = features[:, above, left] * (1 - across) + features[:, above, right] * across
            bottom = features[:, below, left] * (1 - across) + features[:, below, right] * across
            enlarged[:, row, column] = top * (1 - down) + bottom * down
    return enlarged


@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("coarse", [(3, 4), (2, 3), (6, 8)])
def test_patches_agree_with_a_slow_transcription(patch_size: int, coarse: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 5, 6, 8, generator=generator), torch.randn(2, 7, *coarse, generator=generator)]
    patches = embed_patches(maps, patch_size=patch_size, is_cosine=False)
    assert (patches.shape, patches.dtype, patches.is_contiguous()) == ((2, 6, 8, 12), torch.float32, True)
    for photo in range(2):
        parts = [_slow_enlarged(_slow_local(features[photo], patch_size), 6, 8) for features in maps]
        expected = torch.cat(parts).permute(1, 2, 0)  # (h, w, D)
        assert torch.allclose(patches[photo], expected, atol=1e-5)


def test_neighbourhood_by_hand() -> None:
    features = torch.tensor([[[[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 18.0]]]])
    patches = embed_patches([features], patch_size=3, is_cosine=False)[0, :, :, 0]
    assert patches.tolist() == [[9 / 4, 9 / 6, 0.0], [9 / 6, 27 / 9, 18 / 6], [0.0, 18 / 6, 18 / 4]]


def test_a_uniform_photo_has_no_odd_border() -> None:
    patches = embed_patches([torch.ones(1, 3, 4, 4), torch.ones(1, 2, 2, 2)], patch_size=3, is_cosine=False)
    assert torch.equal(patches, torch.ones(1, 4, 4, 5))


def test_cosine_parts_have_unit_length_and_know_no_contrast() -> None:
    maps = [torch.randn(2, 5, 6, 6), torch.randn(2, 7, 3, 3)]
    patches = embed_patches(maps, patch_size=3, is_cosine=True)
    assert torch.allclose(patches[..., :5].norm(dim=-1), torch.ones(2, 6, 6))
    assert torch.allclose(patches[..., 5:].norm(dim=-1), torch.ones(2, 6, 6))
    brighter = embed_patches([maps[0] * 3, maps[1] * 0.2], patch_size=3, is_cosine=True)
    assert torch.allclose(patches, brighter, atol=1e-5)


def test_euclidean_distance_of_cosine_patches_sums_the_cosine_distances_of_their_parts() -> None:
    maps = [torch.randn(2, 5, 4, 4), torch.randn(2, 7, 4, 4)]
    cosine = embed_patches(maps, patch_size=3, is_cosine=True)
    plain = embed_patches(maps, patch_size=3, is_cosine=False)
    similarity = torch.nn.CosineSimilarity(dim=-1)
    apart = sum(1 - similarity(plain[0, ..., part], plain[1, ..., part]) for part in (slice(5), slice(5, None)))
    assert torch.allclose((cosine[0] - cosine[1]).norm(dim=-1), (2 * apart).sqrt(), atol=1e-5)


def test_a_photo_is_embedded_as_it_would_be_by_itself() -> None:
    maps = [torch.randn(3, 5, 6, 6), torch.randn(3, 7, 3, 3)]
    together = embed_patches(maps, patch_size=3, is_cosine=True)
    for photo in range(3):
        alone = embed_patches([features[photo : photo + 1] for features in maps], patch_size=3, is_cosine=True)
        assert torch.equal(together[photo], alone[0])


@pytest.mark.parametrize("size", [1, 5, 15])
def test_large_neighbourhoods_are_means_of_the_cells_inside(size: int) -> None:
    features = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(size))
    patches = embed_patches([features], patch_size=size, is_cosine=False)
    reach = size // 2
    for row, column in ((0, 0), (3, 4), (6, 8)):
        inside = features[:, :, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        torch.testing.assert_close(patches[:, row, column], inside.mean(dim=(2, 3)))


def test_a_narrower_embedding_holds_means_of_neighbouring_numbers() -> None:
    maps = [torch.randn(2, 5, 4, 4), torch.randn(2, 3, 2, 2)]
    whole = embed_patches(maps, patch_size=3, is_cosine=False)
    narrow = embed_patches(maps, patch_size=3, is_cosine=False, width=4)
    torch.testing.assert_close(narrow, whole.unflatten(3, (4, 2)).mean(dim=4))
    assert torch.equal(embed_patches(maps, patch_size=3, is_cosine=False, width=8), whole)
    assert torch.equal(embed_patches(maps, patch_size=3, is_cosine=False, width=99), whole)
