"""Devices, processes and precision, and what processes tell each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor

from edgemtl.core.errors import SetupError, UsageError
from edgemtl.training.spec import Training

_LOG = logging.getLogger(__name__)


def make_fabric(spec: Training) -> Fabric:
    """Processes, devices and precision as the recipe wants them; under torchrun, the processes that it
    started. Warns of a precision that would slow training down.

    Raises:
        SetupError: there is no such device.
        UsageError: the settings do not fit the device.
    """
    cuda = torch.cuda.is_available()
    if spec.accelerator == "cuda" and not cuda:
        raise SetupError(
            "$.training.accelerator", expected="a CUDA device", found="none", fix="Use accelerator=cpu."
        )
    device = "cuda" if cuda and spec.accelerator != "cpu" else "cpu"
    if device == "cpu" and spec.channels_last:
        raise UsageError(
            "$.training.channels_last",
            expected="false on a CPU",
            found="true",
            fix="The CPU backward of torch 2.13 corrupts memory in channels_last; use it on a GPU.",
        )
    if device == "cuda" and spec.devices > torch.cuda.device_count():
        raise SetupError(
            "$.training.devices",
            expected=f"at most {torch.cuda.device_count()} devices",
            found=str(spec.devices),
            fix="Lower training.devices.",
        )
    if device == "cpu" and spec.precision != "fp32" and not computes(spec.precision):
        _LOG.warning(
            "$.training.precision: this CPU has no instructions for %s, and its steps take some ten times as "
            "long as those of fp32. Use fp32 here.",
            spec.precision,
        )
    processes = spec.devices * spec.nodes
    torchrun = torch.distributed.is_torchelastic_launched()
    if torchrun and (started := int(os.environ["WORLD_SIZE"])) != processes:
        raise UsageError(
            "$.training.devices",
            expected=f"{started} in all, as many as torchrun started",
            found=f"{spec.devices} on each of {spec.nodes} machine{'s' * (spec.nodes > 1)}",
            fix="Set training.devices to torchrun's --nproc-per-node, and training.nodes to its --nnodes.",
        )
    return Fabric(
        accelerator=device,
        devices=spec.devices,
        num_nodes=spec.nodes,
        strategy=("ddp" if torchrun or spec.nodes > 1 else "ddp_spawn") if processes > 1 else "auto",
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": None}[spec.precision],
        plugins=[MixedPrecision("16-mixed", device)] if spec.precision == "fp16" else None,
    )


def computes(precision: str) -> bool:
    """Whether convolutions of ``bf16`` or ``fp16`` are fast on this CPU: oneDNN wants AVX-512 for them, and
    falls back to reference code without (a step of nyuv2_compact in bf16: 4.4 s instead of .46 with AVX2).
    """
    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")())


def add_up(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The sum of a tensor of each process."""
    if fabric.world_size == 1:
        return tensor
    # A copy: the collective writes into its argument. Fabric's own would put a barrier before each.
    total = tensor.to(fabric.device, copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


def average_gradients(fabric: Fabric, parameters: Iterable[Tensor]) -> None:
    """Give each parameter the mean of its gradients in all processes."""
    if fabric.world_size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = add_up(fabric, torch.cat([gradient.reshape(-1) for gradient in gradients])) / fabric.world_size
    means = torch.split(total, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))  # which keeps its memory layout


def gather(fabric: Fabric, items: Iterable[str]) -> list[str]:
    """The items of all processes, in the order of these."""
    if fabric.world_size == 1:
        return list(items)
    parts: list[list[str]] = [[] for _ in range(fabric.world_size)]
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def leave(fabric: Fabric) -> None:
    """End what connects the processes, when each has said all that it has to say.

    A process that exits with it open can abort: gloo's threads may still run (pytorch/pytorch#190489), and of
    the groups at exit Fabric closes only those of NCCL. Processes of torchrun stay connected, for a group
    cannot be made twice there, and they may train again.
    """
    if fabric.world_size > 1 and not dist.is_torchelastic_launched():
        fabric.barrier()
        dist.destroy_process_group()
