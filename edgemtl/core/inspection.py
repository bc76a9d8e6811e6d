"""What is found by looking at a network or at data, before anything is measured."""

from __future__ import annotations

import msgspec

from edgemtl.core.errors import GateError

FP64_LIMIT, FP32_LIMIT = 1e-10, 1e-5
NOISES = (
    4  # of the trained network's own rounding errors; collapsing rounds anew, and not less lucky than that
)


class Skipped(msgspec.Struct, frozen=True):
    """A layer that a transformation left as it was, and why."""

    layer: str
    reason: str


class Agreement(msgspec.Struct, frozen=True):
    """How far two networks are apart on a task: the largest difference, and that over the largest value."""

    max_abs: float
    relative: float


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """That a collapsed network computes what the trained one does, on images drawn at random and real ones.

    ``parameters`` and ``macs`` (of one image of ``size``, height and width) are (while training, collapsed).
    ``unfolded`` lists the batch normalizations that stay. ``scores`` holds, where they were measured, the
    metrics of both networks on ``split``: {task: {metric: (trained, collapsed)}}. ``noise`` is how far the
    trained network is in fp32 from itself in fp64, relative as in ``Agreement``: no network can agree with it
    better than that. It is large where an output magnifies rounding, such as the direction of a short vector.
    ``weights`` names the run's weights that were collapsed, and ``weights_sha256`` is their file's.
    """

    fp64: dict[str, Agreement]
    fp32: dict[str, Agreement]
    size: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    unfolded: tuple[Skipped, ...] = ()
    split: str = ""
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    noise: dict[str, float] = {}
    weights: str = ""
    weights_sha256: str = ""

    @property
    def worst(self) -> dict[str, float]:
        """The largest relative error over the tasks, by precision."""
        return {
            name: max(agreement.relative for agreement in table.values())
            for name, table in (("fp64", self.fp64), ("fp32", self.fp32))
        }

    def check(self) -> None:
        """Refuse a collapse that is not exact.

        Raises:
            GateError: a task's relative error is not under 1e-10 in fp64; or, in fp32, not under 1e-5 or four
                times the task's noise, whichever is larger.
        """
        for task, agreement in self.fp64.items():
            _refuse_from(FP64_LIMIT, agreement, f"certificate fp64 {task}")
        for task, agreement in self.fp32.items():
            limit = max(FP32_LIMIT, NOISES * self.noise.get(task, 0.0))
            _refuse_from(limit, agreement, f"certificate fp32 {task}")


def _refuse_from(limit: float, agreement: Agreement, where: str) -> None:
    if not agreement.relative < limit:  # also refuses NaN
        raise GateError(
            where,
            expected=f"a relative error under {limit:.3g}",
            found=f"{agreement.relative:.3g}",
            fix="The kernels do not fold exactly: please report this with the recipe.",
        )


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a group, a head, or a file of a bundle. ``shape`` is that of its output for one image.

    ``trained`` counts parameters while training (a factor that groups share in each of them), ``parameters``
    and ``macs`` those of the collapsed network.
    """

    segment: str
    name: str
    tasks: tuple[str, ...]
    shape: tuple[int, ...]
    trained: int
    parameters: int
    macs: int


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a network in the order in which they run, with totals. ``trained`` counts shared factors
    once.

    ``plain`` lists the layers that are trained with plain kernels, with the reason.
    """

    subject: str
    size: tuple[int, int]
    parts: tuple[Part, ...]
    trained: int
    parameters: int
    macs: int
    plain: tuple[Skipped, ...] = ()


class LabelCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A label: the share of its pixels that are valid, and how these spread.

    ``classes``: each one's share of the valid pixels. ``depth_m``: the smallest and the largest depth.
    """

    kind: str
    valid: float
    classes: dict[str, float] = {}
    depth_m: tuple[float, float] | None = None


class DataCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a split holds: so many images of (height, width)."""

    split: str
    images: int
    size: tuple[int, int]
    labels: dict[str, LabelCheck]
