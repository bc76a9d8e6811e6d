"""Random plans: however a person or a search forks a backbone, the segments are a forest that covers it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgemtl.core.errors import UsageError
from edgemtl.core.plan import Partition, SharingPlan

STAGES = ("stem", "low", "high", "top")


@st.composite
def splits(draw: st.DrawFn, group: tuple[str, ...]) -> Partition:
    """A partition of a group, its members in any order."""
    labels = draw(st.tuples(*(st.integers(0, len(group) - 1) for _ in group)))
    members = draw(st.permutations(list(zip(labels, group, strict=True))))
    return tuple(tuple(task for owner, task in members if owner == label) for label in sorted(set(labels)))


@st.composite
def plans(draw: st.DrawFn) -> SharingPlan:
    tasks = draw(st.sampled_from([("a",), ("b", "a"), ("segmentation", "depth", "normals"), tuple("abcd")]))
    stages = STAGES[: draw(st.integers(1, len(STAGES)))]
    partitions, now = [], (tasks,)
    for _ in stages:
        now = tuple(part for group in now for part in draw(splits(group)))
        partitions.append(now)
    return SharingPlan(tasks, stages, tuple(partitions))


@given(plans())
def test_segments_are_a_forest_with_parents_first(plan: SharingPlan) -> None:
    segments = plan.segments()
    names = [segment.name for segment in segments]
    assert len(set(names)) == len(names)
    for index, segment in enumerate(segments):
        assert segment.parent is None or segment.parent in names[:index]
    roots = [task for segment in segments if segment.parent is None for task in segment.group]
    assert sorted(roots) == sorted(plan.tasks)


@given(plans())
def test_every_stage_of_every_group_is_in_exactly_one_segment(plan: SharingPlan) -> None:
    placed = [(stage, segment.group) for segment in plan.segments() for stage in segment.stages]
    assert len(set(placed)) == len(placed)
    assert set(placed) == set(plan.walk())


@given(plans())
def test_the_path_of_a_task_runs_every_stage_once_and_in_order(plan: SharingPlan) -> None:
    for task in plan.tasks:
        path = plan.path(plan.segment_of(task))
        assert tuple(stage for segment in path for stage in segment.stages) == plan.stages
        assert path[0].parent is None
        for above, below in pairwise(path):
            assert below.parent == above.name
            assert task in below.group
            assert set(below.group) < set(above.group)


@given(plans())
def test_only_what_all_tasks_share_is_the_trunk(plan: SharingPlan) -> None:
    for segment in plan.segments():
        assert (segment.name == "trunk") == (set(segment.group) == set(plan.tasks))


@given(plans())
def test_a_plan_survives_json(plan: SharingPlan) -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan), type=SharingPlan) == plan


@given(plans(), st.randoms(use_true_random=False))
def test_the_order_within_a_group_does_not_matter(plan: SharingPlan, random: Random) -> None:
    shuffled = tuple(
        tuple(tuple(random.sample(group, len(group))) for group in partition) for partition in plan.partitions
    )
    assert SharingPlan(plan.tasks, plan.stages, shuffled) == plan


@given(plans())
def test_branches_never_merge_again(plan: SharingPlan) -> None:
    assume(len(plan.partitions[-1]) > 1)
    merged = (*plan.partitions, (plan.tasks,))
    with pytest.raises(UsageError, match=r"plan\.back: expected groups that split those of the stage before"):
        SharingPlan(plan.tasks, (*plan.stages, "back"), merged)


@pytest.mark.parametrize(
    "partition",
    [
        (("a",),),
        (("a", "b"), ("b",)),
        (("a", "a", "b"),),
        (("a", "b", "c"),),
        (("a", "b"), ()),
        (),
    ],
    ids=["missing", "twice", "doubled", "unknown", "empty group", "empty"],
)
def test_the_groups_of_a_stage_are_a_partition_of_the_tasks(partition: Partition) -> None:
    with pytest.raises(UsageError, match=r"plan\.stem: expected each of the tasks a, b in exactly one group"):
        SharingPlan(("a", "b"), ("stem",), (partition,))


def test_every_stage_has_a_partition() -> None:
    with pytest.raises(UsageError, match="one partition for each of the 2 stages, found 1"):
        SharingPlan(("a",), ("stem", "low"), ((("a",),),))


def test_branches_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"found a, b_c \| a_b, c, both `branch_a_b_c`"):
        SharingPlan.forked(("a", "b_c", "a_b", "c"), ("stem",), {"stem": [["a", "b_c"], ["a_b", "c"]]})


def test_a_fork_holds_until_the_next() -> None:
    apart = [["segmentation"], ["depth"], ["normals"]]
    forks = {"low": [["depth"], ["normals", "segmentation"]], "top": apart}
    plan = SharingPlan.forked(("segmentation", "depth", "normals"), STAGES, forks)
    assert [len(plan.groups(stage)) for stage in STAGES] == [1, 2, 2, 3]
    assert plan.groups("high") == (("depth",), ("segmentation", "normals"))
    assert [(s.name, s.stages, s.parent) for s in plan.segments()] == [
        ("trunk", ("stem",), None),
        ("branch_depth", ("low", "high", "top"), "trunk"),
        ("branch_segmentation_normals", ("low", "high"), "trunk"),
        ("branch_segmentation", ("top",), "branch_segmentation_normals"),
        ("branch_normals", ("top",), "branch_segmentation_normals"),
    ]


def test_a_fork_at_an_unknown_stage_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"\$\.plan\.forks\.hihg: .* Did you mean `high`\?"):
        SharingPlan.forked(("a",), STAGES, {"hihg": [["a"]]})


def test_without_forks_there_is_one_trunk() -> None:
    (trunk,) = SharingPlan.shared(("a", "b"), STAGES).segments()
    assert (trunk.name, trunk.group, trunk.stages, trunk.parent) == ("trunk", ("a", "b"), STAGES, None)
