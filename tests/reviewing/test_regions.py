from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from inlier.data.images import read_mask
from inlier.errors import InlierError
from inlier.reviewing.regions import Region, relative_names, to_mask, write_masks

SQUARE = ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0))


class Marked:
    """What a review knows of regions."""

    def __init__(self, *photos: tuple[str, tuple[Region, ...]]) -> None:
        self.photos = [*photos]

    def marked(self) -> list[tuple[str, tuple[Region, ...]]]:
        return self.photos


def test_a_mask_covers_the_pixels_of_its_polygons() -> None:
    expected = np.zeros((4, 8), dtype=np.bool_)
    expected[2:, 2:6] = True
    assert (to_mask([Region("defect", "", SQUARE)], size=(8, 4)) == expected).all()
    thin = Region("defect", "scratch", ((0.51, 0.3), (0.9, 0.31), (0.9, 0.3)))
    expected[1, 4] = True
    assert (to_mask([Region("defect", "", SQUARE), thin], size=(8, 4)) == expected).all()
    corner = Region("defect", "", ((1.0, 1.0), (0.99, 1.0), (1.0, 0.99)))
    assert to_mask([corner], size=(8, 4)).nonzero() == (3, 7)
    assert not to_mask([], size=(8, 4)).any()


@pytest.mark.parametrize("seed", range(4))
def test_masks_agree_with_scikit_image(seed: int) -> None:
    corners = np.random.default_rng(seed).random((7, 2))
    region = Region("defect", "", tuple((float(x), float(y)) for x, y in corners))  # it crosses itself
    theirs = polygon2mask((160, 200), corners[:, ::-1] * (160, 200) - 0.5)
    assert 0 < theirs.sum() < theirs.size
    assert (to_mask([region], size=(200, 160)) == theirs).all()


@pytest.mark.parametrize(
    ("kind", "polygon", "sentence"),
    [
        ("scratch", SQUARE, "kind of Region must be one of interest, defect, got 'scratch'"),
        ("defect", SQUARE[:2], "must have 3 to 1000 corners, got 2"),
        ("defect", ((0.0, 0.0), (1.0, 0.0), (0.0, 1.01)), "each coordinate in"),
        ("defect", ((0.0, 0.0), (1.0, 0.0), (0.0, float("nan"))), "each coordinate in"),
    ],
)
def test_what_is_no_region_is_refused(kind: str, polygon: tuple[tuple[float, float], ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Region(kind, "", polygon)  # type: ignore[arg-type]


def test_masks_are_written_beside_each_other(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32)).save(tmp_path / name)
    defect, interest = Region("defect", "crack", SQUARE), Region("interest", "", SQUARE)
    marked = Marked(
        (str(tmp_path / "a/1.png"), (defect, interest)),
        (str(tmp_path / "b/1.png"), (defect,)),
        (str(tmp_path / "b/2.jpg"), (interest, interest)),
    )
    assert write_masks(marked, tmp_path / "masks") == 4
    written = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    assert written == ["defect/a/1_mask.png", "defect/b/1_mask.png", "interest/a/1_mask.png", "interest/b/2_mask.png"]
    mask = read_mask(tmp_path / "masks/defect/a/1_mask.png", size=(32, 40))
    assert (mask == to_mask([defect], size=(40, 32))).all()
    with pytest.raises(InlierError, match=r"gone\.png cannot be read: "):
        write_masks(Marked((str(tmp_path / "gone.png"), (defect,))), tmp_path / "masks")


def test_two_photos_of_one_stem_have_masks_of_their_own(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg"):
        Image.new("RGB", (40, 32)).save(tmp_path / name)
    defect = Region("defect", "crack", SQUARE)
    marked = Marked(*((str(tmp_path / name), (defect,)) for name in ("1.png", "1.jpg")))
    assert write_masks(marked, tmp_path / "masks") == 2
    assert len(list((tmp_path / "masks").rglob("*_mask.png"))) == 2


def test_names_count_from_the_folder_of_all() -> None:
    assert relative_names(["/data/a/1.png", "/data/b/2.png"]) == ["a/1.png", "b/2.png"]
    assert relative_names(["s3://bucket/a/1.png", "s3://bucket/a/2.png"]) == ["1.png", "2.png"]
    assert relative_names([]) == []
