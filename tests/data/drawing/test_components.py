from __future__ import annotations

import numpy as np
import pytest

from inlier.data.drawing.defects import changed
from inlier.data.drawing.family import component_names, find_blueprint
from inlier.data.drawing.surface import Surface, disc


@pytest.mark.parametrize("component", component_names(12))
def test_only_the_missing_part_differs(component: str) -> None:
    blueprint = find_blueprint(component)
    for missing, at in enumerate(blueprint.parts):
        whole, lacking = Surface.blank(1.7, 1.3, 0.02), Surface.blank(1.7, 1.3, 0.02)
        blueprint.draw(whole, np.random.default_rng(1), None)
        blueprint.draw(lacking, np.random.default_rng(1), missing)
        change = changed(whole, lacking) > 0
        assert change.any()
        # a ring is missing all along its height, anything else within reach of its middle
        away = np.abs(whole.v - at[1]) if component == "piston-rings" else disc(whole, at, 0)
        assert away[change].max() < 0.35
        if missing == 1:
            break
