from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from inlier.errors import CollapseError, InlierError, ModelError
from inlier.training import Schedule, draw_places, one_cycle, train

NUM_STEPS = 40
NUM_ITEMS = 30


class Task:
    """Two small networks that learn a linear map of noisy items; dropout and batch norm make state matter."""

    def __init__(self, *, dropout: float = 0.2, checkpoint: Path | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.networks: dict[str, nn.Module] = {
                "first": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout)),
                "second": nn.Linear(8, 2),
            }
            self.items, solution = torch.randn(NUM_ITEMS, 4), torch.randn(4, 2)
        self.wanted = self.items @ solution
        self.checkpoint = checkpoint

    def loss_of(self, places: list[int]) -> Tensor:
        found = self.networks["second"](self.networks["first"](self.items[places]))
        return (found - self.wanted[places]).square().mean()

    def batches_from(self, step: int) -> Iterator[list[int]]:
        return draw_places(NUM_ITEMS, batch_size=8, seed=1, first_step=step)

    def held_out_loss(self) -> float:
        return float(self.loss_of(list(range(NUM_ITEMS))))

    def train(
        self,
        schedule: Schedule | None = None,
        *,
        held_out_loss: Callable[[], float] | None = None,
        watch: Callable[[], Mapping[str, float]] | None = None,
        reduce_gradients: Callable[[Sequence[nn.Parameter]], None] | None = None,
        is_saving: bool = True,
        advance: Callable[[int], None] = lambda steps: None,
        report: Callable[[Mapping[str, float]], None] = lambda row: None,
    ) -> list[dict[str, float]]:
        return train(
            self.networks,
            self.loss_of,
            self.batches_from,
            schedule or _schedule(),
            held_out_loss=held_out_loss,
            watch=watch,
            reduce_gradients=reduce_gradients,
            checkpoint=self.checkpoint,
            is_saving=is_saving,
            advance=advance,
            report=report,
        )

    def weights(self) -> list[Tensor]:
        return [tensor for network in self.networks.values() for tensor in network.state_dict().values()]


def _schedule(
    *, num_steps: int = NUM_STEPS, check_every: int = 5, patience: int = 100, rate: float = 3e-3, max_norm: float = 1.0
) -> Schedule:
    return Schedule(
        num_steps=num_steps,
        learning_rates={"first": rate, "second": rate / 3},
        check_every=check_every,
        patience=patience,
        max_norm=max_norm,
    )


class Stop(Exception):
    """Something went wrong in the middle."""


def _stop_after(steps: int) -> Callable[[int], None]:
    told = 0

    def advance(done: int) -> None:
        nonlocal told
        told += done
        if told >= steps:
            raise Stop

    return advance


def test_the_loss_falls_and_the_history_tells_how() -> None:
    task, told = Task(), list[int]()
    history = task.train(advance=told.append)
    assert [row["step"] for row in history] == list(range(1, NUM_STEPS + 1))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert sum(told) == NUM_STEPS
    assert all("held_out_loss" not in row for row in history)
    assert not any(module.training for network in task.networks.values() for module in network.modules())


def test_a_run_is_adam_on_a_one_cycle_schedule_step_by_step() -> None:
    """The same steps by torch's own scheduler, written out."""
    task, other = Task(dropout=0.0), Task(dropout=0.0)
    history = task.train(_schedule(max_norm=0.5))
    rates = {"first": 3e-3, "second": 1e-3}
    groups = [{"params": list(other.networks[name].parameters()), "lr": rate} for name, rate in rates.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    highest = [10 * rate for rate in rates.values()]
    cycle = OneCycleLR(
        optimizer, highest, total_steps=NUM_STEPS, div_factor=10, final_div_factor=1e4, cycle_momentum=False
    )
    assert other.networks["first"].training
    for step, places in enumerate(islice(other.batches_from(0), NUM_STEPS)):
        for group, name in zip(optimizer.param_groups, rates, strict=True):
            assert history[step][f"learning_rate.{name}"] == pytest.approx(group["lr"], rel=1e-9)
        loss = other.loss_of(places)
        assert history[step]["loss"] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for network in other.networks.values() for p in network.parameters()], 0.5)
        optimizer.step()
        cycle.step()


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, 100])
def test_the_cycle_is_torchs(num_steps: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    found = [one_cycle(step, num_steps=num_steps, factor=8.0) for step in range(num_steps)]
    assert all(math.isfinite(rate) and rate > 0 for rate in found)
    if num_steps < 4:  # torch has no cycle of so few steps
        return
    cycle = OneCycleLR(optimizer, 8.0, total_steps=num_steps, div_factor=8, final_div_factor=1e4, cycle_momentum=False)
    for rate in found:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if cycle.last_epoch < num_steps - 1:
            cycle.step()


@pytest.mark.parametrize("stop_at", [3, 5, 23, NUM_STEPS - 1, NUM_STEPS])
def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    whole = Task()
    history = whole.train(held_out_loss=whole.held_out_loss)
    broken = Task(checkpoint=tmp_path / "new folder" / "run.safetensors")
    with pytest.raises(Stop):
        broken.train(held_out_loss=broken.held_out_loss, advance=_stop_after(stop_at))
    resumed, told = Task(checkpoint=broken.checkpoint), list[int]()
    assert resumed.train(held_out_loss=resumed.held_out_loss, advance=told.append) == history
    assert all(map(torch.equal, resumed.weights(), whole.weights()))
    assert sum(told) == NUM_STEPS
    if stop_at >= 5:
        assert told[0] == stop_at // 5 * 5  # it did not begin anew
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["run.safetensors"]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    task = Task(checkpoint=tmp_path / "run.safetensors")
    history = task.train()
    again = Task(checkpoint=task.checkpoint)
    again.loss_of = None  # type: ignore[assignment, method-assign]
    assert again.train() == history
    assert all(map(torch.equal, again.weights(), task.weights()))


def test_the_callers_random_numbers_are_left_alone_and_decide_nothing() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Task()
    first.train()
    assert torch.equal(torch.rand(3), expected)
    second = Task()
    second.train()
    assert all(map(torch.equal, first.weights(), second.weights()))


def test_it_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best_weights() -> None:
    losses = iter([3.0, 2.0, 1.0, 1.5, 1.2, 1.1, 0.1])
    kept: list[list[Tensor]] = []
    task, told = Task(), list[int]()

    def held_out_loss() -> float:
        assert not torch.is_grad_enabled()
        assert not any(network.training for network in task.networks.values())
        kept.append([tensor.clone() for tensor in task.weights()])
        return next(losses)

    history = task.train(_schedule(patience=3), held_out_loss=held_out_loss, advance=told.append)
    assert [row["held_out_loss"] for row in history if "held_out_loss" in row] == [3.0, 2.0, 1.0, 1.5, 1.2, 1.1]
    assert len(history) == 30 and sum(told) == NUM_STEPS
    assert all(map(torch.equal, task.weights(), kept[2]))
    assert not all(map(torch.equal, task.weights(), kept[-1]))


def test_the_watch_is_asked_at_every_check_and_its_figures_are_kept(tmp_path: Path) -> None:
    task, figures = Task(checkpoint=tmp_path / "run.safetensors"), iter(range(100))

    def watch() -> dict[str, float]:
        assert not torch.is_grad_enabled()
        assert not any(network.training for network in task.networks.values())
        return {"effective_rank": float(next(figures))}

    reported: list[Mapping[str, float]] = []
    history = task.train(watch=watch, report=lambda row: reported.append(dict(row)))
    assert reported == history
    assert [(row["step"], row["effective_rank"]) for row in history if "effective_rank" in row] == [
        (5 * (number + 1), number) for number in range(8)
    ]
    assert Task(checkpoint=task.checkpoint).train(watch=watch) == history  # the checkpoint has them too


def test_a_collapse_stops_the_run_and_the_checkpoint_before_it_can_be_gone_on_from(tmp_path: Path) -> None:
    whole = Task()
    history = whole.train()
    task, looks = Task(checkpoint=tmp_path / "run.safetensors"), iter(range(100))

    def watch() -> dict[str, float]:
        if next(looks) == 3:
            raise CollapseError("all are alike: 1.0.")
        return {}

    with pytest.raises(CollapseError, match=r"^At step 20 of training all are alike: 1\.0\.$"):
        task.train(watch=watch)
    resumed, told = Task(checkpoint=task.checkpoint), list[int]()
    assert resumed.train(advance=told.append) == history
    assert told[0] == 15
    assert all(map(torch.equal, resumed.weights(), whole.weights()))


def test_gradients_are_reduced_before_they_are_clipped() -> None:
    task, norms = Task(), list[float]()
    before = [parameter.clone() for network in task.networks.values() for parameter in network.parameters()]

    def reduce(parameters: Sequence[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(before)
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        for gradient in gradients:
            gradient.zero_()

    task.train(_schedule(max_norm=0.01), reduce_gradients=reduce)
    assert len(norms) == NUM_STEPS and min(norms) > 0.01  # not clipped yet
    after = [parameter for network in task.networks.values() for parameter in network.parameters()]
    assert all(map(torch.equal, before, after))  # what it leaves in them is what counts


def test_another_process_may_keep_the_checkpoint(tmp_path: Path) -> None:
    task = Task(checkpoint=tmp_path / "run.safetensors")
    task.train(is_saving=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Stop):
        Task(checkpoint=task.checkpoint).train(advance=_stop_after(12))
    assert task.checkpoint is not None
    kept, resumed, told = task.checkpoint.read_bytes(), Task(checkpoint=task.checkpoint), list[int]()
    resumed.train(is_saving=False, advance=told.append)
    assert told[0] == 10 and task.checkpoint.read_bytes() == kept
    assert all(map(torch.equal, resumed.weights(), task.weights()))


def test_parameters_that_need_no_gradient_are_left_as_they_are() -> None:
    task = Task()
    before = [parameter.clone() for parameter in task.networks["second"].parameters()]
    task.networks["second"].requires_grad_(False)
    task.train()
    assert all(map(torch.equal, before, task.networks["second"].parameters()))


def test_a_loss_that_is_no_number_is_refused() -> None:
    task = Task()
    task.items[:] = math.nan
    with pytest.raises(InlierError, match=r"^The loss is nan at step 1 of training; choose lower learning rates\.$"):
        task.train()


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    task = Task(checkpoint=tmp_path / "run.safetensors")
    assert task.checkpoint is not None
    task.train()
    other = r"^The checkpoint .*run\.safetensors is of a training with another schedule; remove it to begin anew\.$"
    with pytest.raises(ModelError, match=other):
        Task(checkpoint=task.checkpoint).train(_schedule(rate=1e-3))
    damaged = r"^The checkpoint .*run\.safetensors is damaged, or of another training: .*; remove it\.$"
    tensors = load_file(task.checkpoint)
    save_file(tensors, task.checkpoint)  # whose header says nothing of a training
    with pytest.raises(ModelError, match=damaged):
        Task(checkpoint=task.checkpoint).train()
    task.checkpoint.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=damaged):
        Task(checkpoint=task.checkpoint).train()


def test_each_item_is_drawn_as_often_as_another_in_ever_new_order() -> None:
    batches = list(islice(draw_places(10, batch_size=4, seed=0, first_step=0), 10))
    drawn = [place for batch in batches for place in batch]
    rounds = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 4
    assert list(islice(draw_places(10, batch_size=4, seed=0, first_step=3), 7)) == batches[3:]
    assert next(draw_places(10, batch_size=4, seed=1, first_step=0)) != batches[0]
    assert next(draw_places(1, batch_size=3, seed=0, first_step=5)) == [0, 0, 0]


def test_a_batch_of_distinct_items_has_none_twice_and_leaves_out_others_each_round() -> None:
    batches = list(islice(draw_places(11, batch_size=4, seed=0, first_step=0, is_distinct=True), 200))
    assert all(len(set(batch)) == 4 for batch in batches)
    rounds = [batches[start] + batches[start + 1] for start in range(0, 200, 2)]
    assert all(len(set(one)) == 8 for one in rounds)
    counts = [sum(place in one for one in rounds) for place in range(11)]
    assert min(counts) > 55 and max(counts) < 90  # of 100 rounds, 73 on average
    later = draw_places(11, batch_size=4, seed=0, first_step=7, is_distinct=True)
    assert list(islice(later, 5)) == batches[7:12]
