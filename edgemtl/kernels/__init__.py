"""Kernel methods: how a convolution's kernel comes about while training. One file a method; to add one, write
its file and name it in ``KernelSpec``."""

from edgemtl.kernels.base import (
    Factor,
    Kernel,
    KernelMethod,
    composed,
    composed_state,
    factors,
    overparameterize,
    parametrized,
    weight_of,
)
from edgemtl.kernels.factorized import Factorized
from edgemtl.kernels.plain import Plain

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
