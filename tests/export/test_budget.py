from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from edgemtl.core.errors import DataError, GateError, UsageError
from edgemtl.core.report import MetricInfo, Scores
from edgemtl.export.budget import Limit, check_budget, choose, parse_budget, used

METRICS = {
    "segmentation": (MetricInfo("miou", "1", True),),
    "depth": (MetricInfo("abs", "m", False), MetricInfo("rel", "1", False)),
}
BASE = {"segmentation": {"miou": 0.5}, "depth": {"abs": 0.4, "rel": 0.2}}
PARTS = ("trunk", "head_segmentation", "head_depth")
MACS = {"trunk": 1000, "head_segmentation": 10, "head_depth": 1}
(LIMIT,) = parse_budget(["depth.abs=10%"])


def network(cost: dict[str, float]):
    """Scores of a network whose depth error grows by ``cost`` for each part that is int8."""

    def score(precisions: dict[str, str], images: int | None) -> Scores:
        worse = sum(cost[part] for part, precision in precisions.items() if precision == "int8")
        return {**BASE, "depth": {"abs": 0.4 + worse, "rel": 0.2}}

    return score


def chosen(cost: dict[str, float], wanted: dict[str, str] | None = None):
    return choose(
        wanted or dict.fromkeys(PARTS, "int8"),
        higher="fp16",
        macs=MACS,
        limits=(LIMIT,),
        metrics=METRICS,
        score=network(cost),
    )


def test_points_percent_and_units() -> None:
    assert parse_budget(["segmentation.miou=0.5", "depth.abs=1%"]) == (
        Limit(task="segmentation", metric="miou", amount=0.5, percent=False),
        Limit(task="depth", metric="abs", amount=1, percent=True),
    )
    after = {"segmentation": {"miou": 0.495}, "depth": {"abs": 0.402, "rel": 0.2}}
    shares = {
        "segmentation.miou=0.5": 1.0,  # half a point is .005
        "segmentation.miou=1%": 1.0,
        "depth.abs=1%": 0.5,
        "depth.abs=0.002": 1.0,  # meters
    }
    for text, share in shares.items():
        assert used(parse_budget([text]), METRICS, BASE, after) == pytest.approx(share)
    assert used(parse_budget(shares), METRICS, BASE, after) == pytest.approx(1.0)


def test_a_limit_on_what_no_image_has_labels_of_is_refused() -> None:
    with pytest.raises(DataError, match=r"--budget depth\.abs=10%: expected images with labels of depth"):
        used([LIMIT], METRICS, {**BASE, "depth": {}}, BASE)


def test_better_uses_nothing_and_nan_uses_all() -> None:
    better = {**BASE, "depth": {"abs": 0.3, "rel": 0.2}}
    assert used((LIMIT,), METRICS, BASE, better) < 0
    lost = {**BASE, "depth": {"abs": float("nan"), "rel": 0.2}}
    assert used((LIMIT,), METRICS, BASE, lost) == float("inf")


@pytest.mark.parametrize(("found", "share"), [(0.0, 0.0), (0.1, float("inf")), (float("nan"), float("inf"))])
def test_a_percentage_of_nothing_allows_nothing(found: float, share: float) -> None:
    before, after = ({**BASE, "depth": {"abs": value, "rel": 0.2}} for value in (0.0, found))
    assert used(parse_budget(["depth.abs=1%"]), METRICS, before, after) == share


@pytest.mark.parametrize(
    "text", ["depth", "depth=1", "depth.abs", "depth.abs=x", "depth.abs=0", ".abs=1", "a.b=nan%"]
)
def test_what_is_no_limit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="For example"):
        parse_budget([text])


def test_a_metric_that_no_task_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"depth\.abs"):
        check_budget(parse_budget(["depth.ab=1"]), METRICS)
    check_budget(parse_budget(["depth.rel=1"]), METRICS)


@given(st.fixed_dictionaries({part: st.floats(0, 0.06) for part in PARTS}))
def test_the_budget_holds_and_no_raised_part_could_be_lowered_alone(cost: dict[str, float]) -> None:
    mixes = [dict(zip(PARTS, mix, strict=True)) for mix in itertools.product(("int8", "fp16"), repeat=3)]

    def share(mix: dict[str, str]) -> float:
        return used((LIMIT,), METRICS, BASE, network(cost)(mix, None))

    try:
        choice = chosen(cost)
    except GateError:
        # Raising by order leaves one part: the least sensitive for its work.
        last = min(PARTS, key=lambda part: cost[part] / MACS[part])
        assert share({part: "int8" if part == last else "fp16" for part in PARTS}) > 1
        return
    assert share(choice.precisions) <= 1
    assert "int8" in choice.precisions.values()
    for part in PARTS:
        assert choice.precisions[part] == "int8" or share({**choice.precisions, part: "int8"}) > 1
    if any(all(p == "int8" for p in mix.values()) and share(mix) <= 1 for mix in mixes):
        assert set(choice.precisions.values()) == {"int8"}


def test_the_sensitivity_is_of_each_part_alone() -> None:
    found = chosen({"trunk": 0.02, "head_segmentation": 0.0, "head_depth": 0.03}).sensitivity
    assert found == pytest.approx({"trunk": 0.5, "head_segmentation": 0.0, "head_depth": 0.75})


def test_what_is_kept_by_wish_stays_and_is_not_measured() -> None:
    choice = chosen(
        dict.fromkeys(PARTS, 0.0), {"trunk": "int8", "head_segmentation": "fp32", "head_depth": "fp16"}
    )
    assert choice.precisions == {"trunk": "int8", "head_segmentation": "fp32", "head_depth": "fp16"}
    assert set(choice.sensitivity) == {"trunk"}


def test_an_impossible_budget_says_how_close_it_came() -> None:
    with pytest.raises(GateError, match=r"2\.5 times the budget at the closest, with head_depth, head_segm"):
        chosen({"trunk": 0.1, "head_segmentation": 0.1, "head_depth": 0.1})
