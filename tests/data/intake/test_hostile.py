from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from inlier.data.images import decode, open_image
from inlier.data.intake.sources import find_sources, open_source
from inlier.errors import ImageReadError

from .hostile import HOSTILE, NUM_REJECTED, REASONS, TOLERATED


def read(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the photos below a folder that are read, and the reasons of what is not."""
    names, reasons = [], []
    for source in find_sources([folder]):
        try:
            with open_source(source) as stream, open_image(stream) as file:
                assert min(decode(file, longest_side=64).size) >= 16
            names.append(source.name)
        except ImageReadError as error:
            reasons.append(str(error))
    return names, reasons


def test_there_are_many_kinds() -> None:
    assert len(HOSTILE) >= 50
    assert HOSTILE.keys() == REASONS.keys()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|EXIF data|Truncated File Read|Metadata Warning).*:UserWarning")
def test_hostile_input_is_refused_with_its_reason(tmp_path: Path, kind: str) -> None:
    if kind.startswith("no permission") and os.geteuid() == 0:
        pytest.skip("no permission stops this user")
    HOSTILE[kind](tmp_path)
    outside = sorted(tmp_path.parent.iterdir())
    names, reasons = read(tmp_path)
    assert len(reasons) == NUM_REJECTED.get(kind, 1), reasons
    assert all(re.search(REASONS[kind], reason) for reason in reasons), reasons
    assert all(name.endswith("/good.jpg") for name in names)
    assert sorted(tmp_path.parent.iterdir()) == outside


@pytest.mark.parametrize("kind", TOLERATED)
@pytest.mark.filterwarnings("ignore:.*(Corrupt EXIF|EXIF data).*:UserWarning")
def test_odd_input_is_read(tmp_path: Path, kind: str) -> None:
    TOLERATED[kind](tmp_path)
    names, reasons = read(tmp_path)
    assert names
    assert not reasons
    assert all(name.encode("utf-8") for name in names)
