from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inlier.data.manifest import Manifest, Photo
from inlier.errors import InlierError, ModelError
from inlier.exporting.parity import compare
from inlier.exporting.portable import METADATA, NO_REASONS, Portable, is_export
from inlier.inspection import inspect_to_folder
from inlier.model import Model
from inlier.scale import Workers

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "openvino", "sklearn", "scipy", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_every_photo_is_judged_as_by_the_model(model: Model, portable: Portable, data: Manifest) -> None:
    spread = float(np.std(model.calibration.normal_scores))
    found = [*compare(model, portable, data.photos)]
    assert len(found) == len(data.photos)
    assert max(of.difference for of in found) <= 1e-3 * spread
    assert [of.photo.path.name for of in found if not of.is_same] == []
    for of in found:
        assert of.export.component == of.model.verdict.component
        assert of.export.p_value == pytest.approx(of.model.verdict.p_value)


def test_an_inspection_with_the_file_is_that_with_the_model(
    model: Model, portable: Portable, data: Manifest, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_text("no photo")
    photos = [*data.select("test").photos, Photo(damaged, "test")]
    with_model = inspect_to_folder(model, photos, tmp_path / "model", heatmaps="all")
    with_file = inspect_to_folder(portable, photos, tmp_path / "file", heatmaps="all")
    assert with_file.counts == with_model.counts and with_file.counts["unreadable"] == 1
    assert with_file.notes == (*model.notes, NO_REASONS)
    ours, theirs = (pq.read_table(tmp_path / of / "verdicts.parquet").to_pylist() for of in ("model", "file"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in ("path", "verdict", "component", "error", "p_value"):
            assert one[name] == other[name]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
    names = [[path.name for path in sorted((tmp_path / of / "heatmaps").iterdir())] for of in ("model", "file")]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        pictures = (np.asarray(Image.open(tmp_path / of / "heatmaps" / name), dtype=int) for of in ("model", "file"))
        assert np.abs(next(pictures) - next(pictures)).mean() < 0.5
    page = (tmp_path / "file" / "report.html").read_text(encoding="utf-8")
    assert NO_REASONS in page and portable.identity in page
    assert inspect_to_folder(portable, photos, tmp_path / "file", heatmaps="all").num_scored == 0


def test_no_torch_is_needed(exported: Path, dataset: Path, model: Model, data: Manifest, tmp_path: Path) -> None:
    code = BLOCK + "from inlier.cli.main import run\nrun()"
    arguments = ["inspect", str(exported), str(dataset / "photos"), "--out", str(tmp_path / "out"), "--json"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["num_scored"] == len(data.photos)
    rows = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    given = {row["path"]: row["verdict"] for row in rows}
    for of in compare(model, Portable.load(exported), data.photos):
        assert given[str(of.photo.path)] == of.model.verdict.verdict


def test_a_photo_of_another_shape_or_type_is_refused(portable: Portable) -> None:
    for pixels in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"^pixels must be uint8 of shape \(H, W, 3\), got "):
            portable.judge(pixels)


def test_what_needs_the_model_itself_is_refused(portable: Portable, data: Manifest, tmp_path: Path) -> None:
    for options in ({"text": "read"}, {"on": Workers(2)}):
        with pytest.raises(InlierError, match=r"neither|not installed"):
            inspect_to_folder(portable, data.photos, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_an_export_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    assert [is_export(of) for of in (Path("a.onnx"), Path("A.ONNX"), tmp_path / "folder.onnx", Path("model"))] == [
        True,
        True,
        False,
        False,
    ]


@pytest.fixture(scope="module")
def graph(exported: Path) -> bytes:
    return exported.read_bytes()


def with_header(content: bytes, change: dict[str, Any] | str | None) -> bytes:
    """The graph with other metadata: some values changed, a text in place of all, or none at all."""
    changed = onnx.load_from_string(content)
    header = json.loads(changed.metadata_props[0].value)
    del changed.metadata_props[:]
    if change is not None:
        text = change if isinstance(change, str) else json.dumps(header | change)
        onnx.helper.set_model_props(changed, {METADATA: text})
    return changed.SerializeToString()


def foreign() -> bytes:
    text = '<ir_version: 9, opset_import: ["" : 18]> plain (float[N] x) => (float[N] y) { y = Identity (x) }'
    return onnx.parser.parse_model(text).SerializeToString()


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^The model .*nowhere\.onnx does not exist\.$"):
        Portable.load(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match=r"cannot be read: Is a directory\.$"):
        Portable.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(graph: bytes, share: float) -> None:
    with pytest.raises(ModelError, match=r"^cut\.onnx is (damaged|an ONNX file, but none)"):
        Portable.read(graph[: int(share * len(graph))], shown="cut.onnx")


@pytest.mark.parametrize("content", [b"no protobuf at all" * 40, b"\x89PNG\r\n\x1a\n" * 9, bytes(4096)])
def test_what_is_no_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^odd\.onnx is damaged, or no ONNX file that can be run here: "):
        Portable.read(content, shown="odd.onnx")


def test_a_foreign_graph_is_refused(graph: bytes) -> None:
    for content in (foreign(), with_header(graph, None), with_header(graph, "no JSON"), with_header(graph, "[]")):
        with pytest.raises(ModelError, match=r"^odd\.onnx is an ONNX file, but none that `inlier export` wrote\.$"):
            Portable.read(content, shown="odd.onnx")


def test_another_version_is_refused(graph: bytes) -> None:
    newer = with_header(graph, {"format_version": 2})
    with pytest.raises(ModelError, match=r"^new\.onnx has format version 2, and this inlier reads 1; export the model"):
        Portable.read(newer, shown="new.onnx")


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": None},
        {"components": ["one too", "many"], "calibration": {}},
        {"calibration": {"scores": ["a"], "map_maxima": []}},
        {"calibration": {"scores": [[1.0]], "map_maxima": []}},
        {"calibration": {"scores": [float("inf")], "map_maxima": []}},
        {"components": []},
        {"notes": None},
        {"identity": 7},
        {"facts": []},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_refused(graph: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(
        ModelError, match=r"^odd\.onnx is damaged: what it says of itself does not fit what is in it\.$"
    ):
        Portable.read(with_header(graph, change), shown="odd.onnx")


def test_another_graph_under_our_header_is_refused(graph: bytes) -> None:
    other = onnx.load_from_string(foreign())
    onnx.helper.set_model_props(other, {METADATA: onnx.load_from_string(graph).metadata_props[0].value})
    with pytest.raises(ModelError, match=r"^odd\.onnx is damaged: what it says of itself does not fit"):
        Portable.read(other.SerializeToString(), shown="odd.onnx")
