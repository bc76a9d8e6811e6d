"""What is refused before anything is exported, with what would work instead."""

from __future__ import annotations

from collections.abc import Iterable

from edgemtl.core.errors import UsageError
from edgemtl.export.precision import Lowering
from edgemtl.export.targets import BOARDS, PLATFORMS, Device, Platform, Precision, version_tuple

# Which precisions use a field of Lowering, and the option that sets it.
_USED_BY: dict[str, tuple[str, tuple[Precision, ...]]] = {
    "keep": ("--keep", ("fp16", "int8")),
    "budget": ("--budget", ("fp16", "int8")),
    "calibration": ("--calibration", ("int8",)),
    "images": ("--calibration-images", ("int8",)),
    "equalize": ("--equalize", ("int8",)),
    "correct_bias": ("--no-correct-bias", ("int8",)),
}


def check_opset(fleet: Iterable[Device], opset: int) -> None:
    """Raises UsageError: a device's parser is too old for it."""
    for device in fleet:
        if opset > device.platform.opset:
            raise UsageError(
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
    """Raises UsageError: a device does not compute in it, or its TensorRT cannot be told so."""
    for device in fleet:
        both = [p for p in device.platform.precisions if p in BOARDS[device.board].precisions]
        if precision not in both:
            computes = precision in BOARDS[device.board].precisions
            who = device if computes else f"the GPU of {device.board}"
            # A cache is what int8 was; to offer it would be advice that ages.
            offered = [p for p in both if p != "int8-cache"]
            raise UsageError(
                "--precision",
                expected=f"one that {who} runs: {', '.join(offered)}",
                found=f"`{precision}`",
                fix="Use int8, which is Q/DQ nodes inside the ONNX."
                if precision == "int8-cache"
                else f"Use {' or '.join(offered[1:])}.",
            )


def check_used(precision: Precision, spec: Lowering) -> None:
    """Raises UsageError: the spec says how to do what this precision does not need."""
    plain = Lowering()
    for field, (option, precisions) in _USED_BY.items():
        if precision not in precisions and getattr(spec, field) != getattr(plain, field):
            raise UsageError(
                option,
                expected=f"--precision {' or '.join(precisions)} beside it",
                found=f"`{precision}`",
                fix=f"Add --precision {precisions[-1]}, or leave {option} out.",
            )


def check_dla(fleet: tuple[Device, ...], precision: Precision, batch: tuple[int, int]) -> None:
    """Raises UsageError: a device has no DLA that its TensorRT can use, or the DLA takes no such network."""
    having = {board: [row.jetpack for row in PLATFORMS if board in row.dla] for board in BOARDS}
    lacking = next((device for device in fleet if device.board not in device.platform.dla), None)
    if lacking or not fleet:
        raise UsageError(
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
    for device in fleet:
        computes = _dla_precisions(device.platform)
        if precision not in computes:
            raise UsageError(
                "--dla",
                expected=f"{' or '.join(computes)}, all that the DLA of {device} computes",
                found=f"`{precision}`",
                fix="Add --precision fp16.",
            )
    if batch[0] != batch[1]:
        raise UsageError(
            "--dla", expected="a static batch", found=f"--batch {batch[0]},{batch[1]}", fix="Give one number."
        )


def _dla_precisions(platform: Platform) -> tuple[Precision, ...]:
    """Up to TensorRT 10 a DLA takes int8 scales from a calibration cache alone and refuses Q/DQ nodes
    (NVIDIA/TensorRT#2222, cuDLA-samples#19, Model-Optimizer#1661); 11 has no such caches any more."""
    return ("fp16", "int8") if version_tuple(platform.tensorrt) >= (11,) else ("fp16",)


def or_jetpack(advice: str, board: str, rows: Iterable[Platform]) -> str:
    """Advice, with the oldest JetPack of ``rows`` that the board runs as the other way out."""
    versions = [row.jetpack for row in rows if row.jetpack and board in row.boards]
    return f"{advice}, or name --jetpack {versions[0]} or newer." if versions else f"{advice}."
