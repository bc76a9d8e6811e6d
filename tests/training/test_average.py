from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgemtl.training.average import Average

DECAY = 0.9
LATE = 1_000_000  # a step at which the decay is whole


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def train(model: nn.Module) -> dict[str, Tensor]:
    """A step of anything that moves weights and statistics; gives a copy of the state."""
    model(torch.randn(2, 3, 5, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_average_is_its_closed_form(model: nn.Module) -> None:
    start = model[0].weight.detach().clone()
    average = Average(model, DECAY)
    history = []
    for _ in range(5):
        history.append(train(model))
        average.update(model, LATE)
    shares = [(1 - DECAY) * DECAY ** (4 - step) for step in range(5)]
    expected = DECAY**5 * start + sum(s * state["0.weight"] for s, state in zip(shares, history, strict=True))
    torch.testing.assert_close(average.state["0.weight"], expected)


def test_of_the_weights_before_training_little_is_left_after_a_hundred_steps(model: nn.Module) -> None:
    average = Average(model, 0.9999)
    with torch.no_grad():
        average.state["0.weight"].fill_(1.0)
        model[0].weight.fill_(0.0)
    for step in range(100):
        average.update(model, step)
    assert average.state["0.weight"].max() < 1e-8


def test_statistics_are_copied(model: nn.Module) -> None:
    average = Average(model, DECAY)
    state = train(model)
    average.update(model, LATE)
    for key in "1.running_mean", "1.running_var", "1.num_batches_tracked":
        assert torch.equal(average.state[key], state[key])


def test_a_weight_of_two_names_is_averaged_under_both(model: nn.Module) -> None:
    shared = nn.ModuleDict({"a": model, "b": model})
    average = Average(shared, DECAY)
    train(model)
    average.update(shared, LATE)
    torch.testing.assert_close(average.state["a.0.weight"], average.state["b.0.weight"])
    assert not torch.equal(average.state["b.0.weight"], model[0].weight)


def test_training_does_not_move_the_average(model: nn.Module) -> None:
    average = Average(model, DECAY)
    before = average.state["0.weight"].clone()
    train(model)
    assert torch.equal(average.state["0.weight"], before)


def test_within_the_block_the_model_has_the_averaged_weights(model: nn.Module) -> None:
    average = Average(model, DECAY)
    trained = train(model)
    with average.applied(model):
        assert torch.equal(model[0].weight, average.state["0.weight"])
    assert_state(model, trained)


def test_after_an_error_the_model_has_its_weights_back(model: nn.Module) -> None:
    average = Average(model, DECAY)
    trained = train(model)
    with pytest.raises(ValueError, match="stop"), average.applied(model):
        raise ValueError("stop")
    assert_state(model, trained)


def assert_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
