"""Diagnosis: what `edgemtl doctor` found on a machine."""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT = 1


class Finding(msgspec.Struct, frozen=True):
    """One thing that edgemtl can use: whether it is there, what it is, and how to get or mend it.

    ``absent`` is no fault: the edge needs no PyTorch and a desk no board. ``broken`` is there and does not
    work.
    """

    name: str
    state: Literal["ok", "absent", "broken"]
    found: str
    fix: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Every finding, in the order of a person's questions."""

    kind: str = "doctor"
    format: int = FORMAT
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of what does not work."""
        return tuple(finding.name for finding in self.findings if finding.state == "broken")
