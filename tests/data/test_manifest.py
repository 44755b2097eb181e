from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from inlier.data.manifest import Manifest, Photo, read_photos
from inlier.errors import ManifestError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def write_csv(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    table = root / "manifest.csv"
    table.write_text(text, encoding="utf-8")
    return table


def rows(manifest: Manifest, root: Path) -> list[tuple[object, ...]]:
    return [
        (
            photo.path.relative_to(root).as_posix(),
            photo.split,
            photo.label,
            photo.is_anomalous,
            photo.group,
            photo.mask and photo.mask.relative_to(root).as_posix(),
        )
        for photo in manifest.photos
    ]


def test_plain_folder_is_unlabelled_training_data(tmp_path: Path) -> None:
    touch(tmp_path, "10.jpg", "2.jpg", "notes.txt", "deck/Über uns.JPG", ".git/x.jpg", "__MACOSX/2.jpg")
    assert rows(Manifest.read(tmp_path), tmp_path) == [
        ("2.jpg", "train", "", None, "", None),
        ("10.jpg", "train", "", None, "", None),
        ("deck/Über uns.JPG", "train", "", None, "", None),
    ]


def test_folders_of_splits_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "train/Good/1.jpg", "dev/ok/deep/1.jpg", "test/crack/1.jpg", "test/1.jpg")
    assert rows(Manifest.read(tmp_path), tmp_path) == [
        ("dev/ok/deep/1.jpg", "dev", "ok", False, "", None),
        ("test/1.jpg", "test", "", None, "", None),
        ("test/crack/1.jpg", "test", "crack", True, "", None),
        ("train/Good/1.jpg", "train", "Good", False, "", None),
    ]


def test_normal_labels_are_the_users_choice(tmp_path: Path) -> None:
    touch(tmp_path, "train/piston/1.jpg", "test/good/1.jpg")
    anomalous = {p.label: p.is_anomalous for p in Manifest.read(tmp_path, normal=["Piston", "ring"]).photos}
    assert anomalous == {"piston": False, "good": True}


def test_mvtec_masks_are_matched_by_name_not_by_position(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/000.png", "test/good/000.png", *(f"test/crack/{n:03}.png" for n in range(3)))
    touch(tmp_path, "ground_truth/crack/001_mask.png", "ground_truth/crack/002_mask.png", "license.txt")
    touch(tmp_path, "dev/crack/001.png")  # the masks are those of the test photos
    assert rows(Manifest.read(tmp_path), tmp_path) == [
        ("dev/crack/001.png", "dev", "crack", True, "", None),
        ("test/crack/000.png", "test", "crack", True, "", None),
        ("test/crack/001.png", "test", "crack", True, "", "ground_truth/crack/001_mask.png"),
        ("test/crack/002.png", "test", "crack", True, "", "ground_truth/crack/002_mask.png"),
        ("test/good/000.png", "test", "good", False, "", None),
        ("train/good/000.png", "train", "good", False, "", None),
    ]


def test_photos_beside_the_splits_are_not_guessed_about(tmp_path: Path) -> None:
    touch(tmp_path, "test/good/1.jpg", "valid/good/1.jpg", "preview.png")
    with pytest.raises(ManifestError, match=r"also photos outside them: preview.png, valid/good/1.jpg\. Move"):
        Manifest.read(tmp_path)


CELLS = """path,split,label,anomalous,group,mask,camera
a b.jpg,train,good,,g1,,x
ü.jpg,,Crack,0,g1,,x
c.jpg, Test ,ok,1,,m/c.png,x
d.jpg,dev,,,g 2,,x
e.jpg,dev,ring
"""
PHOTOS = [
    ("a b.jpg", "train", "good", False, "g1", None),
    ("ü.jpg", "train", "Crack", False, "g1", None),  # `anomalous` beats the label, in both directions
    ("c.jpg", "test", "ok", True, "", "m/c.png"),
    ("d.jpg", "dev", "", None, "g 2", None),
    ("e.jpg", "dev", "ring", True, "", None),
]


@pytest.mark.parametrize("as_folder", [True, False])
def test_csv_manifest(tmp_path: Path, as_folder: bool) -> None:
    table = write_csv(tmp_path, "\ufeff" + CELLS + "\n")
    assert rows(Manifest.read(tmp_path if as_folder else table), tmp_path) == PHOTOS


def test_parquet_manifest_goes_before_csv(tmp_path: Path) -> None:
    write_csv(tmp_path, "path\nother.jpg\n")
    columns: dict[str, list[object]] = {
        "path": ["a b.jpg", "ü.jpg", "c.jpg", "d.jpg", "e.jpg"],
        "split": ["train", None, "test", "dev", "dev"],
        "label": ["good", "Crack", "ok", None, "ring"],
        "anomalous": [None, 0.0, 1.0, float("nan"), None],
        "group": ["g1", "g1", "", "g 2", None],
        "mask": [None, None, "m/c.png", None, None],
        "blob": [b"", b"", b"", b"", b""],
    }
    parquet.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    assert rows(Manifest.read(tmp_path), tmp_path) == PHOTOS


@pytest.mark.parametrize("flags", [[True, False, None], [1, 0, None], [1.0, 0.0, None], ["1", "0", ""]])
def test_anomalous_may_be_flag_or_number_or_text(tmp_path: Path, flags: list[object]) -> None:
    table = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "anomalous": flags}), table)
    assert [photo.is_anomalous for photo in Manifest.read(table).photos] == [True, False, None]


def test_missing_photos_are_no_error_here(tmp_path: Path) -> None:
    assert len(Manifest.read(write_csv(tmp_path, "path\ngone.jpg\n"))) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"manifest.csv needs a column named path; its columns: none\."),
        ("file;split\na.jpg;train\n", r"needs a column named path; its columns: file;split\."),
        ("path,split,split\na.jpg,train,dev\n", r"has more than one column named split\."),
        ("path\n", r"manifest.csv holds no photos\."),
        ('path\n"a.jpg\n', r"manifest.csv cannot be read as a CSV table in UTF-8: unexpected end of data\."),
        ("path,split\na,b.jpg,train\n", r"has rows with more cells than its header: row 1\."),
        ("path,label\na.jpg,ok\n,ok\n", r"path in .*manifest.csv must not be empty; it is in row 2\."),
        ("label,path\nok,a.jpg\nok\n", r"path in .*manifest.csv must not be empty; it is in row 2\."),
        (
            "path,split\na.jpg,val\nb.jpg,dev\nc.jpg,validation\n",
            r"split in .*csv must be train, dev or test, but row 1 has 'val', row 3 has 'validation'\.",
        ),
        (
            "path,anomalous\n" + "".join(f"{n}.jpg,{n}\n" for n in range(9)),
            r"anomalous in .*csv must be 0 or 1 \(or empty\), but row 3 has '2', row 4 has '3', "
            r"row 5 has '4', "
            r"row 6 has '5', row 7 has '6', … \(7 in all\)\.",
        ),
        (
            "path\na.jpg\n./a.jpg\nx/../a.jpg\nb.jpg\n",
            r"A photo may be listed only once, but these are repeated: .*a.jpg\.",
        ),
        (
            "path,split,group\na.jpg,test,g\nb.jpg,train,g\nc.jpg,dev,h\nd.jpg,dev,h\n",
            r"A group never straddles splits, but these do: g \(train, test\)\.",
        ),
    ],
)
def test_unusable_manifests(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        Manifest.read(write_csv(tmp_path, text))


def test_faults_among_rows_are_left_to_those_who_look_for_them(tmp_path: Path) -> None:
    table = write_csv(tmp_path, "path,split,label,group\na.jpg,train,fine,g\n./a.jpg,test,fine,g\n")
    with pytest.raises(ManifestError, match="A photo may be listed only once"):
        Manifest.read(table)
    photos = read_photos(table, normal=["fine"])
    assert [(photo.split, photo.is_anomalous, photo.group) for photo in photos] == [
        ("train", False, "g"),
        ("test", False, "g"),
    ]
    assert read_photos(tmp_path)[0].is_anomalous
    with pytest.raises(ManifestError, match=r"gone does not exist\."):
        read_photos(tmp_path / "gone")


def test_first_five_torn_groups_and_their_number() -> None:
    torn = (Photo(Path(f"{n}{split}.jpg"), split, group=f"g{n}") for n in range(7) for split in ("dev", "test"))
    with pytest.raises(ManifestError, match=r"g0 \(dev, test\), .*, g4 \(dev, test\), … \(7 in all\)\.$"):
        Manifest(tuple(torn))


def test_unusable_data(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone does not exist\."):
        Manifest.read(tmp_path / "gone")
    touch(tmp_path, "empty/readme.txt", "photo.jpg")
    with pytest.raises(ManifestError, match=r"empty holds no photos\."):
        Manifest.read(tmp_path / "empty")
    with pytest.raises(
        ManifestError, match=r"photo.jpg must be a folder of photos, or a manifest \(.csv or .parquet\)\."
    ):
        Manifest.read(tmp_path / "photo.jpg")
    (tmp_path / "latin.csv").write_bytes("path\nü.jpg\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"latin.csv cannot be read as a CSV table in UTF-8: .*decode"):
        Manifest.read(tmp_path / "latin.csv")
    touch(tmp_path, "text.parquet")
    with pytest.raises(ManifestError, match=r"text.parquet cannot be read as a Parquet table: "):
        Manifest.read(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"file": ["a.jpg"]}), tmp_path / "nopath.parquet")
    with pytest.raises(ManifestError, match=r"nopath.parquet needs a column named path; its columns: file\."):
        Manifest.read(tmp_path / "nopath.parquet")


def test_select_and_normal() -> None:
    manifest = Manifest(
        (
            Photo(Path("a"), "train", is_anomalous=False),
            Photo(Path("b"), "train", is_anomalous=True),
            Photo(Path("c"), "train"),
            Photo(Path("d"), "dev", is_anomalous=False),
        )
    )
    assert [photo.path.name for photo in manifest.select("train").normal().photos] == ["a", "c"]
    assert len(manifest.select("test")) == 0
    assert manifest.select("test").groups == []


def test_groups_keep_lone_photos_apart(tmp_path: Path) -> None:
    photos = [("x/a.jpg", "g"), ("x/b.jpg", ""), ("y/b.jpg", ""), ("y/c.jpg", "g")]
    for root in (tmp_path, tmp_path / "elsewhere"):
        manifest = Manifest(tuple(Photo(root / name, "train", group=group) for name, group in photos))
        assert manifest.groups == ["g", "photo x/b.jpg", "photo y/b.jpg", "g"]


def test_fingerprint_stays_when_the_data_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a", "x/1.jpg", "x/2.jpg", "m.png")
    table = write_csv(tmp_path / "a", "path,label,mask\nx/1.jpg,good,\nx/2.jpg,crack,m.png\n")
    before = Manifest.read(table).fingerprint()
    assert len(before) == 64
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Manifest.read(tmp_path / "b").fingerprint() == before
    monkeypatch.chdir(tmp_path)
    assert Manifest.read(Path("b")).fingerprint() == before
    write_csv(tmp_path / "b", "path,label,mask\nx/2.jpg,crack,m.png\nx/1.jpg,good,\n")
    assert Manifest.read(tmp_path / "b").fingerprint() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "x/1.jpg").write_bytes(b"other"),
        lambda root: (root / "x/1.jpg").unlink(),
        lambda root: (root / "m.png").write_bytes(b"other"),
        lambda root: (root / "m.png").unlink(),
        lambda root: write_csv(root, "path,label,mask\nx/1.jpg,ok,\nx/2.jpg,crack,m.png\n"),
        lambda root: write_csv(root, "path,label,mask,group\nx/1.jpg,good,\nx/2.jpg,crack,m.png,g\n"),
        lambda root: write_csv(root, "path,label,mask,split\nx/1.jpg,good,\nx/2.jpg,crack,m.png,test\n"),
        lambda root: write_csv(root, "path,label,mask,anomalous\nx/1.jpg,good,,1\nx/2.jpg,crack,m.png\n"),
        lambda root: write_csv(root, "path,label,mask\nx/1.jpg,good,\nx/2.jpg,crack,\n"),
        lambda root: write_csv(root, "path,label,mask\nx/1.jpg,good,\n"),
    ],
)
def test_fingerprint_sees_every_change(tmp_path: Path, change: object) -> None:
    touch(tmp_path, "x/1.jpg", "x/2.jpg", "m.png")
    write_csv(tmp_path, "path,label,mask\nx/1.jpg,good,\nx/2.jpg,crack,m.png\n")
    before = Manifest.read(tmp_path).fingerprint()
    assert callable(change)
    change(tmp_path)
    assert Manifest.read(tmp_path).fingerprint() != before


def test_fingerprint_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("gone")
    (tmp_path / "d.jpg").symlink_to("d.jpg")
    assert len(Manifest.read(tmp_path).fingerprint()) == 64


def test_fingerprint_survives_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg")
    manifest = Manifest.read(tmp_path)
    before = manifest.fingerprint()

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert manifest.fingerprint() != before
