"""The tab key: commands, options and the values that an option takes, in each shell that Typer knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inlier.build import DETECTORS
from inlier.cli.options import DETECTOR_NAMES
from inlier.objectives import ADAPTOR, OBJECTIVES

PROGRAM = Path(sys.executable).with_name("inlier")
needs_program = pytest.mark.skipif(not PROGRAM.exists(), reason="the command inlier is not installed beside python")


def test_the_names_that_are_completed_are_those_that_there_are() -> None:
    assert DETECTOR_NAMES == tuple(DETECTORS)
    from inlier.cli.finetuning import ObjectiveOption

    complete = ObjectiveOption.__metadata__[0].autocompletion
    assert set(complete("")) == {*OBJECTIVES, ADAPTOR}


@needs_program
@pytest.mark.parametrize(
    ("shell", "line", "wanted", "unwanted"),
    [
        ("bash", "inlier ex", "export", "demo"),
        ("bash", "inlier fit --det", "--detector", "--size"),
        ("bash", "inlier fit --precision ", "bfloat16", "combined"),
        ("bash", "inlier inspect --heatmaps f", "flagged", "none"),
        ("zsh", "inlier ex", "export", "demo"),
        ("zsh", "inlier tune --detector sub", "subspace", "patchcore"),
        ("fish", "inlier ex", "export", "demo"),
        ("fish", "inlier fit --detector ph", "photo-neighbors", "patchcore"),
    ],
)
def test_the_tab_key_completes(shell: str, line: str, wanted: str, unwanted: str) -> None:
    asked = {
        "_INLIER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    ran = subprocess.run([PROGRAM], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert wanted in ran.stdout and unwanted not in ran.stdout


@needs_program
def test_bash_completes_once_it_is_installed(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    home = os.environ | {"HOME": str(tmp_path), "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    subprocess.run([bash, "-c", "inlier --install-completion; true"], env=home, check=True, capture_output=True)
    assert (tmp_path / ".bashrc").exists()
    script = """source ~/.bashrc
        COMP_WORDS=(inlier fit --detector ph); COMP_CWORD=3
        "$(complete -p inlier | sed 's/.*-F \\([^ ]*\\).*/\\1/')" inlier
        echo "${COMPREPLY[@]}" """
    ran = subprocess.run([bash, "-c", script], env=home, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["photo-neighbors", "photo-subspace"]


def test_the_script_can_be_printed_instead(tmp_path: Path) -> None:
    if not PROGRAM.exists() or shutil.which("bash") is None:
        pytest.skip("there is no command inlier, or no bash")
    ran = subprocess.run(
        ["bash", "-c", f"{PROGRAM} --show-completion; true"], capture_output=True, text=True, check=True
    )
    assert "_INLIER_COMPLETE=complete_bash" in ran.stdout
