"""How a network is exported, as a command line says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from edgemtl.core.errors import RecipeError
from edgemtl.export.budget import parse_budget
from edgemtl.export.precision import Lowering, check_written
from edgemtl.export.refusals import check_dla, check_opset, check_precision, check_used
from edgemtl.export.targets import Device, Precision, devices, newest_opset

Layout = Literal["merged", "split"]


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to export. What the target cannot run is refused here, so before anything is written.

    ``jetpack``: without it a bundle suits every JetPack of its target. ``batch``: (smallest, largest); equal
    for a static batch. ``opset``: by default the newest up to 18 that the target reads. ``atol``, ``rtol``:
    how far a runtime may be from the golden outputs. They leave room for a GPU without TF32; a CPU stays a
    hundred times closer.

    Raises:
        RecipeError: a value is out of range, or the target cannot run it; says what would work.
    """

    target: str = "onnx"
    jetpack: str = ""
    precision: Precision = "fp32"
    lowering: Lowering = Lowering()
    layouts: Annotated[tuple[Layout, ...], msgspec.Meta(min_length=1)] = ("merged", "split")
    batch: tuple[int, int] = (1, 1)
    opset: Annotated[int, msgspec.Meta(ge=17, le=23)] | None = None
    dla: bool = False
    atol: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    rtol: Annotated[float, msgspec.Meta(ge=0)] = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.batch[0] <= self.batch[1]:
            raise RecipeError(
                "$.export.batch",
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
    def newest_opset(self) -> int:
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
        RecipeError: a value is none of the known, out of range, or nothing that the target can run.
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
        message, _, where = str(error).partition(" - at ")
        raise RecipeError(
            f"export {where.strip('`')}",
            expected="a value that `edgemtl export --help` names",
            found=message,
            fix="For example --target jetson-orin-nano --jetpack 6.2 --layout merged,split --batch 1,8.",
        ) from error


def _parse_keep(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise RecipeError(
                f"--keep {text}",
                expected="NAME=PRECISION, with a task or a segment for a name",
                found=f"`{text}`",
                fix="For example --keep depth=fp16.",
            )
    return dict(text.split("=", 1) for text in texts)
