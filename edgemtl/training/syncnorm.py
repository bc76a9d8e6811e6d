"""Batch normalization over the global batch of several processes, on any device.

``torch.nn.SyncBatchNorm`` refuses the CPU; this one needs only a differentiable all-reduce, so gloo will do.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from edgemtl.core.errors import UsageError


def synchronize_norms(model: nn.Module) -> None:
    """Let every BatchNorm2d of a model see all processes; parameters, buffers and their names stay.

    Raises:
        UsageError: one is of another class: timm's do more than normalize, and others would see a share
            of the batch.
    """
    synchronized: dict[nn.Module, _SyncNorm2d] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.BatchNorm2d:
            if module not in synchronized:
                synchronized[module] = _SyncNorm2d(module)
            model.set_submodule(path, synchronized[module])
        elif isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            raise UsageError(
                "$.training.devices",
                expected=f"one process for a network with {type(module).__name__}",
                found=f"several, and {path} normalizes by its own share of the batch",
                fix="Train on one device, or choose a backbone with torch's own BatchNorm2d.",
            )


class _SyncNorm2d(nn.BatchNorm2d):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        value, shape = x.float(), (1, -1, 1, 1)
        count = torch.tensor(value.numel() / value.shape[1], device=x.device)
        sums = _add_up(torch.cat([value.sum((0, 2, 3)), count.view(1)]))
        mean, everywhere = sums[:-1] / sums[-1], sums[-1]
        centered = value - mean.view(shape)
        variance = _add_up(centered.square().sum((0, 2, 3))) / everywhere
        self._track(mean.detach(), (variance * everywhere / (everywhere - 1)).detach())
        normal: Tensor = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_variance, momentum)


class _Sum(torch.autograd.Function):
    """The sum over processes. Each of them uses it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _add_up(tensor: Tensor) -> Tensor:
    total = _Sum.apply(tensor)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    assert isinstance(total, Tensor)
    return total
