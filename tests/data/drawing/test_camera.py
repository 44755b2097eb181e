from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from inlier.data.drawing.camera import View, develop, expose

SIZE = (60, 80)


def test_a_view_from_straight_ahead_cuts_out_the_middle() -> None:
    view = View(np.eye(3), SIZE)
    canvas = np.zeros((75, 100), np.uint8)  # a canvas reaches a quarter past the frame
    canvas[7:67, 10:90] = 200
    photo = np.asarray(view.capture(Image.fromarray(canvas)), np.float32)
    assert photo.shape == SIZE
    assert photo.mean() > 198
    assert view.canvas().u.shape == (75, 100)


def test_captured_points_lie_where_the_homography_says() -> None:
    view = View.draw(np.random.default_rng(3), SIZE, tilt=0.2)
    surface = view.canvas()
    (u, v) = view.aims(np.random.default_rng(0), 1)[0]
    spot = (np.hypot(surface.u - u, surface.v - v) < 0.1).astype(np.uint8) * 255
    photo = np.asarray(view.capture(Image.fromarray(spot)), np.float64)
    row, column = (np.average(index, weights=photo) for index in np.indices(photo.shape))
    inverse = np.linalg.inv(view.homography) @ (u, v, 1)
    expected = inverse[:2] / inverse[2] * 30 + (40, 30)  # 30 pixels to a unit
    assert (column + 0.5, row + 0.5) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (64, 64), (50, 200)])
def test_every_view_stays_on_its_canvas(size: tuple[int, int]) -> None:
    for seed in range(30):
        view = View.draw(np.random.default_rng(seed), size, tilt=0.3)
        white = np.full(view.canvas().u.shape, 255, np.uint8)
        assert np.asarray(view.capture(Image.fromarray(white))).min() == 255


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (64, 64), (50, 200)])
def test_aims_are_in_the_photo_and_the_frame_of_4_to_3_is_always_on_the_canvas(size: tuple[int, int]) -> None:
    view = View.draw(np.random.default_rng(1), size, tilt=0.2)
    assert view.off_centre(view.aims(np.random.default_rng(2), 50)).max() <= 0.75 + 1e-9
    surface = view.canvas()
    assert surface.u.max() > 1.25 * 4 / 3 - 0.1
    assert surface.v.max() > 1.25 - 0.1


def test_off_centre_counts_from_the_middle_to_the_border() -> None:
    view = View(np.eye(3), SIZE)
    points = np.array([[0, 0], [4 / 3, 0], [0, -0.5], [2, 0.3]])
    assert view.off_centre(points) == pytest.approx([0, 1, 0.5, 1.5])


def test_exposure_is_monotone_from_black_to_white() -> None:
    light = np.broadcast_to(np.linspace(0, 8, 500, dtype=np.float32), (3, 1, 500))
    levels = np.asarray(expose(light))[0, :, 0].astype(int)
    assert levels[0] == 0
    assert levels[-1] == 255
    assert (np.diff(levels) >= 0).all()
    # 0.18 through (2.51 x^2 + 0.03 x) / (2.43 x^2 + 0.59 x + 0.14), then the root of 2.2
    curve = (2.51 * 0.18**2 + 0.03 * 0.18) / (2.43 * 0.18**2 + 0.59 * 0.18 + 0.14)
    grey = np.asarray(expose(np.full((3, 1, 1), 0.18, np.float32)))
    assert grey.ravel().tolist() == pytest.approx([255 * curve ** (1 / 2.2)] * 3, abs=2)


def test_developing_adds_noise_and_darkens_the_rim() -> None:
    photo = develop(Image.new("RGB", (80, 60), (128, 128, 128)), np.random.default_rng(0))
    assert photo.shape == (60, 80, 3)
    assert photo.dtype == np.uint8
    assert 0.5 < photo[25:35, 35:45].std() < 6
    assert photo[:6, :6].mean() < photo[25:35, 35:45].mean() - 2
