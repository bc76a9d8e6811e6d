"""The declared grid: what is compared, at which learning rates, with which seeds and in which order.

A **cell** is one thing to compare: a kernel method with a balancing, or the twin of a task (the same network
for this task alone). Every cell first chooses its learning rate: each candidate trains briefly, with one
seed, on the training set less a holdout, and is measured on the holdout. Then the cell trains in full at the
chosen rate, once for each seed, on the whole training set, and is measured on the test set at its end. Cells
of other sizes, and extra cells, take the rate of the cell that they vary.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from records import Finished, Outcome

from edgemtl.core.delta_m import delta_m
from edgemtl.core.errors import UsageError, nearest

Overrides = tuple[str, ...]
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
PLAIN = "plain"
TWINS = "${twins}"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Method(_Part, frozen=True, kw_only=True):
    """A way to train: its overrides, and the values of ``kernel.lr_scale`` to choose from, if any."""

    overrides: Overrides
    lr_scales: tuple[Positive, ...] = ()


class Selection(_Part, frozen=True, kw_only=True):
    """How a learning rate is chosen: on ``split``, which ``overrides`` take out of the training set."""

    rates: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    epochs: Count
    split: str
    overrides: Overrides
    seed: int = 0


class Size(_Part, frozen=True, kw_only=True):
    """The network in another size: the twins and these cells again, with these overrides."""

    overrides: Overrides
    cells: tuple[str, ...]


class Extra(_Part, frozen=True, kw_only=True):
    """The cell ``like`` with more overrides, in which ``${twins}`` is a folder of the twins of its seed, by
    task, or trained for other ``epochs`` than the grid's.
    """

    like: str
    overrides: Overrides = ()
    epochs: Count | None = None


class Round(_Part, frozen=True, kw_only=True):
    """Cells (patterns) and seeds that come before those of later rounds."""

    cells: tuple[str, ...]
    seeds: tuple[int, ...]


class Candidate(msgspec.Struct, frozen=True):
    """A learning rate, and the share of it that the kernels' factors take, where the method has one."""

    lr: float
    lr_scale: float | None = None

    @property
    def overrides(self) -> Overrides:
        """What it changes in the recipe."""
        scale = () if self.lr_scale is None else (f"kernel.lr_scale={self.lr_scale:g}",)
        return (f"training.optimizer.lr={self.lr:g}", *scale)

    def __str__(self) -> str:
        return f"lr{self.lr:g}" + ("" if self.lr_scale is None else f"-x{self.lr_scale:g}")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to compare. ``plain`` is the cell with plain kernels, the same balancing and size ('' for a
    twin). ``rate_of`` names the cell whose rate it takes; without ``epochs`` it takes the grid's.
    """

    name: str
    size: str
    plain: str
    overrides: Overrides
    candidates: tuple[Candidate, ...]
    rate_of: str
    epochs: int | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``tuned``: its learning rate is chosen; until then ``overrides`` have the first candidate's,
    and it must wait, as it must for the runs that ``needs`` names.
    """

    name: str
    cell: str
    seed: int
    epochs: int
    stage: Literal["select", "final"]
    split: str
    overrides: Overrides
    tuned: bool = True
    needs: tuple[str, ...] = ()


class Grid(_Part, frozen=True, kw_only=True):
    """A file of ``grids/``. ``common`` overrides hold for every run; final runs are scored on ``split``,
    which is the test set unless the grid itself asks what to choose.
    """

    name: str
    recipe: str
    epochs: Count
    common: Overrides = ()
    split: str = "val"
    selection: Selection
    twins: dict[str, Overrides]
    methods: dict[str, Method]
    balancing: dict[str, Overrides]
    sizes: dict[str, Size] = {}
    extras: dict[str, Extra] = {}
    rounds: tuple[Round, ...]

    @property
    def cells(self) -> dict[str, Cell]:
        """Every cell by its name: METHOD-BALANCING, twin_TASK, both with SIZE- before it in another size.

        Raises:
            UsageError: a size or an extra names a cell that is not there.
        """
        found = {f"twin_{task}": self._base(f"twin_{task}", own) for task, own in self.twins.items()}
        for label, method in self.methods.items():
            for weights, own in self.balancing.items():
                name, plain = f"{label}-{weights}", f"{PLAIN}-{weights}"
                found[name] = self._base(name, (*method.overrides, *own), method.lr_scales, plain)
        for name, extra in self.extras.items():
            cell = _varied(_known(extra.like, found), name, extra.overrides)
            found[name] = msgspec.structs.replace(cell, epochs=extra.epochs)
        for label, size in self.sizes.items():
            for name in (*self.twin_cells(""), *size.cells):
                cell = _varied(_known(name, found), sized(name, label), size.overrides)
                plain = cell.plain and sized(cell.plain, label)
                found[cell.name] = msgspec.structs.replace(cell, size=label, plain=plain)
        return found

    def jobs(self, outcomes: Mapping[str, Outcome]) -> list[Job]:
        """Every run, in the order in which they are wanted; a cell's rate is chosen right before its runs.

        Raises:
            UsageError: a round names no cell, or as ``cells``.
        """
        cells = self.cells
        found: dict[str, Job] = {}
        for turn in self.rounds:
            for seed in turn.seeds:
                for pattern in turn.cells:
                    for name in _matching(pattern, cells):
                        tuned = cells[cells[name].rate_of]
                        final = self._final(cells[name], seed, self.chosen(tuned, outcomes))
                        for job in (*self._selection(tuned), final):
                            found.setdefault(job.name, job)
        for job in found.values():
            for name in job.needs:
                if name not in found:
                    raise UsageError(
                        job.name, expected="runs of this grid", found=f"`{name}`", fix=nearest(name, found)
                    )
        return list(found.values())

    def chosen(self, cell: Cell, outcomes: Mapping[str, Outcome]) -> Candidate | None:
        """The rate that a cell trains with; None while candidates are not done, or if all have failed."""
        if len(cell.candidates) == 1:
            return cell.candidates[0]
        done = {job.name: outcome_of(job, self.recipe, outcomes) for job in self._selection(cell)}
        if None in done.values():
            return None
        finished = {name: outcome for name, outcome in done.items() if isinstance(outcome, Finished)}
        gains = gains_over_mean(finished)
        by_job = dict(zip(done, cell.candidates, strict=True))
        return by_job[max(gains, key=lambda name: gains[name])] if gains else None

    def twin_cells(self, size: str) -> tuple[str, ...]:
        """The cells of the twins of all tasks, in a size."""
        return tuple(sized(f"twin_{task}", size) for task in self.twins)

    def folder(self, job: Job, work: Path) -> Path:
        """Where a job is worked on; another one if its overrides change, which no checkpoint would fit."""
        digest = sha256("\n".join((self.recipe, *job.overrides)).encode()).hexdigest()
        return work / self.name / f"{job.name}-{digest[:8]}"

    def _base(self, name: str, own: Overrides, scales: tuple[float, ...] = (), plain: str = "") -> Cell:
        candidates = tuple(
            Candidate(rate, scale) for rate in self.selection.rates for scale in scales or (None,)
        )
        return Cell(name=name, size="", plain=plain, overrides=own, candidates=candidates, rate_of=name)

    def _selection(self, cell: Cell) -> list[Job]:
        if len(cell.candidates) == 1:
            return []
        spec = self.selection
        shared = (*self.common, *cell.overrides, *spec.overrides, f"training.epochs={spec.epochs}")
        return [
            Job(
                name=f"select-{cell.rate_of}-{candidate}",
                cell=cell.rate_of,
                seed=spec.seed,
                epochs=spec.epochs,
                stage="select",
                split=spec.split,
                overrides=(*shared, f"seed={spec.seed}", *candidate.overrides),
            )
            for candidate in cell.candidates
        ]

    def _final(self, cell: Cell, seed: int, rate: Candidate | None) -> Job:
        epochs = cell.epochs or self.epochs
        shared = (*self.common, *cell.overrides, f"training.epochs={epochs}", f"seed={seed}")
        return Job(
            name=f"{cell.name}-s{seed}",
            cell=cell.name,
            seed=seed,
            epochs=epochs,
            stage="final",
            split=self.split,
            overrides=(*shared, *(rate or cell.candidates[0]).overrides),
            tuned=rate is not None,
            needs=tuple(f"{name}-s{seed}" for name in self.twin_cells(""))
            if any(TWINS in override for override in shared)
            else (),
        )


def read_grid(path: Path) -> Grid:
    """Read a grid's file.

    Raises:
        UsageError: it is missing or wrong, or names cells that are not there.
    """
    try:
        grid = msgspec.yaml.decode(path.read_bytes(), type=Grid)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(path, expected="a grid", found=str(error), fix="Mend the file.") from error
    grid.jobs({})
    return grid


def outcome_of(job: Job, recipe: str, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """What became of a job; None for one that was not run, or was run with other overrides."""
    found = outcomes.get(job.name)
    same = job.tuned and found is not None and (found.recipe, found.overrides) == (recipe, job.overrides)
    return found if same else None


def gains_over_mean(finished: Mapping[str, Finished]) -> dict[str, float]:
    """Delta_m of each run against the mean of all of them, so that no run is the measure of the others.

    A metric that is 0 for all does not count.
    """
    runs = list(finished.values())
    counted, mean = {}, {}
    for task, infos in runs[0].metrics.items() if runs else ():
        sums = {info.name: sum(run.scores[task][info.name] for run in runs) for info in infos}
        mean[task] = {name: total / len(runs) for name, total in sums.items()}
        counted[task] = tuple(info for info in infos if mean[task][info.name] != 0)
    return {name: delta_m(run.scores, mean, counted)[0] for name, run in finished.items()}


def sized(name: str, size: str) -> str:
    """The name of a cell in a size; the grid's own has none."""
    return f"{size}-{name}" if size else name


def _varied(cell: Cell, name: str, overrides: Overrides) -> Cell:
    return msgspec.structs.replace(cell, name=name, overrides=(*cell.overrides, *overrides))


def _known(name: str, cells: Mapping[str, Cell]) -> Cell:
    if name not in cells:
        raise UsageError("grid", expected="a cell", found=f"`{name}`", fix=nearest(name, cells))
    return cells[name]


def _matching(pattern: str, cells: Mapping[str, Cell]) -> list[str]:
    found = [name for name in cells if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError("rounds", expected="cells", found=f"`{pattern}`", fix=nearest(pattern, cells))
    return found
