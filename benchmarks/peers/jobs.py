"""What the runners of ``benchmarks/peers.py`` share: a job comes as a file, and its numbers go into another.

Runs in the environment of each side, so it imports nothing of any.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Job = dict[str, Any]
Read = Callable[[str], Tensor]
"""Path -> normalised photo, shape (3, S, S)."""

Score = Callable[[Tensor], Sequence[float]]
"""Photos, shape (B, 3, S, S) -> their B scores."""

NUM_WARM = 3
"""Photos that are scored before those that are timed one by one."""


def serve(kinds: Mapping[str, Callable[[Job], Job]]) -> None:
    """Does the job of the file named first, and writes its numbers, and the most resident memory, to that named next.

    Args:
        kinds: What is done for each kind of job.
    """
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    result = kinds[job["kind"]](job)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # Linux counts in KiB
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long something took."""
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


class Photos(Dataset[Tensor]):
    """Photos in files, read when they are asked for."""

    def __init__(self, paths: Sequence[str], read: Read) -> None:
        self.paths = paths
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        return self.read(self.paths[place])


def loader(paths: Sequence[str], read: Read, *, batch: int, workers: int = 0) -> DataLoader[Tensor]:
    """Batches of photos in their order, read by so many processes beside this one, 0 for by this one."""
    start = "fork" if workers else None  # what reads is a function inside a function, which cannot be sent
    return DataLoader(Photos(paths, read), batch_size=batch, num_workers=workers, multiprocessing_context=start)


def in_bulk(job: Job, read: Read, score: Score) -> Job:
    """Seconds from files to scores for each of the settings, after one batch that is not timed; the scores once."""
    runs: list[Job] = []
    scores: list[float] = []
    for batch, workers in job["settings"]:
        for images in loader(job["photos"][:batch], read, batch=batch):
            score(images)
        seconds: dict[str, float] = {}
        with clock(seconds, "all"):
            found = [
                float(of)
                for images in loader(job["photos"], read, batch=batch, workers=workers)
                for of in score(images)
            ]
        scores = scores or found
        runs.append({"batch": batch, "workers": workers, "seconds": seconds["all"]})
    return {"runs": runs, "scores": scores}


def one_by_one(job: Job, inspect: Callable[[str], object]) -> Job:
    """Seconds of each photo, from its file to its score, after a few that are not timed."""
    seconds = []
    for place, path in enumerate([*job["photos"][:NUM_WARM], *job["photos"]]):
        began = time.perf_counter()
        inspect(path)
        if place >= NUM_WARM:
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def set_trunk(network: nn.Module, job: Job) -> nn.Module:
    """Gives a network the weights of all sides, from a file with timm's names; what the file has beyond is left out.

    Raises:
        SystemExit: The file lacks a tensor of the network.
    """
    state = torch.load(job["trunk"], weights_only=True)
    own = network.state_dict()
    if missing := [name for name in own if name not in state]:
        sys.exit(f"{job['trunk']} lacks {', '.join(missing[:5])}.")
    network.load_state_dict({name: state[name] for name in own})
    return network.eval()
