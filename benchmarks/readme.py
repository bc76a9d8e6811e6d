"""The figures of the READMEs, from the committed results: `python benchmarks/readme.py` writes them again.

A block of a page between `<!-- NAME: benchmarks/readme.py -->` and `<!-- end -->` is what the function of
that name in `BLOCKS` makes of the JSON. A test holds the pages to it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from harness import Finding

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "evidence"))

from analysis import Runs, analyze, gain, scores_of
from findings import Evidence, Interval
from grid import read_grid

PAGES = (HERE.parent / "README.md", HERE / "README.md", HERE / "evidence" / "README.md")
_BLOCK = re.compile(r"(<!-- (\w+): benchmarks/readme.py -->\n).*?(<!-- end -->)", re.DOTALL)


class Result(msgspec.Struct, frozen=True):
    """What the blocks read of a benchmark's JSON."""

    findings: list[Finding]
    raw: Any


def result(name: str) -> Result:
    """A committed result."""
    return msgspec.json.decode((HERE / "results" / f"{name}.json").read_bytes(), type=Result)


def findings(name: str) -> dict[str, Finding]:
    """Those of a committed result, by name."""
    return {finding.name: finding for finding in result(name).findings}


def steps() -> str:
    """Time and memory of a training step by method and network, over those of plain kernels."""
    found, networks = findings("steps"), ("nyuv2_compact", "nyuv2_segnet")
    names = [name.split(": ")[1] for name in found if "peak memory" not in name]
    rows = [
        [
            name.removesuffix(" / plain joint"),
            *(_cell(found.get(f"{net}: {kind}{name}")) for net in networks for kind in ("", "peak memory, ")),
        ]
        for name in dict.fromkeys(names)
    ]
    heads = [f"{label}: {what}" for label in ("compact", "SegNet") for what in ("time", "memory")]
    return _table(["a step, over that of plain kernels", *heads], rows)


def forks() -> str:
    """Branches as one convolution, over one after the other, by layer."""
    rows: dict[str, list[str]] = {}
    for name, finding in findings("forks").items():
        rows.setdefault(name.rpartition(", ")[0], []).append(_cell(finding))
    head = ["three branches batched / one after the other", "first convolution", "next convolution"]
    return _table(head, [[layer, *cells] for layer, cells in rows.items()])


def bundles() -> str:
    """What bundles cost to run, by network and threads."""
    found = findings("bundles") | findings("int8")
    threads = ("1 thread", "2 threads")
    settings = [f"{network}, {number}" for network in ("compact", "medium") for number in threads]
    claims = {
        "three networks of one task / merged": ": three single-task / merged",
        "that gain / what MACs predict": r": that gain / .* by MACs",
        "split / merged": ": split / merged",
        "merged by BundleRunner / by a bare session": ": merged / bare session",
        "fp32 / int8": ": fp32 / uint8",
    }

    def cell(pattern: str) -> str:
        return _cell(next((found[name] for name in found if re.fullmatch(pattern, name)), None), 3)

    rows = [[claim, *(cell(setting + pattern) for setting in settings)] for claim, pattern in claims.items()]
    memory = [cell("compact: peak memory, .*"), "", cell("medium: peak memory, .*"), ""]
    return _table(["", *settings], [*rows, ["peak memory, split / merged", *memory]])


def int8() -> str:
    """Accuracy lost by precision, and what some forms gain in speed."""
    found, table = findings("int8_accuracy"), dict[str, list[str]]()
    for name, finding in found.items():
        if "worse than fp32" in name:
            table.setdefault(name.split(": ")[0], []).append(f"{finding.value:+.3f}")
    speeds = {name: _cell(found.get(f"1 thread: fp32 / {name}"), 3) for name in table}
    head = ["worse than fp32 by", "points of mIoU", "% of depth abs", "degrees of normals", "fp32 / int8"]
    rows = [[name, *values, speeds[name]] for name, values in table.items()]
    return _table(head, [*rows, ["*limits*", "0.5", "2", "0.5", ""]])


def summary() -> str:
    """The ratios of steps and bundles in a few lines, over all networks and threads."""
    found = findings("steps") | findings("bundles") | findings("int8")

    def over(pattern: str) -> str:
        return _range([finding for name, finding in found.items() if re.fullmatch(pattern, name)])

    worse = result("int8_accuracy").findings
    lost = [f"{finding.value:+.2f}" for finding in worse if finding.name.startswith("int8: ")]
    lines = [
        f"A step with `factorized` kernels takes {over('nyuv2_segnet: factorized joint / .*')} of one with "
        f"plain kernels on SegNet at 288x384, {over('nyuv2_compact: factorized joint / .*')} on the compact "
        f"network; routed with three tasks {over('.*: factorized routed / .*')}. The peak of memory is "
        f"{over('nyuv2_.*: peak memory, .*')} of that of plain kernels, whatever the method.",
        f"One bundle of three tasks runs {over('.*: three single-task / merged')} times as fast as three "
        f"bundles of one, {over('.*: that gain / .* by MACs')} of what MACs predict.",
        f"The split layout takes {over('.*: split / merged')} of the time of the merged one, and "
        f"{over('.*: peak memory, split / merged')} of its memory; `BundleRunner` takes "
        f"{over('.*: merged / bare session')} of a bare `session.run`.",
        f"int8 runs {over('.*: fp32 / uint8')} times as fast as fp32, and is worse on NYUv2 by {lost[0]} "
        f"points of mIoU, {lost[1]} % of depth and {lost[2]} degrees.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def others() -> str:
    """Compiled steps, start, and the synthetic rooms."""
    found = findings("startup") | findings("scenes")
    compiled = [f"{finding.value:.2f}" for finding in findings("compiled").values()]
    first_s = max(result("compiled").raw["first_step_s"].values())
    ms = result("startup").raw["median_ms"]
    start = found["start: edgemtl --help / import typer, rich.table"]
    load = found["start: import BundleRunner, onnxruntime / import numpy, onnxruntime"]
    narrow, twice, gained = (value.value for name, value in found.items() if name.startswith("Delta_m"))
    waiting = [value.value for name, value in found.items() if name.startswith("share of a step waiting")]
    lines = [
        f"With `training.compile: true` steps of the compact network take {min(compiled)} to {max(compiled)} "
        f"of their time, by kernel method, after up to {first_s:.0f} s for the first.",
        f"`edgemtl --help` takes {_cell(start)} times as long as `import typer, rich.table`.",
        f"The runner and ONNX Runtime are imported in {ms['import BundleRunner, onnxruntime']:.0f} ms: "
        f"{_cell(load)} times the {ms['import numpy, onnxruntime']:.0f} ms of `import numpy, onnxruntime`.",
        f"One core makes {_cell(found['images/s on one core'])} synthetic rooms of 96x128 a second, and a "
        f"step waits for its images for {max(waiting):.1%} of its time (<= 5 %).",
        "Synthetic rooms do not saturate a compact network. Against a predictor of the labels' mean, after "
        f"8 epochs, a narrow network is at {narrow:+.1f} % of Delta_m and one of twice the widths at "
        f"{twice:+.1f} %, {gained:+.1f} % over the narrow one.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def evidence() -> str:
    """The cells of the grids of either optimizer, less those with equal weights and of other sizes, and the
    twins."""
    rows = []
    adam = Runs(read_grid(HERE / "evidence" / "grids" / "cpu.yaml"))
    for optimizer, name in (("Adam", "cpu"), ("Muon", "muon")):
        runs = Runs(read_grid(HERE / "evidence" / "grids" / f"{name}.yaml"))
        found = analyze(runs.grid)
        for cell in _cells(found):
            own, base = runs.of(cell), adam.of("plain-uncertainty")
            alike = own != base and runs.cells[cell].epochs is None
            over = gain(scores_of(own), scores_of(base), next(iter(own.values())).metrics) if alike else None
            same, twins = found.cells[cell].against_plain, found.cells[cell].against_twins
            label = (
                cell.replace("-uncertainty", "")
                .replace("-long", f", {runs.cells[cell].epochs} epochs")
                .replace("-", ", ")
                .replace("factorized", "factorized (spatial)")
            )
            gains = [_gain(each and each.overall) for each in (over, same, twins)]
            by_task = " / ".join(f"{twins.tasks[task].mean:+.1f}" for task in TASKS) if twins else ""
            scores = _scores(found, dict.fromkeys(TASKS, cell))
            rows.append([f"{optimizer}, {label}", str(len(own)), *scores, *gains, by_task])
        twin_cells = {task: f"twin_{task}" for task in TASKS}
        seeds = min(len(found.cells[cell].seeds) for cell in twin_cells.values())
        rows.append(
            [f"{optimizer}, twins (three networks)", str(seeds), *_scores(found, twin_cells), "", "", "0", ""]
        )
    head = ["optimizer, kernels", "seeds", "mIoU", "depth abs, m", "normals, degree"]
    deltas = [
        "Delta_m over plain with Adam, %",
        "over plain, same optimizer, %",
        "against twins, same optimizer, %",
        "the same by task",
    ]
    return _table([*head, *deltas], rows)


def equal() -> str:
    """The cells with equal weights against plain kernels with equal weights, overall and by task."""
    found = analyze(read_grid(HERE / "evidence" / "grids" / "cpu.yaml"))
    rows = []
    for cell in (name for name in found.cells if name.endswith("-equal")):
        over = found.cells[cell].against_plain
        gains = [over.overall, *(over.tasks[task] for task in TASKS)] if over else [None] * (1 + len(TASKS))
        label = cell.removesuffix("-equal").replace("factorized", "factorized (spatial)")
        seeds = str(len(found.cells[cell].seeds))
        rows.append([label, seeds, *_scores(found, dict.fromkeys(TASKS, cell)), *map(_gain, gains)])
    head = ["kernels", "seeds", "mIoU", "depth abs, m", "normals, degree"]
    return _table([*head, "Delta_m over plain, %", *TASKS], rows)


def pays() -> str:
    """The rows of ``evidence`` that tell most, without the comparison across optimizers."""
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in evidence().splitlines())
    head, *told = ([*row[:5], *row[6:]] for row in (head, *rows) if row == head or row[0] in TOLD)
    return _table(head, told)


TOLD = {
    *(f"Adam, {cell}" for cell in ("plain", "residual", "repvgg", "twins (three networks)")),
    *(f"Muon, {cell}" for cell in ("plain, weighted", "residual, weighted", "repvgg, weighted")),
    "Muon, residual, weighted, 180 epochs",
    "Muon, twins (three networks)",
}
TASKS = {"segmentation": ("miou", 3), "depth": ("abs", 3), "normals": ("mean", 1)}
BLOCKS: dict[str, Callable[[], str]] = {
    block.__name__: block for block in (summary, steps, forks, bundles, int8, others, evidence, equal, pays)
}


def written(text: str) -> str:
    """A page with its blocks made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def _cells(found: Evidence) -> list[str]:
    """Of the grid's own size, plain first, the distilled ones last."""
    cells = [
        name
        for name in found.cells
        if re.search("-uncertainty|-weighted", name) and not name.startswith(("narrow", "wide"))
    ]
    return sorted(cells, key=lambda name: (name != "plain-uncertainty", name.endswith("distilled")))


def _scores(found: Evidence, cells: dict[str, str]) -> list[str]:
    return [
        f"{found.cells[cells[task]].scores[task][metric].mean:.{digits}f}"
        for task, (metric, digits) in TASKS.items()
    ]


def _gain(value: Interval | None) -> str:
    if value is None:
        return ""
    bounds = " [{:+.1f}, {:+.1f}]".format(*value.t95) if value.t95 else ""
    return f"{value.mean:+.1f}{bounds}"


def _cell(finding: Finding | None, digits: int = 2) -> str:
    """A figure with its target; bold where it misses that."""
    if finding is None:
        return ""
    value = f"{finding.value:.{digits if finding.value < 100 else 0}f}"
    bounds = [(">=", finding.at_least), ("<=", finding.at_most)]
    target = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    text = f"{value} ({target})" if target else value
    return f"**{text}**" if finding.met is False else text


def _range(found: Sequence[Finding]) -> str:
    """The figures of findings with one target, from the least to the largest; those that miss it in bold."""
    met = sorted(finding.value for finding in found if finding.met is not False)
    text = f"{met[0]:.2f}" if met[0] == met[-1] else f"{met[0]:.2f} to {met[-1]:.2f}"
    missed = [_cell(finding) for finding in found if finding.met is False]
    bounds = {_cell(finding).partition(" ")[2] for finding in found if finding.met}
    return " ".join([text, *sorted(bounds), *(f"but {cell}" for cell in missed)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text()))
