from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from inlier.features.backbone import Backbone
from inlier.finetuning.parameters import LayerParameters, layer_parameters, layer_rates, trained_layers

NETWORKS = {
    "efficientnet_lite0": (1, 2, 3, 4),
    "resnet18": (2, 3),
    "test_resnet": (1, 2, 3, 4),
    "test_vit": (1, 2),
    "swin_tiny_patch4_window7_224": (1, 2),  # which takes one size only, and keeps tables as buffers
}


@pytest.fixture(scope="module", params=NETWORKS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return Backbone(request.param, layers=NETWORKS[request.param], is_pretrained=False)


def _tiny(frozen_batch_norm: bool = True) -> tuple[Backbone, dict[str, LayerParameters]]:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", layers=(1, 2, 3, 4), is_pretrained=False)
    return backbone, layer_parameters(backbone, frozen_batch_norm=frozen_batch_norm)


def _names(backbone: Backbone, group: LayerParameters) -> set[str]:
    members = {id(parameter) for parameter in group.parameters()}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) in members}


def test_every_parameter_buffer_and_module_is_in_one_group(backbone: Backbone) -> None:
    groups = layer_parameters(backbone)
    assert list(groups) == [f"layer{layer}" for layer in backbone.layers]
    assert all(isinstance(group, nn.Module) for group in groups.values())
    parameters = [id(parameter) for group in groups.values() for parameter in group.parameters()]
    assert sorted(parameters) == sorted(map(id, backbone.parameters()))
    buffers = [id(buffer) for group in groups.values() for buffer in group.buffers()]
    assert sorted(buffers) == sorted(map(id, backbone.buffers()))
    members = [id(module) for group in groups.values() for module in group._members]
    assert sorted(members) == sorted(map(id, backbone.modules()))
    assert all(group.state_dict() for group in groups.values())


def test_a_group_is_what_its_map_needs_and_no_finer_one_does(backbone: Backbone) -> None:
    """By changing parameters and looking at the maps, where ``layer_parameters`` looks at gradients."""
    size = backbone.network.pretrained_cfg["input_size"][-1] if "swin" in backbone.name else 64
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = [features.clone() for features in backbone(images)]
        for place, group in enumerate(layer_parameters(backbone).values()):
            kept = [parameter.clone() for parameter in group.parameters()]
            for parameter in group.parameters():
                parameter += 0.1
            after = backbone(images)
            assert all(torch.equal(one, two) for one, two in zip(before[:place], after[:place], strict=True))
            assert not torch.equal(before[place], after[place])
            for parameter, value in zip(group.parameters(), kept, strict=True):
                parameter.copy_(value)


def test_layers_of_a_resnet_are_its_stages_and_the_stem_is_of_the_first() -> None:
    backbone = Backbone("resnet18", layers=(1, 2, 3, 4), is_pretrained=False)
    groups = layer_parameters(backbone)
    for layer in (2, 3, 4):
        assert _names(backbone, groups[f"layer{layer}"]) == {
            name for name, _ in backbone.named_parameters() if f".layer{layer}." in name
        }
    assert "network.conv1.weight" in _names(backbone, groups["layer1"])
    coarse = Backbone("resnet18", layers=(3,), is_pretrained=False)
    assert _names(coarse, layer_parameters(coarse)["layer3"]) == {name for name, _ in coarse.named_parameters()}


def test_blocks_of_a_transformer_belong_to_their_layer_and_the_table_of_places_to_the_first() -> None:
    backbone = Backbone("test_vit", layers=(1, 2), is_pretrained=False)
    groups = layer_parameters(backbone)
    assert any("pos_embed" in name for name in _names(backbone, groups["layer1"]))
    assert all("blocks.1" in name or "blocks_1" in name for name in _names(backbone, groups["layer2"]))


def test_dividing_leaves_the_backbone_as_it_is() -> None:
    backbone = Backbone("test_resnet", layers=(1, 2), is_pretrained=False)
    first = next(backbone.parameters()).requires_grad_(False)
    backbone.train()
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with torch.no_grad():
        layer_parameters(backbone)
    assert not first.requires_grad and [*backbone.parameters()][1].requires_grad
    assert all(module.training for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.state_dict().items())


def test_a_groups_state_sets_the_backbones() -> None:
    backbone, groups = _tiny()
    other, others = _tiny()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
        for buffer in other.buffers():
            buffer += 2
    for name, group in groups.items():
        group.load_state_dict(others[name].state_dict())
    assert all(map(torch.equal, backbone.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_normalisation_follows_the_mode_only_where_it_is_not_frozen(frozen: bool) -> None:
    backbone, groups = _tiny(frozen_batch_norm=frozen)
    statistics = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    for group in groups.values():
        group.train()
        assert group.uses_batch_statistics is not frozen
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(norm.training is not frozen for norm in norms)
    assert all(module.training for module in backbone.modules() if not isinstance(module, _BatchNorm))
    backbone(torch.randn(2, 3, 32, 32))
    same = [torch.equal(statistics[name], buffer) for name, buffer in backbone.named_buffers()]
    assert all(same) if frozen else not any(same)
    for group in groups.values():
        group.eval()
    assert not any(module.training for module in backbone.modules())


def test_a_network_without_batch_normalisation_needs_no_whole_batch() -> None:
    backbone = Backbone("test_vit", layers=(1, 2), is_pretrained=False)
    groups = layer_parameters(backbone, frozen_batch_norm=False)
    assert not any(group.uses_batch_statistics for group in groups.values())


def test_rates_fall_towards_finer_layers() -> None:
    def rates(layer_decay: float, **named: float) -> dict[str, float]:
        return layer_rates(["layer2", "layer3", "layer4"], learning_rate=0.4, layer_decay=layer_decay, named=named)

    assert rates(0.5) == {"layer2": 0.1, "layer3": 0.2, "layer4": 0.4}
    assert rates(1.0) == {"layer2": 0.4, "layer3": 0.4, "layer4": 0.4}
    assert rates(0.0) == {"layer2": 0.0, "layer3": 0.0, "layer4": 0.4}
    assert rates(0.5, layer2=0.7, layer4=0.0) == {"layer2": 0.7, "layer3": 0.2, "layer4": 0.0}


def test_rates_of_no_layer_and_layers_without_rates_are_refused() -> None:
    for named in ({"layer1": 0.1}, {"layer2": -0.1}):
        sentence = (
            r"^learning_rates of layers must be numbers >= 0 of some of layer2, layer3, got \{'layer\d': -?0\.1\}\.$"
        )
        with pytest.raises(ValueError, match=sentence):
            layer_rates(["layer2", "layer3"], learning_rate=0.4, layer_decay=0.5, named=named)
    nothing = r"^learning_rates of layers must be above 0 for one of them at least, got 0 for all\.$"
    with pytest.raises(ValueError, match=nothing):
        layer_rates(["layer2"], learning_rate=0.0, layer_decay=0.5, named={})


def test_a_layer_without_a_rate_is_frozen_and_left_out() -> None:
    backbone, groups = _tiny(frozen_batch_norm=False)
    rates = {"layer1": 0.0, "layer2": 0.1, "layer3": 0.0, "layer4": 0.2}
    trained = trained_layers(groups, rates)
    assert list(trained) == ["layer2", "layer4"]
    for name, group in groups.items():
        assert all(parameter.requires_grad is (rates[name] > 0) for parameter in group.parameters())
    for group in trained.values():
        group.train()
    statistics: list[Tensor] = [buffer.clone() for buffer in groups["layer1"].buffers()]
    backbone(torch.randn(2, 3, 32, 32))
    assert all(map(torch.equal, statistics, groups["layer1"].buffers()))
