"""The frozen network as something to call: through OpenVINO where that is faster, else through PyTorch."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import sys
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.features.networks import for_size

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Runtime = Literal["openvino", "torch"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

MICRO_BATCH = 8
"""Photos that pass the network together; more are no faster on a CPU, and their activations leave its caches."""

PIECE = 2
"""Photos of a batch that are computed together, one piece a thread; the maps of more leave the processor's caches."""

TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.15}
"""How far a layer's map may be from PyTorch's in float32, as a share of its norm, before a runtime is not used."""

MAX_COMPILED = 8
"""Networks that stay compiled: most processes need one or two, and what is traced anew is never quite let go."""

Trunk = Callable[[Tensor], list[Tensor]]
"""Normalised photos, float32, shape (B, 3, H, W) -> a map of each layer, float32, shape (B, C, h, w), on the CPU."""


def best_precision(device: str) -> Precision:
    """bfloat16 on a CUDA device that has it, else float32.

    On a CPU bfloat16 is about twice as fast, and not the default all the same: what it rounds off moves scores, and
    by them AUROC, by more than the .002 that speed may cost here (``benchmarks/runtime.py``).
    """
    return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 natively."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not public; absent in some versions
    return bool(probe is not None and probe())


def best_runtime(device: str) -> Runtime:
    """OpenVINO on a CPU, where it is installed, as ``benchmarks/runtime.py`` measures; else PyTorch."""
    return "openvino" if device == "cpu" and has_openvino() else "torch"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return "openvino" in sys.modules or importlib.util.find_spec("openvino") is not None


_compiled: OrderedDict[str, _Compiled | None] = OrderedDict()
_opening = threading.Lock()


def open_trunk(
    network: nn.Module, example: Tensor, *, name: str, runtime: Runtime, precision: Precision
) -> tuple[Trunk, Runtime]:
    """The network in a runtime, for photos of one size.

    What OpenVINO makes of the network is compared with PyTorch in float32. Where it cannot take the network, is too
    far off, or is not installed, PyTorch computes the features.

    Args:
        network: Gives feature maps; left as it is.
        example: Photos of the size that will come, shape (B, 3, H, W).
        name: Which network it is, and which maps it gives: what its weights do not say.
        runtime: The one wanted.
        precision: Type of numbers to compute with.

    Returns:
        The network, and the runtime that it is in.
    """
    device = next(network.parameters()).device
    if runtime == "openvino" and device.type == "cpu" and has_openvino():
        key = _key(network, name, list(example.shape[2:]), precision, torch.get_num_threads())
        size = int(example.shape[-2]), int(example.shape[-1])
        with _opening:
            if key not in _compiled:
                _compiled[key] = _checked(network, size, precision, one_by_one=len(example) == 1)
                while len(_compiled) > MAX_COMPILED:
                    _compiled.popitem(last=False)
            _compiled.move_to_end(key)
            compiled = _compiled[key]
        if compiled is not None:
            return compiled, "openvino"
    return _in_torch(network, precision), "torch"


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The network's maps, (B, C, h, w) each; some transformers order them (B, h, w, C)."""
    maps: list[Tensor] = network(images)
    is_channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return [features.permute(0, 3, 1, 2) for features in maps] if is_channels_last else maps


def _in_torch(network: nn.Module, precision: Precision) -> Trunk:
    """A copy in this precision and channels_last, where the network is.

    One that is all matrices and in this precision already, as a transformer's, shares its tensors with the network: a
    second copy of a large encoder would take a gigabyte, and order no channels.
    """
    wanted = getattr(torch, precision)
    if _is_of_matrices(network) and all(parameter.dtype == wanted for parameter in network.parameters()):
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        frozen = copy.deepcopy(network, shared).eval()
    else:
        frozen = copy.deepcopy(network).eval().requires_grad_(False)
        frozen = frozen.to(wanted).to(memory_format=torch.channels_last)
    first = next(frozen.parameters())

    def extract(images: Tensor) -> list[Tensor]:
        photos = images.to(first.device, first.dtype).contiguous(memory_format=torch.channels_last)
        return [features.cpu().float().contiguous() for features in feature_maps(frozen, photos)]

    return extract


def _is_of_matrices(network: nn.Module) -> bool:
    """Whether convolutions hold less than half of its numbers."""
    sizes = [(parameter.numel(), parameter.ndim) for parameter in network.parameters()]
    return 2 * sum(size for size, rank in sizes if rank == 4) < sum(size for size, _ in sizes)


class _Traceable(nn.Module):
    """A network whose maps are a tuple of tensors in one order, as tracing wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature_maps(self.network, images))


def _key(network: nn.Module, *about: object) -> str:
    """What tells a compiled network from all others."""
    digest = hashlib.sha256(repr(about).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _checked(network: nn.Module, size: tuple[int, int], precision: Precision, *, one_by_one: bool) -> _Compiled | None:
    """The network compiled for this processor; None if OpenVINO cannot take it, or is too far off."""
    graph = _trace(network, size)
    if graph is None:
        return None
    pictures = _pictures(size)
    with torch.inference_mode():
        wanted = [features.cpu() for features in feature_maps(network, pictures)]
    compiled = _Compiled(graph, precision, pictures, wanted, num_threads=torch.get_num_threads())
    return compiled if compiled.is_close(one_by_one=one_by_one) else None


class _Compiled:
    """A traced network, compiled in up to two ways, each when it is first needed and checked then.

    All threads on one photo answer soonest. Where there are more photos, a thread on each gets through more of them,
    since none waits for another within a layer.
    """

    def __init__(
        self, graph: Any, precision: Precision, pictures: Tensor, wanted: list[Tensor], *, num_threads: int
    ) -> None:
        self._graph, self._precision, self._num_threads = graph, precision, num_threads
        self._pictures, self._wanted = pictures, wanted
        self._ways: dict[int, Trunk | None] = {}
        self._lock = threading.Lock()  # models of equal weights share it, and may be in several threads

    def __call__(self, images: Tensor) -> list[Tensor]:
        with self._lock:
            may_compile = torch.get_num_threads() >= self._num_threads  # others have a use for all of them
            one_by_one = len(images) == 1 and (may_compile or 1 in self._ways)
            trunk = self._way(one_by_one=one_by_one) or self._way(one_by_one=not one_by_one)
        assert trunk is not None  # one of them was checked before this was handed out
        return trunk(images)

    def is_close(self, *, one_by_one: bool) -> bool:
        """Whether it gives the network's maps."""
        return self._way(one_by_one=one_by_one) is not None

    def _way(self, *, one_by_one: bool) -> Trunk | None:
        num_streams = 1 if one_by_one else min(self._num_threads, MICRO_BATCH)
        if num_streams not in self._ways:
            trunk = self._compile(num_streams)
            is_close = trunk is not None and _is_close(trunk(self._pictures), self._wanted, TOLERANCES[self._precision])
            self._ways[num_streams] = trunk if is_close else None
        return self._ways[num_streams]

    def _compile(self, num_streams: int) -> Trunk | None:
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bfloat16" else "f32",
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": self._num_threads,
        }
        try:
            compiled = _import_openvino().Core().compile_model(self._graph, "CPU", settings)
            return _in_openvino([compiled.create_infer_request() for _ in range(num_streams)])
        except Exception:  # a compiler written in C++ raises whatever it likes; PyTorch can do all that it can
            return None


def _in_openvino(requests: Sequence[Any]) -> Trunk:
    """A network that computes as many pieces of a batch at once as it has requests, and its caller has threads.

    Several threads may call it at a time; whoever finds no request free waits for one.
    """
    free: SimpleQueue[Any] = SimpleQueue()
    for request in requests:
        free.put(request)

    def extract(images: Tensor) -> list[Tensor]:
        held = [free.get()]
        try:
            with suppress(Empty):
                while len(held) < torch.get_num_threads():
                    held.append(free.get_nowait())
            return _spread(images.contiguous(), held)
        finally:
            for request in held:
                free.put(request)

    return extract


def _spread(photos: Tensor, requests: Sequence[Any]) -> list[Tensor]:
    """The network's maps of photos, a piece of them in each request at a time."""
    taken: list[list[Tensor]] = []
    under_way: deque[Any] = deque()
    try:
        for number, piece in enumerate(torch.split(photos, PIECE)):
            if len(under_way) == len(requests):
                taken.append(_take(under_way.popleft()))
            request = requests[number % len(requests)]
            request.start_async([piece.numpy()], share_inputs=True)
            under_way.append(request)
        while under_way:
            taken.append(_take(under_way.popleft()))
    finally:
        for request in under_way:  # interrupted: it reads from photos that will be gone
            request.wait()
    return [torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*taken, strict=True)]


def _take(request: Any) -> list[Tensor]:
    request.wait()
    return [torch.from_numpy(output.data.copy()) for output in request.output_tensors]


def _trace(network: nn.Module, size: tuple[int, int]) -> Any:
    """The network as OpenVINO's graph, for any number of photos; None if it cannot take it."""
    frontend: Any = _import_openvino() and importlib.import_module("openvino.frontend")
    decoder: Any = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    blank = torch.zeros(1, 3, *size)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # tracing is deprecated, and warns of constants that stay constants here
            trace: Any = torch.jit.trace
            traced = trace(_Traceable(for_size(network, size)).eval(), blank, check_trace=False, strict=False)
            reader = frontend.FrontEndManager().load_by_framework("pytorch")
            # It must live until it is converted, and not share weights that may be trained on.
            decoded = decoder.TorchScriptPythonDecoder(traced, example_input=blank, shared_memory=False)
            graph = reader.convert(reader.load(decoded))
        graph.reshape([-1, 3, *size])
        return graph
    except Exception:  # so does a converter
        return None


def _import_openvino() -> Any:
    """OpenVINO, without the module through which importing it would tell its maker of that."""
    missing = object()
    before = sys.modules.get("openvino_telemetry", missing)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        return importlib.import_module("openvino")
    finally:
        if before is missing:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before  # type: ignore[assignment]


def _pictures(size: tuple[int, int]) -> Tensor:
    """Two pictures with coarse and fine structure, shape (2, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(2, 3, 7, 7, generator=generator), torch.randn(2, 3, *size, generator=generator)
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + 0.1 * fine


def _is_close(given: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> bool:
    """Whether all maps are within a share of their norm."""
    return all(
        theirs.shape == ours.shape and bool((theirs - ours).norm() <= tolerance * ours.norm())
        for theirs, ours in zip(given, wanted, strict=True)
    )
