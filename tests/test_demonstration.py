from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from inlier.data.layouts import find_photos
from inlier.demonstration import VERDICTS, Demonstration, demonstrate
from inlier.errors import InlierError
from inlier.model import Model


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    """The smallest one, over an earlier one with other photos."""
    directory = tmp_path_factory.mktemp("demo")
    for name in ("archive/photos", "camera-roll", "inspection"):
        (directory / name).mkdir(parents=True)
        (directory / name / "IMG_9999.jpg").touch()
    return demonstrate(directory, scale=0.01)


def test_everything_that_a_user_would_make_is_there(shown: Demonstration) -> None:
    assert sorted(path.name for path in shown.directory.iterdir()) == [
        "archive", "camera-roll", "evaluation", "inspection", "model",
    ]  # fmt: skip
    assert Model.load(shown.directory / "model").facts["num_fitted"] == 6
    assert (shown.directory / "inspection" / "report.html").is_file()
    assert (shown.directory / "evaluation" / "evaluation.html").is_file()
    written = json.loads((shown.directory / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert written == shown.metrics
    assert shown.metrics["command"] == "inlier demo --seed 0 --scale 0.01"


def test_the_table_counts_every_photo_of_the_camera_roll(shown: Demonstration) -> None:
    assert list(shown.counts) == ["normal", "damaged", "unrelated", "broken file"]
    totals = Counter({kind: sum(of.values()) for kind, of in shown.counts.items()})
    assert totals == {"normal": 6, "damaged": 6, "unrelated": 6, "broken file": 2}
    assert totals.total() == len(find_photos([shown.directory / "camera-roll"]))
    assert shown.counts["broken file"] == {"unreadable": 2}
    assert {verdict for of in shown.counts.values() for verdict in of} <= set(VERDICTS)


def test_so_few_photos_cannot_keep_the_rate_and_it_says_so(shown: Demonstration) -> None:
    (note,) = shown.notes
    assert note.startswith("With 6 calibration photos no photo can be rejected at a false-alarm rate of 0.05")


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InlierError, match=r"holds something else than a demonstration; choose another --out"):
        demonstrate(tmp_path)
    assert (tmp_path / "model").is_dir()
