from __future__ import annotations

from pathlib import Path

import pytest

from inlier.data import layouts
from inlier.data.layouts import find_photos
from inlier.errors import ManifestError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_is_searched_in_natural_order(tmp_path: Path) -> None:
    expected = ["2.jpg", "10.JPG", "A 3.heic", "a 20.HEIF", "deck 2/1.png", "deck 10/sub.d/1.tiff"]
    touch(tmp_path, *reversed(expected))
    touch(tmp_path, "._2.jpg", ".hidden/1.jpg", "deck 2/__MACOSX/1.jpg", "notes.txt", "manifest.csv", "jpg")
    assert find_photos([tmp_path]) == [tmp_path / name for name in expected]


def test_every_suffix_is_known(tmp_path: Path) -> None:
    suffixes = "jpg jpeg png webp bmp tif tiff heic heif avif gif jfif".split()
    touch(tmp_path, *(f"photo.{suffix}" for suffix in suffixes))
    assert {path.suffix[1:] for path in find_photos([tmp_path])} == set(suffixes)


def test_what_is_named_is_kept_in_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "b.txt", ".a.jpg", "folder/1.jpg")
    given = [tmp_path / "b.txt", tmp_path / "folder", tmp_path / "gone.jpg", tmp_path / ".a.jpg"]
    assert find_photos(given) == [given[0], tmp_path / "folder/1.jpg", given[2], given[3]]


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.jpg", "data/sub/b.jpg", "other/c.jpg")
    data = tmp_path / "data"
    (data / "dangling.jpg").symlink_to("gone")
    (data / "itself.jpg").symlink_to("itself.jpg")
    (data / "sub/up").symlink_to(data, target_is_directory=True)
    (data / "elsewhere").symlink_to(tmp_path / "other", target_is_directory=True)
    names = ["a.jpg", "dangling.jpg", "itself.jpg", "elsewhere/c.jpg", "sub/b.jpg"]
    assert find_photos([data]) == [data / name for name in names]


def test_overlapping_folders_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    assert find_photos([tmp_path, tmp_path / "sub"]) == [tmp_path / "a.jpg", tmp_path / "sub/b.jpg"]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(layouts.os, "scandir", denied)
    with pytest.raises(ManifestError, match=r"cannot be listed: Permission denied\.$"):
        find_photos([tmp_path])
