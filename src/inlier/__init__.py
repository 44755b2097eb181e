"""Learns from photos of what is normal, and tells for each new photo whether it belongs.

The names below are the public ones. Each is imported when it is first used, so that ``import inlier`` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlier.adaptation import adapt
    from inlier.adapted import AdaptedBackbone
    from inlier.comparison import Comparison, compare
    from inlier.data.manifest import Manifest, Photo
    from inlier.decision.calibration import Calibration
    from inlier.detectors.combined import Combined
    from inlier.detectors.patchcore import PatchCore
    from inlier.detectors.photo_neighbors import PhotoNeighbors
    from inlier.detectors.protocol import Detector
    from inlier.errors import (
        CollapseError,
        ConfigError,
        ImageReadError,
        InlierError,
        ManifestError,
        MissingExtraError,
        ModelError,
        NotFittedError,
        WeightsError,
    )
    from inlier.evaluation import Evaluation, evaluate
    from inlier.features.backbone import Backbone
    from inlier.gate import Gate, downstream_auroc
    from inlier.inspection import inspect_to_folder
    from inlier.mapping import EmbeddingMap, draw_map
    from inlier.model import Model
    from inlier.records import Evidence, Inspection, Prediction, Verdict
    from inlier.workflow import fit, inspect_photos

    __version__: str

__all__ = [
    "AdaptedBackbone",
    "Backbone",
    "Calibration",
    "CollapseError",
    "Combined",
    "Comparison",
    "ConfigError",
    "Detector",
    "EmbeddingMap",
    "Evaluation",
    "Evidence",
    "Gate",
    "ImageReadError",
    "InlierError",
    "Inspection",
    "Manifest",
    "ManifestError",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NotFittedError",
    "PatchCore",
    "Photo",
    "PhotoNeighbors",
    "Prediction",
    "Verdict",
    "WeightsError",
    "__version__",
    "adapt",
    "compare",
    "downstream_auroc",
    "draw_map",
    "evaluate",
    "fit",
    "inspect_photos",
    "inspect_to_folder",
]

_HOMES = {
    "adaptation": ("adapt",),
    "adapted": ("AdaptedBackbone",),
    "comparison": ("Comparison", "compare"),
    "data.manifest": ("Manifest", "Photo"),
    "decision.calibration": ("Calibration",),
    "detectors.combined": ("Combined",),
    "detectors.patchcore": ("PatchCore",),
    "detectors.photo_neighbors": ("PhotoNeighbors",),
    "detectors.protocol": ("Detector",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "evaluation": ("Evaluation", "evaluate"),
    "features.backbone": ("Backbone",),
    "gate": ("Gate", "downstream_auroc"),
    "inspection": ("inspect_to_folder",),
    "mapping": ("EmbeddingMap", "draw_map"),
    "model": ("Model",),
    "records": ("Evidence", "Inspection", "Prediction", "Verdict"),
    "workflow": ("fit", "inspect_photos"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name from its home (PEP 562)."""
    if name in _HOME_OF:
        return getattr(import_module(f"inlier.{_HOME_OF[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("inlier")
    raise AttributeError(f"module 'inlier' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
