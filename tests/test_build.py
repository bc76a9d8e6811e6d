from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from torch import nn

from edgemtl.build import build_model
from tests.tiny import tiny


def drawn() -> nn.Sequential:
    """A backbone that draws from all that there is to draw from."""
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight.mul_(random.random())
        conv.bias.copy_(torch.from_numpy(np.random.rand(4)))
    return nn.Sequential(conv)


@pytest.mark.parametrize("seed", [0, 2**40])
def test_a_network_is_that_of_its_seed_wherever_its_backbone_draws_from(seed: int) -> None:
    recipe = tiny(f"seed={seed}", "plan={}", f"backbone={{type: module, factory: '{__name__}:drawn'}}")
    first, again = build_model(recipe).state_dict(), build_model(recipe).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = build_model(tiny("seed=1", "plan={}", f"backbone={{type: module, factory: '{__name__}:drawn'}}"))
    assert not torch.equal(other.segments["trunk"]["0"].bias, first["segments.trunk.0.bias"])
