"""How much accuracy may be lost, and which parts must stay in higher precision for that.

The sensitivity of a part is what the network loses when this part alone is lowered, as a share of the budget.
Parts are raised in the order of sensitivity per multiply-accumulate, because what a part costs in higher
precision is its share of the work, until the budget holds; then those that it holds without are lowered
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from edgemtl.core.errors import DataError, GateError, UsageError, nearest
from edgemtl.core.report import MetricInfo, Scores

HELD_OUT = 100  # images: enough to rank the parts; the verdict is over the whole split
Precisions = Mapping[str, str]
Metrics = Mapping[str, tuple[MetricInfo, ...]]
# Scores of a network with these precisions by part, on so many images, or on all.
Score = Callable[[Precisions, int | None], Scores]


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How much worse one metric may get: in percent of its fp32 value, else in its unit.

    A metric without a unit, such as miou, is a share: its amount is in points, hundredths.
    """

    task: str
    metric: str
    amount: float
    percent: bool

    def __str__(self) -> str:
        return f"{self.task}.{self.metric}={self.amount:g}{'%' if self.percent else ''}"


class Choice(NamedTuple):
    """The precision of each part, and the sensitivity of each part that could be lowered."""

    precisions: dict[str, str]
    sensitivity: dict[str, float]


def parse_budget(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Read limits as a command line gives them: ``segmentation.miou=0.5``, ``depth.abs=1%``.

    Raises:
        UsageError: one is not TASK.METRIC=NUMBER with an optional percent sign, or is not above 0.
    """
    return tuple(_parse(text) for text in texts)


def check_budget(limits: Iterable[Limit], metrics: Metrics) -> None:
    """Raises UsageError: a limit is on a metric that no task has."""
    known = [f"{task}.{info.name}" for task, infos in metrics.items() for info in infos]
    for limit in limits:
        name = f"{limit.task}.{limit.metric}"
        if name not in known:
            raise UsageError(
                f"--budget {limit}",
                expected="a metric of a task of this network",
                found=f"`{name}`",
                fix=nearest(name, known),
            )


def used(limits: Iterable[Limit], metrics: Metrics, before: Scores, after: Scores) -> float:
    """The share of the budget that is used up: above 1 it is broken. The worst of the limits counts.

    Raises:
        DataError: what a limit is on was not measured, for want of labels.
    """
    shares = []
    for limit in limits:
        info = next(info for info in metrics[limit.task] if info.name == limit.metric)
        if limit.metric not in before[limit.task]:
            raise DataError(
                f"--budget {limit}",
                expected=f"images with labels of {limit.task} among those that are measured",
                found="none",
                fix="Leave this limit out, or label more of the split.",
            )
        base, found = before[limit.task][limit.metric], after[limit.task][limit.metric]
        worse = base - found if info.higher_is_better else found - base
        in_unit = limit.amount / 100 if info.unit == "1" else limit.amount
        allowed = abs(base) * limit.amount / 100 if limit.percent else in_unit
        # A percentage of 0 allows nothing, and a metric that gets no worse needs nothing.
        share = worse / allowed if allowed else 0.0 if worse <= 0 else math.inf
        shares.append(share if math.isfinite(share) else math.inf)
    return max(shares)


def choose(
    wanted: Precisions,
    *,
    higher: str,
    macs: Mapping[str, int],
    limits: tuple[Limit, ...],
    metrics: Metrics,
    score: Score,
) -> Choice:
    """Keep the parts in ``higher`` precision that the budget needs.

    Args:
        wanted: the precision of each part; those that are ``fp32`` or ``higher`` by wish stay as they are.
        macs: multiply-accumulates of each part.

    Raises:
        GateError: the budget is broken even with every part but one raised; says how close it came.
    """
    lowered = [part for part, precision in wanted.items() if precision not in ("fp32", higher)]
    exact = dict.fromkeys(wanted, "fp32")
    few, base = score(exact, HELD_OUT), score(exact, None)
    sensitivity = {
        part: used(limits, metrics, few, score({**exact, part: wanted[part]}, HELD_OUT)) for part in lowered
    }
    order = sorted(lowered, key=lambda part: sensitivity[part] / max(macs[part], 1), reverse=True)

    def share(precisions: Precisions) -> float:
        return used(limits, metrics, base, score(precisions, None))

    chosen, tried = dict(wanted), {"none": share(wanted)}
    raised: list[str] = []
    while min(tried.values()) > 1 and len(raised) < len(order) - 1:
        raised.append(order[len(raised)])
        chosen[raised[-1]] = higher
        tried[", ".join(raised)] = share(chosen)
    if min(tried.values()) > 1:
        closest = min(tried, key=lambda names: tried[names])
        raise GateError(
            "--budget " + " ".join(map(str, limits)),
            expected="a mix of precisions that keeps it",
            found=f"{tried[closest]:.3g} times the budget at the closest, with {closest} in {higher}",
            fix=f"Allow more, or export in {higher}.",
        )
    for part in raised[-2::-1]:
        without = {**chosen, part: wanted[part]}
        if share(without) <= 1:
            chosen = without
    return Choice(chosen, sensitivity)


def _parse(text: str) -> Limit:
    name, _, number = text.partition("=")
    task, _, metric = name.partition(".")
    percent = number.endswith("%")
    try:
        amount = float(number.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if not (task and metric and math.isfinite(amount) and amount > 0):
        raise UsageError(
            f"--budget {text}",
            expected="TASK.METRIC=NUMBER or TASK.METRIC=PERCENT%, above 0",
            found=f"`{text}`",
            fix="For example --budget segmentation.miou=0.5 --budget depth.abs=1%.",
        )
    return Limit(task=task, metric=metric, amount=amount, percent=percent)
