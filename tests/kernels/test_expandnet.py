from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.kernels import ExpandNet, factors, overparameterize, weight_of

LAYERS = [
    nn.Conv2d(6, 10, 3, stride=2, padding=1),
    nn.Conv2d(6, 4, (1, 5), padding=2, dilation=(1, 2)),
    nn.Conv2d(12, 8, 3, groups=4),
    nn.Conv2d(8, 8, 3, groups=8, bias=False),
    nn.Conv2d(5, 7, 1),
    nn.Linear(11, 4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("method", [ExpandNet(expansion=1), ExpandNet(), ExpandNet(widest=9)], ids=str)
def test_the_factors_compose_to_the_weight_that_they_came_from(
    layer: nn.Conv2d | nn.Linear, method: ExpandNet
) -> None:
    kernel = method.kernel(layer, ("a",))
    weight = layer.weight.detach()
    torch.testing.assert_close(kernel(*kernel.right_inverse(weight)), weight, rtol=1e-5, atol=2e-6)
    exact = weight.double()
    torch.testing.assert_close(kernel(*kernel.right_inverse(exact)), exact, rtol=0, atol=3e-15)


@pytest.mark.parametrize("layer", LAYERS[:5], ids=str)
def test_it_is_three_convolutions_with_the_padding_on_the_first(layer: nn.Conv2d) -> None:
    overparameterize(ExpandNet(expansion=3), "stem", {("a",): layer.double()})
    with torch.no_grad():
        for factor in factors(layer):
            factor.parameter.normal_()
    image = torch.rand(2, layer.in_channels, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(image), in_three_steps(layer, image))


def in_three_steps(layer: nn.Conv2d, image: Tensor) -> Tensor:
    last, middle, first = (factor.parameter for factor in factors(layer))
    groups, before, inputs = first.shape
    _, outputs, after = last.shape
    # The first needs no bias, so that what it makes of the padding is zero.
    wide = F.conv2d(image, first.reshape(groups * before, inputs, 1, 1), None, 1, layer.padding, 1, groups)
    kernel = middle.reshape(groups * after, *layer.kernel_size, before).permute(0, 3, 1, 2)
    wide = F.conv2d(wide, kernel, None, layer.stride, 0, layer.dilation, groups)
    return F.conv2d(wide, last.reshape(groups * outputs, after, 1, 1), layer.bias, groups=groups)


def test_a_linear_layer_is_three_matrices() -> None:
    layer = nn.Linear(3, 5)
    overparameterize(ExpandNet(expansion=2), "fc", {("a",): layer})
    last, middle, first = (factor.parameter[0] for factor in factors(layer))
    assert [tuple(matrix.shape) for matrix in (last, middle, first)] == [(5, 10), (10, 6), (6, 3)]
    torch.testing.assert_close(weight_of(layer), last @ middle @ first)


def test_layers_expand_up_to_a_width_and_none_gets_narrower() -> None:
    layer = nn.Linear(3, 20)
    overparameterize(ExpandNet(expansion=4, widest=8), "fc", {("a",): layer})
    last, middle, first = (factor.parameter[0] for factor in factors(layer))
    assert [tuple(matrix.shape) for matrix in (last, middle, first)] == [(20, 20), (20, 8), (8, 3)]


def test_the_outer_factors_are_orthonormal_and_no_two_channels_start_equal() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    last, _, first = ExpandNet().kernel(layer, ("a",)).right_inverse(layer.weight.detach().double())
    for matrix in (last.mT, first):
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand(2, -1, -1)
        torch.testing.assert_close(matrix.mT @ matrix, identity)
        assert torch.unique(matrix, dim=1).shape == matrix.shape
