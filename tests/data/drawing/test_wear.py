from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inlier.data.drawing.surface import Surface
from inlier.data.drawing.wear import Visit, wear


def worn(visit: Visit, seed: int = 0) -> Surface:
    surface = Surface.blank(1.7, 1.3, 0.02)
    surface.working += 1
    wear(surface, visit, np.random.default_rng(seed))
    return surface


@pytest.fixture
def clean() -> Visit:
    visit = Visit.draw(np.random.default_rng(0))
    return replace(visit, tint=(1.0, 1.0, 1.0), scratches=0.0, grime=-9.0, oil=-9.0)


def test_visits_are_determined_by_their_generator() -> None:
    first, again, other = (Visit.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_clean_visit_leaves_a_surface_as_it_was_but_for_chalk_and_hose(clean: Visit) -> None:
    untouched = [seed for seed in range(20) if np.allclose(worn(clean, seed).albedo, 0.3)]
    assert 5 <= len(untouched) <= 15  # three in five photos have no number, and seven in eight no hose


def test_grime_darkens_oil_shines_and_scratches_brighten(clean: Visit) -> None:
    plain = worn(clean)
    grimy, oily = worn(replace(clean, grime=2.0)), worn(replace(clean, oil=3.0))
    assert grimy.albedo.mean() < 0.9 * plain.albedo.mean()
    assert oily.gloss.mean() > plain.gloss.mean() + 0.05
    assert oily.albedo.mean() < plain.albedo.mean()
    scratched = worn(replace(clean, scratches=4.0))
    assert scratched.albedo.mean() > plain.albedo.mean()


def test_tint_scales_each_colour(clean: Visit) -> None:
    seed = next(seed for seed in range(20) if np.allclose(worn(clean, seed).albedo, 0.3))
    tinted = worn(replace(clean, tint=(1.1, 1.0, 0.8)), seed)
    assert tinted.albedo.mean(axis=(1, 2)) == pytest.approx([0.33, 0.3, 0.24], rel=1e-4)
