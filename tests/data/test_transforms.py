from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.data.transforms import Transform, to_photo

HALF = (0.5, 0.5, 0.5)


def test_normalisation_by_hand() -> None:
    transform = Transform(size=4, mean=(0.0, 0.5, 0.2), std=(1.0, 0.5, 0.4))
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[0, 1] = (255, 255, 51)
    tensor = transform.to_tensor(image)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, 4, 4), torch.float32, True)
    assert tensor[:, 0, 1].tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-6)
    assert tensor[:, 1, 0].tolist() == pytest.approx([0.0, -1.0, -0.5], abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(90, 120), (300, 41), (20, 30), (64, 64)])
def test_whole_photo_is_resized_as_pillow_does(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    levels = Transform(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).to_tensor(image).numpy() * 255
    assert np.abs(levels.transpose(1, 2, 0) - pillow).max() <= 1.001


def test_a_defect_in_the_corner_is_not_cropped_away() -> None:
    image = np.zeros((100, 400, 3), dtype=np.uint8)
    image[-10:, -10:] = 255
    tensor = Transform(size=32, mean=HALF, std=HALF).to_tensor(image)
    assert tensor[:, -2:, -1].max() > -1
    assert tensor[:, :16].max() == -1


def test_the_photo_is_left_as_it_was() -> None:
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    Transform(size=8, mean=HALF, std=HALF).to_tensor(image)
    assert (image == 100).all()


@pytest.mark.parametrize(
    ("size", "mean", "std", "sentence"),
    [
        (0, HALF, HALF, r"size of Transform must be at least 1, got 0\."),
        (8, (0.5,), HALF, r"mean of Transform must be three numbers, got \(0\.5,\)\."),
        (8, HALF, (0.5, 0.5), r"std of Transform must be three numbers > 0, got \(0\.5, 0\.5\)\."),
        (8, HALF, (0.5, 0.0, 0.5), r"std of Transform must be three numbers > 0, got \(0\.5, 0\.0, 0\.5\)\."),
    ],
)
def test_wrong_arguments(size: int, mean: tuple[float, ...], std: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Transform(size=size, mean=mean, std=std)  # type: ignore[arg-type]


def test_map_to_photo_by_hand() -> None:
    pixels = to_photo(np.array([[0.0, 4.0]], dtype=np.float32), height=2, width=4)
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2  # centres of the cells at 1 and 3, flat beyond


def test_map_to_a_smaller_photo_is_averaged_as_pillow_does() -> None:
    anomaly_map = np.random.default_rng(0).random((60, 50), dtype=np.float32)
    pillow = Image.fromarray(anomaly_map).resize((21, 13), Image.Resampling.BILINEAR)
    assert to_photo(anomaly_map, height=13, width=21) == pytest.approx(np.asarray(pillow), abs=1e-5)


def test_map_of_the_photos_size_is_unchanged() -> None:
    anomaly_map = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    assert to_photo(anomaly_map, height=5, width=7) == pytest.approx(anomaly_map)
