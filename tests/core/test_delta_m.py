"""Published rows of the MTAN protocol on NYUv2 (Navon et al. 2022, table 2), which print lower as better."""

from __future__ import annotations

import pytest

from edgemtl.core.delta_m import delta_m
from edgemtl.core.errors import DataError
from edgemtl.core.report import MetricInfo

METRICS = {
    "segmentation": (MetricInfo("miou", "1", True), MetricInfo("pixel_accuracy", "1", True)),
    "depth": (
        MetricInfo("abs", "m", False),
        MetricInfo("rel", "1", False),
        MetricInfo("rmse", "m", False, in_delta=False),
    ),
    "normals": (
        MetricInfo("mean", "degree", False),
        MetricInfo("median", "degree", False),
        MetricInfo("within_11", "1", True),
        MetricInfo("within_22", "1", True),
        MetricInfo("within_30", "1", True),
    ),
}
SINGLE_TASK = (0.3830, 0.6376, 0.6754, 0.2780, 25.01, 19.21, 0.3014, 0.5720, 0.6915)
EQUAL_WEIGHTS = (0.3929, 0.6533, 0.5493, 0.2263, 28.15, 23.96, 0.2209, 0.4750, 0.6108)
NASH_MTL = (0.4013, 0.6593, 0.5261, 0.2171, 25.26, 20.08, 0.2840, 0.5547, 0.6815)


def scores(row: tuple[float, ...]) -> dict[str, dict[str, float]]:
    values = iter(row)
    return {
        task: {info.name: next(values) for info in infos if info.in_delta} for task, infos in METRICS.items()
    }


@pytest.mark.parametrize(("row", "published"), [(EQUAL_WEIGHTS, 5.59), (NASH_MTL, -4.04)])
def test_published_rows_with_the_opposite_sign(row: tuple[float, ...], published: float) -> None:
    overall, _ = delta_m(scores(row), scores(SINGLE_TASK), METRICS)
    assert overall == pytest.approx(-published, abs=0.01)  # the rows are rounded


def test_the_baseline_gains_nothing_over_itself() -> None:
    overall, per_task = delta_m(scores(SINGLE_TASK), scores(SINGLE_TASK), METRICS)
    assert overall == 0.0
    assert per_task == dict.fromkeys(METRICS, 0.0)


def test_better_is_positive_whichever_way_is_better() -> None:
    metrics = {"task": (MetricInfo("hit", "1", True), MetricInfo("miss", "1", False))}
    overall, _ = delta_m({"task": {"hit": 0.6, "miss": 0.4}}, {"task": {"hit": 0.5, "miss": 0.5}}, metrics)
    assert overall == pytest.approx(20.0)


def test_the_overall_figure_is_a_mean_over_metrics_not_tasks() -> None:
    row = list(SINGLE_TASK)
    row[0] *= 1.09  # one metric of nine
    overall, per_task = delta_m(scores(tuple(row)), scores(SINGLE_TASK), METRICS)
    assert overall == pytest.approx(1.0)
    assert per_task == {"segmentation": pytest.approx(4.5), "depth": 0.0, "normals": 0.0}


def test_what_stands_outside_delta_changes_nothing() -> None:
    poor = scores(NASH_MTL)
    poor["depth"]["rmse"] = 99.0
    assert delta_m(poor, scores(SINGLE_TASK), METRICS) == delta_m(
        scores(NASH_MTL), scores(SINGLE_TASK), METRICS
    )


@pytest.mark.parametrize("baseline", [{}, {"segmentation": {"miou": 0.0, "pixel_accuracy": 0.5}}])
def test_a_baseline_with_nothing_to_divide_by_names_the_metric(baseline: dict[str, dict[str, float]]) -> None:
    with pytest.raises(DataError, match=r"baseline segmentation\.miou"):
        delta_m(scores(NASH_MTL), baseline, METRICS)
