"""What results have in common: a folder of their own, files that are whole or absent, names as text."""

from __future__ import annotations

import os
from pathlib import Path

from inlier.errors import InlierError


def check_folder(directory: Path, *, marker: str, content: str) -> None:
    """Refuses a folder that results cannot be written to, before the work that they cost.

    Args:
        directory: It may be new, empty, or hold earlier results, which are then written over.
        marker: The file or folder that tells those from anything else.
        content: What they are, for the sentence.

    Raises:
        InlierError: Something else is there, or nothing can be written there.
    """
    shown = as_text(directory)
    try:
        is_free = not os.path.lexists(directory) or (directory / marker).exists() or not any(directory.iterdir())
    except NotADirectoryError:
        is_free = False
    except OSError as error:
        raise InlierError(f"Nothing can be written to {shown}: {error.strerror}.") from error
    if not is_free:
        raise InlierError(f"{shown} holds something else than {content}; choose another --out, or remove it.")
    if as_text(directory.absolute()) != str(directory.absolute()):
        raise InlierError(f"Nothing can be written to {shown}: its path is no valid UTF-8; choose another --out.")
    above = (directory.absolute(), *directory.absolute().parents)
    lowest = next(path for path in above if os.path.exists(path))
    if not (lowest.is_dir() and os.access(lowest, os.W_OK | os.X_OK)):
        raise InlierError(f"Nothing can be written to {shown}: {as_text(lowest)} is no folder that may be written to.")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears under its name once it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def as_text(path: object) -> str:
    r"""A path or name as valid text; what is no UTF-8 in a file's name is shown as an escape such as ``\udcfc``."""
    return str(path).encode("utf-8", errors="backslashreplace").decode("utf-8")


def number_of(number: int, noun: str) -> str:
    """A number and its noun: "1 photo", "2 photos"."""
    return f"{number} {noun}{'s' * (number != 1)}"
