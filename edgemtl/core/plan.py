"""SharingPlan: which tasks share which stages of the backbone. The model runs it, collapse folds by it,
export cuts along it, the runner schedules by it and bench prices it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from edgemtl.core.errors import UsageError, nearest

Group = tuple[str, ...]
Partition = tuple[Group, ...]


class Segment(msgspec.Struct, frozen=True):
    """A longest run of stages that one group of tasks shares; the segments form a forest.

    ``parent`` is the name of the segment it grows from, or None at the image.
    """

    name: str
    group: Group
    stages: tuple[str, ...]
    parent: str | None


class SharingPlan(msgspec.Struct, frozen=True):
    """At every stage, in order, a partition of the tasks into groups. Branches split and never merge again.

    A group is the same tuple wherever it stands: its tasks keep the order of ``tasks``, however it is
    written.

    Raises:
        UsageError: the groups of a stage are no partition of the tasks, or merge what was split before, or
            two branches would have one name.
    """

    tasks: tuple[str, ...]
    stages: tuple[str, ...]
    partitions: tuple[Partition, ...]

    def __post_init__(self) -> None:
        if len(self.partitions) != len(self.stages):
            raise UsageError(
                "plan.partitions",
                expected=f"one partition for each of the {len(self.stages)} stages",
                found=str(len(self.partitions)),
                fix="Name every stage once.",
            )
        coarser: Partition = (self.tasks,)
        for stage, partition in zip(self.stages, self.partitions, strict=True):
            members = sorted(task for group in partition for task in group)
            if not all(partition) or members != sorted(self.tasks):
                raise UsageError(
                    f"plan.{stage}",
                    expected=f"each of the tasks {', '.join(self.tasks)} in exactly one group",
                    found=_show(partition),
                    fix="Put every task into one group of this stage.",
                )
            for group in partition:
                if not any(set(group) <= set(before) for before in coarser):
                    raise UsageError(
                        f"plan.{stage}",
                        expected=f"groups that split those of the stage before, {_show(coarser)}",
                        found=_show(partition),
                        fix="Branches never merge again: fork later, or keep them apart.",
                    )
            coarser = partition
        ordered = tuple(
            tuple(tuple(task for task in self.tasks if task in group) for group in partition)
            for partition in self.partitions
        )
        msgspec.structs.force_setattr(self, "partitions", ordered)
        self._check_names()

    @classmethod
    def forked(
        cls, tasks: Sequence[str], stages: Sequence[str], forks: Mapping[str, Sequence[Sequence[str]]]
    ) -> SharingPlan:
        """All tasks share every stage until a stage named in ``forks``; from it on they form its groups.

        Raises:
            UsageError: a fork names a stage that the backbone lacks, or its groups are impossible.
        """
        for stage in forks:
            if stage not in stages:
                raise UsageError(
                    f"$.plan.forks.{stage}",
                    expected="a stage of the backbone",
                    found=f"`{stage}`",
                    fix=nearest(stage, stages),
                )
        partitions: list[Partition] = []
        now: Partition = (tuple(tasks),)
        for stage in stages:
            if stage in forks:
                now = tuple(tuple(group) for group in forks[stage])
            partitions.append(now)
        return cls(tuple(tasks), tuple(stages), tuple(partitions))

    @classmethod
    def shared(cls, tasks: Sequence[str], stages: Sequence[str]) -> SharingPlan:
        """One trunk: all tasks share every stage."""
        return cls.forked(tasks, stages, {})

    def groups(self, stage: str) -> Partition:
        """The groups of a stage."""
        return self.partitions[self.stages.index(stage)]

    def segments(self) -> tuple[Segment, ...]:
        """The tree of segments, parents before children. The shared root is named ``trunk``."""
        found: dict[Group, list[str]] = {}
        for stage, group in self.walk():
            found.setdefault(group, []).append(stage)
        segments = []
        for group, stages in found.items():
            above = [other for other in found if set(group) < set(other)]
            parent = self._name(min(above, key=len)) if above else None
            segments.append(Segment(self._name(group), group, tuple(stages), parent))
        return tuple(segments)

    def segment_of(self, task: str) -> Segment:
        """The last segment on the path of a task: the one its head reads."""
        return next(s for s in reversed(self.segments()) if task in s.group and self.stages[-1] in s.stages)

    def path(self, segment: Segment) -> tuple[Segment, ...]:
        """The segments from the image down to ``segment``, itself included."""
        by_name = {s.name: s for s in self.segments()}
        path = [segment]
        while path[0].parent is not None:
            path.insert(0, by_name[path[0].parent])
        return tuple(path)

    def walk(self) -> Iterator[tuple[str, Group]]:
        """Every (stage, group) in the order in which a forward pass runs them."""
        for stage, partition in zip(self.stages, self.partitions, strict=True):
            for group in partition:
                yield stage, group

    def _check_names(self) -> None:
        by_name: dict[str, Group] = {}
        for _, group in self.walk():
            other = by_name.setdefault(self._name(group), group)
            if other != group:
                raise UsageError(
                    "plan",
                    expected="branches with names that differ",
                    found=f"{_show((other, group))}, both `{self._name(group)}`",
                    fix="Rename a task: a branch is named after its tasks.",
                )

    def _name(self, group: Group) -> str:
        return "trunk" if set(group) == set(self.tasks) else "branch_" + "_".join(group)


def _show(partition: Partition) -> str:
    return " | ".join(", ".join(group) for group in partition)
