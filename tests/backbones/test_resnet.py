from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from torch import nn

from edgemtl.backbones import ResNet, load_weights
from edgemtl.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from tests.backbones.published import PARAMETERS, resnet_state

DEPTHS = [18, 34, 50]


def encoder(spec: ResNet) -> dict[str, nn.Module]:
    return {s.name: s.module for s in spec.stages() if not s.name.startswith("pyramid")}


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_encoder_has_the_published_parameters(depth: int) -> None:
    count = sum(p.numel() for module in encoder(ResNet(depth=depth)).values() for p in module.parameters())
    classifier = (2048 if depth == 50 else 512) * 1000 + 1000
    assert count + classifier == PARAMETERS[depth]


@pytest.mark.parametrize("depth", DEPTHS)
def test_torchvision_s_weights_fill_the_whole_encoder(tmp_path: Path, depth: int) -> None:
    state = resnet_state(depth)
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    modules = encoder(ResNet(depth=depth))
    loaded = load_weights(modules, tmp_path / "weights.safetensors", ResNet().stage_key)
    assert loaded.unfilled == loaded.unused == ()
    for name, value in state.items():
        if not name.startswith("fc."):
            stage, _, key = name.partition(".") if name.startswith("layer") else ("stem", "", name)
            assert torch.equal(modules[stage].state_dict()[key], value), name


def test_stages_and_width() -> None:
    stages = ResNet(depth=50, width=24).stages()
    assert [(stage.name, stage.channels, stage.reduction) for stage in stages] == [
        ("stem", 64, 4),
        ("layer1", 256, 4),
        ("layer2", 512, 8),
        ("layer3", 1024, 16),
        ("layer4", 2048, 32),
        ("pyramid4", 24, 32),
        ("pyramid3", 24, 16),
        ("pyramid2", 24, 8),
        ("pyramid1", 24, 4),
    ]


def test_images_are_normalized_as_for_imagenet() -> None:
    stem = encoder(ResNet())["stem"].eval()
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        assert not stem[0](mean).any()
        torch.testing.assert_close(stem[0](mean + std), torch.ones(1, 3, 8, 8))


def test_a_stride_sits_on_the_3x3_convolution_of_a_bottleneck() -> None:
    block = encoder(ResNet(depth=50))["layer2"][0]
    assert [layer.stride for layer in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
