from __future__ import annotations

import math

import numpy as np
import pytest

from inlier.data.drawing.surface import (
    Surface,
    box,
    disc,
    hexagon,
    line_noise,
    pick,
    resize,
    rotated,
    smooth,
)


@pytest.fixture
def surface() -> Surface:
    return Surface.blank(2.0, 1.0, 0.01)


def at(surface: Surface, field: np.ndarray, u: float, v: float) -> float:
    """The field's value at a place on the canvas."""
    row = round((v - float(surface.v[0, 0])) / surface.pitch)
    column = round((u - float(surface.u[0, 0])) / surface.pitch)
    return float(field[row, column])


def test_a_blank_surface_covers_its_extents(surface: Surface) -> None:
    assert surface.u.shape == surface.height.shape == surface.gloss.shape == (200, 400)
    assert surface.albedo.shape == (3, 200, 400)
    assert surface.u[0, 0] == pytest.approx(-1.995)
    assert surface.v[-1, 0] == pytest.approx(0.995)


def test_distances_have_the_values_of_plane_geometry(surface: Surface) -> None:
    tolerance = 1.5 * surface.pitch
    assert at(surface, disc(surface, (0, 0), 0.5), 0.3, 0.4) == pytest.approx(0, abs=tolerance)
    assert at(surface, disc(surface, (1, 0), 0.5), 1, 0.2) == pytest.approx(-0.3, abs=tolerance)
    square = box(surface, (0, 0), (0.5, 0.5))
    assert at(surface, square, 0.8, 0.9) == pytest.approx(0.5, abs=tolerance)  # 3-4-5 from the corner
    assert at(surface, square, 0.3, 0.1) == pytest.approx(-0.2, abs=tolerance)
    rounded = box(surface, (0, 0), (0.5, 0.5), corner=0.5)  # a circle
    assert np.allclose(rounded, disc(surface, (0, 0), 0.5), atol=1e-5)
    flats = hexagon(surface, (0, 0), 0.5, 0.0)
    assert at(surface, flats, 0.5, 0) == pytest.approx(0, abs=tolerance)
    assert at(surface, flats, 0, 0.5 / math.cos(math.pi / 6)) == pytest.approx(0, abs=tolerance)  # a corner


def test_inside_goes_from_one_to_zero_across_the_edge(surface: Surface) -> None:
    cover = surface.inside(disc(surface, (0, 0), 0.5), soft=0.1)
    assert at(surface, cover, 0, 0) == 1
    assert at(surface, cover, 0.5, 0) == pytest.approx(0.5, abs=0.15)
    assert at(surface, cover, 0.6, 0) == 0


def test_what_is_drawn_into_a_window_is_drawn_on_the_surface(surface: Surface) -> None:
    near = surface.window((0.5, 0.2), 0.3)
    near.paint(np.ones_like(near.height), (0.1, 0.2, 0.3), 0.9)
    near.level(np.ones_like(near.height), 0.7)
    assert [at(surface, channel, 0.5, 0.2) for channel in surface.albedo] == pytest.approx([0.1, 0.2, 0.3])
    assert at(surface, surface.gloss, 0.7, 0.4) == pytest.approx(0.9)
    assert at(surface, surface.height, 0.9, 0.2) == 0
    assert near.height.sum() == pytest.approx(surface.height.sum())


def test_windows_beyond_the_canvas_are_clipped(surface: Surface) -> None:
    assert surface.window((1.95, 0.95), 0.2).u.max() == surface.u.max()
    assert surface.window((9.0, 9.0), 0.2).u.size == 1


def test_a_copy_has_its_own_drawing_and_keep_puts_parts_of_it_back(surface: Surface) -> None:
    before = surface.copy()
    surface.height += 1
    surface.albedo += 0.5
    surface.gloss += 0.25
    surface.keep((surface.u > 0).astype(np.float32), before)
    assert np.array_equal(surface.height, np.where(surface.u > 0, 0, 1))
    assert np.allclose(surface.albedo, np.where(surface.u > 0, 0.3, 0.8))
    assert np.array_equal(surface.gloss, np.where(surface.u > 0, 0, 0.25))


def test_strokes_have_length_and_width(surface: Surface) -> None:
    cover = surface.strokes([([(-0.5, 0.0), (0.5, 0.0)], 0.1)])
    assert cover.sum() * surface.pitch**2 == pytest.approx(0.1, rel=0.1)
    assert at(surface, cover, 0, 0) == 1
    assert at(surface, cover, 0, 0.1) == 0


def test_noise_is_centred_of_unit_size_and_as_coarse_as_asked(surface: Surface) -> None:
    rng = np.random.default_rng(0)
    coarse, fine = surface.noise(rng, 0.4), surface.noise(rng, 0.05)
    upright = surface.noise(rng, 0.05, stretch=10)
    for field in (coarse, fine, upright):
        assert field.shape == surface.u.shape
        assert field.dtype == np.float32
        assert abs(field.mean()) < 0.5
        assert 0.5 < field.std() < 1.5
    assert np.abs(np.diff(coarse, axis=1)).mean() < np.abs(np.diff(fine, axis=1)).mean()
    assert np.abs(np.diff(upright, axis=0)).mean() < 0.5 * np.abs(np.diff(upright, axis=1)).mean()


def test_line_noise_is_constant_along_lines(surface: Surface) -> None:
    lines = line_noise(np.random.default_rng(0), surface.v, 0.05)
    assert np.array_equal(lines, np.broadcast_to(lines[:, :1], lines.shape))
    assert 0.6 < lines.std() < 1.4


def test_rotated_coordinates_turn_about_their_point(surface: Surface) -> None:
    along, across = rotated(surface, (0.5, 0.0), math.pi / 2)
    assert np.allclose(along, surface.v, atol=1e-6)
    assert np.allclose(across, 0.5 - surface.u, atol=1e-6)


def test_smooth_eases_from_zero_to_one() -> None:
    eased = smooth(np.array([-1, 0, 0.25, 0.5, 1, 2], np.float32))
    assert eased.tolist() == [0, 0, 0.15625, 0.5, 1, 1]


def test_resize_keeps_constants_and_takes_rows_first() -> None:
    assert np.allclose(resize(np.full((2, 3), 0.7, np.float32), (5, 8)), np.full((5, 8), 0.7))


def test_pick_takes_one_of_the_colours() -> None:
    colours = [(0.1, 0.1, 0.1), (0.9, 0.9, 0.9)]
    rng = np.random.default_rng(0)
    assert {pick(rng, colours) for _ in range(20)} == set(colours)
