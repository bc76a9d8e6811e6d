"""evidence.md: what an analysis found, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from findings import Evidence, Found, Gain, Interval, Point

ABSENT = "-"


def markdown(evidence: Evidence) -> str:
    """The page: what was measured, gains, costs, sizes, and what is missing."""
    parts = [_head(evidence)]
    if compared := {name: cell for name, cell in evidence.cells.items() if cell.against_twins}:
        parts += ["## Against the twins, Delta_m in %", _gains(compared, "against_twins")]
    if compared := {name: cell for name, cell in evidence.cells.items() if cell.against_plain}:
        parts += [
            "## Against plain kernels of the same balancing, Delta_m in %",
            _gains(compared, "against_plain"),
        ]
    if evidence.cells:
        parts += ["## Scores", _scores(evidence.cells), "## Costs", _costs(evidence.cells)]
    if evidence.pareto:
        parts += ["## Sizes", _pareto(evidence.pareto)]
    parts += _open(evidence)
    return "\n\n".join(parts) + "\n"


def _head(evidence: Evidence) -> str:
    seeds = {len(cell.seeds) for cell in evidence.cells.values()}
    rough = (
        " With so few seeds an interval is rough: Student's comes first, and the bootstrap's, which is then "
        "too narrow, is in evidence.json."
        if seeds and max(seeds) < 10
        else ""
    )
    return (
        f"# Evidence: {evidence.grid}\n\n"
        f"{evidence.epochs} epochs; every figure is of the collapsed network on {evidence.images} images of "
        f"`{evidence.split}`. + is better. Differences are paired by seed; in brackets is the 95 % interval "
        f"of the mean over the seeds.{rough} `overall` is the mean over all metrics, `task mean` that of the "
        "tasks' means."
    )


def _gains(cells: dict[str, Found], against: str) -> str:
    found: dict[str, Gain] = {name: getattr(cell, against) for name, cell in cells.items()}
    tasks = list(next(iter(found.values())).tasks)
    rows = [
        [
            name,
            str(len(gain.overall.by_seed)),
            _signed(gain.overall),
            _signed(gain.task_mean),
            *(_signed(gain.tasks[task]) for task in tasks),
        ]
        for name, gain in found.items()
    ]
    return _table(["cell", "seeds", "overall", "task mean", *tasks], rows)


def _scores(cells: dict[str, Found]) -> str:
    columns = list(
        dict.fromkeys(
            (task, name) for cell in cells.values() for task, table in cell.scores.items() for name in table
        )
    )
    rows = [
        [name, *(_plain(cell.scores.get(task, {}).get(metric)) for task, metric in columns)]
        for name, cell in cells.items()
    ]
    return _table(["cell", *(f"{task} {metric}" for task, metric in columns)], rows)


def _costs(cells: dict[str, Found]) -> str:
    rows = []
    for name, cell in cells.items():
        costs = cell.costs
        trained, deployed = costs.parameters
        rows.append(
            [
                name,
                str(cell.chosen or ABSENT),
                f"{costs.step_ms:.1f}",
                ABSENT if costs.step_ratio is None else f"{costs.step_ratio:.2f}",
                f"{costs.peak_rss_mib:.0f}",
                ABSENT if costs.peak_device_mib is None else f"{costs.peak_device_mib:.0f}",
                f"{trained:,}",
                f"{deployed:,}",
                f"{costs.macs_deployed / 1e6:.1f}",
            ]
        )
    head = ["cell", "rate", "step ms", "x plain", "peak RSS MiB", "device MiB", "trained", "deployed", "MMAC"]
    note = "Steps were timed in the queue, beside other runs: rough. MMAC is of the deployed network."
    return f"{_table(head, rows)}\n\n{note}"


def _pareto(points: Sequence[Point]) -> str:
    threads = list(points[0].latency_ms)
    rows = [
        [
            point.size or "base",
            point.name,
            *(f"{point.latency_ms[n]:.2f}" for n in threads),
            _signed(point.overall),
            _signed(point.task_mean),
        ]
        for point in points
    ]
    head = ["size", "cell", *(f"ms, {n} threads" for n in threads), "overall", "task mean"]
    return f"{_table(head, rows)}\n\nDelta_m is against the twins of the base size; their latency is the sum."


def _open(evidence: Evidence) -> list[str]:
    parts = []
    if evidence.failed:
        parts += ["## Failed", _list(f"{name}: {error}" for name, error in evidence.failed.items())]
    if evidence.missing:
        parts += [f"## Missing: {len(evidence.missing)} runs", _list(evidence.missing)]
    return parts


def _signed(value: Interval) -> str:
    bounds = f" [{value.t95[0]:+.1f}, {value.t95[1]:+.1f}]" if value.t95 else ""
    return f"{value.mean:+.2f}{bounds}"


def _plain(value: Interval | None) -> str:
    return ABSENT if value is None else f"{value.mean:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
