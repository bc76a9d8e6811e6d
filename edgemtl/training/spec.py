"""What a recipe may say about training."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgemtl.core.errors import UsageError
from edgemtl.training.distill import Distill
from edgemtl.training.optim import Adam, Cosine, OptimizerSpec, Positive, ScheduleSpec

Count = Annotated[int, msgspec.Meta(ge=1)]


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long, how fast and on what.

    ``batch`` is the global batch: N processes take an N-th each. ``factor_optimizer`` trains the
    factors of kernels; without it ``optimizer`` does. ``update``: see ``training.steps``,
    ``aggregation``: ``training.aggregation``, ``distill``: ``training.distill``. ``ema``: decay of an average
    of the weights, which is then what is evaluated, saved and collapsed. ``workers`` load data beside the
    training process. ``evaluate_every`` counts epochs, ``checkpoint_every_s`` seconds; a checkpoint is also
    written after every epoch.
    """

    epochs: Count = 20
    batch: Count = 16
    optimizer: OptimizerSpec = Adam()
    factor_optimizer: OptimizerSpec | None = None
    schedule: ScheduleSpec = Cosine()
    update: Literal["joint", "routed", "alternating"] = "joint"
    aggregation: Literal["sum", "pcgrad", "aligned", "upgrad"] = "sum"
    distill: Distill | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: Positive | None = None
    ema: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    channels_last: bool = False
    compile: bool = False
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    workers: Annotated[int, msgspec.Meta(ge=0)] = 1
    evaluate_every: Count = 1
    checkpoint_every_s: Positive = 60.0

    def __post_init__(self) -> None:
        if self.aggregation != "sum" and self.update != "routed":
            raise UsageError(
                "$.training.aggregation",
                expected=f"sum with update: {self.update}",
                found=f"`{self.aggregation}`",
                fix="Use update: routed, which alone has a gradient for each task.",
            )
        if self.batch % (processes := self.devices * self.nodes):
            raise UsageError(
                "$.training.batch",
                expected=f"a multiple of the {processes} processes that share it",
                found=str(self.batch),
                fix=f"Use {self.batch + processes - self.batch % processes}.",
            )
        if self.compile and self.update == "routed":
            raise UsageError(
                "$.training.compile",
                expected="false with update: routed",
                found="true",
                fix="A compiled graph hides the composed kernels that tasks are routed by: use joint.",
            )
