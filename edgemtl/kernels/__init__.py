"""Kernel methods: how a convolution's kernel comes about while training. One file a method; to add one, write
its file and name it in ``KernelSpec``."""

from edgemtl.kernels.acnet import ACNet
from edgemtl.kernels.base import KernelMethod, layers_of, overparameterize
from edgemtl.kernels.dbb import DBB
from edgemtl.kernels.doconv import DOConv
from edgemtl.kernels.expandnet import ExpandNet
from edgemtl.kernels.factorized import Factorized
from edgemtl.kernels.mobileone import MobileOne
from edgemtl.kernels.plain import Plain
from edgemtl.kernels.repvgg import RepVGG
from edgemtl.kernels.residual import Residual
from edgemtl.kernels.state import composed_state
from edgemtl.kernels.weight import Factor, Kernel, composed, factors, parametrized, weight_of

KernelSpec = Plain | Factorized | DOConv | ExpandNet | Residual | RepVGG | ACNet | DBB | MobileOne

__all__ = [
    "DBB",
    "ACNet",
    "DOConv",
    "ExpandNet",
    "Factor",
    "Factorized",
    "Kernel",
    "KernelMethod",
    "KernelSpec",
    "MobileOne",
    "Plain",
    "RepVGG",
    "Residual",
    "composed",
    "composed_state",
    "factors",
    "layers_of",
    "overparameterize",
    "parametrized",
    "weight_of",
]
