"""Run: a finished result as a tracker sees it, and what its readers share."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from inlier.errors import InlierError
from inlier.folders import HEADER
from inlier.outputs import as_text

Metric = tuple[str, float, int]
"""Name, value and step; the step is 0 where there is only one value."""

MAX_ARTIFACT_BYTES = 64 * 2**20
"""A larger file stays in its folder: a page on thousands of photos belongs on a disk."""

_TELLING = (".csv", ".html", ".json", ".parquet", ".png", ".toml")


@dataclass(frozen=True)
class Run:
    """A finished result as a tracker sees it.

    Attributes:
        name: What lists show.
        kind: model, backbone, evaluation, comparison, inspection, tuning, trial, study or cell.
        folder: Where its files are; a trial's are those of its search.
        params: What was asked for, as text.
        metrics: What came of it; finite values only.
        tags: What else tells it from others.
        note: A few sentences in Markdown.
        artifacts: Small files in or below the folder that are worth a copy; no weights.
        model: A MODEL folder that came of it.
        began: When, in seconds since 1970.
        ended: The same.
        children: Runs that it consists of.
    """

    name: str
    kind: str
    folder: Path
    params: dict[str, str] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""
    artifacts: tuple[Path, ...] = ()
    model: Path | None = None
    began: float = 0.0
    ended: float = 0.0
    children: tuple[Run, ...] = ()

    @property
    def num_runs(self) -> int:
        """Itself, and all below it."""
        return 1 + sum(child.num_runs for child in self.children)

    @cached_property
    def content(self) -> str:
        """Digits that are the same wherever the folder lies and whatever it is called, and for nothing else."""
        files = [*self.artifacts, *([self.model / HEADER] if self.model else [])]
        digests = [(path.relative_to(self.folder).as_posix(), _digest(path)) for path in files]
        below = [(child.name, child.content) for child in self.children]
        told = [self.kind, self.params, self.metrics, self.tags, digests, below]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def without_models(self) -> Run:
        """The same, with numbers and pages only."""
        return replace(self, model=None, children=tuple(child.without_models() for child in self.children))


def new_run(folder: Path, kind: str, marker: str, *, seconds: float | None = None, **told: Any) -> Run:
    """A run with the name and the files of its folder, which ended when its marker was written.

    Args:
        folder: Of the result.
        kind: Of the run.
        marker: File that is written last.
        seconds: How long it took, where that is known.
        told: The other attributes.
    """
    ended = (folder / marker).stat().st_mtime
    files = sorted(path for path in folder.iterdir() if path.suffix in _TELLING and path.is_file())
    small = tuple(path for path in files if path.stat().st_size <= MAX_ARTIFACT_BYTES)
    left = [as_text(path.name) for path in files if path not in small]
    note = told.pop("note", "")
    if left:
        note += f"\n\nToo large to be copied, and only in the folder: {', '.join(left)}."
    name = as_text(folder.absolute().name)
    began = ended - (seconds or 0.0)
    return Run(name, kind, folder, note=note, began=began, ended=ended, **{"artifacts": small, **told})


def read_record(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InlierError: It cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InlierError(f"{as_text(path.parent)} is damaged: {path.name} cannot be read.") from error
    if not isinstance(record, dict):
        raise InlierError(f"{as_text(path.parent)} is damaged: {path.name} is not as inlier writes it.")
    return record


def flat(sections: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as ``section.key``, each value as text."""
    found: dict[str, str] = {}
    for key, value in sections.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return found


def known(**values: Any) -> dict[str, str]:
    """Those that are there, as text."""
    return {name: str(value) for name, value in values.items() if value is not None and value != ""}


def numbers(values: Mapping[str, Any], prefix: str = "", step: int = 0) -> Iterator[Metric]:
    """A metric of each number among these values, and of each value with its interval three."""
    for name, value in values.items():
        if isinstance(value, Mapping) and "value" in value:
            ends = {f"{name}_{end}": value.get(end) for end in ("low", "high", "p_value")}
            yield from numbers({name: value["value"], **ends}, prefix, step)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value), step


def versions(record: Mapping[str, Any]) -> dict[str, str]:
    """Tags of what the numbers depend on."""
    return {f"version.{name}": str(number) for name, number in (record.get("versions") or {}).items()}


def name_part(text: str) -> str:
    """A label without what MLflow forbids in the name of a metric, or reads as a folder."""
    return re.sub(r"[^\w.\- ]", "_", str(text)).strip(". ")[:80] or "_"


def interval(of: Mapping[str, Any] | None) -> str:
    """A value with its interval, as sentences give it."""
    if not of or of.get("value") is None:
        return "unknown"
    low, high = of.get("low"), of.get("high")
    return f"{of['value']:.3f}" + ("" if low is None or high is None else f" (95 %: {low:.3f} to {high:.3f})")


def bullets(sentences: Iterable[str]) -> str:
    """A Markdown list below a paragraph; empty without sentences."""
    lines = [f"- {sentence}" for sentence in sentences]
    return "\n\n" + "\n".join(lines) if lines else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
