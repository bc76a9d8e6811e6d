"""One run of the queue, in a process of its own: train (or go on), collapse, measure, write the record.

Started by runner.py with the file of an order. An error that a user can mend ends it with one line and the
exit code of its kind.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import shutil
import signal
import statistics
import sys
from contextlib import nullcontext
from pathlib import Path

import msgspec
import torch
from bf16 import RoundedConvolutions
from records import Cost, Finished, Made, write

from edgemtl import recipe as recipes
from edgemtl import workflow
from edgemtl.core.errors import EdgemtlError
from edgemtl.core.inspection import Certificate
from edgemtl.core.locate import find_recipe
from edgemtl.data.loader import steps_per_epoch
from edgemtl.evaluation import evaluate
from edgemtl.recipe import Recipe
from edgemtl.run import Run, environment
from edgemtl.training.fabric import computes
from edgemtl.training.trainer import STATE

NICENESS = 10
STOPPED = 128 + signal.SIGTERM


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run to make. ``overrides`` are what the record will say, ``given`` the same with the folders of this
    machine filled in, ``root`` the place of the data, if they have one.
    """

    name: str
    recipe: str
    seed: int
    overrides: tuple[str, ...]
    given: tuple[str, ...]
    root: str | None
    split: str
    processes: int
    folder: str
    record: str

    def resolved(self) -> Recipe:
        """The recipe of the run.

        Raises:
            UsageError: an override is wrong.
        """
        root = () if self.root is None else (f"data.root={self.root}",)
        return recipes.load(find_recipe(self.recipe), [*self.given, *root])


def main() -> None:
    """Make the run that a file orders."""
    os.nice(NICENESS)
    # An orderly exit takes the processes that load data along, which else would hold the run's lock.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STOPPED))
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    try:
        write(Path(order.record), execute(order))
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def execute(order: Order) -> Finished:
    """Make a run, or the rest of one that was killed."""
    recipe = order.resolved()
    one = recipe.training.devices * recipe.training.nodes == 1  # other processes would not be emulated
    emulated = (
        recipe.training.precision == "bf16" and one and not (torch.cuda.is_available() or computes("bf16"))
    )
    if emulated:
        logging.getLogger("edgemtl.training.fabric").setLevel(logging.ERROR)  # it warns of slow bf16
    with RoundedConvolutions() if emulated else nullcontext():
        run = trained(recipe, Path(order.folder))
    # Before anything else can raise the peaks.
    peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak_device_mib = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    certificate = workflow.collapse(run, evaluate=False).certificate
    report = evaluate(run.path, network="collapsed", split=order.split)
    facts = environment()
    return Finished(
        name=order.name,
        recipe=order.recipe,
        overrides=order.overrides,
        seed=order.seed,
        recipe_sha256=fingerprint(run.recipe, order.root),
        split=report.split,
        images=report.images,
        scores=report.tasks,
        metrics=report.metrics,
        worst=certificate.worst,
        cost=cost(run, certificate, peak_rss_mib, peak_device_mib),
        made=Made(
            platform=facts.platform,
            processes=order.processes,
            threads=facts.threads,
            bf16_emulated=emulated,
            versions={"edgemtl": facts.edgemtl, "python": facts.python, **facts.versions},
        ),
    )


def trained(recipe: Recipe, folder: Path) -> Run:
    """The trained run: from its checkpoint, where it has one."""
    if (folder / STATE).is_file():
        return workflow.resume(folder)
    if folder.exists():
        shutil.rmtree(folder)  # killed before its first checkpoint
    return workflow.train(recipe, folder)


def cost(run: Run, certificate: Certificate, peak_rss_mib: float, peak_device_mib: float | None) -> Cost:
    """What training took, by its own records. Of each epoch counts the time in which a batch was at hand."""
    records = run.metrics
    steps = steps_per_epoch(run.recipe.data.dataset("train"), run.recipe.training.batch)
    ends_s = [0.0, *(record["elapsed_s"] for record in records)]
    steps_ms = [
        1000 * (end - start) * (1 - record["wait_share"]) / steps
        for start, end, record in zip(ends_s, ends_s[1:], records, strict=False)
    ]
    return Cost(
        train_s=ends_s[-1],
        step_ms=round(statistics.median(steps_ms), 3),
        peak_rss_mib=round(peak_rss_mib, 1),
        peak_device_mib=peak_device_mib,
        parameters=certificate.parameters,
        macs=certificate.macs,
    )


def fingerprint(recipe: Recipe, root: str | None) -> str:
    """SHA-256 of a resolved recipe, the same wherever the data lie."""
    text = recipes.dump(recipe)
    return hashlib.sha256((text.replace(root, "ROOT") if root else text).encode()).hexdigest()


if __name__ == "__main__":
    main()
