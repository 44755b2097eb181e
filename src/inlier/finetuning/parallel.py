"""Several processes that share a batch: each has its photos, and the loss is that of all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_ranks() -> int:
    """How many processes share the work; 1 where nothing was initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes and tells."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def in_processes() -> Iterator[None]:
    """Joins the processes that torchrun launched, by its environment; does nothing where it launched none.

    Each takes the CUDA device of its local rank. Tensors on it travel by nccl, those on a CPU by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or num_ranks() > 1:
        yield
        return
    has_device = torch.cuda.is_available()
    if has_device:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_device else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in their order: (B, ...) -> (ranks * B, ...); as it is for one process.

    Gradients come back to the rows' own process, summed over what all processes computed of them. So if each computes
    the loss of all rows, over the number of processes, the gradient is that of one process on all photos.

    Args:
        tensor: Of the same shape in each process.
    """
    if num_ranks() == 1:
        return tensor
    if not tensor.is_floating_point():
        return torch.cat(_all(tensor))
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sets each gradient to the sum over all processes; one that no loss has reached counts as zero."""
    for parameter in parameters:
        if parameter.grad is None:  # it may have been reached elsewhere, and all must take part
            parameter.grad = torch.zeros_like(parameter)
        if num_ranks() > 1:
            dist.all_reduce(parameter.grad)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return torch.cat(_all(tensor))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # what came may be another's gradient too
        dist.all_reduce(total)
        return total.chunk(num_ranks())[rank()]


def _all(tensor: Tensor) -> list[Tensor]:
    tensor = tensor.contiguous()  # and so are the parts, whose memory is what is filled
    parts = [torch.empty_like(tensor) for _ in range(num_ranks())]
    dist.all_gather(parts, tensor)
    return parts
