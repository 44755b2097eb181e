from __future__ import annotations

import doctest
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from inlier.finetuning import views as module
from inlier.finetuning.views import AUGMENTATIONS, MAGNITUDE, RANDAUGMENT, Augmentation, Views

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _square(side: int = 48) -> np.ndarray:
    """Smooth colours, since a change to noise can be seen in no statistics."""
    rows, columns = np.mgrid[:side, :side] / side
    return (255 * np.stack([rows, columns, 0.3 + 0.4 * rows * columns], axis=2)).astype(np.uint8)


def _view(views: Views, seed: int = 0) -> Tensor:
    return views(_square(), np.random.default_rng(seed))


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 2)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_view_depends_on_its_photo_and_generator_alone(augmentation: Augmentation) -> None:
    views, square = Views(24, MEAN, STD, augmentation=augmentation), _square()
    before = square.copy()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = [views(square, np.random.default_rng(seed)) for seed in range(40)]
    assert torch.equal(torch.rand(2), expected)  # the caller's random numbers are left where they were
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: views(square, np.random.default_rng(seed)), range(40)))
    assert all(map(torch.equal, first, again))
    assert np.array_equal(square, before)
    assert all(view.shape == (3, 24, 24) and view.dtype == torch.float32 for view in first)
    assert len({view.numpy().tobytes() for view in first}) == 40


def test_the_whole_photo_comes_in_all_eight_ways_as_often_normalised() -> None:
    views = Views(48, MEAN, STD, scale=(1.0, 1.0), augmentation="none")
    whole = (torch.from_numpy(_square()).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    ways = [torch.rot90(way, turns, (1, 2)) for way in (whole, whole.flip(2)) for turns in range(4)]
    seen = []
    for seed in range(400):
        distances = [float((_view(views, seed) - way).abs().max()) for way in ways]
        if min(distances) < 1e-5:  # else a crop with another shape fitted
            seen.append(int(np.argmin(distances)))
    counts = np.bincount(seen, minlength=8)
    assert counts.sum() > 250 and counts.min() > 0.5 * counts.mean()


def test_views_that_are_not_turned_are_mirrored_only() -> None:
    views = Views(48, **PLAIN, augmentation="none", is_turned=False)
    for seed in range(20):
        view = _view(views, seed)
        assert (view[0, 1:] >= view[0, :-1] - 1e-6).all()  # red rises downwards still
        rising = view[1, :, 1:] - view[1, :, :-1]
        assert (rising >= -1e-6).all() or (rising <= 1e-6).all()


def test_a_view_shows_as_much_as_scale_says() -> None:
    spans = []
    for seed in range(100):
        view = _view(Views(48, **PLAIN, scale=(0.25, 0.5), augmentation="none", is_turned=False), seed)
        red, green = (float(view[colour].max() - view[colour].min()) for colour in (0, 1))
        spans.append(red * green)  # each colour spans 1 over the whole photo
    assert 0.17 < min(spans) < 0.3 and 0.42 < max(spans) < 0.5


def test_a_shape_that_never_fits_gives_the_whole_photo() -> None:
    crop = module._draw_crop(10, 1000, (1.0, 1.0), np.random.default_rng(0))
    assert crop == (0, 0, 10, 1000)


def test_jitter_changes_colours_by_as_much_as_it_says_four_times_in_five() -> None:
    def means(jitter: float) -> np.ndarray:
        views = Views(16, **PLAIN, scale=(1.0, 1.0), jitter=jitter)
        grey = np.full((16, 16, 3), 100, dtype=np.uint8)
        return np.array([float(views(grey, np.random.default_rng(seed)).mean()) for seed in range(300)]) * 255

    assert np.allclose(means(0.0), 100)
    found = means(0.4)
    assert 0.72 < (np.abs(found - 100) > 0.1).mean() < 0.86
    assert 59 <= found.min() < 65 and 135 < found.max() <= 141  # grey knows brightness only


def test_hue_saturation_and_contrast_change_too() -> None:
    views = Views(48, **PLAIN, scale=(1.0, 1.0), is_turned=False)
    red = np.zeros((48, 48, 3), dtype=np.uint8)
    red[..., 0] = 200
    found = torch.stack([views(red, np.random.default_rng(seed))[:, 0, 0] for seed in range(200)])
    assert (found[:, 1] > found[:, 2] + 0.1).any() and (found[:, 2] > found[:, 1] + 0.1).any()  # to orange, to purple


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("number", range(14))
def test_each_change_of_randaugment_is_torchvisions(number: int, sign: int) -> None:
    theirs = v2.RandAugment()
    assert theirs.num_ops == module.NUM_OPS and len(theirs._AUGMENTATION_SPACE) == len(RANDAUGMENT)
    name, (magnitudes, is_signed) = list(theirs._AUGMENTATION_SPACE.items())[number]
    image = Image.fromarray(_square())
    levels = magnitudes(theirs.num_magnitude_bins, 48, 48)
    level = 0.0 if levels is None else float(levels[theirs.magnitude]) * (sign if is_signed else 1)
    expected = theirs._apply_image_or_video_transform(image, name, level, theirs.interpolation, theirs._fill)
    found = RANDAUGMENT[number](image, sign * MAGNITUDE)
    assert np.array_equal(np.asarray(found), np.asarray(expected)), name


def test_each_change_of_randaugment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, float]] = []

    def spy(number: int) -> object:
        return lambda image, strength: made.append((number, strength)) or image

    monkeypatch.setattr(module, "RANDAUGMENT", tuple(map(spy, range(14))))
    for seed in range(300):
        _view(Views(16, **PLAIN, augmentation="randaugment"), seed)
    assert len(made) == 2 * 300 and {number for number, _ in made} == set(range(14))
    assert {strength for _, strength in made} == {MAGNITUDE, -MAGNITUDE}


def test_pillow_and_torch_crop_alike() -> None:
    """The crop is torchvision's own, but for rounding."""
    image = Image.fromarray(_square())
    expected = np.asarray(F.resized_crop(image, 3, 5, 30, 40, [24, 24], antialias=True))
    found = np.asarray(Image.fromarray(_square()[3:33, 5:45]).resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size": 0}, r"size of Views must be at least 1, got 0\."),
        ({"std": (1.0, 0.0, 1.0)}, r"mean and std of Views must be three numbers each, std > 0, got .*\."),
        ({"scale": (0.5, 0.4)}, r"scale of Views must be two ascending numbers in \(0, 1\], got \[0\.5, 0\.4\]\."),
        ({"augmentation": "mixup"}, r"augmentation of Views must be one of jitter, randaugment, none, got 'mixup'\."),
        ({"jitter": 1.5}, r"jitter of Views must be in \[0, 1\], got 1\.5\."),
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Views(**({"size": 16} | PLAIN | wrong))  # type: ignore[arg-type]
