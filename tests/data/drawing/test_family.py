from __future__ import annotations

from inlier.data.drawing.components import BLUEPRINTS
from inlier.data.drawing.family import component_names, find_blueprint


def test_names_go_on_without_end_and_numbered_kinds_differ() -> None:
    names = component_names(len(BLUEPRINTS) + 30)
    assert names[: len(BLUEPRINTS)] == tuple(BLUEPRINTS)
    assert names[-1] == "part-30"
    assert component_names(2) == ("piston-rings", "piston-crown")
    layouts = {find_blueprint(name).parts for name in names}
    assert len(layouts) == len(names)
    assert find_blueprint("part-4").parts == find_blueprint("part-4").parts
