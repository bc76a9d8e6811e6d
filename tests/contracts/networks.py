"""Small networks with every kind of layer and border that a kernel method can meet."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from edgemtl.backbones import Stage, chain
from edgemtl.core.plan import SharingPlan
from edgemtl.kernels import KernelMethod
from edgemtl.model import MultitaskModel
from edgemtl.tasks import Depth, Normals, Segmentation

TASKS = {"segmentation": Segmentation(classes=5), "depth": Depth(), "normals": Normals()}
PLANS = {
    "trunk": {},
    "forked": {"grouped": (("depth",), ("segmentation", "normals")), "last": "each"},
    "separate": {"first": "each"},
}
SIZE = (23, 31)  # odd, so that strides and paddings meet every border


def stages() -> tuple[Stage, ...]:
    """Stride 2, groups, depthwise, dilation, even kernels, no bias, no normalization, a linear layer."""
    return chain(
        first=_block(nn.Conv2d(3, 8, 3, stride=2, padding=1)),
        grouped=_block(nn.Conv2d(8, 12, (3, 1), padding=(1, 0), groups=4, bias=False)),
        depthwise=_block(nn.Conv2d(12, 12, 3, padding=1, groups=12)),
        dilated=_block(nn.Conv2d(12, 10, 3, padding=2, dilation=2)),
        even=nn.Sequential(nn.Conv2d(10, 9, 2), nn.ReLU()),
        linear=_Pixelwise(nn.Linear(9, 7)),
        last=_block(nn.Conv2d(7, 8, 5, padding=2, padding_mode="reflect")),
    )


def network(method: KernelMethod, plan: str = "trunk", seed: int = 0) -> MultitaskModel:
    """A network in training mode whose normalizations have seen data, so that no statistic is a default."""
    torch.manual_seed(seed)
    parts = stages()
    names = tuple(stage.name for stage in parts)
    forks = {
        stage: [[task] for task in TASKS] if groups == "each" else groups
        for stage, groups in PLANS[plan].items()
    }
    model = MultitaskModel(parts, TASKS, SharingPlan.forked(tuple(TASKS), names, forks), method)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(3):
        model(images())
    return model


def images(count: int = 2) -> Tensor:
    """[count, 3, *SIZE]."""
    return torch.rand(count, 3, *SIZE)


def _block(conv: nn.Conv2d) -> nn.Sequential:
    norm, act = nn.BatchNorm2d(conv.out_channels, momentum=0.3), nn.ReLU()
    return nn.Sequential(OrderedDict(conv=conv, norm=norm, act=act))


class _Pixelwise(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the linear layer at every pixel."""
        return torch.movedim(self.linear(torch.movedim(x, 1, -1)), -1, 1)
