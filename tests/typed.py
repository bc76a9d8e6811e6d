"""Commands as a user types them, run in this process."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from edgemtl.cli import main


class Found(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def edgemtl(*words: object, cwd: Path, code: int = 0) -> Found:
    """Run a command as the entry point does; neither stream is a terminal."""
    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, Path.cwd())
    os.chdir(cwd)
    sys.argv = ["edgemtl", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        found = 0
    except SystemExit as end:
        found = int(end.code or 0)
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
    assert found == code, err.getvalue()
    assert "\x1b[" not in out.getvalue() + err.getvalue()
    return Found(out.getvalue(), err.getvalue())


def error_line(found: Found) -> str:
    """The one line that tells of a failure."""
    lines = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, found.stderr
    assert "Traceback" not in found.stderr
    return lines[0]
