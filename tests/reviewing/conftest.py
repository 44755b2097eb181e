"""Reviews of made-up photos in a database of their own."""

from __future__ import annotations

import csv
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from inlier.data.manifest import Manifest
from inlier.data.synthetic import draw_unrelated
from inlier.databases import as_url
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.reviewing.decisions import Review, ReviewPhoto
from inlier.reviewing.preparing import prepare
from inlier.workflow import fit

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fabricated.py"))))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a SQLite database that is not there yet."""
    return as_url(str(tmp_path / "review.db"))


@pytest.fixture
def make_review(url: str) -> Iterator[Callable[[int], Review]]:
    """Makes a review of so many photos in that database."""
    reviews: list[Review] = []

    def make(num_photos: int) -> Review:
        reviews.append(made.create(url, num_photos))
        return reviews[-1]

    yield make
    for review in reviews:
        review.close()


@pytest.fixture(scope="session")
def polluted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, in whose bank two photos of other things are, while one good photo is called cracked."""
    directory = tmp_path_factory.mktemp("polluted")
    shutil.copytree(dataset, directory, dirs_exist_ok=True)
    rows = list(csv.DictReader((dataset / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    train = [row for row in rows if row["split"] == "train"]
    train[4] |= {"label": "crack", "anomalous": "1"}
    for number, name in enumerate(("cat", "landscape")):
        scene = draw_unrelated(name, seed=100 + number, size=(64, 80))
        Image.fromarray(scene).save(directory / f"{name}.png")
        rows.append({**dict.fromkeys(rows[0], ""), "path": f"{name}.png", "split": "train"})
        rows[-1] |= {"label": "piston-crown", "anomalous": "0"}
    (directory / "broken.png").write_bytes(b"no photo")
    rows.append({**rows[-1], "path": "broken.png"})
    with (directory / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return directory


@pytest.fixture(scope="session")
def polluted_data(polluted: Path) -> Manifest:
    return Manifest.read(polluted)


@pytest.fixture(scope="session")
def polluted_model(polluted_data: Manifest) -> Model:
    sections = {"input": {"size": 64}, "backbone": {"precision": "float32"}}
    fitted, _ = fit(sections | {"fit": {"augment": 1, "detector": "patchcore"}}, polluted_data)
    return fitted


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def prepared(
    polluted: Path,
    polluted_data: Manifest,
    polluted_model: Model,
    store: FeatureStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A database with a review of the polluted data, of which nobody decided anything; to be copied."""
    path = tmp_path_factory.mktemp("prepared") / "review.db"
    review = prepare(
        polluted_model,
        polluted_data,
        as_url(str(path)),
        model_folder=Path("pumps"),
        data_folder=polluted,
        store=store,
    )
    review.close()
    return path


@pytest.fixture
def review(prepared: Path, tmp_path: Path) -> Iterator[Review]:
    """A copy of that review."""
    shutil.copy(prepared, tmp_path / "copy.db")
    opened = Review.open(as_url(str(tmp_path / "copy.db")))
    yield opened
    opened.close()


@pytest.fixture
def made_photo() -> Callable[[int], ReviewPhoto]:
    """A made-up row for each number."""
    of: Callable[[int], ReviewPhoto] = made.photo_of
    return of
