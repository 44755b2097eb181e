from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from inlier.data.manifest import Photo
from inlier.data.squares import Squares
from inlier.features.backbone import Backbone
from inlier.finetuning.adaptor import Moments, _normaliser, fit_adaptors, light_pairs

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def slow_covariance(photos: list[np.ndarray[Any, Any]], around: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A mean of squares, one a photo, and Ledoit & Wolf's shrinkage by how these differ, in plain sight."""
    squares = []
    for rows in photos:
        square = np.zeros((len(around), len(around)))
        for row in rows:
            square += np.outer(row - around, row - around) / len(rows)
        squares.append(square)
    mean = sum(squares) / len(squares)
    target = np.trace(mean) / len(around) * np.eye(len(around))
    noise = sum(((square - mean) ** 2).sum() for square in squares) / len(squares) ** 2
    distance = ((mean - target) ** 2).sum()
    share = min(noise, distance) / distance
    return np.asarray((1 - share) * mean + share * target)


def slow_map(moved: np.ndarray[Any, Any], spread: np.ndarray[Any, Any], strength: float) -> np.ndarray[Any, Any]:
    """S ** (-strength / 2) by way of a singular value decomposition, scaled to keep the total variance."""
    left, variances, right = np.linalg.svd(moved)
    scaled = np.zeros_like(moved)
    for u, variance, v in zip(left.T, variances, right, strict=True):
        scaled += variance ** (-strength / 2) * np.outer(u, v)
    return np.asarray(scaled * np.sqrt(np.trace(spread) / np.trace(scaled @ spread @ scaled.T)))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", layers=(1, 3), is_pretrained=False)


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Twelve photos of noise, each twice: in two kinds of light."""
    draw = torch.Generator().manual_seed(1)
    photos = torch.rand(12, 3, 32, 32, generator=draw) * torch.rand(12, 3, 1, 1, generator=draw)
    light = 0.5 + torch.rand(2, 12, 1, 1, 1, generator=draw)
    return photos * light + 0.02 * torch.rand(2, 12, 3, 32, 32, generator=draw)


@pytest.mark.parametrize("kind", ["nuisance", "whitening"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_it_is_the_formula_written_out(backbone: Backbone, views: Tensor, kind: Any, strength: float) -> None:
    adaptors = fit_adaptors(backbone, views.split(5, dim=1), kind=kind, strength=strength)
    assert tuple(adaptors) == (1, 3)
    for layer, adaptor in adaptors.items():
        first, second = (backbone.extract(of)[layer].double().numpy() for of in views)
        ones, others = ([photo.reshape(len(photo), -1).T for photo in of] for of in (first, second))
        both = [np.concatenate([one, other]) for one, other in zip(ones, others, strict=True)]
        mean = sum(rows.mean(axis=0) for rows in both) / len(both)
        cells = np.concatenate(both)
        spread = (cells - mean).T @ (cells - mean) / len(cells)
        differences = [one - other for one, other in zip(ones, others, strict=True)]
        moved = slow_covariance(differences, np.zeros_like(mean)) if kind == "nuisance" else slow_covariance(both, mean)
        expected = slow_map(moved, spread, strength)
        matrix, shift = adaptor.weight[:, :, 0, 0].numpy(), adaptor.bias
        assert shift is not None and not adaptor.weight.requires_grad
        np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(shift.numpy(), mean - expected @ mean, rtol=1e-3, atol=1e-3)


def test_with_one_row_a_photo_it_is_the_rule_of_ledoit_and_wolf() -> None:
    rows = np.random.default_rng(0).normal(size=(15, 6)) * np.arange(1, 7) + 3
    moments = Moments(6)
    for row in rows:
        moments.add(torch.from_numpy(row)[None])
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0))
    np.testing.assert_allclose(moments.covariance(around=moments.mean), ledoit_wolf(rows)[0])
    plain = moments.covariance(around=torch.zeros(6, dtype=torch.float64))
    np.testing.assert_allclose(plain, ledoit_wolf(rows, assume_centered=True)[0])


def test_nothing_is_learned_from_nothing() -> None:
    moments = Moments(3)
    assert not moments.covariance(around=moments.mean).any()
    assert not moments.mean.any()
    moments.add(torch.ones(4, 3))
    assert not moments.covariance(around=moments.mean).any()
    zero, one = torch.zeros(3, 3).double(), torch.eye(3).double()
    assert torch.equal(_normaliser(zero, one, 1.0, None), one)
    assert torch.equal(_normaliser(one, zero, 1.0, None), one)


def test_a_strength_of_zero_changes_nothing(backbone: Backbone, views: Tensor) -> None:
    for rank in (None, 2):
        for adaptor in fit_adaptors(backbone, [views], strength=0, rank=rank).values():
            assert torch.allclose(adaptor.weight[:, :, 0, 0], torch.eye(len(adaptor.weight)), atol=1e-5)
            assert adaptor.bias is not None and torch.allclose(adaptor.bias, torch.zeros(len(adaptor.bias)), atol=1e-4)


def test_batches_and_the_order_of_photos_and_views_change_nothing(backbone: Backbone, views: Tensor) -> None:
    whole = fit_adaptors(backbone, [views])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for batches in (views.split(1, dim=1), [views[:, order]], [views.flip(0)]):
        for layer, adaptor in fit_adaptors(backbone, batches).items():
            scale = whole[layer].weight.abs().max()
            assert torch.allclose(adaptor.weight, whole[layer].weight, atol=1e-3 * float(scale))


def test_mean_and_total_variance_stay(backbone: Backbone, views: Tensor) -> None:
    adapted = Backbone("test_resnet", layers=(1, 3), is_pretrained=False)
    adapted.load_state_dict(backbone.state_dict())
    adapted.adapt(fit_adaptors(backbone, [views], strength=1))
    before, after = backbone.extract(views.flatten(0, 1)), adapted.extract(views.flatten(0, 1))
    for layer in (1, 3):
        one, other = (maps[layer].movedim(1, -1).flatten(0, -2) for maps in (before, after))
        assert torch.allclose(one.mean(dim=0), other.mean(dim=0), atol=1e-3)
        assert float(other.var(dim=0).sum()) == pytest.approx(float(one.var(dim=0).sum()), rel=1e-2)


def test_a_planted_nuisance_is_suppressed_and_a_rank_leaves_the_rest() -> None:
    draw = np.random.default_rng(0)
    planted = np.linalg.qr(draw.normal(size=(8, 8)))[0][0]
    moments, total = Moments(8), Moments(8)
    for _ in range(200):
        cells = draw.normal(size=(10, 8))
        light = 10 * draw.normal() * planted
        moments.add(torch.from_numpy(light + 0.1 * draw.normal(size=(10, 8))))
        total.add(torch.from_numpy(cells + light))
    moved, spread = (of.covariance(around=torch.zeros(8, dtype=torch.float64)) for of in (moments, total))
    direction = torch.from_numpy(planted)
    other = torch.from_numpy(np.linalg.qr(np.column_stack([planted, draw.normal(size=8)]))[0][:, 1])
    for strength, most in ((0.5, 0.25), (1.0, 0.06)):
        matrix = _normaliser(moved, spread, strength, 1)
        assert float((matrix @ direction).norm() / (matrix @ other).norm()) < most
        rest = torch.eye(8, dtype=torch.float64) - torch.outer(direction, direction)
        alike = matrix @ rest / (matrix @ other).norm()
        assert torch.allclose(alike, rest, atol=0.05)  # all other directions keep their proportions
    whole = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(_normaliser(whole, spread, 1.0, 8), _normaliser(whole, spread, 1.0, None))


def test_views_of_a_photo_come_closer_than_photos_do(backbone: Backbone, views: Tensor) -> None:
    adapted = Backbone("test_resnet", layers=(1, 3), is_pretrained=False)
    adapted.load_state_dict(backbone.state_dict())
    adapted.adapt(fit_adaptors(backbone, [views], strength=1))

    def moved_share(of: Backbone, layer: int) -> float:
        one, other = (of.extract(view)[layer] for view in views)
        return float((one - other).square().sum() / (one - one.mean(dim=0)).square().sum())

    for layer in (1, 3):
        assert moved_share(adapted, layer) < 0.7 * moved_share(backbone, layer)


@pytest.fixture
def squares(tmp_path: Path) -> Iterator[Squares]:
    for number in range(3):
        pixels = np.full((40, 40, 3), 60 * (number + 1), dtype=np.uint8)
        pixels[10:30, 10:30] //= 2
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    photos = [Photo(path, "train") for path in sorted(tmp_path.iterdir())]
    with Squares.read(photos, side=40, workers=0) as read:
        yield read


def test_pairs_show_the_same_place_in_other_light(squares: Squares) -> None:
    state = torch.random.get_rng_state()
    first, last = light_pairs(squares, size=32, mean=MEAN, std=STD, batch_size=2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first.shape, last.shape) == ((2, 2, 3, 32, 32), (2, 1, 3, 32, 32))
    (alone,) = light_pairs(squares, size=32, mean=MEAN, std=STD, batch_size=9, seed=3)
    assert torch.equal(alone, torch.cat([first, last], dim=1))
    (other,) = light_pairs(squares, size=32, mean=MEAN, std=STD, batch_size=9, seed=4)
    assert not torch.equal(alone, other)
    colours = alone * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert colours.min() >= -1e-6 and colours.max() <= 1 + 1e-6
    inside, around = colours[..., 10:22, 10:22].mean(dim=(2, 3, 4)), colours[..., 1:6, 1:6].mean(dim=(2, 3, 4))
    assert bool((inside < around).all())  # the dark part is where it was
    assert not torch.allclose(alone[0], alone[1], atol=0.05)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "pca"}, r"^kind of fit_adaptors must be one of nuisance, whitening, got 'pca'\.$"),
        ({"strength": 1.5}, r"^strength of fit_adaptors must be in \[0, 1\], got 1\.5\.$"),
        ({"rank": 0}, r"^rank of fit_adaptors must be at least 1, got 0\.$"),
        ({}, r"^batches of fit_adaptors must hold at least one photo, got none\.$"),
    ],
)
def test_what_cannot_be_learned_is_refused(backbone: Backbone, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_adaptors(backbone, [], **options)


def test_adaptors_are_not_learned_on_top_of_others(backbone: Backbone, views: Tensor) -> None:
    adapted = backbone.select((1,)).adapt({1: fit_adaptors(backbone, [views])[1]})
    with pytest.raises(ValueError, match=r"^backbone of fit_adaptors must have no adaptors yet, got layers \['1'\]\.$"):
        fit_adaptors(adapted, [views])
