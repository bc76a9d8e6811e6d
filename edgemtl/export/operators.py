"""Operators of ONNX that TensorRT lacks, by its version, as data, and the check of a written model.

Source: the tables of operators in onnx-tensorrt 8.5 and 10.15, and its change log between them. A parser may
still refuse an operator that it has, for its types or attributes: only a build on the device proves a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from edgemtl.core.errors import UsageError
from edgemtl.export.refusals import or_jetpack
from edgemtl.export.targets import PLATFORMS, Device, version_tuple

NEVER = frozenset(
    """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im
    Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional
    OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
    SoftmaxCrossEntropyLoss SplitToSequence StringNormalizer TfIdfVectorizer Unique
    """.split()  # noqa: SIM905 - a list of forty strings would hide the names in quotes
)
SINCE = {
    "GroupNormalization": "8.6",
    "IsInf": "8.6",
    "LayerNormalization": "8.6",
    "Hardmax": "9.2",
    "DeformConv": "10.1",
    "BlackmanWindow": "10.4",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "STFT": "10.5",
}
# What a network does instead, for operators that multitask networks really have.
INSTEAD = {
    "MaxUnpool": "Upsample with nearest or bilinear interpolation instead of unpooling",
    "QLinearConv": "Quantize with Q/DQ nodes around a Conv",
    "QLinearMatMul": "Quantize with Q/DQ nodes around a MatMul",
}


def check_model(devices: tuple[Device, ...], path: Path, opset: int) -> None:
    """Refuse a written model that a device's TensorRT cannot read.

    Raises:
        UsageError: the exporter could not lower the network to this opset, or the network has an operator
            that TensorRT lacks.
    """
    model = onnx.load(path, load_external_data=False)
    written = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if written != opset:
        # The exporter of PyTorch starts at 18 and converts down where it can; else it leaves what it has.
        raise UsageError(
            path.name,
            expected=f"opset {opset}",
            found=f"operators that need {written}",
            fix=f"Name a target, a --jetpack or an --opset of {written}, or replace them (pad with zeros).",
        )
    check_operators(devices, path.name, sorted({(node.domain, _name(node)) for node in model.graph.node}))


def _name(node: onnx.NodeProto) -> str:
    """The operator; a pooling that gives its indices, too, counts as the unpooling that they are for, which
    PyTorch writes as a scatter.
    """
    return "MaxUnpool" if node.op_type == "MaxPool" and len(node.output) > 1 else node.op_type


def check_operators(devices: Iterable[Device], where: str, operators: Iterable[tuple[str, str]]) -> None:
    """Refuse operators, (domain, name) each, that a device's TensorRT lacks.

    Raises:
        UsageError: names the operator, and what would work instead.
    """
    operators = tuple(operators)
    for device in devices:
        for domain, name in operators:
            since = version_tuple(SINCE.get(name, "0"))
            if domain not in ("", "ai.onnx"):
                fix = "Write it with operators of ONNX, or export with --target onnx."
            elif name in NEVER:
                fix = f"{INSTEAD.get(name, 'Write it with other operators')}, or export with --target onnx."
            elif since > version_tuple(device.platform.tensorrt):
                newer = (row for row in PLATFORMS if version_tuple(row.tensorrt) >= since)
                fix = or_jetpack(f"TensorRT has it since {SINCE[name]}", device.board, newer)
            else:
                continue
            raise UsageError(
                where,
                expected=f"operators that TensorRT {device.platform.tensorrt} ({device}) has",
                found=f"{domain}::{name}" if domain else name,
                fix=fix,
            )
