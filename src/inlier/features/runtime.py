"""The frozen network as something to call: through OpenVINO where that is faster, else through PyTorch."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Runtime = Literal["openvino", "torch"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

MICRO_BATCH = 8
"""Photos that pass the network together; more are no faster on a CPU, and their activations leave its caches."""

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


_compiled: OrderedDict[str, Any] = OrderedDict()


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
        if key not in _compiled:
            _compiled[key] = _checked(network, (int(example.shape[-2]), int(example.shape[-1])), precision)
            while len(_compiled) > MAX_COMPILED:
                _compiled.popitem(last=False)
        _compiled.move_to_end(key)
        if _compiled[key] is not None:
            return _in_openvino(_compiled[key]), "openvino"
    return _in_torch(network, precision), "torch"


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The network's maps, (B, C, h, w) each; some transformers order them (B, h, w, C)."""
    maps: list[Tensor] = network(images)
    is_channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return [features.permute(0, 3, 1, 2) for features in maps] if is_channels_last else maps


def _in_torch(network: nn.Module, precision: Precision) -> Trunk:
    """A copy in this precision and channels_last, where the network is."""
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    frozen = frozen.to(getattr(torch, precision)).to(memory_format=torch.channels_last)
    first = next(frozen.parameters())

    def extract(images: Tensor) -> list[Tensor]:
        photos = images.to(first.device, first.dtype).contiguous(memory_format=torch.channels_last)
        return [features.cpu().float().contiguous() for features in feature_maps(frozen, photos)]

    return extract


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


def _checked(network: nn.Module, size: tuple[int, int], precision: Precision) -> Any:
    """The network compiled for this processor; None if OpenVINO cannot take it, or is too far off."""
    compiled = _compile(network, size, precision)
    if compiled is None or not _is_close(_in_openvino(compiled), network, size, TOLERANCES[precision]):
        return None
    return compiled


def _in_openvino(compiled: Any) -> Trunk:
    request, num_layers = compiled.create_infer_request(), len(compiled.outputs)

    def extract(images: Tensor) -> list[Tensor]:
        request.infer([images.contiguous().numpy()], share_inputs=True)
        return [torch.from_numpy(request.get_output_tensor(place).data.copy()) for place in range(num_layers)]

    return extract


def _compile(network: nn.Module, size: tuple[int, int], precision: Precision) -> Any:
    """The network compiled for this processor; None if OpenVINO cannot take it."""
    openvino = _import_openvino()
    frontend: Any = importlib.import_module("openvino.frontend")
    decoder: Any = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    blank = torch.zeros(1, 3, *size)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # tracing is deprecated, and warns of constants that stay constants here
            trace: Any = torch.jit.trace
            traced = trace(_Traceable(network).eval(), blank, check_trace=False, strict=False)
            reader = frontend.FrontEndManager().load_by_framework("pytorch")
            # It must live until it is converted, and not share weights that may be trained on.
            decoded = decoder.TorchScriptPythonDecoder(traced, example_input=blank, shared_memory=False)
            graph = reader.convert(reader.load(decoded))
        graph.reshape([-1, 3, *size])
        return openvino.Core().compile_model(graph, "CPU", settings)
    except Exception:  # a converter written in C++ raises whatever it likes; PyTorch can do all that it can
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


def _is_close(trunk: Trunk, network: nn.Module, size: tuple[int, int], tolerance: float) -> bool:
    """Whether a trunk gives the network's maps for pictures with coarse and fine structure."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(2, 3, 7, 7, generator=generator), torch.randn(2, 3, *size, generator=generator)
    pictures = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + 0.1 * fine
    with torch.inference_mode():
        wanted = feature_maps(network, pictures)
        given = trunk(pictures)
    return all(
        theirs.shape == ours.shape and bool((theirs - ours).norm() <= tolerance * ours.norm())
        for theirs, ours in zip(given, wanted, strict=True)
    )
