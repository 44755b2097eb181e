from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from inlier.cli import options
from inlier.cli.options import (
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    read_sections,
    say_unreadable,
)
from inlier.data.manifest import NORMAL_LABELS, Photo
from inlier.errors import ConfigError


def test_options_not_given_leave_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[fit]\nseed = 1\n[input]\nsize = 32\n", encoding="utf-8")
    given = {"fit": {"seed": None, "detector": "patchcore"}, "input": {"size": 64}, "decide": {"uncertain_rate": None}}
    sections = read_sections(tmp_path / "plan.toml", ["fit.seed=2", "input.size=48"], given)
    assert sections == {"fit": {"seed": 2, "detector": "patchcore"}, "input": {"size": 64}}
    assert read_sections(None, None, {}) == {}


def test_labels_may_be_repeated_or_joined_by_commas() -> None:
    assert normal_labels(["intact, fine", "new"]) == ("intact", "fine", "new")
    assert normal_labels(None) == normal_labels(["", " , "]) == NORMAL_LABELS


def test_the_device_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"^--device cuda was asked for, but this machine has no CUDA device; take "):
        choose_device("cuda")
    with pytest.raises(ConfigError, match=r"^--device must be auto, cpu or cuda, got tpu\.$"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (choose_device("auto"), choose_device("cuda"), choose_device("cpu")) == ("cuda", "cuda", "cpu")


def test_the_first_unreadable_photos_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    photos = [(Photo(Path(f"{number}.jpg"), "test"), "the file is empty") for number in range(7)]
    say_unreadable(photos[:5], quiet=False)
    assert capsys.readouterr().err.splitlines() == [f"  unreadable: {n}.jpg: the file is empty" for n in range(5)]
    say_unreadable(photos, quiet=False)
    assert capsys.readouterr().err.splitlines()[-1] == "  ... and 2 more"
    say_unreadable(photos, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_json_is_readable_whatever_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"directory": b"\xfcber".decode("utf-8", "surrogateescape"), "notes": ("Größe",)}
    print_json(result)
    assert json.loads(capsys.readouterr().out) == result | {"notes": ["Größe"]}


def on_terminal(monkeypatch: pytest.MonkeyPatch, *, quiet: bool, seconds: float, aside: str = "") -> str:
    """What a terminal is shown while two of three steps take this long."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("TERM", "xterm")
        with progress_bars(quiet=quiet, aside=lambda: aside) as progress:
            advance = progress("Reading photos", 3)
            advance(2)
            time.sleep(seconds)
            advance(1)
            progress("Learning", 1)(1)
        terminal.write("end")
        terminal.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 65536)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_is_shown_a_bar_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "PATIENCE_SECONDS", 0.1)
    shown = on_terminal(monkeypatch, quiet=False, seconds=0.5)
    assert "Reading photos" in shown and "2/3" in shown and "/s" in shown
    assert "3/3" not in shown and "Learning" not in shown  # a bar goes when its task is done


def test_what_else_there_is_to_say_stands_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "PATIENCE_SECONDS", 0.1)
    shown = on_terminal(monkeypatch, quiet=False, seconds=0.5, aside="loss 1.234")
    assert re.search(r"2/3[^\n]*\r?\nloss 1\.234", shown)
    assert "loss" not in on_terminal(monkeypatch, quiet=False, seconds=0.0, aside="loss 1.234")


def test_what_is_quick_or_quiet_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "photos" not in on_terminal(monkeypatch, quiet=False, seconds=0.2)
    monkeypatch.setattr(options, "PATIENCE_SECONDS", 0.0)
    assert on_terminal(monkeypatch, quiet=True, seconds=0.2) == "end"


def test_no_bar_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bars(quiet=False) as progress:
        progress("Reading photos", 3)(2)
        time.sleep(0.2)
    assert isinstance(sys.stderr, io.StringIO) and sys.stderr.getvalue() == ""
