"""Methods in weight space: the kernel of a layer is composed of factors, once a step, and used by one layer.

``torch.nn.utils.parametrize`` carries it: ``right_inverse(weight)`` gives the initial factors,
``forward(*factors)`` composes the kernel, and within ``composed()`` each kernel is composed once per step.
Deployment needs only the composed kernels, so collapsing is reading them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgemtl.core.plan import Group
from edgemtl.kernels.base import KernelMethod

composed = parametrize.cached  # within it, every kernel is composed once and is one tensor for all tasks

REFERENCE_SIZE = 9  # the size of a square factor that takes the method's full rate: that of a 3x3 kernel


class Kernel(nn.Module, ABC):
    """The parametrization of one weight.

    ``owners`` has an entry for each factor, in the order of ``right_inverse``: the task whose own factor it
    is, or None for a factor that all tasks share. Groups that fork share the latter as one Parameter.
    ``rates`` are the learning rates of the factors relative to each other; see ``rate_of``.
    """

    owners: tuple[str | None, ...]
    lr_scale: float = 1.0
    weight_decay: float = 0.0

    @property
    def rates(self) -> tuple[float, ...]:
        """All factors move at the method's rate, unless a method knows better."""
        return (1.0,) * len(self.owners)

    @abstractmethod
    def forward(self, *factors: Tensor) -> Tensor:
        """Compose the kernel; the shape of the layer's weight."""

    @abstractmethod
    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors that compose to ``weight``."""


class WeightMethod(KernelMethod, frozen=True, kw_only=True):
    """The base of the methods in weight space.

    ``lr_scale``: the learning rate of the factors relative to the optimizer's. ``weight_decay``: theirs,
    0 by default, since decaying factors is not decaying the kernel that they compose (Arora et al. 2018).
    """

    lr_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """The parametrization of a layer's weight for a group of tasks.

        Raises:
            UnsupportedError: this method cannot do this layer.
        """
        raise NotImplementedError

    def attach(self, path: str, copies: Mapping[Group, nn.Module]) -> None:
        """Parametrize the layer's weight in every copy. See ``KernelMethod.attach``."""
        first: nn.Module | None = None
        for group, copy in copies.items():
            layer = copy.get_submodule(path)
            kernel = self.kernel(layer, group)
            kernel.lr_scale, kernel.weight_decay = self.lr_scale, self.weight_decay
            parametrize.register_parametrization(layer, "weight", kernel)
            first = first or layer
            _share(_composition(first), _composition(layer))


class Factor(NamedTuple):
    """A trained factor, and the task that owns it (None: shared by all). ``lr_scale`` is its learning rate
    relative to the optimizer's.
    """

    parameter: nn.Parameter
    owner: str | None
    lr_scale: float
    weight_decay: float


def rate_of(size: int) -> float:
    """The learning rate of a square factor near the identity, relative to that of a kernel.

    Adam moves every entry by about the rate, so a factor of ``size`` rows moves by ``size`` times the rate in
    spectral norm: it must fall as the size grows.
    """
    return min(1.0, REFERENCE_SIZE / size)


def parametrized(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer of a model whose weight is composed, with its path."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            yield path, module


def factors(layer: nn.Module) -> list[Factor]:
    """The factors of a parametrized layer, in the order in which its kernel composes them."""
    return _factors(_composition(layer))


def weight_of(layer: nn.Module) -> Tensor:
    """The kernel of a layer, composed from its factors where it has any."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _composition(layer: nn.Module) -> parametrize.ParametrizationList:
    found = layer.get_submodule("parametrizations.weight")
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _factors(composition: parametrize.ParametrizationList) -> list[Factor]:
    kernel = composition[0]
    assert isinstance(kernel, Kernel)
    return [
        Factor(
            composition.get_parameter(f"original{index}"), owner, kernel.lr_scale * rate, kernel.weight_decay
        )
        for index, (owner, rate) in enumerate(zip(kernel.owners, kernel.rates, strict=True))
    ]


def _share(source: parametrize.ParametrizationList, copy: parametrize.ParametrizationList) -> None:
    """Give a copy's composition the shared factors of another one."""
    shared = [factor.parameter for factor in _factors(source) if factor.owner is None]
    own = [index for index, factor in enumerate(_factors(copy)) if factor.owner is None]
    for index, parameter in zip(own, shared, strict=True):
        copy.register_parameter(f"original{index}", parameter)
