from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from inlier.data.manifest import Manifest
from inlier.errors import ConfigError, WeightsError
from inlier.features.backbone import Backbone, all_layers
from inlier.features.networks import for_size, kind_of, layers_as_deep
from inlier.features.runtime import TOLERANCES, has_openvino
from inlier.workflow import fit


class Encoder(NamedTuple):
    """A family of encoders, made small: with four blocks, and photos of 4 x 4 patches."""

    name: str
    patch: int
    num_prefix: int
    small: dict[str, Any]


SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2}
ENCODERS = {
    "dinov2": Encoder("vit_small_patch14_dinov2", 14, 1, {"img_size": 56}),
    "dinov2-registers": Encoder("vit_small_patch14_reg4_dinov2", 14, 5, {"img_size": 56}),
    "dinov3": Encoder("vit_small_patch16_dinov3", 16, 5, {"img_size": 64}),
    "mae": Encoder("vit_base_patch16_224.mae", 16, 1, {"img_size": 64}),
    "clip": Encoder("vit_base_patch16_clip_224", 16, 1, {"img_size": 64}),
    "sam": Encoder("samvit_base_patch16", 16, 0, {"img_size": 64, "window_size": 3, "global_attn_indexes": (1, 3)}),
    "eva": Encoder("eva02_tiny_patch14_224", 14, 1, {"img_size": 56}),
}

every_encoder = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
create = timm.create_model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """timm builds these encoders small."""
    sizes = {encoder.name: SMALL | encoder.small for encoder in ENCODERS.values()}

    def create_small(name: str, **keywords: Any) -> Any:
        return create(name, **sizes.get(name, {}), **keywords)

    monkeypatch.setattr(timm, "create_model", create_small)
    kind_of.cache_clear()
    yield
    kind_of.cache_clear()


def a_whole(encoder: Encoder) -> Any:
    """The network as timm has it, with random weights that leave no part without effect."""
    torch.manual_seed(0)
    whole = timm.create_model(encoder.name).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return whole


def the_backbone(
    encoder: Encoder, whole: Any, folder: Path, *, layers: tuple[int, ...] = (2, 4), **options: Any
) -> Backbone:
    save_file(whole.state_dict(), folder / "whole.safetensors")
    return Backbone(encoder.name, layers=layers, weights=folder / "whole.safetensors", **options)


def photos(encoder: Encoder, rows: int = 4, columns: int = 4, number: int = 2) -> Tensor:
    """Photos of so many patches."""
    size = number, 3, rows * encoder.patch, columns * encoder.patch
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@every_encoder
@torch.inference_mode()
def test_at_its_own_size_the_last_layer_is_bit_by_bit_what_the_network_hands_out(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole, images = a_whole(encoder), photos(encoder)
    backbone = the_backbone(encoder, whole, tmp_path)
    if encoder.num_prefix:
        tokens = whole.forward_features(images)[:, encoder.num_prefix :]
        wanted = tokens.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    else:  # without the neck
        wanted = whole.forward_intermediates(images, indices=[3], intermediates_only=True)[0]
    assert torch.equal(backbone(images)[1], wanted)
    assert torch.allclose(backbone.extract(images)[4], wanted, atol=1e-5)
    assert (backbone.strides, backbone.channels, backbone.is_plain) == ((encoder.patch,) * 2, (32, 32), True)
    assert all_layers(encoder.name) == (1, 2, 3, 4)


@every_encoder
@torch.inference_mode()
def test_a_layer_is_its_block_through_the_last_normalisation_and_no_token_without_a_place(
    encoder: Encoder, tmp_path: Path
) -> None:
    backbone = the_backbone(encoder, a_whole(encoder), tmp_path, layers=(1, 3))
    inner, blocks = backbone.network.model, list[Tensor]()
    for place in (0, 2):
        inner.blocks[place].register_forward_hook(lambda *call: blocks.append(call[-1]))
    maps = backbone(photos(encoder, rows=3, columns=5))
    assert len(inner.blocks) == 3  # no more is computed than is handed out
    for features, tokens in zip(maps, blocks, strict=True):
        assert features.shape == (2, 32, 3, 5)
        wanted = inner.norm(tokens)[:, encoder.num_prefix :] if encoder.num_prefix else tokens.flatten(1, 2)
        assert torch.equal(features.flatten(2).transpose(1, 2), wanted)
    assert bool(encoder.num_prefix) or not list(inner.neck.parameters())


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers", "mae", "clip"])
@torch.inference_mode()
def test_places_are_interpolated_for_photos_of_another_size(kind: str, tmp_path: Path) -> None:
    encoder = ENCODERS[kind]
    whole = a_whole(encoder)
    backbone = the_backbone(encoder, whole, tmp_path)
    seen: list[Tensor] = []
    backbone.network.model.norm_pre.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = photos(encoder, rows=6, columns=3)
    backbone(images)
    places = whole.pos_embed[:, whole.pos_embed.shape[1] - 16 :].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    enlarged = F.interpolate(places, size=(6, 3), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    patches = whole.patch_embed.proj(images).flatten(2).transpose(1, 2)
    assert torch.allclose(seen[0][:, encoder.num_prefix :], patches + enlarged, atol=1e-5)


@every_encoder
def test_sizes_that_are_no_whole_number_of_patches_are_refused_with_the_nearest_that_are(encoder: Encoder) -> None:
    backbone = Backbone(encoder.name, layers=(1,), is_pretrained=False)
    patch = encoder.patch
    for size in (patch, 5 * patch, 37 * patch):
        backbone.check_image_size(size)
    sentence = f"^size of a photo for {encoder.name} must be a multiple of its patches of {patch} pixels, got "
    for size, take in ((5 * patch + 1, f"{5 * patch} or {6 * patch}"), (patch - 1, f"{patch}")):
        with pytest.raises(ValueError, match=rf"{sentence}{size}; take {take}\.$"):
            backbone.check_image_size(size)


@every_encoder
@torch.inference_mode()
def test_large_photos_pass_one_by_one_and_come_out_the_same(encoder: Encoder, tmp_path: Path) -> None:
    backbone = the_backbone(encoder, a_whole(encoder), tmp_path)
    sizes: list[int] = []
    backbone.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    patch = encoder.patch
    assert [backbone.num_together(rows * patch, rows * patch) for rows in (4, 16, 32, 37, 64)] == [8, 8, 2, 1, 1]
    assert backbone.num_together(32 * patch - 1, 32 * patch) == 2
    images = photos(encoder, rows=48, columns=48, number=2)
    maps = backbone.extract(images)
    assert sizes == [1, 1]
    for layer, features in zip(backbone.layers, backbone(images), strict=True):
        assert (maps[layer] - features).norm() <= 1e-4 * features.norm()


def test_networks_with_stages_pass_as_before() -> None:
    backbone = Backbone("test_resnet", layers=(1,), is_pretrained=False)
    assert not backbone.is_plain
    assert backbone.num_together(64, 64) == backbone.num_together(1024, 1024) == 8


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
@every_encoder
def test_openvino_takes_them_at_any_size(encoder: Encoder, tmp_path: Path) -> None:
    backbone = the_backbone(encoder, a_whole(encoder), tmp_path, runtime="openvino")
    for rows in (4, 5):
        images = photos(encoder, rows=rows, columns=rows)
        maps = backbone.extract(images)
        assert backbone.runs_in == "openvino"
        with torch.inference_mode():
            for layer, features in zip(backbone.layers, backbone(images), strict=True):
                assert (maps[layer] - features).norm() <= TOLERANCES["float32"] * features.norm()


@pytest.mark.parametrize("kind", ["dinov2-registers", "sam"])
def test_half_precision_is_close(kind: str, tmp_path: Path) -> None:
    encoder = ENCODERS[kind]
    backbone = the_backbone(encoder, a_whole(encoder), tmp_path, precision="bfloat16")
    images = photos(encoder)
    for features, exact in zip(backbone.extract(images).values(), backbone(images), strict=True):
        assert features.dtype == torch.float32
        assert 0 < (features - exact).norm() <= TOLERANCES["bfloat16"] * exact.norm()


def test_photos_are_normalised_as_each_network_was_trained() -> None:
    means = {kind: Backbone(of.name, layers=(1,), is_pretrained=False).mean for kind, of in ENCODERS.items()}
    imagenet, openai = (0.485, 0.456, 0.406), (0.48145466, 0.4578275, 0.40821073)
    assert means["dinov2"] == means["dinov3"] == means["mae"] == means["sam"] == imagenet
    assert means["clip"] == means["eva"] == openai


def _of_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of DINOv2's authors, whose class token has a place, zero here."""
    places = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], dim=1)
    renamed = {key: tensor for key, tensor in state.items() if key not in ("reg_token", "pos_embed")}
    return renamed | {"register_tokens": state["reg_token"], "pos_embed": places, "mask_token": torch.zeros(1, 32)}


def _of_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    biases = {f"blocks.{place}.attn.qkv.bias": torch.zeros(96) for place in range(4)}
    return renamed | biases | {"mask_token": torch.zeros(1, 32), "rope_embed.periods": torch.ones(4)}


def _of_sam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {f"image_encoder.{key.replace('mlp.fc', 'mlp.lin')}": tensor for key, tensor in state.items()}
    return renamed | {"mask_decoder.iou_token.weight": torch.ones(1, 256)}


def _of_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    swaps = (
        ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."), ("norm1", "ln_1"),
        ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    )  # fmt: skip
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in swaps:
            key = key.replace(ours, theirs)
        renamed[f"visual.{'ln_post' + key[4:] if key.startswith('norm.') else key}"] = tensor
    renamed["visual.class_embedding"] = renamed.pop("visual.cls_token")[0, 0]
    renamed["visual.positional_embedding"] = renamed.pop("visual.pos_embed")[0]
    return {key: of for key, of in renamed.items() if ".head." not in key} | {"logit_scale": torch.ones(())}


@pytest.mark.parametrize(
    ("kind", "as_published"),
    [("dinov2-registers", _of_dinov2), ("dinov3", _of_dinov3), ("sam", _of_sam), ("clip", _of_open_clip)],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@torch.inference_mode()
def test_weights_by_the_names_of_their_authors_are_understood(
    kind: str,
    as_published: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = ENCODERS[kind]
    whole = a_whole(encoder)
    published = {key: tensor.contiguous() for key, tensor in as_published(whole.state_dict()).items()}
    path = tmp_path / f"published{suffix}"
    if suffix == ".pth":
        torch.save({"model": published}, path)
    else:
        save_file(published, path)
    backbone = Backbone(encoder.name, layers=(1, 4), weights=path)
    wanted = the_backbone(encoder, whole, tmp_path, layers=(1, 4))
    images = photos(encoder)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(backbone(images), wanted(images), strict=True))
    assert capsys.readouterr().out == ""


@torch.inference_mode()
def test_weights_of_another_size_of_photos_have_their_places_interpolated(tmp_path: Path) -> None:
    encoder = ENCODERS["mae"]
    state = a_whole(encoder).state_dict()
    flat = torch.ones(1, 1 + 6 * 6, 32)  # interpolated, a constant stays what it is
    save_file(state | {"pos_embed": flat}, tmp_path / "larger.safetensors")
    backbone = Backbone(encoder.name, layers=(4,), weights=tmp_path / "larger.safetensors")
    places = backbone.network.model.pos_embed
    assert places.shape == (1, 17, 32) and torch.allclose(places, torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "sam"])
def test_weights_of_another_family_are_refused(kind: str, tmp_path: Path) -> None:
    save_file(a_whole(ENCODERS["clip"]).state_dict(), tmp_path / "clip.safetensors")
    with pytest.raises(WeightsError, match=r"clip\.safetensors are those of another network: of \d+ tensors"):
        Backbone(ENCODERS[kind].name, layers=(1, 4), weights=tmp_path / "clip.safetensors")


@every_encoder
@torch.inference_mode()
def test_a_network_for_one_size_gives_the_same_maps_and_shares_all_but_its_places(
    encoder: Encoder, tmp_path: Path
) -> None:
    network = the_backbone(encoder, a_whole(encoder), tmp_path).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = photos(encoder, rows=5, columns=5)
    wanted = network(images)
    sized: Any = for_size(network, (5 * encoder.patch, 5 * encoder.patch))
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(sized(images), wanted, strict=True))
    apart = {
        name
        for name, tensor in sized.state_dict().items()
        if tensor.data_ptr() != network.state_dict()[name].data_ptr()
    }
    assert apart <= {"model.pos_embed"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network(images), wanted, strict=True))


def test_a_large_encoder_is_not_held_twice(tmp_path: Path) -> None:
    backbone = the_backbone(ENCODERS["dinov2"], a_whole(ENCODERS["dinov2"]), tmp_path)
    for tensor in backbone.parameters():
        tensor.requires_grad_(True)
    images = photos(ENCODERS["dinov2"])
    before = backbone.extract(images)[4]
    assert all(tensor.requires_grad for tensor in backbone.parameters()) and not before.requires_grad
    with torch.no_grad():
        backbone.network.model.norm.weight.mul_(2)
        backbone.network.model.norm.bias.mul_(2)
    assert torch.allclose(backbone.extract(images)[4], 2 * before, atol=1e-5)  # the very tensors


def test_default_layers_lie_as_deep_as_in_a_network_with_stages() -> None:
    assert layers_as_deep("vit_small_patch16_224", (2, 3, 4)) == [6, 9, 12]
    assert layers_as_deep("vit_small_patch14_dinov2", (3, 4)) == [3, 4]
    for name in ("efficientnet_lite0", "test_resnet", "convnext_atto", "unheard_of"):
        assert layers_as_deep(name, (2, 3)) == [2, 3]


def test_a_model_is_fitted_over_local_weights(data: Manifest, tmp_path: Path) -> None:
    encoder = ENCODERS["dinov2-registers"]
    save_file(a_whole(encoder).state_dict(), tmp_path / "dino.safetensors")
    section = {"name": encoder.name, "weights": str(tmp_path / "dino.safetensors")}
    config = {"backbone": section, "fit": {"detector": "patchcore", "augment": 0}, "input": {"size": 70}}
    model, unreadable = fit(config, data)
    assert not unreadable and model.detector.layers == (2, 3)
    with pytest.raises(ConfigError, match=r"^\[input\]: size of a photo for .* got 71; take 70 or 84\.$"):
        fit(config | {"input": {"size": 71}}, data)
