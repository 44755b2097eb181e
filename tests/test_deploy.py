"""The files for containers name what is there: paths, commands and options, though no engine runs them here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from inlier.cli import serving

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def check_command(arguments: list[str]) -> None:
    """Parses ``inlier serve ...``, and runs nothing."""
    app = typer.Typer()
    app.command("serve")(serving.serve)
    app.command("keys")(serving.keys)
    name, *rest = arguments
    typer.main.get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]


def test_the_dockerfile_copies_what_there_is_and_runs_a_command_that_there_is() -> None:
    found = instructions()
    for name, rest in found:
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    assert [name for name, _ in found].count("FROM") == 2
    (command,) = (json.loads(rest) for name, rest in found if name == "CMD")
    check_command(command)
    assert [rest for name, rest in found if name == "USER"] == ["10001"]
    extra = re.search(r'"\.\[(\w+)\]"', " ".join(rest for _, rest in found))
    assert extra is not None and extra[1] == "service"


def test_the_compose_file_is_whole() -> None:
    whole: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    service, database = whole["services"]["service"], whole["services"]["database"]
    check_command(service["command"])
    build = service["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / "entrypoint.sh").is_file()
    mounted = [volume.split(":")[0] for of in (service, database) for volume in of["volumes"]]
    assert {name for name in mounted if not name.startswith(".")} == set(whole["volumes"])
    assert all(secret in whole["secrets"] for of in (service, database) for secret in of["secrets"])
    assert service["depends_on"]["database"]["condition"] == "service_healthy" and database["healthcheck"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_commands_in_comments_are_understood() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"run --rm service (.*)", text)
    check_command(shlex.split(line))


def test_the_entrypoint_is_a_script_that_hands_the_password_on(tmp_path: Path) -> None:
    (tmp_path / "inlier").write_text('#!/bin/sh\necho "$PGPASSWORD" "$@"\n', encoding="utf-8")
    (tmp_path / "inlier").chmod(0o755)
    (tmp_path / "password").write_text("secret word\n", encoding="utf-8")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PASSWORD_FILE": str(tmp_path / "password")}
    ran = subprocess.run(
        ["/bin/sh", str(DEPLOY / "entrypoint.sh"), "serve", "a b"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "secret word serve a b\n"
