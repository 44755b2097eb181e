"""What is given away: a wheel and an sdist that hold what they should, and work without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.package
SOURCES = {
    f"inlier/{path.relative_to(ROOT / 'src' / 'inlier').as_posix()}"
    for path in (ROOT / "src" / "inlier").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built by the backend alone, which needs no network."""
    folder = tmp_path_factory.mktemp("dist")
    _call(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def stranger(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with what the tests have installed, but not the checkout."""
    folder = tmp_path_factory.mktemp("stranger") / "environment"
    _call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=built)
    python = folder / "bin" / "python"
    _call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", *_wheels(built))
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = _wheels(built)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == SOURCES
    assert {"inlier/py.typed", "inlier/decision/templates/report.html"} <= names
    assert {name.partition("/")[2] for name in about} >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {f"src/{name}" for name in SOURCES} <= held
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "docs/index.md"} <= held
    parts = {part for name in held for part in Path(name).parts}
    assert not parts & {"__pycache__", ".venv", "node_modules", "out", "demo", "build", ".git", ".hypothesis"}
    _call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=unpacked)
    contents = []
    for folder in (built, tmp_path / "again"):
        with zipfile.ZipFile(_wheels(folder)[0]) as archive:
            contents.append({item.filename: item.CRC for item in archive.infolist() if "RECORD" not in item.filename})
    assert contents[0] == contents[1]


def test_the_wheel_runs_the_demonstration_in_an_empty_folder(stranger: Path, tmp_path: Path) -> None:
    inlier = stranger / "bin" / "inlier"
    where = _call(stranger / "bin" / "python", "-c", "import inlier; print(inlier.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(stranger)
    assert f"inlier {version('inlier')}\n" in _call(inlier, "--version", cwd=tmp_path)
    _call(inlier, "demo", "--scale", "0.05", "--quiet", cwd=tmp_path)
    assert (tmp_path / "demo" / "inspection" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "demo" / "evaluation" / "evaluation.html").exists()


def test_the_wheel_carries_types(stranger: Path, tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n[mypy-torch.*,torchvision.*,timm.*,sklearn.*,scipy.*]\nfollow_imports = skip\n"
    )  # what these say of themselves takes mypy a minute to read
    (tmp_path / "consumer.py").write_text(
        "from inlier import Photo, Verdict\n"
        "def show(photo: Photo, verdict: Verdict) -> str:\n"
        "    return verdict.verdict + photo.label + photo.path\n"
    )
    python = stranger / "bin" / "python"
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", f"--python-executable={python}", "consumer.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=_environment(),
    )
    errors = set(re.findall(r"^(.*): error: .*\[(.*)\]$", checked.stdout, flags=re.MULTILINE))
    assert errors == {("consumer.py:3", "operator")}, checked.stdout + checked.stderr


def test_the_citation_is_one_of_this_version() -> None:
    cited: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["title"] == "inlier" and cited["message"] and cited["license"] == "Apache-2.0"
    assert cited["version"] == version("inlier")
    assert all({"name"} <= set(author) or {"family-names", "given-names"} <= set(author) for author in cited["authors"])
    (thesis,) = cited["references"]
    assert thesis["type"] == "thesis" and thesis["title"] and thesis["authors"] and isinstance(thesis["year"], int)


def _wheels(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.whl"))


def _environment() -> dict[str, str]:
    """That of a stranger: without what leads Python to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL"))}


def _call(*words: object, cwd: Path | None = None) -> str:
    """What the command prints; fails with what it said."""
    ran = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, env=_environment())
    assert ran.returncode == 0, f"{shutil.which(str(words[0]))} {words[1:]}: {ran.stdout}{ran.stderr}"
    return ran.stdout
