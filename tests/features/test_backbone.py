from __future__ import annotations

import copy
import doctest
from itertools import pairwise

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor, nn

from inlier.data.transforms import Transform
from inlier.features import backbone as module
from inlier.features.backbone import Backbone, all_layers, check_layers
from inlier.features.networks import is_network, kind_of
from inlier.features.runtime import MICRO_BATCH, Precision


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(MICRO_BATCH + 3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", layers=(1, 2, 3, 4), is_pretrained=False)


@pytest.mark.real
def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


def test_layers_of_a_resnet_are_counted_as_the_thesis_does() -> None:
    backbone = Backbone("resnet18", layers=(1, 2, 3, 4), is_pretrained=False)
    assert (backbone.strides, backbone.channels) == ((4, 8, 16, 32), (64, 128, 256, 512))
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    shapes = [tuple(features.shape) for features in backbone(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]


@pytest.mark.parametrize(
    ("name", "layers", "strides"),
    [
        ("convnext_atto", (1, 2, 3, 4), (4, 8, 16, 32)),
        ("mobilenetv3_small_050", (1, 2, 3, 4), (4, 8, 16, 32)),
        ("regnety_002", (1, 2, 3, 4), (4, 8, 16, 32)),
        ("vgg11", (1, 4), (4, 32)),  # begins at strides 1 and 2
        ("swin_tiny_patch4_window7_224", (1, 2, 3, 4), (4, 8, 16, 32)),  # maps with the channels last
        ("vit_tiny_patch16_224", (1, 7, 12), (16, 16, 16)),
    ],
)
def test_networks_of_every_kind_give_maps_of_their_strides_at_any_size(
    name: str, layers: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    backbone = Backbone(name, layers=layers, is_pretrained=False)
    assert backbone.strides == strides
    backbone.check_image_size(96)
    maps = backbone.extract(torch.rand(2, 3, 96, 96))
    assert tuple(maps) == layers
    for layer, channels, stride in zip(layers, backbone.channels, strides, strict=True):
        assert maps[layer].shape == (2, channels, 96 // stride, 96 // stride)
        assert maps[layer].is_contiguous()
    with torch.inference_mode():
        plain = backbone(torch.rand(2, 3, 96, 96))
    assert [features.shape for features in plain] == [maps[layer].shape for layer in layers]


def test_a_layer_of_a_vision_transformer_is_its_block_through_the_last_normalisation() -> None:
    backbone = Backbone("test_vit", layers=(2, 5), is_pretrained=False)
    blocks: list[Tensor] = []
    for block in (1, 4):
        backbone.network.model.blocks[block].register_forward_hook(lambda *call: blocks.append(call[-1]))
    with torch.inference_mode():
        maps = backbone(torch.rand(1, 3, 160, 160))
        normalised = [backbone.network.model.norm(tokens) for tokens in blocks]
    for features, tokens in zip(maps, normalised, strict=True):
        assert torch.equal(features.flatten(2)[0].T, tokens[0, 1:])  # the first token is the class


def test_layers_come_in_ascending_order(tiny: Backbone, images: Tensor) -> None:
    some = Backbone("test_resnet", layers=(4, 2), is_pretrained=False)
    some.network.load_state_dict(tiny.network.state_dict())
    assert some.layers == (2, 4)
    assert (some.channels, some.strides) == (tiny.channels[1::2], tiny.strides[1::2])
    maps, reference = some.extract(images), tiny.extract(images)
    assert all(torch.equal(maps[layer], reference[layer]) for layer in (2, 4))


def test_extract_gives_what_forward_gives_without_gradients(tiny: Backbone, images: Tensor) -> None:
    maps = tiny.extract(images)
    for features, reference in zip(maps.values(), tiny(images), strict=True):
        assert features.dtype == torch.float32
        assert not features.requires_grad and reference.requires_grad
        assert torch.allclose(features, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batch_size_changes_nothing(precision: Precision, images: Tensor) -> None:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(2, 3), precision=precision, is_pretrained=False)
    together = backbone.extract(images)
    for size in (1, 5):
        parts = [backbone.extract(part) for part in images.split(size)]
        for layer, features in together.items():
            joined = torch.cat([part[layer] for part in parts])
            assert (joined - features).norm() <= 1e-3 * features.norm()


@pytest.mark.real
def test_bfloat16_is_off_by_less_than_a_tenth() -> None:
    exact = Backbone("efficientnet_lite0", layers=(1, 2, 3, 4))
    coarse = Backbone("efficientnet_lite0", layers=(1, 2, 3, 4), precision="bfloat16")
    transform = Transform(224, exact.mean, exact.std)
    photos = (skimage.data.cat, skimage.data.coffee, skimage.data.rocket, skimage.data.astronaut)
    images = torch.stack([transform.to_tensor(np.asarray(photo())) for photo in photos])
    reference, maps = exact.extract(images), coarse.extract(images)
    for layer, features in maps.items():
        assert features.dtype == torch.float32
        for one, other in zip(features.flatten(1), reference[layer].flatten(1), strict=True):
            assert (one - other).norm() < 0.1 * other.norm()
            assert torch.cosine_similarity(one, other, dim=0) > 0.995


def test_extract_follows_the_weights_after_training(images: Tensor) -> None:
    backbone = Backbone("test_resnet", layers=(1,), is_pretrained=False)
    before = backbone.extract(images)[1]
    backbone.train()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.5)
    backbone.eval()
    after = backbone.extract(images)[1]
    assert not torch.allclose(before, after)
    assert torch.allclose(after, backbone(images)[0], rtol=1e-4, atol=1e-5)


def test_extract_follows_a_change_of_type(images: Tensor) -> None:
    backbone = Backbone("test_resnet", layers=(1,), is_pretrained=False)
    before = backbone.extract(images)[1]
    after = backbone.bfloat16().extract(images)[1]  # its weights are rounded
    assert not torch.equal(after, before)
    assert (after - before).norm() < 0.1 * before.norm()


def test_extracting_leaves_no_trace_in_what_is_saved(images: Tensor) -> None:
    backbone = Backbone("test_resnet", layers=(1,), precision="bfloat16", is_pretrained=False)
    names = list(backbone.state_dict())
    backbone.extract(images)
    assert list(backbone.state_dict()) == names
    assert [name for name, _ in backbone.named_children()] == ["network", "adaptors"]
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(copy.deepcopy(backbone).extract(images)[1], backbone.extract(images)[1])


def test_it_is_frozen_from_the_start(tiny: Backbone, images: Tensor) -> None:
    assert not tiny.training
    state = copy.deepcopy(tiny.network.state_dict())
    tiny.extract(images)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.network.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_features_are_the_same(images: Tensor) -> None:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(2, 3), is_pretrained=False)
    reference = backbone.extract(images)
    for layer, features in backbone.to("cuda").extract(images).items():
        assert features.device.type == "cpu"
        assert (features - reference[layer]).norm() <= 1e-2 * features.norm()


@pytest.mark.parametrize("layers", [(), (0, 1), (2, 2), (-1,), (1.5,)])
def test_layers_that_are_none_are_refused(layers: tuple[int, ...]) -> None:
    sentence = r"^layers of Anything must be different whole numbers from 1 on, got \[.*\]\.$"
    with pytest.raises(ValueError, match=sentence):
        check_layers("Anything", layers)
    with pytest.raises(ValueError, match=sentence.replace("Anything", "resnet18")):
        Backbone("resnet18", layers=layers, is_pretrained=False)


@pytest.mark.parametrize(("name", "layer", "highest"), [("resnet18", 5, 4), ("test_vit", 7, 6)])
def test_layers_that_the_network_lacks_are_refused(name: str, layer: int, highest: int) -> None:
    with pytest.raises(ValueError, match=rf"^layers of {name} must be in 1 to {highest}, got \[1, {layer}\]\.$"):
        Backbone(name, layers=(1, layer), is_pretrained=False)


def test_an_unknown_network_is_refused_with_what_there_is() -> None:
    sentence = r"^timm has no backbone named resnet19_x; it has, for example, "
    with pytest.raises(ValueError, match=sentence + "resnet18.$"):
        Backbone("resnet19_x", layers=(1,))
    with pytest.raises(ValueError, match=r"named vit_nope; it has, for example, \w+, \w+, \w+\.$"):
        Backbone("vit_nope", layers=(1,))


def test_a_network_without_feature_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^timm gives no feature maps of resnet18\.nope: .*nope.*\.$"):
        Backbone("resnet18.nope", layers=(1,))


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision of Backbone must be one of float32, bfloat16, got 'half'\.$"):
        Backbone("test_resnet", layers=(1,), precision="half", is_pretrained=False)  # type: ignore[arg-type]


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    backbone = Backbone("test_vit", layers=(1,), is_pretrained=False)
    backbone.check_image_size(64)
    sentence = r"^size of a photo for test_vit must be a multiple of its patches of 16 pixels, got 65; take 64 or 80\.$"
    with pytest.raises(ValueError, match=sentence):
        backbone.check_image_size(65)


def test_a_size_that_a_network_of_one_size_cannot_take_is_refused() -> None:
    backbone = Backbone("test_vit_relpos", layers=(1,), is_pretrained=False)
    native = backbone.network.pretrained_cfg["input_size"][-1]
    backbone.check_image_size(native)
    with pytest.raises(ValueError, match=rf"^size of a photo for test_vit_relpos cannot be 33 pixels; .* {native}\.$"):
        backbone.check_image_size(33)


def _adaptors(backbone: Backbone, layers: tuple[int, ...], *, width: int = 5) -> dict[int, nn.Conv2d]:
    torch.manual_seed(3)
    channels = dict(zip(backbone.layers, backbone.channels, strict=True))
    return {layer: nn.Conv2d(channels[layer], width, 1, bias=layer != 2) for layer in layers}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adaptors_map_the_cells_of_their_layer_and_of_no_other(
    tiny: Backbone, images: Tensor, precision: Precision
) -> None:
    backbone = tiny.select((1, 2, 4), precision=precision)
    plain, channels = backbone.extract(images), backbone.channels
    adaptors = _adaptors(backbone, (2, 4))
    assert backbone.adapt(adaptors) is backbone
    assert backbone.channels == (channels[0], 5, 5)
    with torch.inference_mode():
        maps, direct = backbone.extract(images), backbone(images)
        expected = {layer: adaptors[layer](of) if layer in adaptors else of for layer, of in plain.items()}
    for features, layer in zip(direct, (1, 2, 4), strict=True):
        assert maps[layer].dtype == features.dtype == torch.float32
        assert torch.allclose(maps[layer], expected[layer], rtol=1e-4, atol=1e-5)
        assert (features - maps[layer]).norm() <= (1e-4 if precision == "float32" else 0.1) * features.norm()
    assert all(torch.equal(of, plain[layer]) for layer, of in backbone.adapt({}).extract(images).items())


def test_a_backbones_tensors_bring_its_adaptors_along(tiny: Backbone, images: Tensor) -> None:
    adapted = tiny.select((1, 2))
    state = adapted.adapt(_adaptors(adapted, (1, 2))).state_dict()
    assert {name for name in state if not name.startswith("network.")} == {
        "adaptors.1.weight", "adaptors.1.bias", "adaptors.2.weight",
    }  # fmt: skip
    other = Backbone("test_resnet", layers=(1, 2), is_pretrained=False)
    other.extract(images)
    other.load_state_dict(state)
    for loaded in (other, copy.deepcopy(adapted)):
        maps = loaded.extract(images)
        assert loaded.channels == (5, 5)
        assert all(torch.equal(of, maps[layer]) for layer, of in adapted.extract(images).items())
    other.load_state_dict(tiny.select((1, 2)).state_dict())
    assert not other.adaptors and other.channels == tiny.channels[:2]
    with pytest.raises(ValueError, match=r"^adaptors of test_resnet must be for its layers, \[1, 3\], got 2\.$"):
        tiny.select((1, 3)).load_state_dict(state)


def test_adaptors_are_trained_with_the_rest(tiny: Backbone, images: Tensor) -> None:
    adapted = tiny.select((2,))
    adapted.adapt(_adaptors(adapted, (2,)))
    adapted(images)[0].sum().backward()
    weight = dict(adapted.named_parameters())["adaptors.2.weight"]
    assert weight.grad is not None and weight.grad.any()


def test_adaptors_that_do_not_fit_are_refused(tiny: Backbone) -> None:
    sentence = r"^The adaptor of layer 1 of test_resnet must take single cells of 32 channels, got 3 x 3 cells of 32\.$"
    with pytest.raises(ValueError, match=sentence):
        tiny.select((1,)).adapt({1: nn.Conv2d(32, 4, 3)})
    with pytest.raises(ValueError, match=r"of 32 channels, got 1 x 1 cells of 7\.$"):
        tiny.select((1,)).adapt({1: nn.Conv2d(7, 4, 1)})


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "efficientnet_lite0"])
def test_some_layers_of_a_backbone_are_those_of_the_whole(name: str) -> None:
    torch.manual_seed(4)
    whole = Backbone(name, layers=all_layers(name), is_pretrained=False)
    whole.adapt(_adaptors(whole, (1, 3)))
    images = torch.rand(2, 3, 64, 64)
    maps = whole.extract(images)
    some = whole.select((1, 2))
    assert (some.layers, list(some.adaptors)) == ((1, 2), ["1"])
    assert all(torch.allclose(of, maps[layer], atol=1e-6) for layer, of in some.extract(images).items())
    with torch.no_grad():
        for parameter in some.parameters():
            parameter.zero_()  # they share nothing
    assert all(torch.equal(of, maps[layer]) for layer, of in whole.extract(images).items())


def test_layers_that_a_backbone_lacks_cannot_be_chosen(tiny: Backbone) -> None:
    some = tiny.select((1, 2))
    with pytest.raises(ValueError, match=r"^layers of this test_resnet must be among \[1, 2\], got \[2, 3\]\.$"):
        some.select((2, 3))
    with pytest.raises(ValueError, match=r"^layers of test_resnet must be in 1 to 4, got \[5\]\.$"):
        some.select((5,))


def test_every_layer_is_known_and_asking_draws_nothing() -> None:
    state = torch.random.get_rng_state()
    kind_of.cache_clear()
    assert all_layers("efficientnet_lite0") == all_layers("resnet10t") == (1, 2, 3, 4)
    assert all_layers("test_vit") == (1, 2, 3, 4, 5, 6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert is_network("efficientnet_lite0") and is_network("resnet18") and not is_network("runs/resnet18")


def test_strides_grow(tiny: Backbone) -> None:
    assert all(fine < coarse for fine, coarse in pairwise(tiny.strides))
