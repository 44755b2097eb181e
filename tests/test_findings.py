from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inlier import findings
from inlier.data.manifest import Photo, Split
from inlier.errors import ImageReadError
from inlier.findings import Finding


def photo(name: str, split: Split = "train", label: str = "", group: str = "", **known: object) -> Photo:
    return Photo(Path(name), split, label, group=group, **known)  # type: ignore[arg-type]


def names(finding: Finding) -> list[list[str]]:
    return [[case.photo.path.name for case in cluster] for cluster in finding.clusters]


def said(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.message) for finding in found]


def test_a_path_in_two_rows_is_a_leak_only_across_splits() -> None:
    rows = [photo("a"), photo("b"), photo("./a", "test"), photo("b"), photo("c")]
    leak, warning = findings.repeated_paths(rows)
    assert said([leak, warning]) == [
        ("leak", "1 path listed more than once is in more than one split (2 photos)."),
        ("warning", "1 path listed more than once lies within one split (2 photos)."),
    ]
    assert (names(leak), names(warning)) == ([["a", "a"]], [["b", "b"]])


def test_torn_groups_come_with_the_photos_that_tear_them_first() -> None:
    rows = [photo("a", group="g"), photo("b", group="g"), photo("c", "test", group="g"), photo("d", group="h")]
    (leak,) = findings.torn_groups([*rows, photo("e"), photo("f", "test")])
    assert said([leak]) == [("leak", "1 group is in more than one split (3 photos).")]
    assert names(leak) == [["a", "c", "b"]]
    assert leak.clusters[0][0].remark == "group g"


def test_equal_files_are_a_note_a_warning_or_a_leak() -> None:
    same = [photo("a", label="x"), photo("b", label="x")]
    mixed = [photo("c", label="x"), photo("d", label="y")]
    torn = [photo("e", label="x"), photo("f", "dev", label="y")]
    assert [finding.severity for finding in findings.exact_duplicates([same])] == ["note"]
    assert said(findings.exact_duplicates([same, mixed, torn])) == [
        (
            "leak",
            "1 cluster of files with the same bytes is in more than one split (2 photos; 1 under more than one label).",
        ),
        (
            "warning",
            "2 clusters of files with the same bytes lie within one split (4 photos; 1 under more than one label).",
        ),
    ]
    assert findings.near_duplicates([]) == []


def test_photos_must_suffice_for_the_rate() -> None:
    enough = [photo(f"{i}", is_anomalous=False) for i in range(19)]
    test = [photo(f"t{i}", "test", "good", is_anomalous=False) for i in range(5)]
    test += [photo(f"c{i}", "test", "crack", is_anomalous=True) for i in range(5)]
    assert findings.few_photos([*enough, *test], false_alarm_rate=0.05) == []
    assert said(findings.few_photos([*enough[1:], *test], false_alarm_rate=0.05)) == [
        ("warning", "train and dev have 18 normal photos; at a false-alarm rate of 0.05 at least 19 are needed before "
         "one can be rejected."),
    ]  # fmt: skip
    (few,) = findings.few_photos([*enough[1:], photo("d", "dev"), *test], false_alarm_rate=0.05)
    assert said([few]) == [
        ("note", "dev has 1 normal photo, too few to calibrate at 0.05 by themselves (19); photos of train must help."),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\), got 1\."):
        findings.few_photos(enough, false_alarm_rate=1)


def test_many_photos_of_few_groups_are_few() -> None:
    rows = [photo(f"{i}", group=f"g{i % 3}") for i in range(30)]
    warning, note = findings.few_photos(rows, false_alarm_rate=0.05)
    assert said([warning, note]) == [
        ("warning", "The 30 normal photos of train and dev are of 3 groups only; what holds for so few parts may not "
         "hold for others (10 or more say something)."),
        ("note", "test has no photos; nothing can be measured."),
    ]  # fmt: skip


def test_a_test_needs_both_kinds_and_enough_of_each_label() -> None:
    rows = [photo(f"{i}") for i in range(20)]
    rows += [photo(f"t{i}", "test", f"kind {i // 2}", is_anomalous=True) for i in range(12)]
    assert [message for _, message in said(findings.few_photos(rows, false_alarm_rate=0.1))] == [
        "test has no normal photos; how well the two are told apart cannot be measured.",
        "Labels with fewer than 5 photos in test, whose results say little: kind 0 (2), kind 1 (2), kind 2 (2), "
        "kind 3 (2), kind 4 (2), … (6 in all).",
    ]


@pytest.mark.parametrize(
    ("size", "marked", "is_anomalous", "fault"),
    [
        ((60, 40), 0.25, True, ""),
        ((30, 20), 0.25, True, ""),  # half as large, of the same shape
        ((61, 40), 0.25, True, ""),  # rounded
        ((40, 60), 0.25, True, "the mask is 40 x 60 px, the photo 60 x 40 px: of another shape"),
        ((60, 40), 0.0, True, "the mask marks nothing, though the photo is anomalous"),
        ((60, 40), 0.0, False, ""),
        ((60, 40), 0.25, False, "the mask marks 25.0%, though the photo is normal"),
        ((60, 40), 0.95, True, "the mask covers 95.0% of the photo"),
    ],
)
def test_masks_must_fit(tmp_path: Path, size: tuple[int, int], marked: float, is_anomalous: bool, fault: str) -> None:
    mask = np.zeros(size[::-1], np.uint8)
    mask[: round(size[1] * marked)] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    row = photo("a", is_anomalous=is_anomalous, mask=tmp_path / "mask.png")
    assert findings.mask_fault(row, (60, 40)) == fault


@pytest.mark.parametrize(
    ("size", "marked", "fault"),
    [
        ((60, 40), 0.25, ""),
        ((30, 20), 0.95, ""),
        ((40, 60), 0.25, "the region is 40 x 60 px, the photo 60 x 40 px: of another shape"),
        ((60, 40), 0.0, "the region is empty"),
        ((60, 40), 1.0, "the region is all of the photo"),
    ],
)
def test_regions_must_fit_and_leave_something_out(
    tmp_path: Path, size: tuple[int, int], marked: float, fault: str
) -> None:
    mask = np.zeros(size[::-1], np.uint8)
    mask[: round(size[1] * marked)] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    assert findings.roi_fault(photo("a", roi=tmp_path / "roi.png"), (60, 40)) == fault
    assert findings.roi_fault(photo("a"), (60, 40)) == ""


def test_regions_that_do_not_fit_are_counted() -> None:
    a, b = photo("a"), photo("b")
    (one,) = findings.odd_regions([(a, "the region is empty"), (b, "")])
    assert (one.kind, one.severity) == ("region-mismatch", "warning")
    assert one.message == "1 region cannot be meant as it is."
    assert findings.odd_regions([(a, "1"), (b, "2")])[0].message == "2 regions cannot be meant as they are."
    assert findings.odd_regions([(a, "")]) == []
    (told,) = findings.unreadable([], [], [(a, "the file does not exist")])
    assert told.message == "1 region cannot be read."


def test_a_mask_that_lies_on_its_side_is_turned_first(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = np.zeros((60, 40), np.uint8)  # 40 x 60 px as stored
    mask[:9] = 255
    for name in ("mask.png", "mask.tif"):
        Image.fromarray(mask).save(tmp_path / name, exif=exif)
        assert findings.mask_fault(photo("a", is_anomalous=True, mask=tmp_path / name), (60, 40)) == ""


def test_masks_that_are_missing_or_not_there() -> None:
    assert findings.mask_fault(photo("a"), (60, 40)) == ""
    with pytest.raises(ImageReadError, match="the file does not exist"):
        findings.mask_fault(photo("a", mask=Path("gone.png")), (60, 40))


def test_what_cannot_be_read_and_what_does_not_fit_is_named() -> None:
    a, b = photo("a"), photo("b")
    photos, masks = findings.unreadable([(a, "the file is empty"), (b, "a folder")], [(a, "truncated")])
    assert said([photos, masks]) == [("warning", "2 photos cannot be read."), ("warning", "1 mask cannot be read.")]
    assert [cluster[0].remark for cluster in photos.clusters] == ["the file is empty", "a folder"]
    assert findings.unreadable([], []) == []
    (one,) = findings.mismatched_masks([(a, "of another shape"), (b, "")])
    assert (one.message, names(one)) == ("1 mask does not fit.", [["a"]])
    assert findings.mismatched_masks([(a, "1"), (b, "2")])[0].message == "2 masks do not fit."
    assert findings.mismatched_masks([(b, "")]) == []
    (flagged,) = findings.quality([(a, ("blurred", "dark")), (b, ("dark",)), (b, ())])
    assert said([flagged]) == [("note", "2 photos of poor quality: 2 dark, 1 blurred.")]
    assert flagged.clusters[0][0].remark == "blurred, dark"
    assert findings.quality([(a, ())]) == []


def test_a_statistic_that_separates_is_a_shortcut_in_either_direction() -> None:
    rows = [photo(f"{i}", "dev" if i % 2 else "test", is_anomalous=i < 60) for i in range(120)]
    rng = np.random.default_rng(0)
    is_anomalous = np.arange(120) < 60
    statistics = {
        "darkness": rng.normal(size=120) - 3 * is_anomalous,
        "noise": rng.normal(size=120),
        "one split": rng.normal(size=120) + 4 * (is_anomalous & (np.arange(120) % 2 == 0)),
    }
    found = findings.shortcuts([*rows, photo("unlabelled")], {k: np.append(v, 0.0) for k, v in statistics.items()})
    assert [finding.message.partition(" alone")[0] for finding in found] == ["darkness", "one split"]
    assert {finding.severity for finding in found} == {"warning"}
    number = r"\d\.\d\d"
    scope = rf"{number} \({number} to {number}\) on"
    assert _matches(rf"darkness alone .*: AUROC {scope} all photos, {scope} dev, {scope} test\.", found[0].message)
    assert _matches(rf".*AUROC {scope} test\.", found[1].message)


def test_few_photos_show_no_shortcut() -> None:
    rows = [photo(f"{i}", is_anomalous=i < 9) for i in range(100)]
    assert findings.shortcuts(rows, {"perfect": np.array([float(i < 9) for i in range(100)])}) == []
    rows = [photo(f"{i}", is_anomalous=i < 10) for i in range(20)]
    values = np.array([*range(5, 15), *range(10)], dtype=np.float64)  # AUROC 0.875, and far from sure
    assert findings.shortcuts(rows, {"chance": values}) == []
    assert findings.shortcuts(rows * 10, {"sure": np.tile(values, 10)}) != []


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def two_heaps(num: int = 20) -> tuple[list[Photo], NDArray[np.float32]]:
    """Photos of two labels, each of which lies around a direction of its own."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(scale=0.1, size=(2 * num, 8)).astype(np.float32)
    embeddings[:num, 0] += 1
    embeddings[num:, 1] += 1
    return [photo(f"{i}", label="piston" if i < num else "gear") for i in range(2 * num)], embeddings


def test_a_photo_deep_in_another_label_is_suspicious() -> None:
    rows, embeddings = two_heaps()
    assert findings.suspicious_labels(rows, embeddings, []) == []
    rows[3] = photo("3", label="gear")
    rows[5] = photo("5")  # has no label to doubt
    (found,) = findings.suspicious_labels(rows, embeddings, [])
    assert said([found]) == [("warning", "1 photo lies deep among photos of another label.")]
    assert names(found) == [["3"]]
    assert found.clusters[0][0].remark == "10 of its 10 nearest are piston"


def test_kin_do_not_judge_one_another() -> None:
    rows, embeddings = two_heaps()
    rows[3] = photo("3", label="gear")
    kin = np.where(np.arange(40) < 14, 0, np.arange(40))  # leaves it six pistons to be judged by
    (found,) = findings.suspicious_labels(rows, embeddings, [np.arange(40), np.arange(40)])
    assert names(found) == [["3"]]
    assert findings.suspicious_labels(rows, embeddings, [np.arange(40), kin]) == []


def test_labels_that_the_embedding_does_not_show_are_not_judged() -> None:
    rows, embeddings = two_heaps(40)
    rows = [photo(f"{i}", label="scratched" if i % 3 == 0 and i < 40 else row.label) for i, row in enumerate(rows)]
    assert findings.suspicious_labels(rows, embeddings, []) == []


def test_labels_need_ten_photos_and_another_label() -> None:
    rows, embeddings = two_heaps(9)
    assert findings.suspicious_labels(rows, embeddings, []) == []
