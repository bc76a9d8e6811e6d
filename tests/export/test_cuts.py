from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgemtl.export.cuts import cuts
from edgemtl.model import macs_of, parameters_of
from tests.export.networks import PLANS, TASKS, of_plan

SIZE = (21, 26)


@pytest.mark.parametrize("plan", PLANS)
def test_the_parts_together_are_the_whole(plan: str) -> None:
    """Property of every cut: parts read what parts before them wrote, and lose no parameter and no MAC."""
    model = of_plan(plan, SIZE)
    image = torch.rand(1, 3, *SIZE)
    tensors, parameters, macs = {"image": image}, 0, 0
    for cut in cuts(model, "split", SIZE):
        inputs = [tensors[name] for name in cut.reads]
        tensors.update(zip(cut.writes, cut.module(*inputs), strict=True))
        parameters += parameters_of(cut.module)
        macs += macs_of(cut.module, *inputs)
    for task, expected in model(image).items():
        assert torch.equal(tensors[task], expected)
    assert parameters == parameters_of(model)
    assert macs == macs_of(model, image)


@pytest.mark.parametrize("plan", PLANS)
def test_a_part_writes_nothing_that_nobody_reads(plan: str) -> None:
    parts = list(cuts(of_plan(plan, SIZE), "split", SIZE))
    read = {name for part in parts for name in part.reads}
    assert {name for part in parts for name in part.writes} == read - {"image"} | set(TASKS)
