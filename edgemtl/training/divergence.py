"""Training that diverged stops before anything of it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from edgemtl.core.errors import TrainingError
from edgemtl.training.checkpoint import STATE


def check_finite(losses: Mapping[str, float], where: str, folder: Path) -> None:
    """Refuse losses, by task, of which one is NaN or infinite. ``where``: when they were found, and on what;
    ``folder``: the run's.

    Raises:
        TrainingError: it names the task.
    """
    for task, loss in losses.items():
        if not math.isfinite(loss):
            kept = (
                f"the last good checkpoint is in {folder}" if (folder / STATE).is_file() else "none was saved"
            )
            raise TrainingError(
                f"task {task}, {where}",
                expected="a finite loss",
                found=str(loss),
                fix=f"Lower the learning rate, set clip_norm or check the samples; {kept}.",
            )
