"""Kernel methods: how a convolution's kernel comes about while training. One file a method; to add one, write
its file and name it in ``KernelSpec``."""

from edgemtl.kernels.base import KernelMethod, overparameterize
from edgemtl.kernels.factorized import Factorized
from edgemtl.kernels.plain import Plain
from edgemtl.kernels.state import composed_state
from edgemtl.kernels.weight import Factor, Kernel, composed, factors, parametrized, weight_of

KernelSpec = Plain | Factorized

__all__ = [
    "Factor",
    "Factorized",
    "Kernel",
    "KernelMethod",
    "KernelSpec",
    "Plain",
    "composed",
    "composed_state",
    "factors",
    "overparameterize",
    "parametrized",
    "weight_of",
]
