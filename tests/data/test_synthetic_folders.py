from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from inlier.data.manifest import Manifest
from inlier.data.synthetic import COMPONENTS, DEFECTS, UNRELATED
from inlier.data.synthetic_folders import UNREADABLE, write_camera_roll, write_dataset

SMALL = (48, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    return write_dataset(directory, num_train=20, num_dev=8, num_test=9, num_defective=13, num_unrelated=5, size=SMALL)


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_lists_what_was_asked_for(dataset: Path) -> None:
    rows = rows_of(dataset)
    assert list(rows[0]) == ["path", "split", "label", "anomalous", "group", "mask", "roi"]
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        kind = "normal" if row["label"] in COMPONENTS else "defect" if row["label"] in DEFECTS else "unrelated"
        counts[row["split"], kind] += 1
        assert row["anomalous"] == str(int(kind != "normal"))
        assert bool(row["mask"]) == (kind == "defect")
        assert kind != "unrelated" or row["label"].removeprefix("unrelated-") in UNRELATED
    assert counts == {
        ("train", "normal"): 20,
        ("dev", "normal"): 8,
        ("test", "normal"): 9,
        ("dev", "defect"): 6,
        ("test", "defect"): 7,
        ("dev", "unrelated"): 2,
        ("test", "unrelated"): 3,
    }


def test_groups_hold_up_to_six_photos_of_one_split(dataset: Path) -> None:
    rows = rows_of(dataset)
    splits = defaultdict(set)
    for row in rows:
        splits[row["group"]].add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    sizes = Counter((row["split"], row["group"]) for row in rows)
    # 20, 16 and 19 photos
    assert sorted(size for (split, _), size in sizes.items() if split == "train") == [2, 6, 6, 6]
    assert sorted(size for (split, _), size in sizes.items() if split == "dev") == [4, 6, 6]
    assert sorted(size for (split, _), size in sizes.items() if split == "test") == [1, 6, 6, 6]


def test_photos_and_masks_lie_where_the_manifest_says(dataset: Path) -> None:
    for row in rows_of(dataset):
        assert row["path"].startswith(f"photos/{row['label']}/")
        with Image.open(dataset.parent / row["path"]) as photo:
            assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", SMALL[::-1])
        if row["mask"]:
            with Image.open(dataset.parent / row["mask"]) as mask:
                assert (mask.format, mask.mode, mask.size) == ("PNG", "L", SMALL[::-1])
                assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_the_folder_reads_as_a_data_set(dataset: Path) -> None:
    manifest = Manifest.read(dataset.parent)
    assert len(manifest.photos) == 55
    assert sum(bool(photo.is_anomalous) for photo in manifest.photos) == 18


def write_little(directory: Path, *, seed: int) -> dict[str, bytes]:
    write_dataset(
        directory, num_train=2, num_dev=1, num_test=1, num_defective=2, num_unrelated=2, size=SMALL, seed=seed
    )
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_equal_seeds_give_equal_bytes_and_others_other_photos(tmp_path: Path) -> None:
    first, again, other = (write_little(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_every_component_meets_every_defect(tmp_path: Path) -> None:
    components = ("piston-rings", "part-2")
    manifest = write_dataset(
        tmp_path,
        num_train=0,
        num_dev=0,
        num_test=0,
        num_defective=16,
        num_unrelated=0,
        components=components,
        size=(32, 32),
    )
    labels = [row["label"] for row in rows_of(manifest) if row["split"] == "dev"]
    assert sorted(labels) == sorted(DEFECTS * 2)


def test_progress_is_told_after_every_photo(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_dataset(
        tmp_path,
        num_train=2,
        num_dev=0,
        num_test=1,
        num_defective=0,
        num_unrelated=0,
        size=(32, 32),
        on_photo=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_wrong_orders_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    counts = {"num_normal": 1, "num_defective": 0, "num_unrelated": 0}
    with pytest.raises(ValueError, match=r"^numbers of photos must be 0 or more, got 1 normal, -1 defective and"):
        write_camera_roll(tmp_path / "out", num_normal=1, num_defective=-1, num_unrelated=0)
    with pytest.raises(ValueError, match=r"^components must name at least one component, got none\.$"):
        write_camera_roll(tmp_path / "out", **counts, components=())
    with pytest.raises(ValueError, match=r"^component must be one of .*, got 'propeller'\.$"):
        write_camera_roll(tmp_path / "out", **counts, components=("gear-wheel", "propeller"))
    with pytest.raises(ValueError, match=r"^seed must be 0 or more, got -1\.$"):
        write_camera_roll(tmp_path / "out", **counts, seed=-1)
    assert not (tmp_path / "out").exists()


def test_a_camera_roll_is_unsorted_and_holds_the_usual_trouble(tmp_path: Path) -> None:
    truth = write_camera_roll(tmp_path, num_normal=5, num_defective=3, num_unrelated=2, size=SMALL, seed=1)
    assert sorted(truth) == list(truth) == sorted(path.name for path in tmp_path.iterdir())
    assert [name[:8] for name in truth] == [f"IMG_{number:04d}" for number in range(1, 13)]
    labels = list(truth.values())
    assert sum(label in COMPONENTS for label in labels) == 5
    assert sum(label in DEFECTS for label in labels) == 3
    assert sum(label.startswith("unrelated-") for label in labels) == 2
    assert labels.count(UNREADABLE) == 2

    modes, orientations = [], []
    for name, label in truth.items():
        if label == UNREADABLE:
            with pytest.raises(OSError), Image.open(tmp_path / name) as photo:
                photo.load()
            continue
        with Image.open(tmp_path / name) as photo:
            assert ImageOps.exif_transpose(photo).size == SMALL[::-1]
            modes.append((photo.format, photo.mode))
            orientations.append(photo.getexif().get(0x0112))
            if orientations[-1]:
                assert photo.size == SMALL
    assert sorted(modes) == [("JPEG", "RGB")] * 9 + [("PNG", "L")]
    assert sorted(filter(None, orientations)) == [6]


def test_the_photo_on_its_side_comes_upright(tmp_path: Path) -> None:
    truth = write_camera_roll(tmp_path, num_normal=1, num_defective=0, num_unrelated=0, size=SMALL, seed=2)
    (name,) = [name for name, label in truth.items() if label != UNREADABLE]
    with Image.open(tmp_path / name) as photo:
        lying, upright = np.asarray(photo), np.asarray(ImageOps.exif_transpose(photo))
    assert np.array_equal(np.rot90(upright), lying)
