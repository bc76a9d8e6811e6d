"""Devices, processes and precision."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from edgemtl.core.errors import RecipeError, SetupError
from edgemtl.training.spec import Training


def make_fabric(spec: Training) -> Fabric:
    """Processes, devices and precision as the recipe wants them; under torchrun, the processes that it
    started.

    Raises:
        SetupError: there is no such device.
        RecipeError: the settings do not fit the device.
    """
    cuda = torch.cuda.is_available()
    if spec.accelerator == "cuda" and not cuda:
        raise SetupError(
            "$.training.accelerator", expected="a CUDA device", found="none", fix="Use accelerator=cpu."
        )
    device = "cuda" if cuda and spec.accelerator != "cpu" else "cpu"
    if device == "cpu" and spec.channels_last:
        raise RecipeError(
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
    several = spec.devices * spec.nodes > 1
    torchrun = torch.distributed.is_torchelastic_launched()
    return Fabric(
        accelerator=device,
        devices=spec.devices,
        num_nodes=spec.nodes,
        strategy=("ddp" if torchrun or spec.nodes > 1 else "ddp_spawn") if several else "auto",
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": None}[spec.precision],
        plugins=[MixedPrecision("16-mixed", device)] if spec.precision == "fp16" else None,
    )
