"""What does int8 buy on this CPU? fp32, int8 and fp16 bundles of one network, in turns on one thread.

Networks have random weights, as speed does not depend on them. `uint8` is what --target onnx writes, `int8`
is the symmetric form for TensorRT: ONNX Runtime runs no convolution with a ReLU after it in integers then, so
there it is for correctness alone. What int8 costs in accuracy is the question of `int8_accuracy.py`.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from bundles import COMPACT, MEDIUM, TASKS, Setting
from harness import Finding, Outcome, interleave, main

from edgemtl.collapse import collapse
from edgemtl.export import Export, Material, write_bundle
from edgemtl.model import MultitaskModel
from edgemtl.runtime.runner import BundleRunner

WAYS = {
    "fp32": Export(layouts=("merged",)),
    "uint8": Export(layouts=("merged",), precision="int8"),
    "int8": Export(layouts=("merged",), precision="int8", target="jetson"),
    "fp16": Export(layouts=("merged",), precision="fp16"),
}


def measure(quick: bool) -> Outcome:
    """The latency of each precision against fp32."""
    settings = (msgspec.structs.replace(COMPACT, rounds=10),) if quick else (COMPACT, MEDIUM)
    findings: list[Finding] = []
    raw: dict[str, object] = {}
    for setting in settings:
        with tempfile.TemporaryDirectory() as temporary:
            runners = _runners(setting, Path(temporary))
            image = np.random.default_rng(0).random((1, 3, *setting.size), np.float32)
            contest = interleave(
                f"{setting.name}, 1 thread",
                {way: partial(runner, image) for way, runner in runners.items()},
                rounds=setting.rounds,
                calls=setting.calls,
            )
        raw[contest.name] = {"median_ms": contest.medians_ms}
        findings.append(contest.ratio("fp32", "uint8", at_least=2.0))
        findings += (contest.ratio(way, "fp32") for way in ("int8", "fp16"))
    return Outcome(
        settings={"batch": 1, "calibration_images": 8, **{s.name: s for s in settings}},
        findings=findings,
        raw=raw,
    )


def _runners(setting: Setting, folder: Path) -> dict[str, BundleRunner]:
    torch.manual_seed(0)
    model = MultitaskModel(setting.backbone.stages(), TASKS)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 3, *setting.size))  # the statistics of batch normalization
    collapsed, images = collapse(model, setting.size), torch.rand(8, 3, *setting.size)
    for way, spec in WAYS.items():
        material = Material(images.numpy())
        write_bundle(collapsed, folder / way, name=way, images=images[:2], spec=spec, material=material)
    return {way: BundleRunner(folder / way, threads=1) for way in WAYS}


if __name__ == "__main__":
    main(__doc__, measure)
