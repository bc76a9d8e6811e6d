"""How long the exported bundles of a grid's networks take: results/GRID/latency.json.

    python benchmarks/evidence/latency.py     # on an idle machine

Of every size, the twins (one after the other) and the cells that the grid names for its sizes, all measured
in turns in one process. The networks are not trained, which their speed does not depend on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from grid import Grid, read_grid, sized
from records import folder_of

from edgemtl.bench.device import device_facts
from edgemtl.bench.latency import measure
from edgemtl.core.device import Device
from edgemtl.core.errors import DataError, EdgemtlError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import Stats, timestamp
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.session import available_cores

TWINS = "twins"
WARMUP_MS, DURATION_S, REPEATS = 300, 3.0, 50


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """A cell, or the ``twins`` of a size, batch 1: milliseconds by threads."""

    name: str
    size: str
    latency_ms: dict[int, Stats]


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and where."""

    created: str
    device: Device
    timed: tuple[Timed, ...]


def read_latencies(grid: str) -> tuple[Timed, ...]:
    """What was measured for a grid; nothing where nothing was.

    Raises:
        DataError: the file is damaged.
    """
    path = folder_of(grid) / "latency.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Latencies).timed if path.is_file() else ()
    except msgspec.DecodeError as error:
        raise DataError(path, expected="latencies", found=str(error), fix="Measure them again.") from error


def points(grid: Grid) -> dict[tuple[str, str], tuple[str, ...]]:
    """The cells to run one after the other for each point of the drawing, by (size, name)."""
    named = {cell for size in grid.sizes.values() for cell in size.cells}
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for label in ("", *grid.sizes):
        found[label, TWINS] = grid.twin_cells(label)
        own = grid.sizes[label].cells if label else named
        found |= {(label, name): (sized(name, label),) for name in sorted(own)}
    return found


def measured(grid: Grid) -> tuple[Timed, ...]:
    """Export every network and run them all in turns."""
    rivals = points(grid)
    found: dict[tuple[str, str], dict[int, Stats]] = {key: {} for key in rivals}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in {cell for cells in rivals.values() for cell in cells}:
            _export(grid, name, folder / name)
        for threads in range(1, available_cores() + 1):
            ways = {key: _Way([folder / cell for cell in cells], threads) for key, cells in rivals.items()}
            stats = measure(ways, warmup_ms=WARMUP_MS, duration_s=DURATION_S, repeats=REPEATS)
            for key, value in stats.items():
                found[key][threads] = value
    return tuple(Timed(name=name, size=size, latency_ms=table) for (size, name), table in found.items())


class _Way:
    """Bundles, one after the other, on the same random image."""

    def __init__(self, bundles: Sequence[Path], threads: int) -> None:
        self.runners = [BundleRunner(bundle, threads=threads) for bundle in bundles]
        image = self.runners[0].manifest.input
        self.image = np.random.default_rng(0).random((1, 3, image.height, image.width), dtype=np.float32)

    def __call__(self) -> None:
        for runner in self.runners:
            runner(self.image)


def _export(grid: Grid, cell: str, bundle: Path) -> None:
    # What exports loads PyTorch, which reading latencies should not.
    import torch

    from edgemtl.build import build_model
    from edgemtl.collapse import collapse
    from edgemtl.core.locate import find_recipe
    from edgemtl.export import Export, write_bundle
    from edgemtl.recipe import load

    recipe = load(find_recipe(grid.recipe), [*grid.common, *grid.cells[cell].overrides])
    size = recipe.data.image_size
    network = collapse(build_model(recipe), size)
    write_bundle(network, bundle, name=cell, images=torch.rand(1, 3, *size), spec=Export(layouts=("merged",)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=Path(__file__).parent / "grids" / "cpu.yaml")
    try:
        grid = read_grid(parser.parse_args().grid)
        timed = measured(grid)
        with replacing(folder_of(grid.name) / "latency.json") as draft:
            draft.write_bytes(json_bytes(Latencies(created=timestamp(), device=device_facts(), timed=timed)))
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for point in timed:
        medians = ", ".join(f"{n} threads {stats.p50:.2f} ms" for n, stats in point.latency_ms.items())
        print(f"{point.size or 'base'} {point.name}: {medians}")


if __name__ == "__main__":
    main()
