"""A page that runs an exported model in a browser: a folder for any server of files, that works offline once opened."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from inlier.decision.heatmap import OPACITY, RAMP, SATURATION
from inlier.errors import InlierError, MissingExtraError
from inlier.exporting.portable import DECISIONS, Portable
from inlier.outputs import as_text, check_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
"""What runs the model in the browser."""

INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as npm states it."""

RUNTIME = {
    "ort.js": (
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort.wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
"""File of the page -> file of the package, and its SHA-256."""

MARKER = "sw.js"
"""The file by which a folder is known to hold such a page."""

_COPIED = (
    *("index.html", "app.js", "heat.js", "photo.js", "jpeg.js", "jpeg-pixels.js", "png.js", "worker.js"),
    *("icon.svg", "LICENSE-onnxruntime-web"),
)
_LARGE = ("model.onnx", "ort.wasm")
_ICON_BLUE, _ICON_RED = (29, 91, 158), (255, 177, 153)


def write_page(model: Path, directory: Path, *, runtime: Path | None = None) -> int:
    """Writes the page, whole or not at all; returns how many bytes it has.

    Args:
        model: What ``export`` wrote.
        directory: Made if need be; an earlier page there is replaced.
        runtime: The unpacked package ``onnxruntime-web``, of the version in ``VERSION``; None: npm fetches it.

    Raises:
        InlierError: Something else is in the folder, or it cannot be written.
        MissingExtraError: There is neither the package nor npm to fetch it, or it is another one.
        ModelError: The model is none.
    """
    check_page_target(directory)
    export = Portable.load(model)
    try:
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.absolute().parent) as beside:
            page = Path(beside) / "page"
            page.mkdir()
            with _package(runtime) as package:
                _copy_runtime(package, page)
            shutil.copyfile(model, page / "model.onnx")
            _write_files(export, page)
            num_bytes = sum(path.stat().st_size for path in page.iterdir())
            page.chmod(0o755)
            if directory.exists():
                os.rename(directory, Path(beside) / "replaced")
            os.rename(page, directory)
            return num_bytes
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error


def check_page_target(directory: Path, *, runtime: Path | None = None) -> None:
    """Refuses, before the work, a folder that a page cannot be written to, or a page without what is to run in it.

    Raises:
        InlierError: Something else is in the folder, or it cannot be written.
        MissingExtraError: ``runtime`` is given, and is not the package.
    """
    check_folder(directory, marker=MARKER, content="a page of inlier export")
    if runtime is not None:
        for name, digest in RUNTIME.values():
            _check_file(runtime / name, digest)


def check_can_fetch(runtime: Path | None) -> None:
    """Refuses, before the work, a page for which nobody can fetch what runs in it.

    Raises:
        MissingExtraError: No folder is named, and npm is not installed.
    """
    if runtime is None and shutil.which("npm") is None:
        raise MissingExtraError(
            f"--web needs the npm package {PACKAGE} {VERSION}, and npm is not installed: install it, or unpack the "
            "package and name its folder with --onnxruntime-web."
        )


@contextmanager
def _package(runtime: Path | None) -> Iterator[Path]:
    """The folder of the package: as named, or as npm fetched it, within the block."""
    if runtime is not None:
        yield runtime
        return
    check_can_fetch(runtime)
    with tempfile.TemporaryDirectory(prefix="inlier-") as folder:
        yield _fetch(Path(folder))


def _fetch(folder: Path) -> Path:
    """The package, fetched by npm and checked, with no more of it unpacked than is needed."""
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=900)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().rpartition("\n")[2]
        raise InlierError(
            f"npm could not fetch {PACKAGE} {VERSION} ({said}); unpack it yourself, and name its folder with "
            "--onnxruntime-web."
        ) from error
    (archive,) = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise InlierError(f"What npm fetched is not {PACKAGE} {VERSION} as it was released; nothing was written.")
    with tarfile.open(archive) as package:
        for name, _ in RUNTIME.values():
            member = package.extractfile(f"package/{name}")
            assert member is not None  # the digest says that it is there
            (folder / name).parent.mkdir(exist_ok=True)
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    return folder


def _copy_runtime(package: Path, page: Path) -> None:
    for ours, (theirs, digest) in RUNTIME.items():
        _check_file(package / theirs, digest)
        shutil.copyfile(package / theirs, page / ours)


def _check_file(path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingExtraError(
            f"{as_text(path)} is missing; --onnxruntime-web must name the folder of the unpacked npm package {PACKAGE} "
            f"{VERSION}."
        ) from error
    if found != digest:
        raise MissingExtraError(f"{as_text(path)} is not that of {PACKAGE} {VERSION}; this page works with that only.")


def _write_files(export: Portable, page: Path) -> None:
    """Everything but the model and what runs it."""
    for name in _COPIED:
        (page / name).write_bytes(_asset(name))
    palette = files("inlier.decision").joinpath("templates", "page.css").read_bytes()
    (page / "app.css").write_bytes(palette + _asset("app.css"))
    for side in (192, 512):
        _draw_icon(side).save(page / f"icon-{side}.png", optimize=True)
    (page / "manifest.json").write_text(json.dumps(_manifest(), indent=2) + "\n", encoding="utf-8")
    version = _version(page)
    about = _about(export, page, version)
    (page / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shell = ["./", *sorted(path.name for path in page.iterdir() if path.name not in (*_LARGE, MARKER))]
    worker = _asset(MARKER).decode().replace("__VERSION__", version).replace("__FILES__", json.dumps(shell))
    (page / MARKER).write_text(worker, encoding="utf-8")


def _about(export: Portable, page: Path, version: str) -> dict[str, Any]:
    """What the page says and needs to know of the model."""
    header, decide = export.header, export.config["decide"]
    scale = header["heat_scale"]
    heat = {"ramp": RAMP, "opacity": OPACITY, "saturation": SATURATION, "scale": scale} if scale else None
    facts: Mapping[str, str] = {
        "model": export.identity,
        "detector": export.config["fit"]["detector"],
        "backbone": export.config["backbone"]["name"],
        "numbers": header["precision"],
        "normal photos": str(export.facts.get("num_fitted", "unknown")),
        "calibration": str(export.facts.get("calibration", "unknown")),
        "inlier": header["versions"]["inlier"],
        PACKAGE: VERSION,
    }
    return {
        "version": version,
        "size": export.size,
        "verdicts": DECISIONS,
        "components": header["components"],
        "numCalibration": header["num_calibration"],
        "falseAlarmRate": decide["false_alarm_rate"],
        "uncertainRate": decide["uncertain_rate"],
        "heat": heat,
        "facts": facts,
        "notes": header["notes"],
        "files": [{"name": name, "bytes": (page / name).stat().st_size} for name in _LARGE],
    }


def _manifest() -> dict[str, Any]:
    """What an installed page is called and looks like."""
    icons: list[dict[str, str]] = [
        {"src": f"icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"} for side in (192, 512)
    ]
    return {
        "name": "inlier: does it look normal?",
        "short_name": "inlier",
        "description": "Judges photos on this device.",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#f6f6f3",
        "theme_color": "#1d5b9e",
        "icons": [*icons, {"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }


def _version(page: Path) -> str:
    """Twelve hexadecimal digits that change with any file of the page."""
    digest = hashlib.sha256()
    for path in sorted(page.iterdir()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _draw_icon(side: int) -> Image.Image:
    """The icon in pixels, for systems that take no drawing: drawn four times as large, and reduced."""
    unit = 4 * side / 32
    icon = Image.new("RGB", (4 * side, 4 * side), _ICON_BLUE)
    draw = ImageDraw.Draw(icon)

    def circle(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse([(of * unit) for of in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    for x, y in ((11, 11), (21, 11), (11, 21)):
        circle(x, y, 3, (255, 255, 255))
    circle(21, 21, 3.9, _ICON_RED)
    circle(21, 21, 1.9, _ICON_BLUE)
    return icon.reduce(4)


def _asset(name: str) -> bytes:
    return files("inlier.exporting").joinpath("web", name).read_bytes()
