from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from bf16 import RoundedConvolutions
from torch import Tensor, nn

from edgemtl.training.fabric import computes


def outcome(conv: nn.Module, images: Tensor, gradient: Tensor) -> list[Tensor]:
    """What a convolution gives, and the gradients of its input, weight and bias."""
    images = images.clone().requires_grad_()
    result = conv(images)
    parameters = list(conv.parameters())
    return [result, *torch.autograd.grad(result, [images, *parameters], gradient.to(result.dtype))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4},
    ],
    ids=str,
)
def test_convolves_in_bf16(shape: dict[str, int], bias: bool) -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(8, 12, bias=bias, **shape), torch.randn(2, 8, 13, 17)
    gradient = torch.randn_like(conv(images)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = outcome(conv, images, gradient)
        with RoundedConvolutions():
            ours = outcome(conv, images, gradient)
    assert type(ours[0].grad_fn).__name__ == "_RoundedBackward"
    conv.load_state_dict({name: p.bfloat16().double() for name, p in conv.state_dict().items()})
    exact = outcome(conv.double(), images.bfloat16().double(), gradient)
    for found, expected, of_torch in zip(ours, exact, theirs, strict=True):
        assert found.dtype == of_torch.dtype
        # A sum near the middle of two bf16 numbers goes to either, by the order of its additions.
        assert (found == expected.bfloat16()).double().mean() > 0.98
        # Without its instructions torch adds up in bf16, too, which is farther from exact.
        step = 2**-8 if computes("bf16") else 2**-5
        assert (found - of_torch).abs().max() <= step * expected.abs().max()


def test_leaves_fp32_alone() -> None:
    conv, images = nn.Conv2d(3, 5, 3), torch.randn(2, 3, 9, 9)
    expected = conv(images)
    with RoundedConvolutions():
        assert torch.equal(conv(images), expected)
