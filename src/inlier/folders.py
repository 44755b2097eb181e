"""Folders that hold something learned, a model or a backbone: written whole or not at all, read only if unchanged.

Each has a header, ``model.json``, that says what the folder holds and of which format version, its configuration and
facts, and a digest of every other file and of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from inlier.errors import InlierError, ModelError
from inlier.outputs import as_text, check_folder

HEADER = "model.json"
_OURS = "inlier-"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a folder may hold.

    Attributes:
        noun: What sentences call it.
        verb: How another one is made, for the sentence on a folder of another version.
        format_version: Which version of it this inlier reads and writes.
    """

    noun: str
    verb: str
    format_version: int

    @property
    def name(self) -> str:
        """What the header calls it."""
        return f"{_OURS}{self.noun}"


def check_target(directory: Path, kind: Kind) -> None:
    """Raises InlierError if such a folder cannot be written there, as in place of a folder of another kind."""
    check_folder(directory, marker=HEADER, content=f"a {kind.noun}")
    try:
        header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return  # there is none, or a damaged one to be replaced
    if not isinstance(header, dict) or header.get("kind") != kind.name:
        raise InlierError(
            f"{as_text(directory)} holds something else than a {kind.noun}; choose another --out, or remove it."
        )


def write_folder(directory: Path, kind: Kind, header: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Writes the folder beside its final name and renames it, so that it is whole or absent.

    Args:
        directory: Its final name; an earlier one of the same kind is replaced.
        kind: What it holds.
        header: What its header says besides kind, version and digests.
        write: Writes its other files into the folder given.

    Raises:
        InlierError: There is something else at that place, or it cannot be written.
    """
    check_target(directory, kind)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as beside:
            whole = Path(beside) / kind.noun
            whole.mkdir()
            write(whole)
            _write_header(whole, kind, header)
            _move_in(whole, directory, aside=Path(beside) / "replaced")
    except OSError as error:
        raise ModelError(f"The {kind.noun} cannot be written to {as_text(directory)}: {error.strerror}.") from error


def read_header(directory: Path, kind: Kind) -> dict[str, Any]:
    """The header, without a look at the other files.

    Raises:
        ModelError: The folder is none of this kind, its header is damaged, or of a version that is not read.
    """
    shown = as_text(directory)
    if not directory.exists():
        raise ModelError(f"The {kind.noun} {shown} does not exist.")
    try:
        header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{shown} is no {kind.noun}: it has no {HEADER}.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{shown} is damaged: its {HEADER} cannot be read.") from error
    if not isinstance(header, dict) or header.get("kind") != kind.name:
        found = str(header.get("kind")) if isinstance(header, dict) else ""
        is_ours = found.startswith(_OURS)
        reason = f"it holds a {found.removeprefix(_OURS)}" if is_ours else f"its {HEADER} does not say so"
        raise ModelError(f"{shown} is no {kind.noun} of inlier: {reason}.")
    if header.get("format_version") != kind.format_version:
        raise ModelError(
            f"{shown} has format version {header.get('format_version')}, and this inlier reads {kind.format_version}; "
            f"{kind.verb} it again, or use the version of inlier that wrote it."
        )
    if header.pop("digest", None) != _header_digest(header):
        raise ModelError(f"{shown} is damaged: {HEADER} is not what was written.")
    return header


def read_folder(directory: Path, kind: Kind) -> dict[str, Any]:
    """The header of a folder in which no file changed since it was written.

    Raises:
        ModelError: As ``read_header``, or a file is missing or not what was written.
    """
    header = read_header(directory, kind)
    for name, digest in header["files"].items():
        if not (directory / name).is_file():
            raise ModelError(f"{as_text(directory)} is damaged: {name} is missing.")
        if _digest(directory / name) != digest:
            raise ModelError(f"{as_text(directory)} is damaged: {name} is not what was written.")
    return header


def unusable(directory: Path, error: Exception) -> ModelError:
    """The sentence on a folder that is unchanged, and that objects still cannot be built from."""
    reason = str(error).partition("\n")[0]
    return ModelError(f"{as_text(directory)} is damaged, or of another version of inlier: {reason}")


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files hold them: on the CPU, each with memory of its own order."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _write_header(folder: Path, kind: Kind, header: Mapping[str, Any]) -> None:
    """Writes the header, the last file, since it has the digests of the others."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    whole = {"kind": kind.name, "format_version": kind.format_version, **header, "files": files}
    whole["digest"] = _header_digest(whole)
    (folder / HEADER).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _move_in(whole: Path, directory: Path, *, aside: Path) -> None:
    """Gives a finished folder its name; what had that name goes aside, and comes back if this fails."""
    if not os.path.lexists(directory):
        os.rename(whole, directory)
        return
    os.rename(directory, aside)
    try:
        os.rename(whole, directory)
    except BaseException:
        os.rename(aside, directory)
        raise


def _header_digest(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
