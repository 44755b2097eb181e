from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import inlier

PUBLIC = {
    "adaptation": {"adapt"},
    "adapted": {"AdaptedBackbone"},
    "comparison": {"Comparison", "compare"},
    "data.manifest": {"Manifest", "Photo"},
    "decision.calibration": {"Calibration"},
    "detectors.combined": {"Combined"},
    "detectors.patchcore": {"PatchCore"},
    "detectors.photo_neighbors": {"PhotoNeighbors"},
    "detectors.protocol": {"Detector"},
    "errors": {
        "CollapseError",
        "ConfigError",
        "ImageReadError",
        "InlierError",
        "ManifestError",
        "MissingExtraError",
        "ModelError",
        "NotFittedError",
        "WeightsError",
    },
    "evaluation": {"Evaluation", "evaluate"},
    "features.backbone": {"Backbone"},
    "gate": {"Gate", "downstream_auroc"},
    "inspection": {"inspect_to_folder"},
    "mapping": {"EmbeddingMap", "draw_map"},
    "model": {"Model"},
    "records": {"Evidence", "Inspection", "Prediction", "Verdict"},
    "workflow": {"fit", "inspect_photos"},
}


def test_the_public_names_are_these() -> None:
    names = set().union(*PUBLIC.values()) | {"__version__"}
    assert set(inlier.__all__) == names
    assert len(inlier.__all__) == len(names)
    assert set(dir(inlier)) >= names


def test_each_comes_from_its_home() -> None:
    for home, names in PUBLIC.items():
        for name in names:
            assert getattr(inlier, name).__module__ == f"inlier.{home}", name
    assert inlier.__version__ == version("inlier")


def test_another_name_is_refused_as_modules_do() -> None:
    with pytest.raises(AttributeError, match=r"^module 'inlier' has no attribute 'Manager'$"):
        _ = inlier.Manager  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["inlier", "inlier.cli.main"])
def test_importing_is_light(module: str) -> None:
    heavy = ("torch", "timm", "numpy", "sklearn", "pyarrow", "PIL", "pydantic")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "inlier", "--help"], capture_output=True, text=True, check=True)
    assert "inspect" in ran.stdout and "evaluate" in ran.stdout
