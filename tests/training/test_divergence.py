from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import TrainingError
from edgemtl.training.divergence import check_finite


def test_finite_losses_pass(tmp_path: Path) -> None:
    check_finite({"depth": 1e38, "normals": 0.0}, "step 3", tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("saved", [True, False])
def test_the_task_the_place_and_a_checkpoint_that_exists_are_named(
    value: float, saved: bool, tmp_path: Path
) -> None:
    if saved:
        (tmp_path / "state.pt").touch()
    with pytest.raises(TrainingError, match=rf"task normals, step 3: .* found {value}") as caught:
        check_finite({"depth": 1.0, "normals": value}, "step 3", tmp_path)
    assert (f"last good checkpoint is in {tmp_path}" in str(caught.value)) == saved
    assert ("none was saved" in str(caught.value)) != saved
