"""Kinds of bundles, for the tests of what all of them must do."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edgemtl.backbones import Backbone, ResNet, SegNet
from edgemtl.collapse import CollapsedModel, collapse
from edgemtl.core.bundle import Manifest
from edgemtl.export import Export, Lowering, Material, write_bundle
from tests.export.networks import forked

BRANCHES = [["segmentation"], ["depth", "normals"]]
NETWORKS: dict[str, tuple[Backbone, str, tuple[int, int]]] = {  # with its fork and the size of its image
    "segnet": (SegNet(widths=(4, 6), convs=(1, 1)), "decoder2", (16, 24)),
    "resnet18": (ResNet(depth=18, width=4), "pyramid2", (32, 48)),
}


class Kind(NamedTuple):
    """What makes a bundle; ``batch`` is free or static."""

    network: str
    precision: str
    batch: tuple[int, int]
    keep: dict[str, str] = {}
    dla: bool = False


FREE, STATIC = (1, 4), (2, 2)
KINDS = {
    "fp32": Kind("segnet", "fp32", FREE),
    "fp16": Kind("segnet", "fp16", FREE),
    "int8": Kind("segnet", "int8", FREE),
    "mixed": Kind("segnet", "int8", FREE, {"depth": "fp16", "trunk": "fp32"}),
    "resnet18-fp16": Kind("resnet18", "fp16", STATIC, {"normals": "fp32"}),
    "resnet18-int8": Kind("resnet18", "int8", STATIC),
}
DLA = {"fp16": Kind("resnet18", "fp16", STATIC, {"depth": "fp32"}, dla=True)}
DLA["int8"] = DLA["fp16"]._replace(precision="int8", keep={"depth": "fp16"})


@cache
def collapsed(name: str) -> CollapsedModel:
    """Padded with zeros: a reflecting pad cannot be written for opset 17, all that JetPack 5 and 6.0 read."""
    torch.manual_seed(0)
    backbone, fork, size = NETWORKS[name]
    model = forked(backbone, {fork: BRANCHES})
    model(torch.rand(2, 3, *size))
    return collapse(model, size)


def export(kind: Kind, folder: Path, **where: str) -> Manifest:
    size = NETWORKS[kind.network][2]
    return write_bundle(
        collapsed(kind.network),
        folder,
        name="net",
        images=torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)),
        spec=Export(
            **where,
            precision=kind.precision,
            batch=kind.batch,
            dla=kind.dla,
            lowering=Lowering(keep=kind.keep),
        ),
        material=Material(np.random.default_rng(1).random((4, 3, *size), np.float32)),
    )
