"""Where branches fork, is one convolution for all of them faster than one for each?

A stage that forks has a copy for each group. Its first convolution reads one feature in all copies, so that
they are one convolution of more outputs; the next read a feature of their own, and are one convolution of
as many groups. Both are timed forward and backward, joining and splitting included, against the copies one
after the other, which is what edgemtl does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from harness import Finding, Outcome, interleave, main
from torch import Tensor
from torch.nn import functional as F

BRANCHES = 3
Forward = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


class Setting(NamedTuple):
    """3x3 convolutions of as many inputs as outputs on ``batch`` features of (height, width)."""

    name: str
    batch: int
    channels: int
    size: tuple[int, int]


SETTINGS = (
    Setting("compact, last stage", 16, 16, (72, 96)),
    Setting("compact, middle", 16, 64, (18, 24)),
    Setting("SegNet, last stage", 1, 64, (288, 384)),
    Setting("SegNet, middle", 1, 512, (36, 48)),
)


def apart(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """One after the other."""
    return [F.conv2d(x, w, padding=1) for x, w in zip(features, weights, strict=True)]


def one_feature(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """As one convolution of a feature that all read."""
    return F.conv2d(features[0], torch.cat(list(weights)), padding=1).chunk(len(weights), 1)


def own_features(features: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """As one convolution of a group for each."""
    joined = F.conv2d(torch.cat(list(features), 1), torch.cat(list(weights)), padding=1, groups=len(weights))
    return joined.chunk(len(weights), 1)


def step(forward: Forward, setting: Setting, shared: bool) -> Callable[[], None]:
    """Forward and backward."""
    x = torch.rand(setting.batch, setting.channels, *setting.size)
    features = [x.clone().requires_grad_() for _ in range(BRANCHES)]
    features = features[:1] * BRANCHES if shared else features
    weights = [torch.rand(setting.channels, setting.channels, 3, 3).requires_grad_() for _ in features]

    def run() -> None:
        for tensor in (*features, *weights):
            tensor.grad = None
        sum(y.sum() for y in forward(features, weights)).backward()

    return run


def measure(quick: bool) -> Outcome:
    """Time the first and the next convolution of branches."""
    settings, rounds = (SETTINGS[:1], 3) if quick else (SETTINGS, 10)
    findings: list[Finding] = []
    raw: dict[str, object] = {}
    for setting in settings:
        for name, batched, shared in (("first", one_feature, True), ("next", own_features, False)):
            contest = interleave(
                f"{setting.name}, {name} convolution",
                {
                    "batched": step(batched, setting, shared),
                    "one after the other": step(apart, setting, shared),
                },
                rounds=rounds,
            )
            findings.append(contest.ratio("batched", "one after the other"))
            raw[contest.name] = {"median_ms": contest.medians_ms}
    return Outcome(
        settings={
            "branches": BRANCHES,
            "rounds": rounds,
            "settings": [setting._asdict() for setting in settings],
        },
        findings=findings,
        raw=raw,
    )


if __name__ == "__main__":
    main(__doc__, measure)
