"""How fast does edgemtl start? Its help against the libraries that it stands on, its runtime against numpy
and ONNX Runtime.

Every call is a new process of this interpreter in this environment, started in turns, so that rivals differ
only in what they import. Reading the files from disk has no part in it: the warm-up has cached them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import Outcome, interleave, main

RUNNER = "from edgemtl.runtime.runner import BundleRunner"
COMMAND = Path(sys.executable).with_name("edgemtl")  # the installed script
COMMANDS = {
    "edgemtl --help": [str(COMMAND), "--help"],
    "import typer, rich.table": ["-c", "import typer, rich.table"],
    "import BundleRunner": ["-c", RUNNER],
    "import BundleRunner, onnxruntime": ["-c", f"{RUNNER}; import onnxruntime"],
    "import numpy, onnxruntime": ["-c", "import numpy, onnxruntime"],
}


def measure(quick: bool) -> Outcome:
    """Start every process in turns."""
    rounds = 5 if quick else 40
    contest = interleave(
        "start", {name: start(arguments) for name, arguments in COMMANDS.items()}, rounds=rounds
    )
    findings = [
        contest.ratio("edgemtl --help", "import typer, rich.table", at_most=1.5),
        contest.ratio("import BundleRunner", "import numpy, onnxruntime"),
        contest.ratio("import BundleRunner, onnxruntime", "import numpy, onnxruntime"),
    ]
    return Outcome(settings={"rounds": rounds}, findings=findings, raw={"median_ms": contest.medians_ms})


def start(arguments: list[str]) -> Callable[[], object]:
    """A call that runs the interpreter to its end."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(__doc__, measure)
