"""finetune(): trains a backbone on photos of one domain by an objective, and stays in charge of what it may become."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from inlier.data.squares import Squares
from inlier.features.backbone import Backbone
from inlier.features.runtime import Precision
from inlier.finetuning.batches import ViewBatch, ViewMaker, divide, fitting, share
from inlier.finetuning.collapse import Watch
from inlier.finetuning.parallel import gather, num_ranks, rank, sum_gradients
from inlier.finetuning.parameters import layer_parameters, layer_rates, trained_layers
from inlier.finetuning.passes import anchored, embedder, micro_batch_for, training_precision
from inlier.finetuning.views import Augmentation, Views
from inlier.training import History, Schedule, draw_places, train

NUM_CHECKS = 10
"""Looks at the held-out loss and for collapse, and checkpoints, in a training that is not stopped early."""

UNLABELLED_BLEND = 0.5
"""How far the weights go where no labels said what photos show."""

NUM_WATCHED = 64
"""Photos on which collapse is looked for."""


def finetune(
    backbone: Backbone,
    objective: nn.Module,
    squares: Squares,
    labels: Sequence[int],
    *,
    groups: Sequence[str],
    num_samples: int = 3_200,
    batch_size: int = 16,
    size: int = 160,
    learning_rate: float = 3e-5,
    learning_rates: Mapping[str, float] | None = None,
    layer_decay: float = 0.0,
    head_rate: float = 3e-4,
    cycle_factor: float = 10.0,
    betas: Sequence[float] = (0.9, 0.99),
    augmentation: Augmentation = "jitter",
    scale: Sequence[float] = (0.4, 1.0),
    anchor_weight: float = 0.0,
    anchor_layers: Sequence[int] = (),
    blend: float | None = None,
    frozen_batch_norm: bool = True,
    precision: Precision | None = None,
    micro_batch: int | None = None,
    held_out_ratio: float = 0.0,
    patience: int = 5,
    least_rank_ratio: float = 0.2,
    seed: int = 0,
    checkpoint: Path | None = None,
    workers: int = 2,
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
    measure: Callable[[Callable[[Squares], float]], None] | None = None,
    advance: Callable[[int], None] = lambda photos: None,
    compile: bool = False,
) -> History:
    """Trains the backbone in place, on the device where it is, and tells how it went.

    As in the thesis's appendix B: Adam, a learning rate for each layer, one cycle, a budget of photos shown, a head
    that is dropped afterwards. What an objective is: a module with a ``name``, a number ``num_views`` of views that
    it wants of each photo, and ``uses_labels``; called with a function from images to maps, the views (V, B, 3, S, S)
    and the labels (B,), it gives the loss. It never sees the backbone, so that memory, precision and processes are
    dealt with here.

    Three things keep the backbone near the start: ``anchor_weight`` pulls its maps back to those of the frozen start,
    ``blend`` its final weights, and a ``Watch`` stops a run whose embeddings become all alike.

    A run that was killed and is called again with the same arguments, the backbone as it was at the start, ends with
    the same weights, on a CPU bit for bit. If ``torch.distributed`` is initialised, each process takes its share of
    every batch, and all end with the weights that one would have had; the first writes the checkpoint.

    Args:
        backbone: All its layers are trained, however many of them a detector will use.
        objective: Its trained parts begin as they are; they go on training where a checkpoint says so.
        squares: The photos, at least two; larger than ``size``, or small parts of them are blurred.
        labels: Of each photo, counted from 0; -1: unlabelled.
        groups: Of each photo what must not be torn apart; "" is a group of its own.
        num_samples: Photos shown in training, >= 1; the budget that sets the time it takes.
        batch_size: Photos a step, of all processes together, >= 2; as many as there are if there are fewer.
        size: Height and width of a view, in pixels.
        learning_rate: Of the coarsest layer where the cycle begins, >= 0.
        learning_rates: Of single layers by name, such as ``layer4``, in place of the former; 0 freezes one.
        layer_decay: What a layer's learning rate is multiplied by for the one before it, in [0, 1].
        head_rate: Learning rate of the objective's own networks, > 0.
        cycle_factor: How many times these the learning rates reach, >= 1.
        betas: Adam's two, in [0, 1).
        augmentation: What is done to the colours of views; see ``Views``.
        scale: Least and greatest share of a photo's area that a view shows, in (0, 1].
        anchor_weight: Of ``anchor_loss`` on the first view, added to the loss, >= 0.
        anchor_layers: Its layers; none named: all.
        blend: How far the final weights are from the start towards the trained ones, in [0, 1] (WiSE-FT: Wortsman et
            al., CVPR 2022, arXiv:2109.01903). Batch normalisation's statistics are blended like weights. None: 1 where
            the objective learns from labels of two classes at least, else half-way, since what views alone teach of a
            hundred photos holds less well for others.
        frozen_batch_norm: Whether batch normalisation keeps the statistics of the start. If not, each batch passes
            in one piece, whatever ``micro_batch`` says, and one process must do.
        precision: Of the backbone; None: bfloat16 on a CUDA device that has it, else float32.
        micro_batch: Photos that pass the backbone together, which changes memory and time but not the result (see
            ``embedder``); None: as many as have ``MICRO_PIXELS`` pixels, four times that on a CUDA device.
        held_out_ratio: Share of the photos, whole groups, whose loss tells when to stop, in [0, 1); 0: none. With
            fewer than ten groups none are held out either.
        patience: Looks at these without improvement after which training stops, of ten in all, >= 1.
        least_rank_ratio: What share of a layer's effective rank must remain, in [0, 1); 0: it never stops.
        seed: Of order, views, held-out groups and what the objective draws, >= 0.
        checkpoint: File to go on from and to keep the state in, for this training alone; None: keeps none.
        workers: Threads that make views, >= 0; the result does not depend on them.
        report: Given each step's row of the history, in the first process.
        measure: Called at the end, before weights are blended, with what gives the mean loss of other photos, each a
            class of its own.
        advance: Told of photos shown, of ``num_samples`` in all, in the first process.
        compile: Whether ``torch.compile`` translates the network first, which pays on a CUDA device.

    Returns:
        A row for each step: ``step``, ``loss``, ``learning_rate.layer1`` and so on, ``learning_rate.objective``; at
        ten of them ``held_out_loss`` if photos are held out, and what the ``Watch`` says.

    Raises:
        ValueError: A parameter is outside its range, or labels or groups are not one for each photo.
        CollapseError: Embeddings have become all alike; backbone and objective are of no use.
        InlierError: The loss is no finite number.
        ModelError: The checkpoint is damaged, or of another training.
    """
    _check_numbers(
        num_samples=(num_samples, 1),
        batch_size=(batch_size, 2),
        learning_rate=(learning_rate, 0),
        cycle_factor=(cycle_factor, 1),
        anchor_weight=(anchor_weight, 0),
        micro_batch=(1 if micro_batch is None else micro_batch, 1),
        patience=(patience, 1),
        seed=(seed, 0),
        workers=(workers, 0),
    )
    if blend is None:
        is_taught = objective.uses_labels and len({label for label in labels if label >= 0}) > 1
        blend = 1.0 if is_taught else UNLABELLED_BLEND
    _check_ratios(
        layer_decay=layer_decay, blend=blend, held_out_ratio=held_out_ratio, least_rank_ratio=least_rank_ratio
    )
    if not 0 < head_rate < math.inf:
        raise ValueError(f"head_rate of finetune must be above 0, got {head_rate}.")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas of finetune must be two numbers in [0, 1), got {list(betas)}.")
    if len(scale) != 2:
        raise ValueError(f"scale of finetune must be two numbers, got {list(scale)}.")
    if not set(anchor_layers) <= set(backbone.layers):
        raise ValueError(
            f"anchor_layers of finetune must be ones of the backbone's, {list(backbone.layers)}, "
            f"got {list(anchor_layers)}."
        )
    if len(squares) < 2 or not len(squares) == len(labels) == len(groups):
        raise ValueError(
            "labels and groups of finetune must be one for each of at least two photos, "
            f"got {len(labels)} and {len(groups)} for {len(squares)}."
        )
    views = Views(size, backbone.mean, backbone.std, (scale[0], scale[1]), augmentation)
    device = next(backbone.parameters()).device
    objective.to(device)
    backbone.to(memory_format=torch.channels_last)
    start = copy.deepcopy(backbone).eval().requires_grad_(False)
    parts = layer_parameters(backbone, frozen_batch_norm=frozen_batch_norm)
    rates = layer_rates([*parts], learning_rate=learning_rate, layer_decay=layer_decay, named=learning_rates or {})
    layers = trained_layers(parts, rates)
    together: int | None = micro_batch or micro_batch_for(size, device)
    if any(layer.uses_batch_statistics for layer in layers.values()):
        together = None
        if num_ranks() > 1:
            raise ValueError("frozen_batch_norm of finetune must be True where several processes share a batch.")
    precision = precision or training_precision(device)
    embed = embedder(backbone, micro_batch=together, precision=precision, is_compiled=compile)
    embed_start = embedder(start, micro_batch=together, precision=precision)
    loss_on = anchored(objective, embed, embed_start, weight=anchor_weight, layers=anchor_layers or backbone.layers)
    label_of = torch.tensor(labels, dtype=torch.int64)
    learned, held_out = divide(groups, ratio=held_out_ratio, seed=seed)
    batch_size = fitting(batch_size, len(learned))
    num_steps = math.ceil(num_samples / batch_size)

    def loss_of(batch: ViewBatch) -> Tensor:
        images = batch.views.to(device, non_blocking=True)
        return _joined(loss_on(images, label_of[batch.places].to(device)))

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="views")) if workers else None
        maker = ViewMaker(squares, views, num_views=cast("int", objective.num_views), seed=seed, pool=pool)
        pairs = ViewMaker(squares, views, num_views=2, seed=seed, pool=pool)

        def batches_from(step: int) -> Iterator[ViewBatch]:
            drawn = draw_places(len(learned), batch_size=batch_size, seed=seed, first_step=step, is_distinct=True)
            shares = (share([learned[number] for number in batch]) for batch in islice(drawn, num_steps - step))
            return maker.make_ahead(shares, first_step=step, is_pinned=device.type == "cuda")

        def mean_loss(of: ViewMaker, places: Sequence[int], loss: Callable[[ViewBatch], Tensor]) -> float:
            width = fitting(batch_size, len(places))
            firsts = range(0, len(places) - width + 1, width)  # a smaller last batch would have another loss
            batches = (of.make(share([*places[first : first + width]]), step=num_steps) for first in firsts)
            with torch.random.fork_rng(range(torch.cuda.device_count())):
                torch.manual_seed(seed)  # so that each look draws the same
                return float(np.mean([float(loss(batch)) for batch in batches]))

        def held_out_loss() -> float:
            return mean_loss(maker, held_out, loss_of)

        @torch.no_grad()
        def loss_of_others(others: Squares) -> float:
            own = ViewMaker(others, views, num_views=cast("int", objective.num_views), seed=seed, pool=pool)

            def unlabelled(batch: ViewBatch) -> Tensor:
                nobody = torch.full((len(batch.places),), -1, device=device)
                return _joined(loss_on(batch.views.to(device), nobody))

            return mean_loss(own, range(len(others)), unlabelled)

        watched = sorted(np.random.default_rng(seed).permutation(len(squares))[:NUM_WATCHED].tolist())
        try:
            watch = Watch(embed, pairs.make(watched, step=num_steps + 1).views, least_rank_ratio=least_rank_ratio)
            history = train(
                layers | {"objective": objective},
                loss_of,
                batches_from,
                Schedule(
                    num_steps=num_steps,
                    learning_rates={name: rates[name] for name in layers} | {"objective": head_rate},
                    cycle_factor=cycle_factor,
                    betas=(betas[0], betas[1]),
                    check_every=math.ceil(num_steps / NUM_CHECKS),
                    patience=patience,
                    seed=seed,
                ),
                held_out_loss=held_out_loss if held_out else None,
                watch=watch,
                reduce_gradients=sum_gradients if num_ranks() > 1 else None,
                checkpoint=checkpoint,
                is_saving=rank() == 0,
                report=report if rank() == 0 else lambda row: None,
                advance=_in_photos(advance, batch_size, num_samples) if rank() == 0 else lambda steps: None,
            )
            if measure is not None:
                measure(loss_of_others)
        finally:
            backbone.to(memory_format=torch.contiguous_format).requires_grad_(True).eval().zero_grad()
    blend_weights(backbone, start, blend=blend)
    return history


@torch.no_grad()
def blend_weights(backbone: nn.Module, start: nn.Module, *, blend: float) -> None:
    """Sets weights to start + blend * (weights - start) (WiSE-FT, arXiv:2109.01903, eq. 1); whole numbers stay."""
    before = start.state_dict()
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.lerp(before[name], tensor, blend))


def _check_numbers(**limits: tuple[float, float]) -> None:
    for name, (number, least) in limits.items():
        if not least <= number < math.inf:
            raise ValueError(f"{name} of finetune must be at least {least}, got {number}.")


def _check_ratios(*, layer_decay: float, blend: float, **below_one: float) -> None:
    for name, ratio in {"layer_decay": layer_decay, "blend": blend}.items():
        if not 0 <= ratio <= 1:
            raise ValueError(f"{name} of finetune must be in [0, 1], got {ratio}.")
    for name, ratio in below_one.items():
        if not 0 <= ratio < 1:
            raise ValueError(f"{name} of finetune must be in [0, 1), got {ratio}.")


def _joined(loss: Tensor) -> Tensor:
    """The mean of all processes' losses, the same in all; its gradient is this process's part of that mean's."""
    if num_ranks() == 1:
        return loss
    mean = gather(loss.detach()[None]).mean()
    joined: Tensor = mean + (loss - loss.detach()) / num_ranks()
    return joined


def _in_photos(advance: Callable[[int], None], batch_size: int, num_samples: int) -> Callable[[int], None]:
    """Tells of photos where the loop tells of steps."""
    steps = told = 0

    def tell(done: int) -> None:
        nonlocal steps, told
        steps += done
        now = min(steps * batch_size, num_samples)
        advance(now - told)
        told = now

    return tell
