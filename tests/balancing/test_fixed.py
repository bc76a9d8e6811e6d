from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch")

from edgemtl.balancing import Fixed
from edgemtl.core.errors import UsageError


def test_each_loss_is_multiplied_by_its_weight() -> None:
    balancer = Fixed(weights={"depth": 0.5, "normals": 0}).build(("segmentation", "depth", "normals"))
    losses = {"segmentation": torch.tensor(3.0), "depth": torch.tensor(4.0), "normals": torch.tensor(5.0)}
    assert balancer(losses) == {"segmentation": 3.0, "depth": 2.0, "normals": 0.0}


def test_it_learns_nothing() -> None:
    assert not Fixed(weights={"depth": 2.0}).build(("depth",)).state_dict()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "much"])
def test_a_weight_is_a_number_from_0_on(weight: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `float`"):
        msgspec.convert({"type": "fixed", "weights": {"depth": weight}}, Fixed)


def test_weights_of_which_none_counts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a weight above 0 for some task, found 0 for depth, normals"):
        Fixed(weights={"depth": 0, "normals": 0}).build(("depth", "normals"))
