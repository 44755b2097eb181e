from __future__ import annotations

import os
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from inlier.data.intake import listings, trees
from inlier.data.intake.sources import Source, find_sources, open_mask, open_source
from inlier.errors import ImageReadError, ManifestError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are given relative to a new folder."""
    monkeypatch.chdir(tmp_path)


def write(*names: str, content: str = "x") -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def zip_of(path: str, **contents: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def find(*paths: str, **options: object) -> list[Source]:
    return list(find_sources([Path(path) for path in paths], **options))  # type: ignore[arg-type]


def names(*paths: str, **options: object) -> list[str]:
    return [source.name for source in find(*paths, **options)]


def facts(source: Source) -> tuple[str, str, bool | None, str, str]:
    return source.split, source.label, source.is_anomalous, source.group, source.error


def test_natural_order_and_facts_of_a_file() -> None:
    expected = ["d/2.jpg", "d/10.JPG", "d/deck 2/1.png", "d/deck 10/a/b.heic"]
    write(*reversed(expected), "d/.hidden.jpg", "d/.git/1.jpg", "d/__MACOSX/1.jpg")
    found = find("d")
    assert [source.name for source in found] == expected
    assert [source.folder for source in found] == ["d", "d", "d/deck 2", "d/deck 10/a"]
    assert [source.label for source in found] == ["", "", "deck 2", "a"]
    assert all(
        (s.split, s.group, s.mask, s.error, s.is_photo, s.is_anomalous) == ("", "", "", "", True, None) for s in found
    )
    status = os.stat("d/2.jpg")
    assert (found[0].path, found[0].size, found[0].modified) == (Path("d/2.jpg"), 1, status.st_mtime_ns)
    with open_source(found[0]) as file:
        assert file.read() == b"x"


def test_what_is_no_photo_is_told() -> None:
    write("d/notes.txt", "d/README", "d/1.jpg")
    assert [(s.name, s.error, s.is_photo) for s in find("d")] == [
        ("d/1.jpg", "", True),
        ("d/notes.txt", "not a photo: its name ends in .txt", False),
        ("d/README", "not a photo: its name has no suffix", False),
    ]
    with pytest.raises(ImageReadError, match=r"^not a photo: its name ends in \.txt$"):
        open_source(find("d")[1])


def test_what_the_user_names_is_tried_and_each_file_comes_once() -> None:
    write("d/1.jpg", "d/2.jpg", "notes.txt", ".h.jpg")
    assert [(s.name, s.error, s.is_photo) for s in find("notes.txt", ".h.jpg")] == [
        ("notes.txt", "", True),
        (".h.jpg", "", True),
    ]
    assert names("d/2.jpg", "d", "d/1.jpg", "d/../d/2.jpg", "d") == ["d/2.jpg", "d/1.jpg"]
    assert names(".", "d") == ["notes.txt", "d/1.jpg", "d/2.jpg"]


def test_a_path_that_does_not_exist_is_refused_at_once() -> None:
    write("d/1.jpg")
    with pytest.raises(ManifestError, match=r"^gone does not exist\.$"):
        find_sources([Path("d"), Path("gone")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ["*.JPG"]}, ["a/1.jpg", "a/b/2.jpg", "a/r.zip/z/4.jpg"]),
        ({"include": ["b/*"]}, []),
        ({"include": ["a/b/*"]}, ["a/b/2.jpg", "a/b/3.png"]),
        ({"include": ["a/*"]}, ["a/1.jpg"]),
        ({"include": ["**/b/**"]}, ["a/b/2.jpg", "a/b/3.png"]),
        ({"include": ["a/**"], "exclude": ["*.png", "*.zip"]}, ["a/1.jpg", "a/b/2.jpg"]),
        ({"include": ["1.jpg", "2.jpg"], "exclude": ["A/B/**"]}, ["a/1.jpg"]),
        ({"exclude": ["a/r.zip/**", "[12].*"]}, ["a/b/3.png", "t.txt"]),
    ],
)
def test_globs(options: dict[str, list[str]], expected: list[str]) -> None:
    write("d/a/1.jpg", "d/a/b/2.jpg", "d/a/b/3.png", "d/t.txt")
    zip_of("d/a/r.zip", **{"z/4.jpg": "x"})
    assert sorted(names("d", **options)) == [f"d/{name}" for name in expected]
    assert names("d/a/1.jpg", exclude=["1.*"]) == []
    assert names("d/a/r.zip", include=["z/*"]) == ["d/a/r.zip/z/4.jpg"]


def test_the_data_set_itself_is_not_read() -> None:
    write("d/1.jpg", "d/out/photos/2.jpg")
    Path("d/link").symlink_to(Path("d/out/photos").absolute())
    Path("d/4.jpg").symlink_to(Path("d/out/photos/2.jpg").absolute())
    assert names("d", "d/out", "d/out/photos", skip=Path("d/out")) == ["d/1.jpg"]
    assert names("d/out/photos", skip=Path("d/out/photos2")) == ["d/out/photos/2.jpg"]


def test_links_are_followed_and_circles_end() -> None:
    write("d/a.jpg", "d/sub/b.jpg", "other/c.jpg")
    Path("d/dangling.jpg").symlink_to("gone")
    Path("d/sub/up").symlink_to(Path("d").absolute())
    Path("d/elsewhere").symlink_to(Path("other").absolute())
    found = find("d")
    assert [s.name for s in found] == ["d/a.jpg", "d/dangling.jpg", "d/elsewhere/c.jpg", "d/sub/b.jpg"]
    assert found[1].error == "a link to a file that does not exist"


def test_a_folder_that_cannot_be_listed_does_not_stop_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/a/1.jpg", "d/b/2.jpg")
    scandir = os.scandir

    def denied(folder: str) -> object:
        if folder.endswith("a"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(trees.os, "scandir", denied)
    assert [(s.name, s.error, s.is_photo) for s in find("d")] == [
        ("d/a", "the folder cannot be listed: Permission denied", True),
        ("d/b/2.jpg", "", True),
    ]


def test_a_photo_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    write("1.jpg")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (source,) = find("1.jpg")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ImageReadError, match=r"^no permission to read the file$"):
        open_source(source)


def test_a_thousand_folders_deep() -> None:
    deep = "d/" * 1000
    os.makedirs("d")
    for _ in range(999):  # os.makedirs calls itself as often
        os.chdir("d")
        os.mkdir("d")
    write("d/1.jpg")
    for _ in range(999):
        os.chdir("..")
    assert names("d") == [f"{deep}1.jpg"]
    subprocess.run(["rm", "-r", "d"], check=True)  # pytest gives up on it


def test_memory_does_not_grow_with_the_number_of_folders() -> None:
    for number in range(60):
        write(*(f"d/{number}/{photo:060}.jpg" for photo in range(50)))
    tracemalloc.start()
    num_found = sum(1 for _ in find_sources([Path("d")]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_found == 3000
    assert peak < 300_000  # all names would take twice as much


MANIFEST = """path,split,label,anomalous,group,mask
b/2.jpg,TEST,crack,,17,masks/2.png
1.jpg,,ok,,18,
gone.jpg,train,good,1,,
"""


def test_a_manifest() -> None:
    write(
        "d/set/1.jpg",
        "d/set/b/2.jpg",
        "d/set/masks/2.png",
        "d/set/b/3.jpg",
        "d/set/b/n.txt",
        "d/set/z.zip",
        "d/x/4.jpg",
    )
    write("d/set/manifest.csv", content=MANIFEST)
    found = {source.name: source for source in find("d")}
    assert {name: facts(source) for name, source in found.items()} == {
        "d/set/b/2.jpg": ("test", "crack", True, "set/17", ""),
        "d/set/1.jpg": ("", "ok", False, "set/18", ""),
        "d/set/gone.jpg": ("train", "good", True, "", "the file does not exist"),
        "d/set/z.zip": ("", "", None, "", "not listed in the manifest"),
        "d/set/b/3.jpg": ("", "", None, "", "not listed in the manifest"),
        "d/set/b/n.txt": ("", "b", None, "", "not a photo: its name ends in .txt"),
        "d/x/4.jpg": ("", "x", None, "", ""),
    }
    assert [source.is_photo for source in found.values()] == [True, True, True, False, False, False, True]
    with open_mask(found["d/set/b/2.jpg"]) as file:
        assert file.read() == b"x"
    with pytest.raises(ValueError, match=r"^d/set/1\.jpg has no mask\.$"):
        open_mask(found["d/set/1.jpg"])
    assert [source.group for source in find("d/set")][:2] == ["17", "18"]
    assert names("d/set/manifest.csv") == ["d/set/b/2.jpg", "d/set/1.jpg", "d/set/gone.jpg"]
    assert [s.is_anomalous for s in find("d/set", normal=["crack"])][:3] == [False, True, True]


def test_parquet_goes_first_and_other_columns_are_ignored() -> None:
    write("d/1.jpg", "d/2.jpg")
    write("d/manifest.csv", content="path\n2.jpg\n")
    parquet.write_table(pa.table({"path": ["1.jpg"], "sha256": ["00"], "label": ["rust"]}), "d/manifest.parquet")
    assert [(s.name, s.label, s.error) for s in find("d")] == [
        ("d/1.jpg", "rust", ""),
        ("d/2.jpg", "", "not listed in the manifest"),
    ]


def test_a_manifest_may_list_what_lies_below_the_path_given() -> None:
    write("d/1.jpg", "d/p/2.jpg", "d/p/m.png", "secret.jpg")
    absolute = Path("d/p/2.jpg").absolute()
    rows = f"path,label,mask\n{absolute},rust,../p/m.png\n../p/./2.jpg,twice,\n../../secret.jpg,no,\n/etc/passwd,no,\n"
    write("d/list/manifest.csv", content=rows)
    assert [(s.name, s.label, s.error) for s in find("d")] == [
        ("d/1.jpg", "", ""),
        ("d/p/2.jpg", "rust", ""),
        ("d/list/../../secret.jpg", "", "its manifest names a file outside the folder"),
        ("d/list/etc/passwd", "", "its manifest names a file outside the folder"),
    ]
    assert [s.error for s in find("d/list/manifest.csv")] == ["its manifest names a file outside the folder"] * 4


def test_a_broken_manifest_is_told_and_its_folder_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    write("d/good/1.jpg")
    for content, reason in {
        "label\nx\n": "d/manifest.csv needs a column named path; its columns: label.",
        "path\n": "d/manifest.csv holds no photos.",
        "path,split\n1.jpg,val\n": "split in d/manifest.csv must be train, dev or test, but row 1 has 'val'.",
        "path," + "x" * 90: "d/manifest.csv cannot be read: it has 95 bytes; at most 80 are read.",
    }.items():
        monkeypatch.setattr(listings, "MAX_TABLE_BYTES", 10)
        write("d/manifest.csv", content=content)
        broken, photo = find("d")
        assert (broken.name, broken.error, broken.is_photo) == ("d/manifest.csv", reason, True)
        assert facts(photo) == ("", "good", None, "", "")


def test_layouts_at_a_path_and_one_folder_below() -> None:
    for root in ("mvtec/", "all/mvtec/"):
        write(f"{root}train/good/1.png", f"{root}test/crack/2.png", f"{root}test/crack/3.png", f"{root}note.jpg")
        write(f"{root}ground_truth/crack/2_mask.png", f"{root}ground_truth/crack/9_mask.png")
    write("all/more/in/test/4.jpg")
    stray = "not a photo: the mask of a photo that is not there"
    expected = {
        "note.jpg": ("", "", None, "", ""),
        "ground_truth/crack/9_mask.png": ("", "", None, "", stray),
        "test/crack/2.png": ("test", "crack", True, "", ""),
        "test/crack/3.png": ("test", "crack", True, "", ""),
        "train/good/1.png": ("train", "good", False, "", ""),
    }
    found = find("mvtec")
    assert {s.name.removeprefix("mvtec/"): facts(s) for s in found} == expected
    assert [s.mask for s in found] == ["", "", "mvtec/ground_truth/crack/2_mask.png", "", ""]
    assert [s.is_photo for s in found] == [True, False, True, True, True]
    below = {s.name.removeprefix("all/mvtec/"): facts(s) for s in find("all")}
    assert below.pop("all/more/in/test/4.jpg") == ("", "test", None, "", "")  # too deep
    assert below == expected | {"note.jpg": ("", "mvtec", None, "", "")}


def test_an_archive_is_a_path_of_its_own() -> None:
    zip_of("d/rust/roll.zip", **{"10.jpg": "ten", "2.jpg": "two", "in/ner/1.jpg": "one", "a.txt": "x", ".x/1.jpg": "x"})
    found = find("d")
    assert [(s.name, s.label, s.error) for s in found] == [
        ("d/rust/roll.zip/2.jpg", "", ""),
        ("d/rust/roll.zip/10.jpg", "", ""),
        ("d/rust/roll.zip/a.txt", "", "not a photo: its name ends in .txt"),
        ("d/rust/roll.zip/in/ner/1.jpg", "ner", ""),
    ]
    assert (found[3].path, found[3].member, found[3].size) == (Path("d/rust/roll.zip"), "in/ner/1.jpg", 3)
    assert found[3].folder == "d/rust/roll.zip/in/ner"
    with open_source(found[1]) as file:
        assert (file.read(), file.seek(0)) == (b"ten", 0)
    assert names("d/rust/roll.zip") == [source.name for source in found]


def test_manifest_and_layout_in_an_archive() -> None:
    rows = "path,label,group,mask\nset/../1.jpg,rust,7,m.png\n../x.jpg,,,\n/x.jpg,,,\ngone.jpg,,,\n"
    zip_of("d/a.zip", **{"manifest.csv": rows, "1.jpg": "one", "m.png": "mask"})
    zip_of("d/b.zip", **{"manifest.csv": "label\nx\n", "test/bad/1.png": "x", "ground_truth/bad/1_mask.png": "mask"})
    *found, broken, photo = find("d")
    outside = "its manifest names a file outside the folder"
    assert [(s.name, s.label, s.group, s.error) for s in found] == [
        ("d/a.zip/1.jpg", "rust", "a.zip/7", ""),
        ("d/a.zip/../x.jpg", "", "", outside),
        ("d/a.zip/x.jpg", "", "", outside),
        ("d/a.zip/gone.jpg", "", "", "the file does not exist"),
    ]
    reason = "d/b.zip/manifest.csv needs a column named path; its columns: label."
    assert (broken.name, broken.error, broken.is_photo) == ("d/b.zip/manifest.csv", reason, True)
    assert facts(photo) == ("test", "bad", True, "", "")
    for source in (found[0], photo):
        with open_mask(source) as file:
            assert file.read() == b"mask"
    assert find("d/a.zip")[0].group == "7"


def test_nothing_is_written() -> None:
    zip_of("d/a.zip", **{"../evil.jpg": "x", "/etc/evil.jpg": "x", "manifest.csv": "path\n1.jpg\n", "1.jpg": "x"})
    before = sorted(Path().rglob("*"))
    for source in find("d"):
        if not source.error:
            open_source(source).close()
    assert sorted(Path().rglob("*")) == before


def test_names_are_valid_text_and_unique() -> None:
    write(os.fsdecode(b"d/sch\xf6n/1.jpg"), "d/x.jpg")
    found = find("d")
    assert [s.name for s in found] == ["d/x.jpg", "d/sch\\udcf6n/1.jpg"]
    assert found[1].label == "sch\\udcf6n"
    with open_source(found[1]) as file:
        assert file.read() == b"x"
