from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inlier.finetuning.contrastive import nt_xent
from inlier.finetuning.parallel import gather, in_processes, num_ranks, rank, sum_gradients
from inlier.finetuning.reverse_distillation import UnfrozenTeacher
from inlier.finetuning.simclr import SimCLR
from inlier.finetuning.supcon import SupCon

LABELS = torch.tensor([0, 1, -1, 1, 0, -1])
CHANNELS = {1: 4, 2: 6}


class Network(nn.Module):
    """A backbone of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        maps = self.first(images)
        return {1: maps, 2: self.second(maps.relu())}


def objectives() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    no_teacher = {"teacher": lambda images: {}}
    return {
        "simclr": SimCLR(CHANNELS, layers=(1, 2), hidden=8, width=4),
        "supcon": SupCon(CHANNELS, hidden=8, width=4),
        "variance": UnfrozenTeacher(CHANNELS, layers=(1, 2), guard="variance", width=4, **no_teacher),
        "stop-gradient": UnfrozenTeacher(CHANNELS, layers=(1, 2), guard="stop-gradient", width=4, **no_teacher),
    }


def losses_and_gradients() -> dict[str, Tensor]:
    """Of each objective on this process's share of six photos: the mean loss, and all parameters' summed gradients."""
    views = torch.randn(2, 6, 3, 13, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine = slice(rank() * 6 // num_ranks(), (rank() + 1) * 6 // num_ranks())
    found = {}
    for name, objective in objectives().items():
        network = Network().double()
        loss = objective.double()(network, views[:, mine], LABELS[mine]) / num_ranks()
        loss.backward()
        parameters = dict(nn.ModuleDict({"network": network, "objective": objective}).named_parameters())
        sum_gradients(parameters.values())
        found[f"{name}.loss"] = gather(loss.detach()[None]).sum()
        found |= {f"{name}.{key}": of.grad for key, of in parameters.items() if of.grad is not None}
    return found


def in_one_of_two(folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    with in_processes():
        assert num_ranks() == 2
        with in_processes():  # it has joined already
            assert num_ranks() == 2 and dist.get_backend() == "gloo"
        mine = 10 * rank()
        assert gather(torch.tensor([mine, mine + 1])).tolist() == [0, 1, 10, 11]
        views = torch.arange(6.0).view(2, 3) + mine  # (V, B), and gathered by photo, not as it lies in memory
        assert gather(views.T).T.tolist() == [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]

        one, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        weights = torch.arange(1.0, 5.0) * (1 + rank())  # each process's loss differs: 1, 2, 3, 4 and twice that
        ((gather(one) + gather(other)) * weights).sum().backward()
        expected = torch.tensor([3.0, 6.0]) if rank() == 0 else torch.tensor([9.0, 12.0])
        assert one.grad is not None and torch.equal(one.grad, expected)
        assert other.grad is not None and torch.equal(other.grad, expected)

        both, here = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        both.grad = torch.tensor([1.0, 2.0 + rank()])
        if rank() == 1:
            here.grad = torch.tensor([5.0, 6.0])
        sum_gradients([both, here])
        assert both.grad.tolist() == [2, 5]
        assert here.grad is not None and here.grad.tolist() == [5, 6]
        save_file(losses_and_gradients(), folder / f"{rank()}.safetensors")
    assert num_ranks() == 1


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_parallel import in_one_of_two
in_one_of_two(Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes, launched as a user would launch them, left what they found."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", folder / "script.py", Path(__file__).parent, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.parametrize("name", objectives())
def test_two_processes_with_half_a_batch_are_one_with_the_whole(folder: Path, name: str) -> None:
    alone = losses_and_gradients()
    for number in (0, 1):
        found = load_file(folder / f"{number}.safetensors")
        assert found.keys() == alone.keys()
        for key, expected in alone.items():
            if key.startswith(f"{name}."):
                assert torch.allclose(found[key], expected, rtol=0, atol=1e-6), key
                assert expected.any(), key


def test_the_whole_is_more_than_its_halves(folder: Path) -> None:
    """What the former test would not show if photos of different processes were not compared."""
    views = torch.randn(2, 6, 5)
    halves = [nt_xent(views[:, :3], temperature=0.2), nt_xent(views[:, 3:], temperature=0.2)]
    assert nt_xent(views, temperature=0.2) > sum(halves) / 2 + 0.1


def test_one_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with in_processes():
        assert (rank(), num_ranks()) == (0, 1) and not dist.is_initialized()
        rows = torch.ones(2, 3, requires_grad=True)
        assert gather(rows) is rows
        reached, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        reached.grad = torch.tensor([1.0, 2.0])
        sum_gradients([reached, other])
        assert reached.grad.tolist() == [1, 2]
        assert other.grad is not None and other.grad.tolist() == [0, 0]
