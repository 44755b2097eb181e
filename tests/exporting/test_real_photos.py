"""An exported model and Python on real photos, which do not come with the repository: skipped where they are absent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from inlier.data.manifest import Manifest, Photo
from inlier.exporting.export import Exported, export
from inlier.exporting.parity import TOLERANCE, compare
from inlier.exporting.portable import Portable
from inlier.exporting.web import write_page
from inlier.model import Model
from inlier.workflow import fit, inspect_photos

pytestmark = [pytest.mark.real, pytest.mark.slow]

NUM_PHOTOS = 60
"""Of each set, spread over all its photos; benchmarks/export.py takes every one."""


class Real(NamedTuple):
    photos: list[Photo]
    model: Model
    written: Exported


@pytest.fixture(scope="module", params=["mvtec-bottle", "piston"])
def real(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    data = Manifest(Manifest.read(real_data / request.param).photos[::2])
    model, _ = fit({}, data)
    written = export(model, tmp_path_factory.mktemp("real") / "model.onnx", data=data)
    places = np.linspace(0, len(data) - 1, NUM_PHOTOS).astype(int)
    return Real([data.photos[place] for place in places], model, written)


def test_file_and_model_agree_on_real_photos(real: Real) -> None:
    assert real.written.num_bytes < 30e6
    found = [*compare(real.model, Portable.load(real.written.path), real.photos)]
    assert [of.photo.path.name for of in found if not of.is_same] == []
    assert max(of.difference for of in found) <= TOLERANCE * real.written.parity.spread
    assert len({of.export.decision for of in found}) == 3  # the agreement is on more than one verdict


@pytest.mark.browser
def test_the_page_agrees_on_real_photos(
    real: Real,
    package: Path,
    browser: Any,
    served: Callable[[Path], AbstractContextManager[str]],
    judge: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    write_page(real.written.path, tmp_path / "page", runtime=package)
    with served(tmp_path / "page") as address:
        page = browser.new_page()
        page.goto(address)
        page.locator("body[data-offline=ready]").wait_for(timeout=120_000)
        page.context.set_offline(True)
        cards = judge(page, *(photo.path for photo in real.photos))
        page.close()
    wanted = [of.verdict for of in inspect_photos(real.model, real.photos)]
    assert [of.path for card, of in zip(cards, wanted, strict=True) if card["verdict"] != of.verdict] == []
    for card, of in zip(cards, wanted, strict=True):
        assert card["score"] == pytest.approx(of.score, abs=TOLERANCE * real.written.parity.spread), of.path
    assert len({card["verdict"] for card in cards}) == 3
