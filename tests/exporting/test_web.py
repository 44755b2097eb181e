from __future__ import annotations

import json
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from inlier.data.images import read_image
from inlier.errors import InlierError, MissingExtraError
from inlier.exporting.web import RUNTIME, check_can_fetch, check_page_target, write_page

ASSETS = files("inlier.exporting").joinpath("web")


def test_a_page_is_whole_and_says_what_is_in_it(exported: Path, package: Path, tmp_path: Path) -> None:
    directory = tmp_path / "site" / "page"
    num_bytes = write_page(exported, directory, runtime=package)
    names = {path.name for path in directory.iterdir()}
    assert num_bytes == sum(path.stat().st_size for path in directory.iterdir()) < 45e6
    assert (directory / "model.onnx").read_bytes() == exported.read_bytes()
    kept = json.loads(re.findall(r"FILES = (\[.*\]);", (directory / "sw.js").read_text())[0])
    about = json.loads((directory / "model.json").read_text())
    assert {*kept, *(of["name"] for of in about["files"]), "sw.js"} == {*names, "./"}
    assert f"`${{PREFIX}}{about['version']}`" in (directory / "sw.js").read_text()
    manifest = json.loads((directory / "manifest.json").read_text())
    for icon in manifest["icons"][:2]:
        height, width, _ = read_image(directory / icon["src"]).shape
        assert f"{width}x{height}" == icon["sizes"]
    referred = set(re.findall(r'(?:href|src)="([^#"]+)"', (directory / "index.html").read_text()))
    assert referred <= names
    assert [path.name for path in directory.parent.iterdir()] == ["page"]
    write_page(exported, directory, runtime=package)  # an earlier page is replaced


def test_another_version_of_what_runs_it_is_refused(exported: Path, package: Path, tmp_path: Path) -> None:
    other = tmp_path / "package"
    for name, _ in RUNTIME.values():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, other / name)
    with (other / RUNTIME["ort.js"][0]).open("a") as file:
        file.write("//")
    with pytest.raises(MissingExtraError, match=r"ort\.wasm\.bundle\.min\.mjs is not that of onnxruntime-web 1\."):
        write_page(exported, tmp_path / "page", runtime=other)
    assert not (tmp_path / "page").exists() and sorted(of.name for of in tmp_path.iterdir()) == ["package"]


def test_what_is_missing_is_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match=r"is missing; --onnxruntime-web must name the folder of the unpacked"):
        check_page_target(tmp_path / "page", runtime=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"^--web needs the npm package onnxruntime-web 1\..*npm is not"):
        check_can_fetch(None)
    with pytest.raises(MissingExtraError, match=r"^--web needs the npm package"):
        write_page(exported, tmp_path / "page")


@pytest.mark.parametrize(("script", "reason"), [("exit 1", r"npm could not fetch"), ("touch x.tgz", "is not onnxrunt")])
def test_what_npm_brings_is_checked(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(InlierError, match=reason):
        write_page(exported, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_folder_of_something_else_is_left_alone(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InlierError, match=r"holds something else than a page of inlier export; choose another --out"):
        write_page(exported, tmp_path)


def test_the_page_asks_nobody_but_its_own_server() -> None:
    for asset in ASSETS.iterdir():
        text = asset.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, asset.name
        assert not re.search(r"\bon\w+=|<style|style=|innerHTML|\beval\(|new Function", text), asset.name
    page = ASSETS.joinpath("index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy and "connect-src 'self';" in policy and "unsafe-inline" not in policy
