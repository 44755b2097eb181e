from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlier import inspection
from inlier.data.manifest import Manifest

INTERRUPTED = (
    "inlier: interrupted; given again, ingest, inspect, tune, study, a training in fit, and finetune with --resume "
    "go on where they stopped.\n"
)


def test_usage_that_is_wrong_has_status_two(inlier: Callable[..., Any]) -> None:
    for arguments in (["fit", "photos"], ["fit", "--sizze", "3"], ["inspct"], ["demo", "--workers", "-1"], []):
        assert inlier(*arguments).status == 2, arguments
    assert inlier("fit", "photos", "--out", "model", "--size", "big").status == 2


def test_help_and_version_have_status_zero(inlier: Callable[..., Any]) -> None:
    ran = inlier("--help")
    assert ran.status == 0 and all(name in ran.out for name in ("fit", "inspect", "evaluate", "demo"))
    ran = inlier("--version")
    assert ran.status == 0 and ran.out.startswith(f"python {sys.version.split()[0]}\ninlier ")


def test_an_interruption_is_a_sentence_and_status_130(
    inlier: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "read", interrupt)
    ran = inlier("fit", tmp_path, "--out", tmp_path / "model")
    assert ran == (130, "", INTERRUPTED)


def test_bugs_keep_their_traceback(inlier: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def break_down(*arguments: Any, **options: Any) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(Manifest, "read", break_down)
    with pytest.raises(KeyError, match="bug"):
        inlier("fit", tmp_path, "--out", tmp_path / "model")


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stop_after(num_parts: int, command: list[str], work: Path, how: signal.Signals) -> subprocess.Popen[str]:
    """Starts a command, and sends the signal once so many parts are written."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(work.glob("part-*.parquet"))) < num_parts:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(how)
    return process


@pytest.mark.slow
def test_an_inspection_that_is_killed_and_interrupted_ends_like_one_run(
    inlier: Callable[..., Any], model_folder: Path, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after one part, interrupted after another, then let go on: same bytes, and no photo scored twice."""
    monkeypatch.setattr(inspection, "PART_SIZE", 16)
    photos, out = tmp_path / "photos", tmp_path / "stopped"
    photos.mkdir()
    for number in range(160):
        os.link(data.photos[number % len(data)].path, photos / f"{number:04d}.jpg")
    arguments = ["inspect", str(model_folder), str(photos), "--out", str(out)]
    small_parts = "from inlier import inspection; inspection.PART_SIZE = 16; from inlier.cli.main import run; run()"
    command = [sys.executable, "-c", small_parts, *arguments]

    process = stop_after(1, command, out / ".inspection", signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    num_done = len(list((out / ".inspection").glob("part-*.parquet")))
    assert 1 <= num_done < 9

    process = stop_after(num_done + 1, command, out / ".inspection", signal.SIGINT)
    printed = process.communicate()
    assert process.returncode == 130
    assert printed == ("", INTERRUPTED)
    num_done = len(list((out / ".inspection").glob("part-*.parquet")))
    assert 2 <= num_done < 10

    ran = inlier(*arguments, "--json")
    assert json.loads(ran.out)["num_scored"] == 160 - 16 * num_done
    stopped = contents(out)
    shutil.rmtree(out)
    assert inlier(*arguments).status == 0
    assert contents(out) == stopped
