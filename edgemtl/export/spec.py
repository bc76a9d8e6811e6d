"""How a network is exported, as a command line says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from edgemtl.core.errors import UsageError, nearest
from edgemtl.export.budget import parse_budget
from edgemtl.export.calibrate import Method
from edgemtl.export.precision import WRITTEN, Lowering, check_written
from edgemtl.export.refusals import check_dla, check_opset, check_precision, check_used
from edgemtl.export.targets import Device, Precision, devices, newest_opset

Layout = Literal["merged", "split"]
OPSETS = range(17, 24)


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to export. What the target cannot run is refused here, so before anything is written.

    ``jetpack``: without it a bundle suits every JetPack of its target. ``batch``: (smallest, largest); equal
    for a static batch. ``opset``: by default the newest up to 18 that the target reads. ``atol``, ``rtol``:
    how far a runtime may be from the golden outputs. They leave room for a GPU without TF32; a CPU stays a
    hundred times closer.

    Raises:
        UsageError: a value is out of range, or the target cannot run it; says what would work.
    """

    target: str = "onnx"
    jetpack: str = ""
    precision: Precision = "fp32"
    lowering: Lowering = Lowering()
    layouts: Annotated[tuple[Layout, ...], msgspec.Meta(min_length=1)] = ("merged", "split")
    batch: tuple[int, int] = (1, 1)
    opset: Annotated[int, msgspec.Meta(ge=min(OPSETS), le=max(OPSETS))] | None = None
    dla: bool = False
    atol: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    rtol: Annotated[float, msgspec.Meta(ge=0)] = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.batch[0] <= self.batch[1]:
            raise UsageError(
                "--batch",
                expected="smallest and largest batch, 1 or more, in this order",
                found=str(self.batch),
                fix="For example 1 for a static batch, or 1,8.",
            )
        check_precision(self.devices, self.precision)
        if self.dla:
            check_dla(self.devices, self.precision, self.batch)
        if self.opset is not None:
            check_opset(self.devices, self.opset)
        check_written(self.precision)
        check_used(self.precision, self.lowering)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that the bundle has to suit."""
        return devices(self.target, self.jetpack)

    @property
    def written_opset(self) -> int:
        """The opset that is written."""
        return newest_opset(self.devices, 18) if self.opset is None else self.opset

    @property
    def label(self) -> str:
        """The name of the bundle's folder: what distinguishes it from others of the same run."""
        return "-".join(filter(None, (self.target, self.jetpack, self.precision, "dla" if self.dla else "")))


def parse_export(
    *,
    target: str,
    jetpack: str = "",
    precision: str = "fp32",
    layouts: str,
    batch: str,
    opset: int | None = None,
    dla: bool = False,
    lowering: Mapping[str, object] = MappingProxyType({}),
    keep: Sequence[str] = (),
    budget: Sequence[str] = (),
) -> Export:
    """The spec that a command line gives: layouts with commas, and a batch or two with a comma.

    ``keep`` is as NAME=PRECISION, ``budget`` as ``parse_budget`` reads it, ``lowering`` the other fields of
    ``Lowering``, None for their default.

    Raises:
        UsageError: a value is none of the known, out of range, or nothing that the target can run.
    """
    first, _, last = batch.partition(",")
    given = {name: value for name, value in lowering.items() if value is not None}
    tree = {
        "target": target,
        "jetpack": jetpack,
        "precision": precision,
        "layouts": layouts.split(","),
        "batch": (first, last or first),
        "opset": opset,
        "dla": dla,
        "lowering": {**given, "keep": _parse_keep(keep), "budget": parse_budget(budget)},
    }
    try:
        return msgspec.convert(tree, Export, strict=False)
    except msgspec.ValidationError as error:
        typed = {"layouts": layouts, "precision": precision, "batch": batch, "opset": opset, **lowering}
        raise _refusal(str(error), {**typed, "keep": ",".join(keep)}) from error


class _Option(NamedTuple):
    """How the command line calls a field, what it takes, and how to put a wrong value right."""

    flag: str
    expected: str
    fix: Callable[[str], str]


def _choice(flag: str, *words: str, also: str = "") -> _Option:
    expected = f"{', '.join(words[:-1])} or {words[-1]}{also}"
    return _Option(flag, expected, lambda value: nearest(value, words))


_OPTIONS = {
    "layouts": _choice("--layout", *get_args(Layout), also=", or both with a comma"),
    "precision": _choice("--precision", *WRITTEN),
    "batch": _Option("--batch", "one number, or two with a comma", lambda _: "For example 1, or 1,8."),
    "opset": _Option(
        "--opset", f"{min(OPSETS)} to {max(OPSETS)}", lambda _: "Leave it out: then it fits the target."
    ),
    "calibration": _choice("--calibration", *get_args(Method)),
    "images": _Option("--calibration-images", "1 or more", lambda _: f"Take {Lowering().images}."),
    "keep": _Option("--keep", "NAME=fp32 or NAME=fp16", lambda _: "For example depth=fp16."),
}


def _refusal(message: str, typed: Mapping[str, object]) -> UsageError:
    """What is wrong with an option, from where msgspec stopped: ... - at `$.lowering.keep[...]`."""
    where = message.rpartition("`$.")[2]
    field = next(name for name in _OPTIONS if name in where)
    option, value = _OPTIONS[field], str(typed[field])
    return UsageError(option.flag, expected=option.expected, found=f"`{value}`", fix=option.fix(value))


def _parse_keep(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(
                f"--keep {text}",
                expected="NAME=PRECISION, with a task or a segment for a name",
                found=f"`{text}`",
                fix="For example --keep depth=fp16.",
            )
    return dict(text.split("=", 1) for text in texts)
