#!/usr/bin/env python3
"""Measures the engines on this device and prints milliseconds, or with --json one document.

``end_to_end_ms``: one image at a time, from an array that enters to the arrays that leave.
``compute_ms``: the engines alone, by the events of the device, in the same runs.
``throughput_images_per_s``: back to back in tens, without waiting in between: each is copied from page-locked
memory, run and copied back on one stream. Not 1 / latency: do not mix them.
``load_ms``: to open the engines, TensorRT being imported and the device awake.
Clocks and power mode are recorded and never set; ``power`` is what the board drew meanwhile, by rail, loading
and warming up included; ``warnings`` name what slowed it down meanwhile.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import numpy as np
from board import Watch, print_facts, print_json
from network import HERE, Network, check_options, open_device, read_manifest


def main() -> int:
    """Print a line for each layout; with --json, one document."""
    parser = argparse.ArgumentParser(description="Measure the engines of this device.")
    parser.add_argument("--layout", help="merged or split; by default what the bundle has")
    parser.add_argument("--batch", type=int, help="default: the smallest of the bundle")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds for each measurement")
    parser.add_argument("--warmup-ms", type=float, default=200.0, help="before each measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    manifest = read_manifest()
    batch = options.batch or manifest["input"]["batch"][0]
    samples = np.load(HERE / manifest["golden"]["inputs"])[manifest["input"]["name"]]
    image = samples[np.arange(batch) % len(samples)]
    facts: dict[str, Any] = {
        "kind": "device_bench",
        "bundle": manifest["name"],
        "precision": manifest["precision"],
    }
    layouts = {}
    chosen = [options.layout] if options.layout else list(manifest["layouts"])
    check_options(manifest, chosen[0], batch)
    open_device()
    with Watch() as watch:
        for layout in chosen:
            start = perf_counter()
            network = Network(manifest, layout, batch)
            load_ms = 1000 * (perf_counter() - start)
            found = measure(network, image, options.warmup_ms, options.duration)
            layouts[layout] = {"load_ms": load_ms, **found}
    facts.update(runtime=network.runtime, batch=batch, layouts=layouts, **watch.facts)
    if options.json:
        print_json(facts)
        return 0
    print(f"{facts['bundle']} on {facts['runtime']}, batch {batch}")
    print_facts(facts)
    for layout, found in layouts.items():
        for name in ("end_to_end_ms", "compute_ms"):
            print(
                f"  {layout:8} {name:14}"
                + "".join(f"  {k} {found[name][k]:.3f}" for k in ("p50", "p90", "p99"))
            )
        print(f"  {layout:8} {found['throughput_images_per_s']:.1f} images/s, load {found['load_ms']:.1f} ms")
    return 0


def measure(network: Network, image: Any, warmup_ms: float, duration_s: float) -> dict[str, Any]:
    """First inference, latencies and throughput of one network."""
    start = perf_counter()
    network.run(image)
    first_ms = 1000 * (perf_counter() - start)
    until = perf_counter() + warmup_ms / 1000
    while perf_counter() < until:
        network.run(image)
    before, after = network.cuda.event(), network.cuda.event()
    end_to_end_ms: list[float] = []
    compute_ms: list[float] = []
    until = perf_counter() + duration_s
    while not end_to_end_ms or perf_counter() < until:
        start = perf_counter()
        network.upload(image)
        network.cuda.record(before)
        network.execute()
        network.cuda.record(after)
        network.download()
        end_to_end_ms.append(1000 * (perf_counter() - start))
        compute_ms.append(network.cuda.elapsed_ms(before, after))
    return {
        "first_inference_ms": first_ms,
        "end_to_end_ms": stats(end_to_end_ms),
        "compute_ms": stats(compute_ms),
        "throughput_images_per_s": throughput(network, image, duration_s),
    }


def throughput(network: Network, image: Any, duration_s: float) -> float:
    """Images a second when the next batch is queued before the last has left.

    It is always the same batch: to write another one over it would need a wait, or buffers in turns.
    """
    network.run(image)
    queued, start = 0, perf_counter()
    until = start + duration_s
    while not queued or perf_counter() < until:
        for _ in range(10):  # so that the queue never runs dry, and never grows without end
            network.send()
            network.execute()
            network.fetch()
            queued += 1
        network.cuda.wait()
    return queued * len(image) / (perf_counter() - start)


def stats(durations_ms: list[float]) -> dict[str, float]:
    """Mean, population standard deviation, percentiles by linear interpolation."""
    values = np.asarray(durations_ms)
    mean, std = float(values.mean()), float(values.std())
    found = {"mean": mean, "std": std, "cv": std / mean if mean else 0.0}
    found.update(min=float(values.min()), max=float(values.max()), count=len(values))
    found.update({f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 95, 99)})
    return found


if __name__ == "__main__":
    raise SystemExit(main())
