"""Does torch.compile pay in training? Steps of the compact network, compiled and not, in turns.

What it costs to compile is the first step, which is not in the ratios: ``raw`` has its seconds.
"""

from __future__ import annotations

from time import perf_counter

import msgspec
from harness import Finding, Outcome, interleave, main
from steps import COMPACT, Bout

METHODS = ("plain", "residual", "factorized")


def measure(quick: bool) -> Outcome:
    """Time the steps of each method as they are and compiled."""
    setting = msgspec.structs.replace(COMPACT, batch=4, rounds=5) if quick else COMPACT
    bouts, first_s = {}, {}
    for method in METHODS[: 1 if quick else None]:
        for name, compiled in ((method, "false"), (f"{method} compiled", "true")):
            bouts[name] = Bout(setting, (f"kernel={method}", f"training.compile={compiled}"))
            start = perf_counter()
            bouts[name].step()
            first_s[name] = perf_counter() - start
    contest = interleave(
        setting.recipe, {name: bout.step for name, bout in bouts.items()}, rounds=setting.rounds
    )
    findings: list[Finding] = [
        contest.ratio(f"{method} compiled", method) for method in METHODS if method in bouts
    ]
    return Outcome(
        settings={
            "recipe": setting.recipe,
            "size": setting.size,
            "batch": setting.batch,
            "rounds": setting.rounds,
        },
        findings=findings,
        raw={"median_ms": contest.medians_ms, "first_step_s": first_s},
    )


if __name__ == "__main__":
    main(__doc__, measure)
