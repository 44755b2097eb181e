from __future__ import annotations

import copy
import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file  # noqa: F401 (likewise)
from torch import Tensor, nn

from inlier.data.manifest import Photo
from inlier.data.squares import Squares
from inlier.errors import CollapseError, ModelError
from inlier.features.backbone import Backbone
from inlier.finetuning.finetune import blend_weights, finetune
from inlier.finetuning.parallel import gather, in_processes, num_ranks, rank  # noqa: F401 (for the scripts below)
from inlier.finetuning.simclr import SimCLR

NUM_PHOTOS = 24
TINY: dict[str, Any] = {
    "groups": [f"part {place // 2}" for place in range(NUM_PHOTOS)],
    "num_samples": 80,
    "batch_size": 8,
    "size": 32,
    "learning_rate": 1e-4,
    "layer_decay": 1.0,
    "head_rate": 1e-4,
    "held_out_ratio": 0.1,
    "blend": 1.0,
    "workers": 0,
}


class Agreement(nn.Module):
    """A tiny objective by shape: photos told from one another by a head, whatever their view."""

    name = "agreement"
    num_views = 2
    uses_labels = False

    def __init__(self, *, attraction: float = 1.0, repulsion: float = 1.0) -> None:
        super().__init__()
        self.attraction, self.repulsion = attraction, repulsion
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Sequential(nn.Linear(96, 16), nn.BatchNorm1d(16), nn.Dropout(0.1))
        self.seen: list[Tensor] = []

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        assert views.ndim == 5 and views.shape[:2] == (2, len(labels))
        self.seen.append(labels)
        pooled = embed(views.flatten(0, 1))[4].mean(dim=(2, 3))
        one, other = nn.functional.normalize(self.head(pooled)).view(2, len(labels), -1)
        apart = (one @ other.T - torch.eye(len(labels), device=views.device)).square().mean()
        return self.attraction * (one - other).square().mean() + self.repulsion * apart


class Shrinking(nn.Module):
    """An objective with a bad end: it is best where all photos are alike."""

    name, num_views, uses_labels = "shrinking", 1, False

    def forward(self, embed: Callable[[Tensor], dict[int, Tensor]], views: Tensor, labels: Tensor) -> Tensor:
        return embed(views[0])[4].square().mean()


def tiny_backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone("test_resnet", layers=(2, 3, 4), is_pretrained=False)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "bn" in name and name.endswith("weight"):
                    parameter.fill_(1)  # the last scale of each block is 0 at first, which hides it
    return backbone


def write_photos(folder: Path) -> list[Photo]:
    rng = np.random.default_rng(0)
    for number in range(NUM_PHOTOS):
        noise = Image.fromarray(rng.integers(256, size=(6, 6, 3), dtype=np.uint8))
        noise.resize((40, 40)).save(folder / f"{number:02}.png")
    return [Photo(path, "train") for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squares]:
    with Squares.read(write_photos(tmp_path_factory.mktemp("photos")), side=40, workers=0) as squares:
        yield squares


def run(
    squares: Squares, *, objective: nn.Module | None = None, **changes: Any
) -> tuple[Backbone, list[dict[str, float]]]:
    backbone = tiny_backbone()
    labels = [place % 3 - 1 for place in range(NUM_PHOTOS)]
    history = finetune(backbone, objective or Agreement(), squares, labels, **(TINY | changes))
    return backbone, history


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def _distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(sum((a - b).detach().square().sum() for a, b in pairs)) ** 0.5


def test_the_loss_falls_and_the_history_tells_how(squares: Squares) -> None:
    told, reported = list[int](), list[dict[str, float]]()
    backbone, history = run(squares, num_samples=401, patience=99, advance=told.append, report=reported.append)
    assert reported == history
    assert [row["step"] for row in history] == list(range(1, 52))
    assert sum(told) == 401
    losses = [row["loss"] for row in history]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    measured = [row for row in history if "effective_rank" in row]
    assert len(measured) == 9 and measured[-1] is history[-1]
    assert set(measured[0]) == {
        "step", "loss", "held_out_loss", "effective_rank", "spread", "alignment", "uniformity", "drift",
        *(f"learning_rate.{name}" for name in ("layer2", "layer3", "layer4", "objective")),
        *(f"{name}.layer{layer}" for name in ("effective_rank", "spread", "drift") for layer in (2, 3, 4)),
    }  # fmt: skip
    assert measured[-1]["drift"] > measured[0]["drift"] > 0
    assert measured[-1]["held_out_loss"] < measured[0]["held_out_loss"]
    assert _distance(backbone, tiny_backbone()) > 0
    assert not any(module.training for module in backbone.modules())
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in backbone.parameters())


def test_the_trained_weights_are_what_a_detector_gets(squares: Squares) -> None:
    backbone = tiny_backbone()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = backbone.extract(images)  # which keeps a frozen copy
    finetune(backbone, Agreement(), squares, [-1] * NUM_PHOTOS, **TINY)
    after = backbone.extract(images)
    assert not torch.equal(before[4], after[4])
    assert torch.allclose(after[4], backbone(images)[2].detach(), atol=1e-5)


@pytest.mark.parametrize("changes", [{"workers": 3}, {"micro_batch": 3}, {"micro_batch": 1}])
def test_threads_and_micro_batches_change_memory_and_time_only(squares: Squares, changes: dict[str, int]) -> None:
    whole, history = run(squares)
    other, again = run(squares, **changes)
    if "workers" in changes:
        assert again == history and _same(whole, other)
    found, expected = ([row["loss"] for row in rows] for rows in (again, history))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found == pytest.approx(expected, rel=0.1)  # Adam makes much of gradients that are next to nothing


def test_labels_come_with_their_photos_and_held_out_photos_teach_nothing(squares: Squares) -> None:
    objective = Agreement()
    finetune(
        tiny_backbone(),
        objective,
        squares,
        list(range(NUM_PHOTOS)),
        **(TINY | {"held_out_ratio": 0.25, "patience": 99}),
    )
    looks = [set(labels.tolist()) for labels in objective.seen if not labels.numel() < 6]
    held_out = next(seen for seen in looks if len(seen) == 6)
    learned = [seen for seen in looks if len(seen) == 8]
    assert len(learned) == 10 and not held_out & set.union(*learned)
    assert set.union(*learned) | held_out == set(range(NUM_PHOTOS))
    assert {place ^ 1 for place in held_out} == held_out  # whole groups, which are pairs


def test_it_stops_early_and_keeps_the_best_weights(squares: Squares) -> None:
    _, history = run(squares, num_samples=800, patience=1, learning_rate=0.01, least_rank_ratio=0.0)
    assert len(history) < 100
    looks = [row["held_out_loss"] for row in history if "held_out_loss" in row]
    assert looks[-1] >= min(looks[:-1])


def test_a_layer_whose_rate_is_zero_keeps_its_weights(squares: Squares) -> None:
    backbone, history = run(squares, learning_rates={"layer3": 0.0}, layer_decay=0.5)
    start = tiny_backbone()
    for name, parameter in backbone.named_parameters():
        is_same = torch.equal(parameter, start.get_parameter(name))
        assert is_same is (".layer3." in name), name
    assert history[0]["learning_rate.layer2"] == pytest.approx(1e-4 / 4)
    assert history[0]["learning_rate.layer4"] == pytest.approx(1e-4)
    assert "learning_rate.layer3" not in history[0]


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_batch_normalisation_move_only_if_they_may(squares: Squares, frozen: bool) -> None:
    backbone, _ = run(squares, frozen_batch_norm=frozen, micro_batch=2, held_out_ratio=0.0)
    buffers, start = dict(backbone.named_buffers()), dict(tiny_backbone().named_buffers())
    same = {name: torch.equal(buffer, start[name]) for name, buffer in buffers.items()}
    assert all(same.values()) if frozen else not any(same.values())
    if not frozen:  # once for each step: no micro-batch passed by itself, or twice
        counts = {int(buffer) for name, buffer in buffers.items() if name.endswith("num_batches_tracked")}
        assert counts == {10}


def test_the_anchor_keeps_maps_near_the_start(squares: Squares) -> None:
    changes = {"held_out_ratio": 0.0, "least_rank_ratio": 0.0}
    _, free = run(squares, **changes)
    _, held = run(squares, **changes, anchor_weight=30.0)
    assert held[-1]["drift"] < 0.5 * free[-1]["drift"]
    _, coarse = run(squares, **changes, anchor_weight=30.0, anchor_layers=[4])
    assert coarse[0]["loss"] == pytest.approx(free[0]["loss"], rel=1e-4)  # at the start the anchor is 0
    assert coarse[-1]["loss"] != held[-1]["loss"]


def test_weights_are_blended_with_the_start(squares: Squares) -> None:
    start, (whole, _) = tiny_backbone(), run(squares, frozen_batch_norm=False)
    half, _ = run(squares, frozen_batch_norm=False, blend=0.5)
    before, after, found = (backbone.state_dict() for backbone in (start, whole, half))
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (before[name] + after[name]) / 2, atol=1e-6), name
        else:
            assert torch.equal(tensor, after[name])
    nothing, _ = run(squares, blend=0.0)
    assert _same(nothing, start)


def test_blending_by_hand() -> None:
    start, end = nn.Linear(1, 1), nn.Linear(1, 1)
    for network, value in ((start, 1.0), (end, 3.0)):
        nn.init.constant_(network.weight, value)
    blend_weights(end, start, blend=0.25)
    assert end.weight.item() == 1.5


def test_a_run_that_collapses_stops_and_says_so(squares: Squares, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_samples": 800, "learning_rate": 2e-4, "objective": Shrinking()}
    sentence = (
        r"^At step \d+ of training embeddings of layer 4 have become all alike: their effective rank was \S+ and is "
        r"\S+, their spread was \S+ and is \S+; choose lower learning rates, or a higher anchor_weight\.$"
    )
    path = tmp_path / "run.safetensors"
    with pytest.raises(CollapseError, match=sentence):
        run(squares, checkpoint=path, **changes)
    assert any(name.startswith("now.layer4.") for name in load_file(path))
    told: list[int] = []
    with pytest.raises(CollapseError, match=sentence):  # it goes on from the checkpoint, to the same end
        run(squares, checkpoint=path, advance=told.append, **changes)
    assert told[0] >= 40
    _, history = run(squares, **changes, least_rank_ratio=0.0, held_out_ratio=0.0)
    assert history[-1]["step"] == 100


def test_the_callers_random_numbers_are_left_alone_and_decide_nothing(squares: Squares) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, _ = run(squares)
    assert torch.equal(torch.rand(3), expected)
    second, _ = run(squares)
    assert _same(first, second)
    other, _ = run(squares, seed=1)
    assert not _same(first, other)


def test_few_photos_make_small_batches(tmp_path: Path) -> None:
    with Squares.read(write_photos(tmp_path)[:3], side=40, workers=0) as squares:
        history = finetune(tiny_backbone(), Agreement(), squares, [-1] * 3, **(TINY | {"groups": [""] * 3}))
    assert len(history) == 27  # 80 photos by 3
    assert "held_out_loss" not in history[-1]


def test_an_interrupted_run_goes_on_where_it_stopped(squares: Squares, tmp_path: Path) -> None:
    """Here by an exception; below by a signal that nothing can catch."""
    told: list[int] = []

    def stop(photos: int) -> None:
        told.append(photos)
        if len(told) == 7:
            raise KeyboardInterrupt

    changes: dict[str, Any] = {"anchor_weight": 0.5, "blend": 0.5, "frozen_batch_norm": False, "workers": 2}
    whole, history = run(squares, **changes)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(squares, **changes, checkpoint=path, advance=stop)
    told.clear()
    resumed, again = run(squares, **changes, checkpoint=path, advance=told.append)
    assert told[0] == 6 * 8 and sum(told) == 80
    assert again == history and _same(resumed, whole)


def test_a_checkpoint_of_another_training_is_refused(squares: Squares, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(squares, checkpoint=path)
    with pytest.raises(ModelError, match="another schedule"):
        run(squares, checkpoint=path, learning_rate=2e-4)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_finetune import *
torch.set_num_threads(1)
folder, stop_at = Path(sys.argv[2]), int(sys.argv[3])
shown = 0

def advance(photos):
    global shown
    shown += photos
    if stop_at and shown >= stop_at:
        os.kill(os.getpid(), signal.SIGKILL)

def train(checkpoint, advance):
    backbone, objective = tiny_backbone(), Agreement()
    changes = {"checkpoint": checkpoint, "advance": advance, "anchor_weight": 0.5, "workers": 2, "blend": 0.7}
    changes |= {"frozen_batch_norm": False, "num_samples": 320}
    finetune(backbone, objective, squares, [-1] * NUM_PHOTOS, **(TINY | changes))
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    return state | {f"objective.{k}": v for k, v in objective.state_dict().items()}

with Squares.read(write_photos(folder), side=40) as squares:
    resumed = train(folder / "run.safetensors", advance)
    whole = train(None, lambda photos: None)
assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())
print(shown, len(whole))
"""


def _call(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(Path(__file__).parent), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


@pytest.mark.slow
def test_a_killed_run_called_again_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    with _call(SCRIPT, tmp_path, 150) as killed:
        _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, errors
    assert (tmp_path / "run.safetensors").exists()
    with _call(SCRIPT, tmp_path, 0) as resumed:
        out, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert out.split()[0] == "320"


PROCESSES = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_finetune import *
torch.set_num_threads(1)
folder = Path(sys.argv[2])
photos = [Photo(path, "train") for path in sorted(folder.glob("*.png"))]
with Squares.read(photos, side=40, workers=0) as squares, in_processes():
    for name, objective in contrastive_and_not().items():
        told, path = [], folder / f"{name}-{num_ranks()}.safetensors"
        for _ in range(2):  # the second time there is nothing left to do
            found = record(squares, objective, checkpoint=path, advance=told.append)
            assert sum(told) == (0 if rank() else 64), told
            told.clear()
        gradients = record(squares, objective, num_samples=8).gradients
        sum_over_processes = [gather(gradient[None]).sum(dim=0) for gradient in gradients]
        tensors = {f"gradient.{number}": tensor for number, tensor in enumerate(sum_over_processes)}
        tensors |= {f"backbone.{key}": tensor for key, tensor in found.backbone.state_dict().items()}
        tensors["losses"] = torch.tensor([row["loss"] for row in found.history])
        tensors["held out"] = torch.tensor([row["held_out_loss"] for row in found.history])
        save_file(tensors, folder / f"{name}-{num_ranks()}-{rank()}.found")
"""


class Record(NamedTuple):
    """What a run came to, and the gradients of its first step."""

    backbone: Backbone
    history: list[dict[str, float]]
    gradients: list[Tensor]


def contrastive_and_not() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"simclr": SimCLR({4: 96}, hidden=8, width=4), "shrinking": Shrinking()}


def record(squares: Squares, objective: nn.Module, **changes: Any) -> Record:
    backbone, gradients = tiny_backbone(), dict[nn.Parameter, Tensor]()

    def note(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
        gradients.setdefault(parameter, parameter.grad.clone().contiguous())

    for parameter in backbone.parameters():
        parameter.register_post_accumulate_grad_hook(note)
    changes = {"num_samples": 64, "held_out_ratio": 0.3, "anchor_weight": 0.1, "micro_batch": 5} | changes
    history = finetune(backbone, copy.deepcopy(objective), squares, [-1] * NUM_PHOTOS, **(TINY | changes))
    return Record(backbone, history, [gradients[p] for p in backbone.parameters() if p in gradients])


@pytest.mark.slow
def test_two_processes_are_one_on_the_joined_batch(tmp_path: Path) -> None:
    write_photos(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    running = [_call(PROCESSES, tmp_path, RANK=number, LOCAL_RANK=number, **shared) for number in "01"]
    running.append(_call(PROCESSES, tmp_path))
    for process in running:
        with process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for name in contrastive_and_not():
        alone, first, second = (load_file(tmp_path / f"{name}-{which}.found") for which in ("1-0", "2-0", "2-1"))
        assert all(torch.equal(first[key], second[key]) for key in first)
        for key, tensor in alone.items():
            close, scale = (1e-4, float(tensor.abs().max())) if "gradient" in key else (0.02, 1.0)
            assert torch.allclose(first[key], tensor, atol=close * scale, rtol=0), (name, key)
        assert first["losses"][0].item() == pytest.approx(alone["losses"][0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_samples": 0}, r"num_samples of finetune must be at least 1, got 0\."),
        ({"batch_size": 1}, r"batch_size of finetune must be at least 2, got 1\."),
        ({"size": 0}, r"size of Views must be at least 1, got 0\."),
        ({"learning_rate": -1.0}, r"learning_rate of finetune must be at least 0, got -1\.0\."),
        ({"learning_rate": 0.0}, r"learning_rates of layers must be above 0 for one of them at least, got 0 for all\."),
        ({"learning_rates": {"layer1": 1.0}}, r"learning_rates of layers must be numbers >= 0 of some of .*"),
        ({"cycle_factor": 0.5}, r"cycle_factor of finetune must be at least 1, got 0\.5\."),
        ({"anchor_weight": -1.0}, r"anchor_weight of finetune must be at least 0, got -1\.0\."),
        ({"micro_batch": 0}, r"micro_batch of finetune must be at least 1, got 0\."),
        ({"patience": 0}, r"patience of finetune must be at least 1, got 0\."),
        ({"seed": -1}, r"seed of finetune must be at least 0, got -1\."),
        ({"workers": -1}, r"workers of finetune must be at least 0, got -1\."),
        ({"layer_decay": 1.5}, r"layer_decay of finetune must be in \[0, 1\], got 1\.5\."),
        ({"blend": -0.5}, r"blend of finetune must be in \[0, 1\], got -0\.5\."),
        ({"held_out_ratio": 1.0}, r"held_out_ratio of finetune must be in \[0, 1\), got 1\.0\."),
        ({"least_rank_ratio": 1.0}, r"least_rank_ratio of finetune must be in \[0, 1\), got 1\.0\."),
        ({"head_rate": 0.0}, r"head_rate of finetune must be above 0, got 0\.0\."),
        ({"betas": (0.9, 1.0)}, r"betas of finetune must be two numbers in \[0, 1\), got \[0\.9, 1\.0\]\."),
        ({"scale": (0.5,)}, r"scale of finetune must be two numbers, got \[0\.5\]\."),
        (
            {"anchor_layers": (1,)},
            r"anchor_layers of finetune must be ones of the backbone's, \[2, 3, 4\], got \[1\]\.",
        ),
        (
            {"groups": ["a"]},
            r"labels and groups of finetune must be one for each of at least two photos, got 24 and 1 for 24\.",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_changed(
    squares: Squares, wrong: dict[str, Any], sentence: str
) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        finetune(backbone, Agreement(), squares, [-1] * NUM_PHOTOS, **(TINY | wrong))
    assert _same(backbone, tiny_backbone())


@pytest.mark.gpu
def test_on_a_cuda_device_it_ends_near_where_a_cpu_does(squares: Squares) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    _, expected = run(squares, held_out_ratio=0.0)
    for precision, tolerance in (("float32", 0.1), (None, 0.2)):
        backbone = tiny_backbone().to("cuda")
        history = finetune(
            backbone,
            Agreement(),
            squares,
            [-1] * NUM_PHOTOS,
            **(TINY | {"held_out_ratio": 0.0, "precision": precision, "workers": 2}),
        )
        assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=tolerance)
        assert all(parameter.is_cuda for parameter in backbone.parameters())


def test_every_option_is_keyword_only_and_has_its_default_in_the_signature() -> None:
    parameters = inspect.signature(finetune).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert names == ["backbone", "objective", "squares", "labels"]
    open_ones = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    assert open_ones == [*names, "groups"]


def test_weights_go_half_way_unless_labels_taught_them(squares: Squares) -> None:
    def moved(*, labels: list[int], uses_labels: bool, blend: float | None = None) -> float:
        objective, backbone = Agreement(), tiny_backbone()
        objective.uses_labels = uses_labels
        finetune(backbone, objective, squares, labels, **(TINY | {"blend": blend}))
        return _distance(backbone, tiny_backbone())

    two, one = [place % 2 for place in range(NUM_PHOTOS)], [0] * NUM_PHOTOS
    whole = moved(labels=two, uses_labels=True)
    assert whole == pytest.approx(moved(labels=two, uses_labels=True, blend=1.0))
    assert moved(labels=two, uses_labels=False) == pytest.approx(whole / 2, rel=1e-3)
    assert moved(labels=one, uses_labels=True) == pytest.approx(whole / 2, rel=1e-3)
