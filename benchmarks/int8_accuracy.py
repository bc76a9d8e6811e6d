"""What does int8 cost in accuracy? A collapsed run in fp32 and in forms of int8, over its whole val split.

    python benchmarks/int8_accuracy.py runs/nyuv2_compact

Every figure is that of the exported files, run by ONNX Runtime. The forms differ in what is offered against
the loss (cross-layer equalization, bias correction, how ranges are found), in the activations (`symmetric` is
what TensorRT takes), and in the budget, which is kept by leaving parts in fp32; what that costs in speed is
measured in turns, on one thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Finding, Outcome, arguments, conclude, interleave, judge

from edgemtl import workflow
from edgemtl.core.report import Scores
from edgemtl.data.loader import eval_batches
from edgemtl.export import Export
from edgemtl.export.budget import parse_budget
from edgemtl.export.precision import Lowering
from edgemtl.run import Run
from edgemtl.runtime.runner import BundleRunner
from edgemtl.training.evaluate import of_arrays, score

# What int8 may lose: points of mIoU, a share of the error of depth, degrees.
LIMITS = {
    ("segmentation", "miou"): ("points of mIoU", 0.5),
    ("depth", "abs"): ("% of depth abs", 2.0),
    ("normals", "mean"): ("degrees of normals", 0.5),
}
BUDGET = parse_budget(["segmentation.miou=0.5", "depth.abs=2%", "normals.mean=0.5"])
THIRD = parse_budget(["segmentation.miou=0.15", "depth.abs=0.6%", "normals.mean=0.15"])
INT8, BUDGETED, THIRDS = "int8", "int8, budget of the limits", "int8, budget of a third"
ROUNDS, CALLS = 200, 20
LOWERED = {
    INT8: Lowering(),
    BUDGETED: Lowering(budget=BUDGET),
    THIRDS: Lowering(budget=THIRD),
    "int8, bias not corrected": Lowering(correct_bias=False),
    "int8, equalized too": Lowering(equalize=True),
    "int8, equalized alone": Lowering(equalize=True, correct_bias=False),
    "int8, minmax": Lowering(calibration="minmax"),
    "int8, entropy": Lowering(calibration="entropy"),
}
SYMMETRIC: dict[str, dict[str, bool]] = {
    "": {},
    ", bias not corrected": {"correct_bias": False},
    ", equalized too": {"equalize": True},
}
WAYS = {
    "fp32": Export(layouts=("merged",)),
    **{way: Export(layouts=("merged",), precision="int8", lowering=spec) for way, spec in LOWERED.items()},
    **{
        f"int8, symmetric{way}": Export(
            layouts=("merged",), precision="int8", target="jetson", lowering=Lowering(**options)
        )
        for way, options in SYMMETRIC.items()
    },
    "fp16": Export(layouts=("merged",), precision="fp16"),
}


def measure(run: Run, quick: bool) -> Outcome:
    """Export every way and score its files."""
    ways = {way: WAYS[way] for way in ("fp32", INT8)} if quick else WAYS
    scores: dict[str, Scores] = {}
    kept: dict[str, dict[str, str]] = {}
    runners: dict[str, BundleRunner] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for way, spec in ways.items():
            bundle, manifest = workflow.export(run, Path(temporary) / way, spec)
            scores[way] = scored(run, bundle)
            if manifest.lowered is not None:
                parts = manifest.lowered.parts.items()
                kept[way] = {part: precision for part, precision in parts if precision != spec.precision}
            print(f"{way}: {scores[way]}", flush=True)
            if way in ("fp32", INT8, THIRDS):
                runners[way] = BundleRunner(bundle, threads=1)
        image = run.recipe.data.dataset("val")[0].image.numpy()[None]
        contest = interleave(
            "1 thread",
            {way: partial(runner, image) for way, runner in runners.items()},
            rounds=10 if quick else ROUNDS,
            calls=CALLS,
        )
    return Outcome(
        settings={"recipe": run.recipe, "split": "val", "ways": ways},
        findings=[*findings(scores), *(contest.ratio("fp32", way) for way in runners if way != "fp32")],
        raw={"scores": scores, "kept_higher": kept, "median_ms": contest.medians_ms},
    )


def scored(run: Run, bundle: Path) -> Scores:
    """The metrics of a bundle's files over the whole val split."""
    batches = eval_batches(run.recipe.data.dataset("val"), batch=1)
    return score(of_arrays(BundleRunner(bundle)), run.recipe.tasks, batches)


def findings(scores: dict[str, Scores]) -> Iterator[Finding]:
    """How much worse every way is than fp32. What has a budget must be as close as what has none."""
    losses = {way: lost(table, scores["fp32"]) for way, table in scores.items() if way != "fp32"}
    for way, loss in losses.items():
        for key, (unit, limit) in LIMITS.items():
            if key in loss:
                most = min(limit, max(losses[INT8][key], 0)) if way == BUDGETED else limit
                yield judge(f"{way}: {unit} worse than fp32", loss[key], at_most=most)


def lost(table: Scores, base: Scores) -> dict[tuple[str, str], float]:
    """What a network loses by the metrics of the limits, in their units; negative where it gains."""
    return {
        ("segmentation", "miou"): 100 * (base["segmentation"]["miou"] - table["segmentation"]["miou"]),
        ("depth", "abs"): 100 * (table["depth"]["abs"] / base["depth"]["abs"] - 1),
        ("normals", "mean"): table["normals"]["mean"] - base["normals"]["mean"],
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path, help="a collapsed run with segmentation, depth and normals")
    options = parser.parse_args()
    conclude(measure(Run.open(options.run), options.quick), options)
