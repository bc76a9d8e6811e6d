"""Folds what is linear into the convolution before it: batch normalization in eval mode, and 1x1
convolutions.

Both are exact. A convolution K1 then a 1x1 convolution K2 is the convolution K2 K1 with bias K2 b1 + b2,
whatever the padding of the first; it is folded where that takes no more operations than the two.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgemtl.core.inspection import Skipped

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class UntraceableError(Exception):
    """torch.fx cannot trace a module; the text says why."""


def fold_layers(module: nn.Module) -> tuple[nn.Module, list[Skipped]]:
    """A module that computes the same with fewer layers, and the normalizations that stay, with the reason.

    The module must be in eval mode. It is given back as it is where torch.fx cannot trace it.
    """
    try:
        traced = fx.GraphModule(module, _trace(module))
    except UntraceableError as error:
        norms = [name for name, part in module.named_modules() if isinstance(part, _NORMS)]
        return module, [Skipped(name, str(error)) for name in norms]
    left = []
    for node in _calls(traced.graph):
        layer = traced.get_submodule(str(node.target))
        source = node.all_input_nodes[0]
        before = traced.get_submodule(str(source.target)) if source.op == "call_module" else None
        alone = _feeds_only(source, node) and not (_hooked(before) or _hooked(layer))
        if isinstance(layer, _NORMS):
            reason = _why_not(before, layer, alone)
            if reason:
                left.append(Skipped(str(node.target), reason))
            elif isinstance(before, nn.Conv2d):
                _replace(traced, source, node, fuse_conv_bn_eval(before, layer))
            elif isinstance(before, nn.Linear):
                _replace(traced, source, node, fuse_linear_bn_eval(before, layer))
        elif (
            isinstance(layer, nn.Conv2d) and isinstance(before, nn.Conv2d) and alone and _pays(before, layer)
        ):
            _replace(traced, source, node, _merged(before, layer))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, left


def followed_by_norm(module: nn.Module, opaque: type[nn.Module]) -> dict[str, str]:
    """The path of each layer whose result a batch normalization reads, and nobody else, with that one's path.

    Modules of the type ``opaque`` are not looked into.

    Raises:
        UntraceableError: torch.fx cannot trace the module.
    """
    graph = _trace(module, opaque)
    pairs = {}
    for node in _calls(graph):
        source = node.all_input_nodes[0]
        if isinstance(module.get_submodule(str(node.target)), nn.BatchNorm2d) and _feeds_only(source, node):
            pairs[str(source.target)] = str(node.target)
    return pairs


def _trace(module: nn.Module, *opaque: type[nn.Module]) -> fx.Graph:
    try:
        return _Tracer(opaque).trace(module)
    except Exception as error:  # tracing runs the user's code on stand-ins: it may raise anything
        raise UntraceableError(f"torch.fx cannot trace the stage: {error}") from error


class _Tracer(fx.Tracer):
    """Nor are normalizations of a class of their own looked into: they may do more than normalize."""

    def __init__(self, opaque: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.opaque = (*opaque, *_NORMS)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.opaque) or super().is_leaf_module(m, module_qualified_name)


def _why_not(before: nn.Module | None, norm: _Norm, alone: bool) -> str:
    """Why a normalization cannot be folded; empty where it can."""
    if type(norm) not in _NORMS:
        return f"{type(norm).__name__} may do more than normalize"
    if not isinstance(before, nn.Conv2d | nn.Linear):
        return "follows no Conv2d or Linear"
    if "weight" not in before._parameters:
        return "the weight of the layer before it is computed, as spectral_norm does"
    if not alone:
        return "it or the layer before it is used more than once, or has hooks"
    if isinstance(before, nn.Linear) and before.out_features != norm.num_features:
        return "it does not normalize the features of the layer before it"
    return "it normalizes by the statistics of the batch" if norm.running_var is None else ""


def _pays(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    """Whether the second is pointwise, and one convolution takes no more operations a pixel than the two."""
    if second.kernel_size != (1, 1) or second.stride != (1, 1) or second.padding not in ((0, 0), "valid"):
        return False
    if first.groups != 1 or second.groups != 1:
        return False
    taps = first.kernel_size[0] * first.kernel_size[1] * first.in_channels
    two = first.out_channels * (taps + second.out_channels)
    return taps * second.out_channels <= two


def _merged(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    mixing = second.weight[:, :, 0, 0]
    merged = nn.Conv2d(
        first.in_channels,
        second.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        padding_mode=first.padding_mode,
        dtype=mixing.dtype,
        device=mixing.device,
    )
    bias = _bias(second) + mixing @ _bias(first)
    merged.load_state_dict({"weight": torch.einsum("om,mikl->oikl", mixing, first.weight), "bias": bias})
    return merged.eval().requires_grad_(False)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def _calls(graph: fx.Graph) -> list[fx.Node]:
    """The calls of layers on something."""
    return [node for node in graph.nodes if node.op == "call_module" and node.all_input_nodes]


def _feeds_only(source: fx.Node, node: fx.Node) -> bool:
    """Whether a layer's result is read by another layer alone, each called once, and no weight read apart."""
    called = [call.target for call in _calls(node.graph)]
    inner = tuple(f"{layer.target}." for layer in (source, node))
    return (
        source.op == "call_module"
        and len(source.users) == 1
        and called.count(source.target) == called.count(node.target) == 1
        and not any(n.op == "get_attr" and str(n.target).startswith(inner) for n in node.graph.nodes)
    )


def _hooked(layer: nn.Module | None) -> bool:
    return layer is not None and bool(layer._forward_hooks or layer._forward_pre_hooks)


def _replace(traced: fx.GraphModule, source: fx.Node, node: fx.Node, layer: nn.Module) -> None:
    """Let ``layer`` stand for a layer and the one that follows it."""
    traced.set_submodule(str(source.target), layer)
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)
