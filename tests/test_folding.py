from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgemtl.folding import UntraceableError, fold_layers, followed_by_norm


class Twice(nn.Module):
    """Reads the first convolution's result twice, so that it must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return self.second(inner) + inner


PAIRS = {
    "padding": (nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 1)),
    "stride and no bias": (nn.Conv2d(4, 6, 5, stride=2, bias=False), nn.Conv2d(6, 2, 1, bias=False)),
    "dilation": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), nn.Conv2d(6, 1, 1)),
    "reflection": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.Conv2d(6, 3, 1, bias=False)),
}
KEPT = {
    "more channels would cost more": nn.Sequential(nn.Conv2d(4, 2, 3), nn.Conv2d(2, 64, 1)),
    "a padded 1x1 sees its own border": nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, padding=1)),
    "a stride": nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2)),
    "not pointwise": nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)),
    "depthwise": nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)),
    "something between": nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)),
    "read twice": Twice(),
}


class Bottleneck(nn.Module):
    """A linear bottleneck: what the normalization gives is read by the next layer and by the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.next = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.conv(x))
        return self.next(inner) + inner


class Reused(nn.Module):
    """One normalization, and one convolution, for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv, self.after, self.then = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.b(self.norm(input=self.a(x))))
        return self.then(self.conv(self.after(self.conv(inner))))


class Branching(nn.Module):
    """Asks its input a question that torch.fx cannot answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.mean() > 0 else x


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, nn.Conv2d) for part in module.modules())


@pytest.mark.parametrize("name", PAIRS)
def test_a_pointwise_convolution_folds_exactly_into_the_one_before(name: str) -> None:
    pair = nn.Sequential(*PAIRS[name]).double().eval()
    folded, left = fold_layers(pair)
    assert (convolutions(folded), left) == (1, [])
    image = torch.rand(2, 4, 13, 10, dtype=torch.float64)
    torch.testing.assert_close(folded(image), pair(image), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("why", KEPT)
def test_what_does_not_fold_or_would_not_pay_stays(why: str) -> None:
    module = KEPT[why].eval()
    folded, _ = fold_layers(module)
    assert convolutions(folded) == 2
    image = torch.rand(1, 4, 9, 9)
    torch.testing.assert_close(folded(image), module(image))


def test_normalization_and_pointwise_convolutions_fold_in_one_pass() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU()
    ).double()
    for _ in range(3):
        module(torch.rand(4, 4, 8, 8, dtype=torch.float64))
    folded, left = fold_layers(module.eval())
    assert (convolutions(folded), left) == (1, [])
    image = torch.rand(2, 4, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(folded(image), module(image), rtol=1e-10, atol=1e-12)


def test_the_module_that_was_given_is_not_changed() -> None:
    pair = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 1)).eval()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    fold_layers(pair)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_a_normalization_whose_result_is_read_twice_folds() -> None:
    module = Bottleneck().double()
    for _ in range(3):
        module(torch.rand(4, 4, 8, 8, dtype=torch.float64))
    folded, left = fold_layers(module.eval())
    assert left == []
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    image = torch.rand(2, 4, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(folded(image), module(image), rtol=1e-12, atol=1e-13)


def test_a_layer_that_is_called_twice_stays() -> None:
    module = Reused().eval()
    folded, left = fold_layers(module)
    assert {kept.layer for kept in left} == {"norm", "after", "then"}
    image = torch.rand(1, 4, 5, 5)
    assert torch.equal(folded(image), module(image))


NORM = nn.BatchNorm2d(4)
FOLLOWED: dict[str, tuple[nn.Module, dict[str, str]]] = {
    "next to it": (nn.Sequential(nn.Conv2d(4, 4, 3), NORM, nn.ReLU()), {"0": "1"}),
    "further in": (nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Sequential(NORM)), {"0.0": "1.0"}),
    "the normalization is read twice": (Bottleneck(), {"conv": "norm"}),
    "something between": (nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), NORM), {"1": "2"}),
    "read twice": (Twice(), {}),
    "called twice": (Reused(), {}),
    "at the entrance": (nn.Sequential(NORM, nn.Conv2d(4, 4, 3)), {}),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_layer_is_followed_by_the_normalization_that_alone_reads_it(name: str) -> None:
    module, expected = FOLLOWED[name]
    assert followed_by_norm(module, opaque=nn.LSTM) == expected


def test_opaque_modules_are_not_looked_into() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3), NORM, Branching(), nn.BatchNorm2d(4))
    with pytest.raises(UntraceableError, match="cannot trace the stage"):
        followed_by_norm(module, opaque=nn.LSTM)
    assert followed_by_norm(module, opaque=Branching) == {"0": "1", "2": "3"}


def test_looking_leaves_nothing_in_the_module() -> None:
    module = Bottleneck()
    before = set(vars(module))
    followed_by_norm(module, opaque=nn.LSTM)
    assert set(vars(module)) == before


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a normalization that does more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_normalization_that_may_do_more_stays_and_is_listed() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4)).eval()
    folded, (left,) = fold_layers(module)
    assert (left.layer, "NormAct may do more" in left.reason) == ("1", True)
    image = torch.rand(2, 3, 9, 9)
    assert torch.equal(folded(image), module(image))


class Reread(nn.Module):
    """Its weight is read beside the layer that has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + nn.functional.conv2d(x, self.conv.weight, padding=1)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    network[0].register_forward_hook(lambda _, __, output: 2 * output)
    return network


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3))


@pytest.mark.parametrize("build", [Reread, hooked, weight_normed])
def test_a_layer_of_which_more_is_known_than_its_call_stays(build: Callable[[], nn.Module]) -> None:
    network = build().eval()
    nn.init.uniform_(next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).weight, 2, 3)
    folded, left = fold_layers(network)
    x = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(folded(x), network(x))
    assert len(left) == 1


def test_a_normalization_of_three_dimensions_is_listed() -> None:
    _, left = fold_layers(nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3)).eval())
    assert [skipped.reason for skipped in left] == ["follows no Conv2d or Linear"]
