"""train(): the project's only optimisation loop."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from inlier.errors import CollapseError, InlierError, ModelError

Batch = TypeVar("Batch")

History = list[dict[str, float]]
"""One row a step: step (from 1), loss, learning_rate.NAME of each network; where they were measured, held_out_loss and
what the watch says."""

_WARM_UP = 0.3
_FINAL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        num_steps: Steps at most, >= 1.
        learning_rates: Where each network's learning rate begins, > 0.
        cycle_factor: How many times that it reaches at its height, >= 1.
        betas: Adam's, each in [0, 1).
        max_norm: What the norm of all gradients is clipped to, > 0.
        check_every: Steps between two looks at the held-out loss, and between two checkpoints, >= 1.
        patience: Looks without improvement after which it stops early, >= 1.
        seed: Of whatever is random within a step, such as dropout.
    """

    num_steps: int
    learning_rates: Mapping[str, float]
    cycle_factor: float = 10.0
    betas: tuple[float, float] = (0.9, 0.99)
    max_norm: float = 1.0
    check_every: int = 25
    patience: int = 8
    seed: int = 0


@dataclass
class _Progress:
    """Where a run stands, next to the weights: what a checkpoint holds."""

    step: int = 0
    history: History = field(default_factory=list)
    best_loss: float = math.inf
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def train(
    networks: Mapping[str, nn.Module],
    loss_of: Callable[[Batch], Tensor],
    batches_from: Callable[[int], Iterator[Batch]],
    schedule: Schedule,
    *,
    held_out_loss: Callable[[], float] | None = None,
    watch: Callable[[], Mapping[str, float]] | None = None,
    reduce_gradients: Callable[[Sequence[nn.Parameter]], None] | None = None,
    checkpoint: Path | None = None,
    is_saving: bool = True,
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    advance: Callable[[int], None] = lambda steps: None,
) -> History:
    """Trains networks in place by Adam on a one-cycle schedule, and tells how it went.

    The loop knows neither photos nor methods. Each network is a parameter group with a learning rate of its own, as
    in the thesis's appendix B: all follow one cycle (Smith & Topin, arXiv:1708.07120), scaled to their own base.
    What is random within a step is drawn from the seed and the step's number, so that an interrupted run, called
    again with the same arguments, ends with the same weights, bit for bit, as one that was not interrupted.

    Args:
        networks: By name; parameters that require no gradient are left as they are.
        loss_of: The loss of a batch, a scalar to be differentiated; networks are in training mode.
        batches_from: Given a step, counted from 0, its batch and those after it, at least up to ``num_steps``.
        schedule: How long and how fast.
        held_out_loss: Measured now and then, in evaluation mode and without gradients. Training stops when it no
            longer falls, and the weights with which it was lowest are kept; None: trains to the end.
        watch: Figures for the history, measured as often, likewise in evaluation mode and without gradients. A
            ``CollapseError`` that it raises stops the run; the checkpoint stays the one before.
        reduce_gradients: Given all trained parameters once their gradients are there, before these are clipped:
            where several processes train together, it makes the gradients the same in all.
        checkpoint: A file to go on from if it exists, and to keep the state in; None: keeps none.
        is_saving: False goes on from the checkpoint, but leaves it to another process to write it.
        report: Given each step's row of the history.
        advance: Told of steps done; when it stops early, of the remaining ones too.

    Returns:
        One row for each step taken.

    Raises:
        InlierError: The loss is no finite number.
        CollapseError: The watch says so; the sentence names the step.
        ModelError: The checkpoint is damaged, or of another training.
    """
    optimizer = _optimizer(networks, schedule)
    parameters = _parameters(optimizer)
    at = _Progress()
    if checkpoint is not None and checkpoint.exists():
        at = _load(checkpoint, networks, optimizer, schedule)
        advance(at.step)
    batches = batches_from(at.step)
    devices = list(range(torch.cuda.device_count()))
    for step in range(at.step, schedule.num_steps):
        if _is_settled(at, schedule):
            break
        _set_mode(networks, is_training=True)
        scale = one_cycle(step, num_steps=schedule.num_steps, factor=schedule.cycle_factor)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        with torch.random.fork_rng(devices):  # the caller's random numbers are left where they were
            torch.manual_seed(_seed_of(schedule.seed, step))
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(next(batches))
            loss.backward()  # type: ignore[no-untyped-call]
        if reduce_gradients is not None:
            reduce_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, schedule.max_norm)
        optimizer.step()

        at.step = step + 1
        row = {"step": float(at.step), "loss": loss.item()}
        row |= {f"learning_rate.{group['name']}": group["lr"] for group in optimizer.param_groups}
        if not math.isfinite(row["loss"]):
            raise InlierError(f"The loss is {row['loss']} at step {at.step} of training; choose lower learning rates.")
        at.history.append(row)
        if at.step % schedule.check_every == 0 or at.step == schedule.num_steps:
            if held_out_loss is not None:
                row["held_out_loss"] = _measure(held_out_loss, networks)
                if row["held_out_loss"] < at.best_loss:
                    at.best_loss, at.best_step, at.best_weights = row["held_out_loss"], at.step, _weights(networks)
            if watch is not None:
                row |= _look(watch, networks, at.step)
            if checkpoint is not None and is_saving:
                _save(checkpoint, networks, optimizer, schedule, at)
        report(row)
        advance(1)
    advance(schedule.num_steps - at.step)
    if at.best_weights:
        _set_weights(networks, at.best_weights)
    _set_mode(networks, is_training=False)
    return at.history


def one_cycle(step: int, *, num_steps: int, factor: float) -> float:
    """How many times its base a learning rate is at a step (Smith & Topin, arXiv:1708.07120).

    It rises from 1 to ``factor`` over the first three tenths and falls to a ten-thousandth at the last step, both
    as half a cosine: torch's OneCycleLR with max_lr = factor * base and div_factor = factor. Adam's betas stay.

    Args:
        step: Counted from 0, below ``num_steps``.
        num_steps: Steps in all.
        factor: Height of the cycle.
    """
    top = _WARM_UP * num_steps - 1
    if step <= top:
        begin, end, share = 1.0, factor, step / top if top else 1.0
    else:
        begin, end, share = factor, _FINAL, (step - top) / (num_steps - 1 - top)
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2


def draw_places(
    num_items: int, *, batch_size: int, seed: int, first_step: int, is_distinct: bool = False
) -> Iterator[list[int]]:
    """Which items make up each batch, without end: all once in random order, then all again in another order.

    Drawing the items of every batch afresh, as the thesis does, would show a third of them never in as many draws as
    there are items. Orders depend on the seed and the round alone, so that a run can begin at any step.

    Args:
        num_items: How many there are to draw from, >= 1.
        batch_size: Items a batch; more than there are if need be, some then several times.
        seed: Of the orders.
        first_step: The step whose batch comes first, counted from 0.
        is_distinct: No item is twice in a batch, of at most as many as there are: what is left of a round, too little
            for a batch, is passed over. Others are left in each round, so that all are drawn as often in the long run.
    """
    in_round = num_items // batch_size * batch_size if is_distinct else num_items
    number, order = -1, np.empty(0, dtype=np.int64)
    position = first_step * batch_size
    while True:
        places = []
        for drawn in range(position, position + batch_size):
            if drawn // in_round != number:
                number = drawn // in_round
                order = np.random.default_rng((seed, number)).permutation(num_items)
            places.append(int(order[drawn % in_round]))
        position += batch_size
        yield places


def _optimizer(networks: Mapping[str, nn.Module], schedule: Schedule) -> torch.optim.Adam:
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in network.parameters() if parameter.requires_grad],
            "name": name,
            "base_lr": schedule.learning_rates[name],
        }
        for name, network in networks.items()
    ]
    return torch.optim.Adam(groups, betas=schedule.betas)


def _is_settled(at: _Progress, schedule: Schedule) -> bool:
    """Whether the held-out loss has not fallen for as long as patience lasts."""
    return at.best_step > 0 and at.step - at.best_step >= schedule.patience * schedule.check_every


def _measure(held_out_loss: Callable[[], float], networks: Mapping[str, nn.Module]) -> float:
    _set_mode(networks, is_training=False)
    with torch.no_grad():
        return held_out_loss()


def _look(watch: Callable[[], Mapping[str, float]], networks: Mapping[str, nn.Module], step: int) -> dict[str, float]:
    _set_mode(networks, is_training=False)
    try:
        with torch.no_grad():
            return dict(watch())
    except CollapseError as error:
        raise CollapseError(f"At step {step} of training {error}") from error


def _set_mode(networks: Mapping[str, nn.Module], *, is_training: bool) -> None:
    for network in networks.values():
        network.train(is_training)


def _seed_of(seed: int, step: int) -> int:
    return int(np.random.default_rng((seed, step)).integers(2**63))


def _weights(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by network and name."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }


def _set_weights(networks: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> None:
    for name, network in networks.items():
        network.load_state_dict({key: weights[f"{name}.{key}"] for key in network.state_dict()})


def _save(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizer: torch.optim.Adam,
    schedule: Schedule,
    at: _Progress,
) -> None:
    """Writes a file that appears under its name once it is complete: tensors, and the rest as JSON in its header."""
    tensors = {f"now.{name}": tensor for name, tensor in _weights(networks).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in at.best_weights.items()}
    for number, parameter in enumerate(_parameters(optimizer)):
        for key, tensor in optimizer.state.get(parameter, {}).items():  # empty for one that no loss has reached
            tensors[f"adam.{number}.{key}"] = tensor
    scalars = {
        "schedule": asdict(schedule),
        "step": at.step,
        "history": at.history,
        "best_loss": at.best_loss,
        "best_step": at.best_step,
    }
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(save(plain, metadata={"training": json.dumps(scalars)}))
    os.replace(partial, path)


def _load(path: Path, networks: Mapping[str, nn.Module], optimizer: torch.optim.Adam, schedule: Schedule) -> _Progress:
    """Sets networks and optimizer to where the checkpoint stands."""
    try:
        with safe_open(path, framework="pt") as file:
            scalars = json.loads(file.metadata()["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        is_same = scalars["schedule"] == json.loads(json.dumps(asdict(schedule)))
        if is_same:
            _set_weights(networks, _behind("now.", tensors))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"The checkpoint {path} is damaged, or of another training: {reason}; remove it.") from error
    if not is_same:
        raise ModelError(f"The checkpoint {path} is of a training with another schedule; remove it to begin anew.")
    for number, parameter in enumerate(_parameters(optimizer)):
        if state := _behind(f"adam.{number}.", tensors):
            optimizer.state[parameter] = {
                key: tensor if key == "step" else tensor.to(parameter.device) for key, tensor in state.items()
            }
    return _Progress(
        scalars["step"], scalars["history"], scalars["best_loss"], scalars["best_step"], _behind("best.", tensors)
    )


def _parameters(optimizer: torch.optim.Adam) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
