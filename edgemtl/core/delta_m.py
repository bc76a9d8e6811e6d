"""What a network gains over a baseline, in percent: of every metric, of a task, and overall."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgemtl.core.errors import DataError
from edgemtl.core.report import EvalReport, MetricInfo, Scores


def gains(
    scores: Scores, baseline: Scores, metrics: Mapping[str, tuple[MetricInfo, ...]]
) -> dict[str, dict[str, float]]:
    """The gain over a baseline of each task's metrics that are ``in_delta``, in percent of the baseline.
    **Positive is better**, whichever way the metric counts.

    Raises:
        DataError: one of them lacks a task or a metric, or the baseline is 0 there.
    """
    found: dict[str, dict[str, float]] = {}
    for task, infos in metrics.items():
        for info in infos:
            if not info.in_delta:
                continue
            base = baseline.get(task, {}).get(info.name, 0.0)
            if base == 0.0:
                raise DataError(
                    f"baseline {task}.{info.name}",
                    expected="a value other than 0",
                    found="0 or nothing",
                    fix="Name a baseline that was evaluated on the same tasks.",
                )
            value = scores.get(task, {}).get(info.name)
            if value is None:
                raise DataError(
                    f"{task}.{info.name}",
                    expected="a value",
                    found="none: no valid pixel defines it",
                    fix="Evaluate on a split with labels of this task.",
                )
            sign = 1.0 if info.higher_is_better else -1.0
            found.setdefault(task, {})[info.name] = 100 * sign * (value - base) / base
    return found


def delta_m(
    scores: Scores, baseline: Scores, metrics: Mapping[str, tuple[MetricInfo, ...]]
) -> tuple[float, dict[str, float]]:
    """Relative gain over a baseline in percent: overall, and per task. **Positive is better.**

    Delta_m = 100 * mean over all metrics of s * (M - B) / B with s = +1 where higher is better, else -1
    (Maninis et al. 2019, eq. 4, over all metrics as in Nash-MTL), less those that are not ``in_delta``. Most
    papers print the opposite sign. The overall figure is the plain mean over all metrics, so a task with more
    metrics weighs more; the per-task means stand beside it for that reason.

    Raises:
        DataError: as ``gains``.
    """
    by_task = {task: list(found.values()) for task, found in gains(scores, baseline, metrics).items()}
    of_all = [gain for found in by_task.values() for gain in found]
    return sum(of_all) / len(of_all), {task: sum(found) / len(found) for task, found in by_task.items()}


def against(report: EvalReport, baseline: Scores, name: str) -> EvalReport:
    """The report with its Delta_m against the scores of a baseline.

    Raises:
        DataError: as ``gains``.
    """
    overall, by_task = delta_m(report.tasks, baseline, report.metrics)
    return msgspec.structs.replace(
        report,
        baseline=name,
        delta_m=overall,
        delta_m_tasks=by_task,
        delta_m_metrics=gains(report.tasks, baseline, report.metrics),
    )
