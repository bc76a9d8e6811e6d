"""Factorized kernels with factors of the tasks between shared ones ("UMV", reconstructed).

After Ren & Shi, "Learning Compact Neural Networks with Deep Overparameterised Multitask Learning"
(arXiv 2308.13300), of which only the abstract and related patent claims were read: this is a reconstruction.
The weight W [co, ci, kh, kw] of every convolution group, read as a matrix of m rows and n columns, is the
product

    W_G = U f(M(t) for t in G) V,    U: m x r,  M(t): r or r x r,  V: r x n,    r = min(m, n),

for a group G of tasks; U and V are shared by all tasks, M(t) belongs to task t. f is the product, mean or
sum. Where U or V belong to the tasks too, W_G = f(U(t) M(t) V(t) for t in G), and f is the mean or sum.

The matrix is (ci kh) x (co kw), ``spatial``, as a summary of the paper says (Jaderberg et al. 2014); or
co x (ci kh kw), ``channel`` (Zhang et al. 2016), the default: it composes a 3x3 kernel in a third of the
multiplications and trains as well (benchmarks/evidence/STUDY.md). At the start U S V is the singular value
decomposition of the plain initialization and f(M) = S, so that the network computes what it computed before.
Linear layers are the case kh = kw = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from edgemtl.core.errors import UsageError
from edgemtl.core.plan import Group
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.weight import Kernel, Shape, WeightMethod, rate_of, shape_of


class Factorized(WeightMethod, frozen=True, kw_only=True, tag="factorized"):
    """``matrix``: how a weight is read as one. ``combine``: f above. ``middle``: whether M(t) is a diagonal
    or a full matrix. ``shared``: which of U and V all tasks share; the others belong to tasks.

    ``spectrum``: where the singular values are at the start: in M, or half in U and V each (U S^(1/2) and
    S^(1/2) V, with f(M) = I). ``log_middle``: M = exp(m) of what is trained, so that none changes its sign.
    ``rates``: equal by default: on NYUv2, rates of U and V that fell with the rank did worse.
    """

    matrix: Literal["spatial", "channel"] = "channel"
    combine: Literal["product", "mean", "sum"] = "product"
    middle: Literal["diagonal", "full"] = "diagonal"
    shared: Literal["both", "u", "v", "none"] = "both"
    spectrum: Literal["middle", "outer"] = "middle"
    log_middle: bool = False
    rates: Literal["size", "equal"] = "equal"

    def __post_init__(self) -> None:
        if self.combine == "product" and self.shared != "both":
            raise UsageError(
                "$.kernel.shared",
                expected="both, where M(t) are combined by their product",
                found=self.shared,
                fix="Share both, or choose `combine: mean` or `sum`.",
            )
        if self.log_middle and self.middle == "full":
            raise UsageError(
                "$.kernel.log_middle",
                expected="false for full matrices M(t)",
                found="true",
                fix="Choose `middle: diagonal` or `log_middle: false`.",
            )

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """The factors of a convolution (any stride, padding, dilation, groups) or a linear layer."""
        if not layer.get_parameter("weight").any():
            raise UnsupportedError("its kernel is zero, and so would the gradient of every M be")
        return _UMV(shape_of(layer), tuple(layer.get_parameter("weight").shape), group, self)


class _UMV(Kernel):
    """Factors U [g, m, r] and V [g, r, n], shared or one for each task, then M of each task, [g, 1, r] or
    [g, r, r]; g conv groups.
    """

    def __init__(self, shape: Shape, weight_shape: tuple[int, ...], tasks: Group, method: Factorized) -> None:
        super().__init__()
        self.shape, self.weight_shape, self.method = shape, weight_shape, method
        rank = min(self._matrix(torch.empty(weight_shape, device="meta")).shape[1:])
        u_owners = (None,) if method.shared in ("both", "u") else tasks
        v_owners = (None,) if method.shared in ("both", "v") else tasks
        self.owners = (*u_owners, *v_owners, *tasks)
        self.counts = (len(u_owners), len(v_owners), len(tasks))
        square, middle = rate_of(rank), rate_of(rank) if method.middle == "full" else 1.0
        self.rates = (*(square,) * (len(u_owners) + len(v_owners)), *(middle,) * len(tasks))

    def forward(self, *factors: Tensor) -> Tensor:
        first, second, _ = self.counts
        us, vs, middles = factors[:first], factors[first : first + second], factors[first + second :]
        if self.method.log_middle:
            middles = tuple(middle.exp() for middle in middles)
        if self.method.shared == "both":
            matrix = self._times(us[0], self._combined(middles)) @ vs[0]
        else:
            # A sum of products over the tasks is one product, with the tasks' ranks side by side.
            left = [self._times(us[t % first], middle) for t, middle in enumerate(middles)]
            right = [vs[t % second] for t in range(len(middles))]
            matrix = torch.cat(left, -1) @ torch.cat(right, -2)
            if self.method.combine == "mean":
                matrix = matrix / len(middles)
        return self._weight(matrix)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        u, s, v = torch.linalg.svd(self._matrix(weight.double()), full_matrices=False)
        s = s.unsqueeze(-2)
        if self.method.spectrum == "outer":
            u, s, v = u * s.sqrt(), torch.ones_like(s), s.sqrt().mT * v
        first, second, count = self.counts
        middle = {"product": s.pow(1 / count), "mean": s, "sum": s / count}[self.method.combine]
        if self.method.log_middle:
            middle = middle.clamp_min(torch.finfo(weight.dtype).tiny).log()
        if self.method.middle == "full":
            middle = torch.diag_embed(middle.squeeze(-2))
        # Each factor is a tensor of its own: tasks that start equal must not stay one.
        return tuple(
            factor.to(weight.dtype, copy=True).contiguous()
            for factor in (*[u] * first, *[v] * second, *[middle] * count)
        )

    def _matrix(self, weight: Tensor) -> Tensor:
        """[g, m, n] of a weight."""
        groups, outputs, inputs, height, width = self.shape
        split = weight.reshape(groups, outputs, inputs, height, width)
        if self.method.matrix == "channel":
            return split.flatten(2)
        return split.permute(0, 2, 3, 1, 4).reshape(groups, inputs * height, outputs * width)

    def _weight(self, matrix: Tensor) -> Tensor:
        """The weight of a matrix [g, m, n]."""
        if self.method.matrix == "channel":
            return matrix.reshape(self.weight_shape)
        groups, outputs, inputs, height, width = self.shape
        split = matrix.view(groups, inputs, height, outputs, width)
        return split.permute(0, 3, 1, 2, 4).reshape(self.weight_shape).contiguous()

    def _times(self, u: Tensor, middle: Tensor) -> Tensor:
        """U M, of a diagonal [g, 1, r] or a matrix M."""
        return u @ middle if self.method.middle == "full" else u * middle

    def _combined(self, middles: Sequence[Tensor]) -> Tensor:
        """f above."""
        # Not by stack and sum, whose gradients are views of one tensor.
        total = reduce(self._times if self.method.combine == "product" else torch.add, middles)
        return total / len(middles) if self.method.combine == "mean" else total
