from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.features import runtime as module
from inlier.features.backbone import Backbone
from inlier.features.runtime import (
    PRECISIONS,
    RUNTIMES,
    TOLERANCES,
    Precision,
    best_precision,
    best_runtime,
    multiplies_bfloat16,
    open_trunk,
)

needs_openvino = pytest.mark.skipif(not module.has_openvino(), reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Pictures with coarse and fine structure, not square, on the scale that networks take."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(11, 3, 6, 4, generator=generator)
    return F.interpolate(coarse, size=(96, 64), mode="bicubic") + 0.1 * torch.randn(11, 3, 96, 64, generator=generator)


def networks() -> dict[str, Backbone]:
    torch.manual_seed(0)
    return {
        "stages": Backbone("test_resnet", layers=(1, 2, 3), is_pretrained=False),
        "mobile": Backbone("efficientnet_lite0", layers=(2, 3, 4)),
        "plain transformer": Backbone("test_vit", layers=(1, 3), is_pretrained=False),
    }


def farthest(given: dict[int, Tensor] | list[Tensor], wanted: dict[int, Tensor] | list[Tensor]) -> float:
    pairs = zip(*(of.values() if isinstance(of, dict) else of for of in (given, wanted)), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_what_is_best_here_can_be_had_here() -> None:
    assert best_precision("cpu") == "float32" and best_runtime("cpu") in RUNTIMES
    assert best_runtime("cuda") == "torch"


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", networks())
def test_openvino_gives_the_maps_of_the_network(name: str, precision: Precision, images: Tensor) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("the processor has no bfloat16")
    backbone = networks()[name]
    size = (160, 160) if name == "plain transformer" else (96, 64)
    photos = F.interpolate(images, size=size, mode="bilinear")
    with torch.inference_mode():
        wanted = backbone(photos)
    trunk, used = open_trunk(backbone.network, photos, name="one", runtime="openvino", precision=precision)
    assert used == "openvino"
    assert [features.shape for features in trunk(photos)] == [features.shape for features in wanted]
    assert farthest(trunk(photos), wanted) <= TOLERANCES[precision]


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_photo_has_the_same_features_in_any_company(precision: Precision, images: Tensor) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("the processor has no bfloat16")
    backbone = Backbone("efficientnet_lite0", layers=(2, 3), precision=precision, runtime="openvino")
    together = backbone.extract(images)
    for place in (0, 7, 10):
        alone = backbone.extract(images[place : place + 1])
        same = {layer: features[place : place + 1] for layer, features in together.items()}
        assert farthest(alone, same) <= 1e-5


@needs_openvino
def test_maps_are_the_callers_to_keep(images: Tensor) -> None:
    trunk, _ = open_trunk(networks()["stages"].network, images, name="one", runtime="openvino", precision="float32")
    first = trunk(images[:2])
    before = [features.clone() for features in first]
    trunk(images[2:4])
    assert all(torch.equal(features, kept) for features, kept in zip(first, before, strict=True))


@needs_openvino
def test_another_size_of_photos_and_other_weights_begin_anew(images: Tensor) -> None:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(2,), is_pretrained=False, runtime="openvino")
    for photos in (images[:2], images[:2, :, :64]):
        with torch.inference_mode():
            assert torch.allclose(backbone.extract(photos)[2], backbone(photos)[0], atol=1e-4)
    other = Backbone("test_resnet", layers=(2,), is_pretrained=False)
    backbone.load_state_dict(other.state_dict())
    assert torch.allclose(backbone.extract(images)[2], other.extract(images)[2], atol=1e-4)


class Lying(nn.Module):
    """A network that gives other maps to whoever traces it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images * (5 if torch.jit.is_tracing() else 1) * self.weight]


class Untraceable(Lying):
    """A network that cannot be traced."""

    def forward(self, images: Tensor) -> list[Tensor]:
        if torch.jit.is_tracing():
            raise RuntimeError("not to be traced")
        return [images * self.weight]


@needs_openvino
@pytest.mark.parametrize("network", [Lying(), Untraceable()], ids=["far off", "refused"])
def test_torch_computes_what_openvino_cannot(network: nn.Module, images: Tensor) -> None:
    trunk, used = open_trunk(network, images, name="one", runtime="openvino", precision="float32")
    assert used == "torch"
    assert torch.equal(trunk(images)[0], images)


def test_without_openvino_torch_computes(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_openvino", lambda: False)
    assert best_runtime("cpu") == "torch"
    network = networks()["stages"].network
    trunk, used = open_trunk(network, images, name="one", runtime="openvino", precision="float32")
    assert used == "torch"
    with torch.inference_mode():
        assert farthest(trunk(images), network(images)) <= 1e-5


@needs_openvino
def test_openvino_tells_nobody_that_it_is_used() -> None:
    program = (
        "import sys, torch, inlier.features.runtime as of\n"
        "from torch import nn\n"
        "class Double(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.weight = nn.Parameter(torch.ones(()))\n"
        "    def forward(self, images): return [2 * images * self.weight]\n"
        "options = {'name': 'one', 'runtime': 'openvino', 'precision': 'float32'}\n"
        "print(of.open_trunk(Double(), torch.zeros(1, 3, 8, 8), **options)[1])\n"
        "print(any(name.startswith('openvino_telemetry') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino", "False"]


@needs_openvino
def test_nobody_is_warned_of_how_it_is_done(images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_trunk(networks()["stages"].network, images, name="one", runtime="openvino", precision="float32")


@needs_openvino
def test_a_backbone_says_what_it_runs_in(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone("test_resnet", layers=(2,), is_pretrained=False, runtime="openvino")
    assert backbone.runs_in is None
    backbone.extract(images)
    assert backbone.runs_in == "openvino"
    monkeypatch.setattr(module, "has_openvino", lambda: False)
    backbone.train(False).extract(images)
    assert backbone.runs_in == "torch"


@needs_openvino
def test_a_network_is_compiled_once_and_another_one_anew(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compiled", type(module._compiled)())
    compiled: list[nn.Module] = []
    trace = module._trace
    monkeypatch.setattr(module, "_trace", lambda network, size: compiled.append(network) or trace(network, size))
    monkeypatch.setattr(module, "MAX_COMPILED", 2)

    def maps(layers: tuple[int, ...], seed: int) -> dict[int, Tensor]:
        torch.manual_seed(seed)
        backbone = Backbone("test_resnet", layers=layers, is_pretrained=False, runtime="openvino")
        given = backbone.extract(images[:2])
        with torch.inference_mode():
            assert farthest(list(given.values()), backbone(images[:2])) <= 1e-3
        return given

    first = maps((2,), 0)
    assert torch.equal(maps((2,), 0)[2], first[2]) and len(compiled) == 1
    maps((2,), 1)  # other weights
    maps((1,), 0)  # other layers of the first one, which is let go
    assert len(compiled) == 3 and len(module._compiled) == 2
    maps((2,), 0)
    assert len(compiled) == 4


@needs_openvino
def test_what_is_compiled_stays_as_it_was_when_the_network_is_trained_on(images: Tensor) -> None:
    torch.manual_seed(5)
    network = Backbone("test_resnet", layers=(2,), is_pretrained=False).network
    trunk, _ = open_trunk(network, images, name="trained", runtime="openvino", precision="float32")
    before = trunk(images[:2])[0]
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(3)
    assert torch.equal(trunk(images[:2])[0], before)


@needs_openvino
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [(2, 3), (3,), (1, 2, 3)])
def test_a_layers_map_is_the_same_whichever_others_are_looked_at(
    precision: Precision, layers: tuple[int, ...], images: Tensor
) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("the processor has no bfloat16")
    every, some = (
        Backbone("efficientnet_lite0", layers=of, precision=precision, runtime="openvino")
        for of in ((1, 2, 3, 4), layers)
    )
    of_every, of_some = every.extract(images), some.extract(images)
    assert list(of_some) == list(layers) and some.runs_in == "openvino"
    assert all(torch.equal(of_every[layer], of_some[layer]) for layer in layers)


@needs_openvino
def test_models_of_equal_weights_may_be_in_several_threads(images: Tensor) -> None:
    network = networks()["stages"].network
    trunk, _ = open_trunk(network, images, name="shared", runtime="openvino", precision="float32")
    wanted = [trunk(images[place : place + 3])[0] for place in range(8)]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda place: trunk(images[place % 8 : place % 8 + 3])[0], range(64)))
    assert all(torch.allclose(features, wanted[place % 8], atol=1e-5) for place, features in enumerate(given))


@needs_openvino
def test_a_thread_among_others_takes_one_photo_the_way_that_is_there(
    images: Tensor, set_num_threads: Callable[[int], None]
) -> None:
    """Compiling another way for the odd last photo of many would take longer than the photo."""
    network = networks()["stages"].network
    set_num_threads(2)
    trunk, _ = open_trunk(network, images, name="odd photo", runtime="openvino", precision="float32")
    assert isinstance(trunk, module._Compiled) and [*trunk._ways] == [2]
    set_num_threads(1)
    alone = trunk(images[:1])[0]
    assert [*trunk._ways] == [2]
    set_num_threads(2)
    assert torch.allclose(trunk(images[:1])[0], alone, atol=1e-5) and [*trunk._ways] == [2, 1]
    set_num_threads(1)
    assert torch.allclose(trunk(images[:1])[0], alone, atol=1e-5)
