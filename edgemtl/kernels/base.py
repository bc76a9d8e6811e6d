"""What every kernel method is: a parametrization of the weight of a layer, made of factors.

``torch.nn.utils.parametrize`` carries it: ``right_inverse(weight)`` gives the initial factors,
``forward(*factors)`` composes the kernel, and within ``composed()`` each kernel is composed once per step.
Deployment needs only the composed kernels, so collapsing is reading them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgemtl.core.inspection import Skipped
from edgemtl.core.plan import Group

composed = parametrize.cached  # within it, every kernel is composed once and is one tensor for all tasks


class UnsupportedError(Exception):
    """A method cannot parametrize a layer; the text says why."""


class Kernel(nn.Module, ABC):
    """The parametrization of one weight.

    ``owners`` has an entry for each factor, in the order of ``right_inverse``: the task whose own factor it
    is, or None for a factor that all tasks share. Groups that fork share the latter as one Parameter.
    """

    owners: tuple[str | None, ...]

    @abstractmethod
    def forward(self, *factors: Tensor) -> Tensor:
        """Compose the kernel; the shape of the layer's weight."""

    @abstractmethod
    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors that compose to ``weight``."""


class KernelMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every method's spec; a member lives in a file of its own and joins ``KernelSpec``.

    ``layers``: patterns of the layers to overparameterize, matched against ``STAGE.path.in.module``.
    ``lr_scale``: the learning rate of the factors relative to the recipe's.
    """

    layers: tuple[str, ...] = ("*",)
    lr_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """The parametrization of a layer's weight for a group of tasks.

        Raises:
            UnsupportedError: this method cannot do this layer.
        """
        raise NotImplementedError


class Factor(NamedTuple):
    """A trained factor, the kernel it belongs to, and the task that owns it (None: shared by all)."""

    parameter: nn.Parameter
    owner: str | None


def overparameterize(
    method: KernelMethod, stage: str, copies: Mapping[Group, nn.Module]
) -> tuple[Skipped, ...]:
    """Parametrize, in place, the weights of a stage's copies, one copy for each group of tasks.

    The copies must be equal when they come, so that the factors that groups share fit them all. Returns the
    layers that were left plain, with the reason.
    """
    first, *others = copies
    skipped = []
    for path, layer in list(copies[first].named_modules()):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            continue  # no weight, or a vector such as the scale of a normalization
        name = f"{stage}.{path}" if path else stage
        if not any(fnmatchcase(name, pattern) for pattern in method.layers):
            skipped.append(Skipped(name, f"matches none of {', '.join(method.layers)}"))
            continue
        try:
            parametrize.register_parametrization(layer, "weight", method.kernel(layer, first))
        except UnsupportedError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        for group in others:
            other = copies[group].get_submodule(path)
            parametrize.register_parametrization(other, "weight", method.kernel(other, group))
            _share(_composition(layer), _composition(other))
    return tuple(skipped)


def parametrized(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer of a model whose weight is composed, with its path."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            yield path, module


def factors(layer: nn.Module) -> list[Factor]:
    """The factors of a parametrized layer, in the order in which its kernel composes them."""
    return _factors(_composition(layer))


def composed_state(model: nn.Module) -> dict[str, Tensor]:
    """The state that the model has with every kernel composed; names as before overparameterization."""
    state: dict[str, Tensor] = {
        key: value for key, value in model.state_dict().items() if "parametrizations" not in key.split(".")
    }
    with torch.no_grad():
        for path, layer in parametrized(model):
            state[f"{path}.weight"] = weight_of(layer)
    return state


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
        Factor(composition.get_parameter(f"original{index}"), owner)
        for index, owner in enumerate(kernel.owners)
    ]


def _share(source: parametrize.ParametrizationList, copy: parametrize.ParametrizationList) -> None:
    """Give a copy's composition the shared factors of another one."""
    shared = [factor.parameter for factor in _factors(source) if factor.owner is None]
    own = [index for index, factor in enumerate(_factors(copy)) if factor.owner is None]
    for index, parameter in zip(own, shared, strict=True):
        copy.register_parameter(f"original{index}", parameter)
