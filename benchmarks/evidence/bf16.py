"""bfloat16 on processors that have no instructions for it, at the speed of fp32.

oneDNN convolves by reference code there, which takes ten times as long. But a convolution in bf16 is operands
rounded to bf16, products added up in fp32, and the result rounded again, and fp32 can do that as well. What
comes out differs by the order of the additions alone, as it does between two processors that have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class RoundedConvolutions(TorchFunctionMode):
    """Has fp32 compute what autocast on a CPU would convolve in bf16."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Convolutions under autocast go another way; all else takes its own."""
        if func is torch.conv2d and torch.is_autocast_enabled("cpu"):
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """torch.conv2d of operands rounded to bf16, with a result rounded to bf16. Padding is numbers."""
    strides = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    operands = (None if operand is None else operand.bfloat16() for operand in (input, weight, bias))
    result: Tensor = _Rounded.apply({**strides, "groups": groups}, *operands)
    return result


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Rounded(torch.autograd.Function):
    """A convolution of bf16 tensors, its gradients too, with fp32 inside."""

    @staticmethod
    def forward(ctx: Any, shape: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.bias_sizes = shape, None if bias is None else list(bias.shape)
        with torch.autocast("cpu", enabled=False):
            return torch.conv2d(
                x.float(), weight.float(), None if bias is None else bias.float(), **shape
            ).bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        gradients = torch.ops.aten.convolution_backward(
            gradient.float(),
            x.float(),
            weight.float(),
            ctx.bias_sizes,
            **ctx.shape,
            transposed=False,
            output_padding=[0, 0],
            output_mask=[*ctx.needs_input_grad[1:3], ctx.bias_sizes is not None],
        )
        return None, *(None if part is None else part.bfloat16() for part in gradients)
