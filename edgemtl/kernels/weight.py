"""Methods in weight space: the kernel of a layer is composed of factors, once a step, and used by one layer.

``torch.nn.utils.parametrize`` carries it: ``right_inverse(weight)`` gives the initial factors,
``forward(*factors)`` composes the kernel, and within ``composed()`` each kernel is composed once per step.
Deployment needs only the composed kernels, so collapsing is reading them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgemtl.core.plan import Group
from edgemtl.kernels.base import KernelMethod, UnsupportedError

composed = parametrize.cached  # within it, every kernel is composed once and is one tensor for all tasks

REFERENCE_SIZE = 9  # the size of a square factor that takes the method's full rate: that of a 3x3 kernel


class Kernel(nn.Module, ABC):
    """The parametrization of one weight.

    ``owners`` has an entry for each factor, in the order of ``right_inverse``: the task whose own factor it
    is, or None for a factor of no single task. Where tasks own factors, groups that fork share the others,
    each as one Parameter; where none does, they share nothing, or they could never come to differ.
    ``rates`` are the learning rates that the factors' sizes ask for, relative to that of a plain kernel.
    ``residual``: whether the first factor is a kernel itself, to which the others add.
    """

    owners: tuple[str | None, ...]
    rates: tuple[float, ...]
    residual: bool = False
    lr_scale: float = 1.0
    weight_decay: float | None = None

    @abstractmethod
    def forward(self, *factors: Tensor) -> Tensor:
        """Compose the kernel, of the shape of the layer's weight, and contiguous: strides of another memory
        format would carry over to all that follows the layer.
        """

    @abstractmethod
    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors that compose to ``weight``."""


class WeightMethod(KernelMethod, frozen=True, kw_only=True):
    """The base of the methods in weight space.

    ``lr_scale``: the learning rate of the factors relative to the optimizer's. ``weight_decay``: theirs. By
    default it is that of ``training.factor_optimizer``, and without one 0, since decaying factors is not
    decaying the kernel that they compose (Arora et al. 2018); a factor that is a kernel itself then
    decays as plain ones do.
    ``rates``: whether each factor's rate also follows its size, as its ``Kernel`` says, or all are equal.
    """

    lr_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    rates: Literal["size", "equal"] = "size"

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
            if self.rates == "equal":
                kernel.rates = (1.0,) * len(kernel.owners)
            parametrize.register_parametrization(layer, "weight", kernel)
            first = first or layer
            _share(_composition(first), _composition(layer))


class Shape(NamedTuple):
    """The sizes of a kernel: [groups x outputs, inputs, height, width]; a linear layer has 1x1 positions."""

    groups: int
    outputs: int
    inputs: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        """The spatial positions of the kernel."""
        return self.height * self.width


def shape_of(layer: nn.Module) -> Shape:
    """The sizes of a layer's kernel.

    Raises:
        UnsupportedError: it is neither a Conv2d (of any stride, padding, dilation, groups) nor a Linear.
    """
    if isinstance(layer, nn.Conv2d):
        height, width = layer.weight.shape[2:]
        inputs = layer.in_channels // layer.groups
        return Shape(layer.groups, layer.out_channels // layer.groups, inputs, height, width)
    if isinstance(layer, nn.Linear):
        return Shape(1, layer.out_features, layer.in_features, 1, 1)
    raise UnsupportedError(f"{type(layer).__name__} is neither Conv2d nor Linear")


class Factor(NamedTuple):
    """A trained factor, and the task that owns it (None: no single task does).

    ``lr_scale`` is its learning rate relative to the optimizer's, ``weight_decay`` that of the method, if it
    names one. ``kernel``: whether it is a kernel itself.
    """

    parameter: nn.Parameter
    owner: str | None
    lr_scale: float = 1.0
    weight_decay: float | None = None
    kernel: bool = False


def rate_of(size: int) -> float:
    """The learning rate of a square factor near the identity, relative to that of a kernel.

    Adam moves every entry by about the rate, so a factor of ``size`` rows moves by ``size`` times the rate in
    spectral norm: it must fall as the size grows.
    """
    return min(1.0, REFERENCE_SIZE / size)


def parametrized(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer of a model whose weight a ``Kernel`` composes, with its path."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight") and isinstance(_composition(module)[0], Kernel):
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
            composition.get_parameter(f"original{index}"),
            owner,
            kernel.lr_scale * rate,
            kernel.weight_decay,
            kernel.residual and index == 0,
        )
        for index, (owner, rate) in enumerate(zip(kernel.owners, kernel.rates, strict=True))
    ]


def _share(source: parametrize.ParametrizationList, copy: parametrize.ParametrizationList) -> None:
    """Give a copy's composition the factors of another one that belong to no task, if any belong to one."""
    found, kept = _factors(source), _factors(copy)
    if all(factor.owner is None for factor in kept):
        return
    shared = [factor.parameter for factor in found if factor.owner is None]
    places = [index for index, factor in enumerate(kept) if factor.owner is None]
    for index, parameter in zip(places, shared, strict=True):
        copy.register_parameter(f"original{index}", parameter)
