from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inlier.data.drawing.family import component_names
from inlier.data.synthetic import COMPONENTS, DEFECTS, SIZE, UNRELATED, draw_component, draw_unrelated

SMALL, MEDIUM = (96, 128), (150, 200)
KINDS = component_names(len(COMPONENTS) + 6)  # the six numbered ones have six different middles


def differences(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(first.astype(np.int16) - second).max(axis=2)


def widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.MaxFilter(7))) > 0


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("component", KINDS)
def test_a_defect_changes_the_photo_where_its_mask_says_and_nowhere_else(component: str, defect: str) -> None:
    healthy = draw_component(component, seed=1, size=MEDIUM)
    damaged = draw_component(component, seed=1, defect=defect, size=MEDIUM)
    change = differences(healthy.image, damaged.image)
    assert not healthy.mask.any()
    assert 0.0005 < damaged.mask.mean() < 0.25
    assert change[damaged.mask].mean() > 16
    # what stays outside is the shadow that a missing part no longer casts, and faint glare
    elsewhere = change[~widened(damaged.mask)]
    assert elsewhere.mean() < 0.7
    assert (elsewhere > 24).mean() < 0.003


def test_equal_arguments_give_an_equal_photo() -> None:
    first = draw_component("gear-wheel", seed=7, defect="crack", visit=3, size=SMALL)
    second = draw_component("gear-wheel", seed=7, defect="crack", visit=3, size=SMALL)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)


def test_seed_component_and_visit_each_give_another_photo() -> None:
    photos = [
        draw_component(component, seed=seed, visit=visit, size=SMALL).image
        for component, seed, visit in (
            ("piston-rings", 1, 1),
            ("piston-rings", 2, 1),
            ("piston-rings", 1, 2),
            ("piston-crown", 1, 1),
        )
    ]
    for index, photo in enumerate(photos):
        assert all(differences(photo, other).mean() > 4 for other in photos[:index])


def test_a_photo_alone_is_a_visit_of_its_own_numbered_like_its_seed() -> None:
    alone = draw_component("cylinder-liner", seed=5, size=SMALL)
    visited = draw_component("cylinder-liner", seed=5, visit=5, size=SMALL)
    assert np.array_equal(alone.image, visited.image)


def test_photos_of_one_visit_share_the_colour_of_the_light() -> None:
    def warmth(seed: int, visit: int) -> float:
        red, _, blue = draw_component("cylinder-liner", seed=seed, visit=visit, size=SMALL).image.mean((0, 1))
        return float(np.log(red / blue))

    by_visit = np.array([[warmth(10 * visit + seed, visit) for seed in range(4)] for visit in range(8)])
    assert by_visit.std(axis=1).mean() < 0.5 * by_visit.mean(axis=1).std()


@pytest.mark.parametrize("size", [(32, 32), (96, 128), (128, 96), (60, 200)])
@pytest.mark.parametrize("defect", [None, "missing-part"])
def test_photo_and_mask_have_the_size_asked_for(size: tuple[int, int], defect: str | None) -> None:
    scene = draw_component("bearing-shell", seed=3, defect=defect, size=size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.mask.shape == size
    assert scene.mask.dtype == np.bool_
    assert scene.mask.any() == (defect is not None)


def test_a_drawing_does_not_depend_on_the_resolution() -> None:
    small = draw_component("bolted-flange", seed=4, defect="missing-part", size=(120, 160))
    large = draw_component("bolted-flange", seed=4, defect="missing-part", size=(240, 320))
    reduced = np.asarray(Image.fromarray(large.mask).convert("L").resize((160, 120))) > 127
    overlap = (reduced & small.mask).sum() / (reduced | small.mask).sum()
    assert overlap > 0.7


@pytest.mark.parametrize("component", KINDS)
def test_normal_photos_are_neither_black_nor_blown_out_and_have_detail(component: str) -> None:
    for seed in range(3):
        grey = draw_component(component, seed=seed, size=SMALL).image.mean(axis=2)
        assert 25 < grey.mean() < 230
        assert grey.std() > 15
        assert (grey > 250).mean() < 0.4


@pytest.mark.parametrize("kind", UNRELATED)
def test_unrelated_pictures_are_determined_by_their_seed(kind: str) -> None:
    first, again, other = (draw_unrelated(kind, seed=seed, size=SMALL) for seed in (1, 1, 2))
    assert first.shape == (*SMALL, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert differences(first, other).mean() > 4
    assert first.std() > 15


@pytest.mark.parametrize("kind", UNRELATED)
def test_unrelated_pictures_come_in_any_size(kind: str) -> None:
    for size in ((32, 32), (90, 50)):
        assert draw_unrelated(kind, seed=0, size=size).shape == (*size, 3)


def test_without_a_size_photos_have_the_usual_one() -> None:
    assert draw_component("piston-crown", seed=0).image.shape == (*SIZE, 3)
    assert draw_unrelated("chart", seed=0).shape == (*SIZE, 3)


def test_names_that_do_not_exist_are_refused_with_those_that_do() -> None:
    for name in ("propeller", "part-", "part-0", "part-x", "part--1"):
        with pytest.raises(ValueError, match=rf"^component must be one of piston-rings, .*, got '{name}'\.$"):
            draw_component(name, seed=0)
    with pytest.raises(ValueError, match=r"^defect must be one of crack, scuffing, .*, or None, got 'dent'\.$"):
        draw_component("gear-wheel", seed=0, defect="dent")
    with pytest.raises(ValueError, match=r"^kind must be one of landscape, .*, chart, got 'dog'\.$"):
        draw_unrelated("dog", seed=0)


def test_negative_seeds_and_tiny_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^seed must be 0 or more, got -1\.$"):
        draw_component("gear-wheel", seed=-1)
    with pytest.raises(ValueError, match=r"^visit must be 0 or more, got -2\.$"):
        draw_component("gear-wheel", seed=0, visit=-2)
    with pytest.raises(ValueError, match=r"^size must be at least 32 x 32 pixels, got 31 x 64\.$"):
        draw_unrelated("cat", seed=0, size=(31, 64))
