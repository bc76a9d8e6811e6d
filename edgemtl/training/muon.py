"""Muon: momentum whose every step is an orthogonal matrix (Jordan 2024, https://kellerjordan.github.io/posts/muon).

torch.optim.Muon takes single matrices only; kernels and their factors are stacks of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Orthogonalizing(torch.optim.Optimizer):
    """Moves every matrix of a parameter by an orthogonal one.

    The update of an a x b matrix is scaled by 0.2 sqrt(max(a, b)), so that its entries move about as far as
    those of Adam at the same rate (Liu et al. 2025, arXiv 2502.16982, equation 4): by that times the rate in
    spectral norm. Weight decay is decoupled. A gradient of zeros, as a task leaves that has no label in the
    batch, moves nothing: orthogonal steps would go on at full length in the direction of the batches before.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all parameters that have a gradient; there is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, momentum = self.state[parameter], group["momentum"]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                arrived = parameter.grad.any().to(parameter.dtype)  # 1 or 0: a GPU is not waited for
                state["momentum"].lerp_(parameter.grad, (1 - momentum) * arrived)
                ahead = matrices(parameter.grad.lerp(state["momentum"], momentum))  # Nesterov's
                update = orthogonalized(ahead).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"] * arrived)
                parameter.sub_(update.mul_(arrived * group["lr"] * 0.2 * max(ahead.shape[-2:]) ** 0.5))


def has_matrices(parameter: nn.Parameter) -> bool:
    """Whether a parameter is made of matrices; one of a single row or column is a vector."""
    return parameter.ndim > 1 and min(matrices(parameter).shape[-2:]) > 1


def matrices(tensor: Tensor) -> Tensor:
    """[n, rows, columns]: a stack as it is, a matrix as a stack of one, and a convolution's kernel as one
    matrix with a row for each output channel.
    """
    return tensor if tensor.ndim == 3 else tensor.flatten(1).unsqueeze(0)


def orthogonalized(stack: Tensor) -> Tensor:
    """Each matrix [n, rows, columns] with its singular values brought near 1 (0.7 to 1.2), by Newton-Schulz
    iterations; singular values that are nearly 0 stay small.
    """
    wide = stack if stack.shape[-2] <= stack.shape[-1] else stack.mT
    norm: Tensor = torch.linalg.matrix_norm(wide, keepdim=True)
    wide = wide / norm.clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ wide
    return wide if stack.shape[-2] <= stack.shape[-1] else wide.mT
