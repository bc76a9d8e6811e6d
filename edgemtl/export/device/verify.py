#!/usr/bin/env python3
"""Replays the golden samples through the engines on this device: does it compute what the desk computed?

Every element has to satisfy |found - expected| <= atol + rtol * |expected|, as in `edgemtl verify`.
Exits with 0 if all do, 3 if not, 4 if the device lacks something.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from board import Watch, print_facts, print_json
from network import HERE, Network, read_manifest


def main() -> int:
    """Print a line for each layout and task; with --json, one document."""
    parser = argparse.ArgumentParser(
        description="Replay the golden samples through the engines of this device."
    )
    parser.add_argument("--layout", help="merged or split; by default what the bundle has")
    parser.add_argument("--atol", type=float, help="default: the manifest's")
    parser.add_argument("--rtol", type=float, help="default: the manifest's")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    manifest = read_manifest()
    golden = manifest["golden"]
    atol = golden["atol"] if options.atol is None else options.atol
    # In lower precision a task has tolerances of its own: of every element, and of their mean.
    own = {
        task: (info["atol"], info.get("mean_atol"))
        for task, info in manifest["tasks"].items()
        if info.get("atol") is not None
    }
    if options.atol is not None:
        own.clear()
    rtol = golden["rtol"] if options.rtol is None else options.rtol
    image = np.load(HERE / golden["inputs"])[manifest["input"]["name"]]
    expected = np.load(HERE / golden["outputs"])
    layouts: dict[str, dict[str, Any]] = {}
    with Watch() as watch:
        for layout in [options.layout] if options.layout else manifest["layouts"]:
            network = Network(manifest, layout, manifest["input"]["batch"][0])
            found = replay(network, image, manifest["input"]["batch"][0])
            layouts[layout] = {
                task: deviation(found[task], expected[task], own.get(task, (atol, None)), rtol)
                for task in manifest["tasks"]
            }
    passed = all(found["passed"] for tasks in layouts.values() for found in tasks.values())
    if options.json:
        facts = {
            "kind": "verify",
            "bundle": manifest["name"],
            "runtime": network.runtime,
            "samples": len(image),
            **watch.facts,
        }
        print_json({**facts, "atol": atol, "rtol": rtol, "layouts": layouts, "passed": passed})
    else:
        print(f"{manifest['name']} on {network.runtime}: atol {atol:g}, rtol {rtol:g}, {len(image)} samples")
        print_facts(watch.facts)
        for layout, tasks in layouts.items():
            for task, one in tasks.items():
                print_deviation(f"{layout} {task}", one)
    return 0 if passed else 3


def replay(network: Network, image: Any, batch: int) -> dict[str, Any]:
    """Run all samples; where the batch does not divide them, the last is repeated and then cut off."""
    rows = np.minimum(np.arange(-(-len(image) // batch) * batch), len(image) - 1)
    runs = []
    for start in range(0, len(rows), batch):
        outputs = network.run(image[rows[start : start + batch]])
        runs.append({task: array.copy() for task, array in outputs.items()})
    return {task: np.concatenate([run[task] for run in runs])[: len(image)] for task in runs[0]}


def deviation(found: Any, expected: Any, atols: Any, rtol: float) -> dict[str, Any]:
    """How far ``found`` lies from ``expected``, and where it exceeds its tolerance most. ``atols``: of every
    element, and of their mean or None.
    """
    atol, mean_atol = atols
    wanted = expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        error = np.abs(found - wanted)
    error[np.isnan(error)] = np.inf
    excess = error - (atol + rtol * np.abs(wanted))
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    sample, channel, row, column = (int(index) for index in worst)
    largest, mean_abs = float(np.abs(wanted).max()), float(error.mean())
    near = mean_atol is None or mean_abs <= mean_atol + rtol * float(np.abs(wanted).mean())
    return {
        "passed": bool(excess[worst] <= 0) and near,
        "max_abs": float(error.max()),
        "mean_abs": mean_abs,
        "max_rel": float(error.max()) / (largest or 1.0),
        "sample": sample,
        "channel": channel,
        "pixel": [row, column],
        "expected": float(expected[worst]),
        "found": float(found[worst]),
        "atol": atol,
        "mean_atol": mean_atol,
    }


def print_deviation(what: str, one: dict[str, Any]) -> None:
    """A line such as ``split depth  max abs 4.9e-07 of 1e-03  max rel ...  pass``."""
    place = "#{} {},{}".format(one["sample"], *one["pixel"])
    end = "pass" if one["passed"] else "FAIL: expected {expected:.6g}, found {found:.6g}".format(**one)
    distance = f"max abs {one['max_abs']:.1e} (atol {one['atol']:.1e})  mean abs {one['mean_abs']:.1e}"
    if one["mean_atol"] is not None:
        distance += f" (atol {one['mean_atol']:.1e})"
    print(f"  {what:30} {distance}  worst at {place}  {end}")


if __name__ == "__main__":
    raise SystemExit(main())
