"""Every block of code in the documentation is run, page by page, on small generated photos; or the reason why not.

The blocks of a page run in order in one folder, in which lie the photos and models that the page takes for granted.
"""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from inlier.data.manifest import Manifest
from inlier.data.synthetic_folders import write_camera_roll
from inlier.segmenting import write_regions

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])

NOT_RUN = {
    r"pip install|^python3 -m venv|^\. |^hf download|^mv model\.safetensors": "installs, or fetches from the network",
    r"--show-completion": "depends on the shell that calls; tests/cli/test_completion.py asks for three",
    r"^jupyter ": "tests/test_site.py executes the notebook",
    r"^make ": "runs this very test, or what .ci/run runs beside it",
    r"^python benchmarks/": "measures for minutes or hours; each script has a quick form in tests, or says so",
    r"^python -c \"import timm": "asks timm alone",
    r"^python -m http\.server|^curl |^inlier serve ": "a server that does not end; tests/service asks one all of this",
    r"^inlier review (?!.*--(export|import))": "a server that does not end; tests/service/review clicks through it",
    r"^inlier refit ": "needs decisions of a person; tests/reviewing/test_refitting.py makes some",
    r"^inlier keys ": "asks for a folder of its own; tests/service/test_keys.py does",
    r"s3://": "needs a bucket; tests/data/test_remote.py has one",
    r"--ray |^ray start|--shards 16": "needs a cluster; tests/test_scale.py starts one",
    r"--processes ": "starts processes that import PyTorch anew; tests/test_scale.py does once",
    r"postgresql": "needs a database; tests/experiments/test_tuning.py has one",
    r"dinov2": "needs weights that no machine of the tests has; tests/features/test_networks.py draws random ones",
    r"^inlier study |^inlier tune |^inlier track ": "takes minutes; tests/experiments runs small ones",
    r"--config out/search|^inlier track": "needs the search above",
    r"^inlier finetune |out/backbone|out/adapted": "trains for minutes; tests/cli/test_finetuning.py does",
    r"^torchrun ": "needs several processes with a network; tests/finetuning/test_parallel.py starts two",
    r"--select synthetic": "fits five detectors; tests/test_selection.py does",
    r"--web page": "needs an npm package; tests/exporting/test_web.py has it where it is",
    r"--(read|ignore)-text|--group-by digits": "reads with networks that take a minute here; tests/data/text does",
    r"\bimport (rembg|remove|fiftyone)\b": "needs a package that is not among ours",
    r"mlflow\.pyfunc": "the number of the run is another each time; tests/experiments/test_served.py loads one",
    r"^inlier review .*--import tasks\.json": "comes back from Label Studio; tests/reviewing/test_exchange.py has one",
    r"--update ": "the model here knows all photos already; tests/test_updating.py adds and removes some",
    r"--export masks|drawn/": "needs regions that a person drew; tests/test_regions.py draws some in the browser",
    r"--regions (mask|foreground|grabcut)": "needs photos with a part in the middle; tests/test_regions.py draws some",
}
"""What is not run here, as a pattern of the command or the code, and the reason."""

SMALLER = {
    "fit": ["--size", "64", "--augment", "0", "--precision", "float32"],
    "map": ["--size", "64"],
}
"""Options behind those of the page, so that a run takes a second; not for the tutorial, which runs as it stands."""
AS_IT_STANDS = "docs/tutorial.md"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, directives among them."""
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"\s*(`{3,})(.*)$", line)
        if opened is None and fence:
            opened, lines = (number, fence[1], fence[2].strip()), []
        elif opened and fence and fence[1] == opened[1] and not fence[2].strip():
            yield Block(str(page.relative_to(ROOT)), opened[0], opened[2], "\n".join(lines) + "\n")
            opened = None
        elif opened:
            lines.append(line)


def _commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, with the lines that it printed there."""
    command, printed = "", list[str]()
    for line in block.text.replace("\\\n", " ").splitlines():
        begins = line.startswith("$ ") or (block.language == "bash" and line.strip())
        if not begins:
            printed.append(line)
            continue
        if command:
            yield command, printed
        command, printed = line.removeprefix("$ ").split("  #")[0].strip(), []
    if command:
        yield command, printed


def _reason(text: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, text)), None)


BLOCKS = [block for page in PAGES for block in _blocks(page)]
RUNNABLE = {
    page: [
        block
        for block in BLOCKS
        if block.page == page and block.language in ("console", "bash", "python", "py", "toml")
    ]
    for page in dict.fromkeys(block.page for block in BLOCKS)
}
RUNNABLE = {page: blocks for page, blocks in RUNNABLE.items() if blocks}


def test_every_block_says_what_it_is() -> None:
    known = {"console", "bash", "python", "py", "toml", "json", "text"}
    strange = [block.name for block in BLOCKS if block.language not in known and not block.language.startswith("{")]
    assert strange == []


def test_every_reason_for_not_running_is_needed() -> None:
    texts = [block.text for block in BLOCKS if block.language in ("python", "py")]
    texts += [command for block in BLOCKS if block.language in ("console", "bash") for command, _ in _commands(block)]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, text) for text in texts)] == []


@pytest.fixture(scope="module")
def surroundings(dataset: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted: an archive, camera rolls, a model, by the names that they have there."""
    folder = tmp_path_factory.mktemp("surroundings")
    for number, name in enumerate(("roll", "more")):
        rolled = {"num_normal": 6, "num_defective": 3, "num_unrelated": 3}
        write_camera_roll(folder / name, components=("piston-crown", "bolted-flange"), seed=number, **rolled)
    with zipfile.ZipFile(folder / "phone.zip", "w") as archive:
        for path in sorted((folder / "more").iterdir())[:4]:
            archive.write(path, path.name)
    (folder / "demo").mkdir()
    for name in ("demo/archive", "archive", "parts"):
        (folder / name).symlink_to(dataset)
    for name in ("demo/camera-roll", "new", "new-photos"):
        (folder / name).symlink_to(folder / "roll")
    (folder / "photos").symlink_to(dataset / "photos")
    shutil.copy(next(path for path in sorted((dataset / "photos").rglob("*")) if path.is_file()), folder / "new.jpg")
    for name in ("model", "out/model", "pumps"):
        shutil.copytree(model_folder, folder / name)
    write_regions(Manifest.read(dataset), lambda pixels: pixels.mean(2) >= 0, folder / "masked")
    return folder


@pytest.mark.real
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_blocks_of_a_page_run_in_order(
    page: str, surroundings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inlier: Callable[..., object]
) -> None:
    if page != AS_IT_STANDS:
        shutil.copytree(surroundings, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for block in RUNNABLE[page]:
        if block.language == "toml":
            (tmp_path / "inlier.toml").write_text(block.text, encoding="utf-8")
        elif block.language in ("python", "py"):
            if not _reason(block.text):
                exec(compile(block.text, block.name, "exec"), {"__name__": "documentation"})
        else:
            for command, printed in _commands(block):
                if not _reason(command):
                    where, words = f"{block.name}: {command}", shlex.split(command)
                    _run(where, words, printed, inlier, is_whole=page == AS_IT_STANDS)


def _run(where: str, words: list[str], printed: list[str], inlier: Callable[..., object], *, is_whole: bool) -> None:
    """Runs one command, and compares what it prints with what the page shows, whatever the numbers."""
    if words[0] == "head":
        out = "\n".join(Path(words[2]).read_text(encoding="utf-8").splitlines()[: int(words[1][1:])])
    else:
        assert words[0] == "inlier", f"{where}: give a reason in NOT_RUN, or run it"
        added = [] if is_whole else SMALLER.get(words[1], [])
        ran = inlier(*words[1:], *added)
        has_unreadable = ran.status == 1 and "unreadable" in ran.out + ran.err
        is_strict = ran.status == 2 and "--strict" in words and "leak" in ran.err  # tiny photos of a part are alike
        assert ran.status == 0 or has_unreadable or is_strict, f"{where}: {ran.err}"
        out = ran.out + ran.err
    if is_whole:
        shown = {_shape(line) for line in out.splitlines()}
        assert [line for line in printed if _shape(line) not in shown] == [], where


def _shape(line: str) -> str:
    """A line without its numbers and the room that they take."""
    return " ".join(re.sub(r"-?[0-9]+(\.[0-9]+)?", "N", line).split())
