"""A file imports only lower layers, or a file before it in its own folder; so there is no cycle either."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "inlier"
LAYERS = (  # folder and files, from low to high; a new file takes its place here
    ("", "errors records config outputs databases sharing processes scale"),
    (
        "data.",
        "modes remote images tables layouts manifest splits transforms shares loader statistics views cutpaste squares",
    ),
    ("data.text.", "reading strokes"),
    (
        "data.intake.",
        "hashing similarity archives trees listings sources metadata quality grouping settings linking workers "
        "preparing journal photos assembly dataset ingest",
    ),
    ("data.drawing.", "surface parts components family defects wear light camera pictures screens"),
    ("data.", "synthetic synthetic_folders"),
    (
        "features.",
        "weights networks regions runtime backbone patches pooling records cache store separation arrangement student",
    ),
    ("", "training"),
    (
        "detectors.",
        "protocol neighbors cover coreset moments whitening anomaly_map foreground grabcut patchcore photo_neighbors "
        "components subspace reverse_distillation baselines crossfit combined regional",
    ),
    (
        "finetuning.",
        "views parallel heads contrastive simclr supcon reverse_distillation masked adaptor collapse parameters "
        "batches passes finetune",
    ),
    (
        "decision.",
        "calibration metrics pixel_metrics intervals drift agreement compare heatmap pages figures report "
        "comparison_page refit_page embedding_map doctor_page scales tuning_page study_figures study_page",
    ),
    (
        "",
        "folders adapted build model fitting reading workflow inscriptions updating sharding copies selection parts "
        "inspection evaluation cross_validation comparison embedding mapping findings diagnosis downstream gate "
        "objectives adaptation demonstration segmenting",
    ),
    (
        "experiments.",
        "run results runs served tracking workers spaces memory tuning_storage tuning outcome judging "
        "detector_search backbone_search search_report search study_plan study_jobs study_tables study_pictures study",
    ),
    ("exporting.", "forwards portable graph quantizing parity export web"),
    (
        "reviewing.",
        "database ordering regions words photos rows decisions agreement effective matching coco label_studio exchange "
        "suspicion unseen preparing growing effects refitting",
    ),
    (
        "service.",
        "settings refusals keys limits access uploads metrics logs security decoding loaded batching records kept "
        "drifting inspecting charts assets",
    ),
    ("service.review.", "forms loop pictures workbench views photo_views overviews assets routes standalone"),
    ("service.", "schemas api pages app server cluster"),
    (
        "cli.",
        "options updating sharding ingesting fitting exporting detecting finetuning comparing mapping doctor tracking "
        "tuning studying refitting serving demo main",
    ),
    ("", "__main__"),
)
PLACES = {folder + n: (i, j) for i, (folder, names) in enumerate(LAYERS) for j, n in enumerate(names.split())}
HOMES = {
    "mlflow": ("experiments.tracking",),
    "optuna": ("experiments.tuning",),
    "ray": ("scale", "service.cluster"),
    "fastapi": ("service",),
    "rapidocr": ("data.text.reading",),
    "cv2": ("detectors.grabcut",),
    "onnx": ("exporting",),
    "onnxruntime": ("exporting",),
}
FILES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}


def _imports(path: Path) -> set[str]:
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    froms = [(f"{'.' * node.level}{node.module}.", node.names) for node in nodes if isinstance(node, ast.ImportFrom)]
    plain = [("", node.names) for node in nodes if isinstance(node, ast.Import)]
    return {module + alias.name for module, names in froms + plain for alias in names}


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__init__")])
def test_a_file_imports_only_what_is_below_it(name: str) -> None:
    layer, folder = PLACES[name][0], name.rpartition(".")[0]
    for imported in _imports(FILES[name]):
        package, _, inner = imported.partition(".")
        assert package and name.startswith(HOMES.get(package, ("",))), f"{imported} is imported at the wrong place"
        if package == "inlier" and (below := inner if inner in PLACES else inner.rpartition(".")[0]):
            is_beside = below.rpartition(".")[0] == folder and PLACES[below] < PLACES[name]
            assert is_beside or PLACES[below][0] < (1 if folder == "decision" else layer), imported


def test_files_are_short_and_packages_hold_a_docstring_only() -> None:
    assert set(PLACES) == {name for name in FILES if not name.endswith("__init__")}
    for name, text in ((name, path.read_text(encoding="utf-8")) for name, path in FILES.items()):
        assert len(text.splitlines()) <= 400, name
        assert not name.endswith(".__init__") or len(ast.parse(text).body) == 1, name


def test_importing_the_package_and_deciding_import_no_torch() -> None:
    light = ", ".join(f"inlier.{name}" for name in PLACES if PLACES[name][0] == 0 or name.startswith("decision."))
    check = "import sys, inlier; heavy = 'numpy' in sys.modules; import {}; sys.exit(heavy or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check.format(light)], check=True)
