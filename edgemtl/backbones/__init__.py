"""Backbones: named stages with channels and reductions. One file a family; to add one, write its file and
name it in ``BackboneSpec``."""

from edgemtl.backbones.base import Backbone, Stage
from edgemtl.backbones.module import Module, chain
from edgemtl.backbones.resnet import ResNet
from edgemtl.backbones.segnet import SegNet
from edgemtl.backbones.timm import Timm
from edgemtl.backbones.weights import Loaded, load_weights

BackboneSpec = SegNet | ResNet | Timm | Module

__all__ = [
    "Backbone",
    "BackboneSpec",
    "Loaded",
    "Module",
    "ResNet",
    "SegNet",
    "Stage",
    "Timm",
    "chain",
    "load_weights",
]
