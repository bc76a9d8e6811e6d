from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.kernels import DOConv, factors, overparameterize
from edgemtl.kernels.base import UnsupportedError


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 10, 3, stride=2, padding=1),
        nn.Conv2d(6, 10, (1, 5), padding=2, dilation=(1, 2)),
        nn.Conv2d(12, 8, 3, groups=4),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(8, 8, 2, groups=8, bias=False),
    ],
    ids=str,
)
def test_it_is_a_depthwise_convolution_then_the_convolution(layer: nn.Conv2d) -> None:
    """Layer by layer, D yields kh kw maps for each input channel, which W then weighs one pixel at a time."""
    layer = layer.double()
    overparameterize(DOConv(), "stem", {("a",): layer})
    weight, residual = (factor.parameter for factor in factors(layer))
    with torch.no_grad():
        residual.normal_()
    image = torch.rand(2, layer.in_channels, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(image), in_two_steps(layer, weight, residual, image))


def in_two_steps(layer: nn.Conv2d, weight: Tensor, residual: Tensor, image: Tensor) -> Tensor:
    channels, positions, _ = residual.shape
    # [channel, map, position]: the identity's map p is the pixel at position p.
    depthwise = (residual + torch.eye(positions)).reshape(channels * positions, 1, *layer.kernel_size)
    maps = F.conv2d(image, depthwise, None, layer.stride, layer.padding, layer.dilation, groups=channels)
    pointwise = weight.reshape(layer.out_channels, -1, 1, 1)
    return F.conv2d(maps, pointwise, layer.bias, groups=layer.groups)


def test_the_residual_has_a_matrix_for_each_input_channel_and_the_rate_of_its_size() -> None:
    layer = nn.Conv2d(12, 8, 5, groups=4)
    overparameterize(DOConv(), "stem", {("a", "b"): layer})
    weight, residual = factors(layer)
    assert (weight.lr_scale, residual.lr_scale) == (1, 9 / 25)
    assert residual.parameter.shape == (12, 25, 25)
    assert not residual.parameter.any()


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 1), nn.Linear(3, 4)], ids=str)
def test_what_has_one_position_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match=rf"{type(layer).__name__}.*only scale"):
        DOConv().kernel(layer, ("a",))
