"""``--group-by digits``: photos of one folder that show one number are one group."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inlier.data.intake import ingest as module
from inlier.data.intake import preparing
from inlier.data.intake.ingest import ingest
from inlier.data.intake.settings import Settings
from inlier.data.text.reading import Text
from inlier.errors import InlierError, MissingExtraError

BOX = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4))
SHOWN = {"0": ("3",), "1": ("3",), "2": ("12", "No. 3"), "3": ("20240305",), "4": (), "5": ("IMO 20240305", "4")}
"""What is read in the photos of a folder, by the first digit of their names."""


def photo(path: Path, seed: int) -> None:
    """One that resembles no other, whose brightness tells its number to the reader below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((96, 72))
    pixels = np.asarray(small).copy()
    pixels[:24, :24] = 40 * int(path.stem[0])
    Image.fromarray(pixels).save(path)


@pytest.fixture
def roll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def fake_reader(pixels: NDArray[np.uint8]) -> tuple[Text, ...]:
        said = SHOWN[str(round(pixels[4:20, 4:20].mean() / 40))]
        return tuple(Text(text, 0.95, BOX) for text in said)

    monkeypatch.setattr(preparing, "read_text", fake_reader)
    monkeypatch.setattr(module, "check_reader", lambda: None)
    for index in range(6):
        photo(tmp_path / "roll" / "ship" / f"{index}.png", index)
    photo(tmp_path / "roll" / "other" / "0.png", 6)
    return tmp_path / "roll"


def groups(dataset: Path) -> dict[str, str]:
    """The group of each photo, with what is above the roll left out."""
    with (dataset / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    above = f"{dataset.parent.as_posix()}/roll/"
    return {row["source"].removeprefix(above): row["group"].replace(above, "") for row in rows}


def run(*sources: Path, out: Path, group_by: str = "digits") -> None:
    ingest(sources, out, Settings(group_by=group_by), workers=0)


def test_photos_of_a_folder_that_show_the_same_number_are_one_group(roll: Path, tmp_path: Path) -> None:
    run(roll, out=tmp_path / "dataset")
    assert groups(tmp_path / "dataset") == {
        "ship/0.png": "digits:ship 3",
        "ship/1.png": "digits:ship 3",
        "ship/2.png": "",  # two numbers
        "ship/3.png": "",  # a date
        "ship/4.png": "",
        "ship/5.png": "digits:ship 4",
        "other/0.png": "digits:other 3",
    }


def test_photos_that_come_later_join_their_number(roll: Path, tmp_path: Path) -> None:
    (roll / "ship" / "1.png").rename(tmp_path / "later.png")
    run(roll, out=tmp_path / "dataset")
    (tmp_path / "later.png").rename(roll / "ship" / "1.png")
    run(roll, out=tmp_path / "dataset")
    assert groups(tmp_path / "dataset")["ship/1.png"] == "digits:ship 3"
    with (tmp_path / "dataset" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        splits = {row["split"] for row in csv.DictReader(file) if row["group"].endswith("ship 3")}
    assert len(splits) == 1


def test_nothing_is_read_where_nobody_groups_by_it(roll: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "read_text", lambda pixels: pytest.fail("it was read"))
    run(roll, out=tmp_path / "dataset", group_by="folder")
    assert groups(tmp_path / "dataset")["ship/0.png"] == "folder:ship"


def test_what_reads_is_missed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "roll" / "0.png", 0)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'inlier\[ocr\]'$"):
        run(tmp_path / "roll", out=tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_data_set_grouped_otherwise_is_another_one(roll: Path, tmp_path: Path) -> None:
    run(roll, out=tmp_path / "dataset", group_by="folder")
    with pytest.raises(InlierError, match='group_by = "folder", not group_by = "digits"'):
        run(roll, out=tmp_path / "dataset")
