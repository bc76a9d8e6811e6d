from __future__ import annotations

import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import RecipeError
from edgemtl.export import Export, parse_export


def test_the_command_line_s_words_become_a_spec() -> None:
    spec = parse_export(target="onnx", layouts="split", batch="1,8", opset=20)
    assert spec == Export(target="onnx", layouts=("split",), batch=(1, 8), opset=20)
    assert parse_export(target="onnx", layouts="merged,split", batch="4", opset=18).batch == (4, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "jetsom"},
        {"layouts": "merge"},
        {"batch": "x"},
        {"batch": "8,1"},
        {"batch": "0"},
        {"opset": 9},
    ],
    ids=str,
)
def test_wrong_words_are_refused_with_an_example(wrong: dict[str, object]) -> None:
    words = {"target": "onnx", "layouts": "merged", "batch": "1", "opset": 18, **wrong}
    with pytest.raises(RecipeError, match=r"export|--target"):
        parse_export(**words)


UNUSED = {
    "--keep": {"keep": ["depth=fp16"]},
    "--budget": {"budget": ["depth.abs=1%"]},
    "--calibration": {"lowering": {"calibration": "minmax"}},
    "--calibration-images": {"lowering": {"images": 8}},
    "--no-equalize": {"lowering": {"equalize": False}},
    "--no-correct-bias": {"lowering": {"correct_bias": False}},
}


@pytest.mark.parametrize("option", UNUSED)
def test_an_option_that_would_not_be_used_is_refused(option: str) -> None:
    words = {"target": "onnx", "layouts": "merged", "batch": "1", **UNUSED[option]}
    parse_export(precision="int8", **words)
    used_by = ["fp16", "int8"] if option in ("--keep", "--budget") else ["int8"]
    for precision in {"fp32", "fp16"} - set(used_by):
        with pytest.raises(RecipeError, match=rf"{option}: expected --precision .* found `{precision}`"):
            parse_export(precision=precision, **words)
    if "fp16" in used_by:
        parse_export(precision="fp16", **words)
