from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier import diagnosis, findings
from inlier.data.manifest import Manifest, Photo, read_photos
from inlier.data.synthetic_folders import write_dataset
from inlier.diagnosis import Diagnosis, check_target, diagnose, report, write_page
from inlier.embedding import Embedder
from inlier.errors import InlierError
from inlier.findings import Finding

TINY = {"input": {"size": 64}, "backbone": {"precision": "float32"}}


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with one of each fault: photos ``t0``, ``t1`` … of train, and what was made of them."""
    folder = tmp_path_factory.mktemp("sick")
    write_dataset(folder, num_train=24, num_dev=2, num_test=6, num_defective=8, num_unrelated=0, size=(160, 200))
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    masked = [row for row in rows if row["mask"]]

    def add(like: dict[str, str], name: str, split: str) -> Path:
        rows.append({**like, "path": name, "split": split, "group": ""})
        return folder / name

    shutil.copy(folder / train[0]["path"], add(train[0], "copy.jpg", "test"))
    with Image.open(folder / train[1]["path"]) as picture:
        picture.resize((150, 120)).save(add(train[1], "smaller.jpg", "test"), quality=75)
    with Image.open(folder / train[2]["path"]) as picture:
        picture.rotate(90, expand=True).save(add(train[2], "turned.png", "dev"))
    with Image.open(folder / train[3]["path"]) as picture:
        picture.save(add(train[3], "again.jpg", "train"), quality=60)
    with Image.open(folder / train[4]["path"]) as picture:  # of the same group and split: no news
        picture.save(add(train[4], "known.jpg", "train"), quality=60)
    rows[-1]["group"] = train[4]["group"]
    rows.append(train[5])
    add(train[6], "gone.jpg", "train")
    add(train[7], "empty.jpg", "test").touch()
    next(row for row in rows if row["split"] == "test")["group"] = train[23]["group"]
    Image.new("L", (50, 80), 255).save(folder / masked[0]["mask"])
    (folder / masked[1]["mask"]).unlink()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def found(sick: Path) -> Diagnosis:
    return diagnose(read_photos(sick), embedder=None)


def names(finding: Finding) -> list[list[str]]:
    return [[case.photo.path.name for case in cluster] for cluster in finding.clusters]


def of(found: Diagnosis, kind: str, severity: str = "leak") -> list[list[str]]:
    return [cluster for finding in found.findings if (finding.kind, finding.severity) == (kind, severity)
            for cluster in names(finding)]  # fmt: skip


def test_every_fault_is_found_and_leaks_come_first(sick: Path, found: Diagnosis) -> None:
    photos = read_photos(sick)
    train = [photo.path.name for photo in photos if photo.split == "train"]
    assert of(found, "exact-duplicates") == [[train[0], "copy.jpg"]]
    assert sorted(of(found, "near-duplicates")) == [[train[1], "smaller.jpg"], [train[2], "turned.png"]]
    assert of(found, "near-duplicates", "note") == [[train[3], "again.jpg"]]
    assert of(found, "repeated-path", "warning") == [[train[5]] * 2]
    assert of(found, "unreadable", "warning")[:2] == [["gone.jpg"], ["empty.jpg"]]
    assert len(of(found, "unreadable", "warning")) == 3  # and a mask
    assert len(of(found, "mask-mismatch", "warning")) == 1
    (torn,) = of(found, "group-in-two-splits")
    assert train[23] in torn
    assert found.num_leaks == 4
    assert [reason for _, reason in found.unreadable] == ["the file does not exist", "the file is empty"]
    ranks = [("leak", "warning", "note").index(finding.severity) for finding in found.findings]
    assert ranks == sorted(ranks)
    assert not {finding.kind for finding in found.findings} & {"suspicious-label"}


def test_threads_and_memory_change_nothing(sick: Path, found: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "MAX_KEPT_THUMBNAILS", 0)
    told: list[tuple[str, int, list[int]]] = []

    def progress(task: str, total: int) -> Any:
        told.append((task, total, []))
        return told[-1][2].append

    assert diagnose(read_photos(sick), embedder=None, workers=0, progress=progress).findings == found.findings
    assert told[0][:2] == ("Reading photos", len({photo.path for photo in found.photos}))
    assert sum(told[0][2]) == told[0][1]


def test_a_wrong_label_is_found_by_embedding(data: Manifest) -> None:
    photos = [dataclasses.replace(photo, group="") for photo in data.photos if photo.is_anomalous is False]
    wrong = next(i for i, photo in enumerate(photos) if photo.label == "piston-crown")
    photos[wrong] = dataclasses.replace(photos[wrong], label="bolted-flange")
    found = diagnose(photos, embedder=Embedder(TINY, None, "cpu"))
    assert of(found, "suspicious-label", "warning") == [[photos[wrong].path.name]]


def test_copies_do_not_outvote_the_label_of_their_photo(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "KEPT_APART", 0.0)  # so many wrong labels would end the search
    photos = [dataclasses.replace(photo, group="") for photo in data.photos if photo.is_anomalous is False]
    right = next(photo for photo in photos if photo.label == "piston-crown")
    for number in range(9):
        shutil.copy(right.path, tmp_path / f"{number}.jpg")
        photos.append(Photo(tmp_path / f"{number}.jpg", right.split, "bolted-flange", is_anomalous=False))
    found = diagnose(photos, embedder=Embedder(TINY, None, "cpu"))
    suspicious = of(found, "suspicious-label", "warning")
    assert ["0.jpg"] in suspicious and [right.path.name] not in suspicious


def test_the_surest_near_duplicates_come_first(sick: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = []
    for number, of_train in enumerate([photo for photo in read_photos(sick) if photo.split == "train"][8:10]):
        with Image.open(of_train.path) as picture:
            pixels = np.asarray(picture).astype(np.float64)
        noise = rng.normal(scale=12 * (number == 0), size=pixels.shape)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        photos += [of_train, Photo(tmp_path / f"{number}.png", "test")]
    (finding,) = [finding for finding in diagnose(photos, embedder=None).findings if finding.kind == "near-duplicates"]
    assert [cluster[1] for cluster in names(finding)] == ["1.png", "0.png"]


def test_photos_that_lie_on_their_side_are_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(96, 128, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    mask = np.zeros((128, 96), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    photo = Photo(tmp_path / "a.jpg", "test", "crack", is_anomalous=True, mask=tmp_path / "mask.png")
    assert of(diagnose([photo], embedder=None), "mask-mismatch", "warning") == []
    Image.fromarray(mask.T).save(tmp_path / "mask.png")
    assert of(diagnose([photo], embedder=None), "mask-mismatch", "warning") == [["a.jpg"]]


def test_regions_are_looked_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = []
    for name, marked in (("fine", 20), ("empty", 0), ("all", 96), ("gone", None), ("broken", None)):
        Image.fromarray(rng.integers(256, size=(96, 128, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        roi = tmp_path / f"{name}_roi.png"
        if marked is not None:
            region = np.zeros((96, 128), np.uint8)
            region[:marked] = 255
            Image.fromarray(region).save(roi)
        photos.append(Photo(tmp_path / f"{name}.png", "train", "good", False, roi=roi))
    (tmp_path / "broken_roi.png").write_bytes(b"no picture")
    found = diagnose(photos, embedder=None)
    assert of(found, "region-mismatch", "warning") == [["empty.png"], ["all.png"]]
    assert of(found, "unreadable", "warning") == [["gone.png"], ["broken.png"]]
    assert not found.unreadable and report(found, data=tmp_path, command="")["counts"]["num_regions"] == 5


def test_files_of_another_kind_are_a_shortcut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = []
    for number in range(24):
        path = tmp_path / f"{number}.{'png' if number % 2 else 'bmp'}"
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
        photos.append(Photo(path, "test", is_anomalous=bool(number % 2)))
    messages = [of.message for of in diagnose(photos, embedder=None).findings if of.kind == "shortcut"]
    assert [message.partition(" alone")[0] for message in messages] == [
        "bytes a pixel",
        "file name in .bmp",
        "file name in .png",
    ]


def test_photos_of_which_none_can_be_read(tmp_path: Path) -> None:
    found = diagnose([Photo(tmp_path / "gone.jpg", "train", "x")], embedder=Embedder(TINY, None, "cpu"))
    assert of(found, "unreadable", "warning") == [["gone.jpg"]]


def test_a_report_says_what_was_looked_at(sick: Path, found: Diagnosis, data: Manifest) -> None:
    result = report(found, data=sick, command="inlier doctor sick")
    assert json.loads(json.dumps(result)) == result
    assert (result["data"], result["command"], result["num_leaks"]) == (str(sick), "inlier doctor sick", 4)
    assert result["data_fingerprint"] is None  # no manifest can be made of it
    counts = result["counts"]
    assert (counts["num_photos"], counts["num_unreadable"]) == (len(found.photos), 2)
    assert sum(row["num_photos"] for row in counts["labels"]) == counts["num_photos"]
    assert [row["split"] for row in counts["labels"]] == sorted(
        (row["split"] for row in counts["labels"]), key=("train", "dev", "test").index
    )
    by_kind = {(finding["kind"], finding["severity"]): finding for finding in result["findings"]}
    exact = by_kind["exact-duplicates", "leak"]["clusters"]
    assert [photo["split"] for photo in exact[0]] == ["train", "test"]
    assert exact[0][1] == {
        "path": str(sick / "copy.jpg"), "split": "test", "label": exact[0][0]["label"], "group": "", "remark": "",
    }  # fmt: skip
    assert by_kind["mask-mismatch", "warning"]["photos"][0]["remark"].startswith("the mask is 50 x 80 px, the photo ")
    assert by_kind["few-photos", "warning"]["photos"] == []
    sound = report(diagnose(data.photos, embedder=None), data=Path("data"), command="")
    assert sound["data_fingerprint"] == data.fingerprint()
    assert (sound["counts"]["num_masks"], sound["counts"]["num_groups"]) == (8, len({p.group for p in data.photos}))


def test_a_page_shows_some_photos_and_names_the_others(
    sick: Path, found: Diagnosis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = report(found, data=sick, command="inlier doctor sick")
    write_page(found, result, tmp_path / "new" / "page.html", title="Sick")
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert len(re.findall("data:image/webp", page)) > 10
    assert "gone.jpg" in page
    monkeypatch.setattr(diagnosis, "MAX_PICTURES", 3)
    write_page(found, result, tmp_path / "page.html", title="Sick")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(re.findall("data:image/webp", page)) == 3
    assert "smaller.jpg" in page


def test_pages_that_cannot_be_written_are_refused(found: Diagnosis, sick: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InlierError, match=r"The page is an \.html file, and page\.txt is none; choose another --html\."
    ):
        check_target(Path("page.txt"))
    (tmp_path / "file").touch()
    with pytest.raises(
        InlierError, match=r"Nothing can be written to .*: .*file is no folder that may be written to\."
    ):
        check_target(tmp_path / "file" / "page.html")
    check_target(tmp_path / "new" / "page.html")
    with pytest.raises(InlierError, match=r"Nothing can be written to .*page\.html: "):
        write_page(found, report(found, data=sick, command=""), tmp_path / "file" / "page.html", title="")
