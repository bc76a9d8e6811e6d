"""What a target refuses, with what would work instead."""

from __future__ import annotations

from collections.abc import Iterable

from edgemtl.core.errors import RecipeError
from edgemtl.export.targets import BOARDS, PLATFORMS, Device, Platform, Precision


def check_opset(fleet: Iterable[Device], opset: int) -> None:
    """Raises RecipeError: a device's parser is too old for it."""
    for device in fleet:
        if opset > device.platform.opset:
            raise RecipeError(
                "--opset",
                expected=f"{device.platform.opset} or older for {device}",
                found=str(opset),
                fix=or_jetpack(
                    f"Leave --opset out, or take {device.platform.opset}",
                    device.board,
                    (row for row in PLATFORMS if row.opset >= opset),
                ),
            )


def check_precision(fleet: Iterable[Device], precision: Precision) -> None:
    """Raises RecipeError: a device does not compute in it, or its TensorRT cannot be told so."""
    for device in fleet:
        both = [p for p in device.platform.precisions if p in BOARDS[device.board].precisions]
        if precision not in both:
            computes = precision in BOARDS[device.board].precisions
            who = device if computes else f"the GPU of {device.board}"
            # A cache is what int8 was; to offer it would be advice that ages.
            offered = [p for p in both if p != "int8-cache"]
            raise RecipeError(
                "--precision",
                expected=f"one that {who} runs: {', '.join(offered)}",
                found=f"`{precision}`",
                fix="Use int8, which is Q/DQ nodes inside the ONNX."
                if precision == "int8-cache"
                else f"Use {' or '.join(offered[1:])}.",
            )


def check_dla(fleet: tuple[Device, ...], precision: Precision, batch: tuple[int, int]) -> None:
    """Raises RecipeError: a device has no DLA that its TensorRT can use, or the DLA takes no such network."""
    having = {board: [row.jetpack for row in PLATFORMS if board in row.dla] for board in BOARDS}
    lacking = next((device for device in fleet if device.board not in device.platform.dla), None)
    if lacking or not fleet:
        raise RecipeError(
            "--dla",
            expected="a target that has one",
            found=str(lacking or "onnx, which is for no board"),
            fix="Leave --dla out, or name "
            + " or ".join(
                f"{board} with JetPack {', '.join(versions)}"
                for board, versions in having.items()
                if versions
            )
            + ".",
        )
    if precision == "fp32":
        raise RecipeError(
            "--dla",
            expected="fp16 or int8, all that a DLA computes",
            found=precision,
            fix="Add --precision fp16.",
        )
    if batch[0] != batch[1]:
        raise RecipeError(
            "--dla", expected="a static batch", found=f"--batch {batch[0]},{batch[1]}", fix="Give one number."
        )


def or_jetpack(advice: str, board: str, rows: Iterable[Platform]) -> str:
    """Advice, with the oldest JetPack of ``rows`` that the board runs as the other way out."""
    versions = [row.jetpack for row in rows if row.jetpack and board in row.boards]
    return f"{advice}, or name --jetpack {versions[0]} or newer." if versions else f"{advice}."
