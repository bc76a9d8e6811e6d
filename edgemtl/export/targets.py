"""Targets: what a bundle may be exported for, as data.

A target names boards; a board runs one of several platforms, which JetPack installs as a whole. Without
``--jetpack`` a bundle has to suit all platforms of its boards, so it holds only what they have in common.

Sources: the release notes of JetPack 5.1 to 7.2 and of TensorRT 8.5 to 11.4, and the tables of operators of
onnx-tensorrt 8.5 and 10.15. Where ``confirmed`` is false a figure is from memory, and is the careful one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from edgemtl.core.errors import UsageError, nearest

# `int8` is Q/DQ nodes in the ONNX; `int8-cache` is what they replace, scales in a calibration cache.
Precision = Literal["fp32", "fp16", "int8", "int8-cache", "fp8", "fp4"]
_ORIN: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-cache")
_BLACKWELL: tuple[Precision, ...] = (*_ORIN, "fp8", "fp4")


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """The software of a device.

    ``jetpack`` is empty on a desktop. ``tensorrt`` is a version or its beginning, ``opset`` the newest that
    its parser reads, ``dla`` the boards whose DLA it can use.
    """

    jetpack: str = ""
    l4t: tuple[str, ...] = ()
    tensorrt: str
    cuda: str
    python: str
    opset: int
    typing: Literal["weak", "strong"] = "strong"
    precisions: tuple[Precision, ...]
    boards: tuple[str, ...]
    dla: tuple[str, ...] = ()
    confirmed: bool = True

    def __str__(self) -> str:
        return f"JetPack {self.jetpack}" if self.jetpack else f"TensorRT {self.tensorrt}"


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A device: the compute capability of its GPU (empty where they differ), and what the GPU computes."""

    capability: str = ""
    precisions: tuple[Precision, ...]


class Device(NamedTuple):
    """A board with a platform: the unit that a refusal is about."""

    board: str
    platform: Platform

    def __str__(self) -> str:
        return f"{self.board} with {self.platform}"


NANO, NX, AGX, THOR = "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"
BOARDS = {
    "desktop": Board(precisions=_BLACKWELL),
    NANO: Board(capability="8.7", precisions=_ORIN),
    NX: Board(capability="8.7", precisions=_ORIN),
    AGX: Board(capability="8.7", precisions=_ORIN),
    THOR: Board(capability="11.0", precisions=_BLACKWELL),
}
_JETSONS = (NANO, NX, AGX, THOR)
# What --target takes, and the boards that each stands for. `onnx` is for any runtime and promises no board.
TARGETS: dict[str, tuple[str, ...]] = {
    "onnx": (),
    "jetson": _JETSONS,
    **{board: (board,) for board in BOARDS},
}

_UP_TO_10: tuple[Precision, ...] = _BLACKWELL
_FROM_11: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8", "fp4")
_ORINS, _WITH_DLA = (NANO, NX, AGX), (NX, AGX)
PLATFORMS: tuple[Platform, ...] = (
    Platform(
        tensorrt="10",
        cuda="12",
        python="3.10",
        opset=20,
        precisions=_UP_TO_10,
        boards=("desktop",),
        confirmed=False,
    ),
    Platform(tensorrt="11", cuda="13", python="3.10", opset=24, precisions=_FROM_11, boards=("desktop",)),
    Platform(
        jetpack="5.1",
        l4t=("35",),
        tensorrt="8.5",
        cuda="11.4",
        python="3.8",
        opset=17,
        typing="weak",
        precisions=_ORIN,
        boards=_ORINS,
        dla=_WITH_DLA,
    ),
    Platform(
        jetpack="6.0",
        l4t=("36.2", "36.3"),
        tensorrt="8.6",
        cuda="12.2",
        python="3.10",
        opset=17,
        typing="weak",
        precisions=_ORIN,
        boards=_ORINS,
        dla=_WITH_DLA,
    ),
    Platform(
        jetpack="6.1",
        l4t=("36.4",),
        tensorrt="10.3",
        cuda="12.6",
        python="3.10",
        opset=20,
        precisions=_UP_TO_10,
        boards=_ORINS,
        dla=_WITH_DLA,
    ),
    Platform(
        jetpack="6.2",
        l4t=("36.4", "36.5"),
        tensorrt="10.3",
        cuda="12.6",
        python="3.10",
        opset=20,
        precisions=_UP_TO_10,
        boards=_ORINS,
        dla=_WITH_DLA,
    ),
    Platform(
        jetpack="7.0",
        l4t=("38",),
        tensorrt="10.13",
        cuda="13.0",
        python="3.12",
        opset=22,
        precisions=_UP_TO_10,
        boards=(THOR,),
        confirmed=False,
    ),
    Platform(
        jetpack="7.1",
        l4t=("38",),
        tensorrt="10.13",
        cuda="13.0",
        python="3.12",
        opset=22,
        precisions=_UP_TO_10,
        boards=(THOR,),
        confirmed=False,
    ),
    Platform(
        jetpack="7.2",
        l4t=("39",),
        tensorrt="10",
        cuda="13.2",
        python="3.12",
        opset=22,
        precisions=_UP_TO_10,
        boards=_JETSONS,
        confirmed=False,
    ),
    # TensorRT 11 reached these two boards alone; DLA came back with it, on one of them.
    Platform(
        jetpack="7.2.2",
        l4t=("39",),
        tensorrt="11.4",
        cuda="13.2",
        python="3.12",
        opset=24,
        precisions=_FROM_11,
        boards=(AGX, THOR),
        dla=(AGX,),
    ),
)


def devices(target: str, jetpack: str = "") -> tuple[Device, ...]:
    """The devices that a bundle for ``target`` has to suit; with ``jetpack``, those that run it.

    JetPack 6.2.1 is found as 6.2: the newest row of its line that is not newer.

    Raises:
        UsageError: there is no such target, or none of its boards runs this JetPack.
    """
    if target not in TARGETS:
        raise UsageError("--target", expected="a target", found=f"`{target}`", fix=nearest(target, TARGETS))
    found = [Device(board, row) for board in TARGETS[target] for row in PLATFORMS if board in row.boards]
    if not jetpack:
        return tuple(found)
    chosen = [
        max(rows, key=lambda device: version_tuple(device.platform.jetpack))
        for board in TARGETS[target]
        if (rows := [d for d in found if d.board == board and _covers(d.platform.jetpack, jetpack)])
    ]
    if not chosen:
        known = sorted({d.platform.jetpack for d in found if d.platform.jetpack}, key=version_tuple)
        raise UsageError(
            "--jetpack",
            expected=f"a JetPack of {target}: {', '.join(known)}" if known else f"none: {target} has none",
            found=f"`{jetpack}`",
            fix="Read the board's with `cat /etc/nv_tegra_release`, or leave it out to suit them all."
            if known
            else "Name the board beside it, for example with --target jetson-orin-nano.",
        )
    return tuple(chosen)


def newest_opset(fleet: Iterable[Device], wanted: int) -> int:
    """The newest opset up to ``wanted`` that all devices read."""
    return min([wanted, *(device.platform.opset for device in fleet)])


def version_tuple(text: str) -> tuple[int, ...]:
    """A version to compare by: `10.3` is newer than `8.6`."""
    return tuple(int(part) for part in text.split("."))


def _covers(row: str, asked: str) -> bool:
    """Whether a row of the table is of the line of an asked JetPack and not newer."""
    try:
        wanted = version_tuple(asked)
    except ValueError:
        return False
    return bool(row) and version_tuple(row)[:2] == wanted[:2] and version_tuple(row) <= wanted
