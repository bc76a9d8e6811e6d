from __future__ import annotations

import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import UsageError
from edgemtl.export import Export, parse_export


def test_the_command_line_s_words_become_a_spec() -> None:
    spec = parse_export(target="onnx", layouts="split", batch="1,8", opset=20)
    assert spec == Export(target="onnx", layouts=("split",), batch=(1, 8), opset=20)
    assert parse_export(target="onnx", layouts="merged,split", batch="4", opset=18).batch == (4, 4)


WRONG = {
    "--target": ({"target": "jetsom"}, "Did you mean `jetson`?"),
    "--layout": ({"layouts": "mergd"}, "merged or split, or both with a comma, found `mergd`. Did you mean"),
    "--precision": ({"precision": "int9"}, "fp32, fp16 or int8, found `int9`. Did you mean `int8`?"),
    "--batch": ({"batch": "x"}, "one number, or two with a comma, found `x`"),
    "--opset": ({"opset": 9}, "17 to 23, found `9`. Leave it out"),
    "--calibration": ({"lowering": {"calibration": "entropi"}}, "Did you mean `entropy`?"),
    "--calibration-images": ({"lowering": {"images": 0}}, "1 or more, found `0`. Take 128"),
    "--keep": ({"keep": ["depth=fp99"]}, "NAME=fp32 or NAME=fp16, found `depth=fp99`"),
    "--keep depth": ({"keep": ["depth"]}, "NAME=PRECISION"),
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_word_is_refused_by_its_option_with_what_would_do(option: str) -> None:
    wrong, said = WRONG[option]
    words = {"target": "onnx", "precision": "int8", "layouts": "merged", "batch": "1", **wrong}
    with pytest.raises(UsageError) as error:
        parse_export(**words)
    assert str(error.value).startswith(f"{option}: expected ")
    assert said in str(error.value)


@pytest.mark.parametrize("batch", ["8,1", "0"])
def test_batches_in_no_order_are_refused(batch: str) -> None:
    with pytest.raises(UsageError, match="--batch: expected smallest and largest"):
        parse_export(target="onnx", layouts="merged", batch=batch)


UNUSED = {
    "--keep": {"keep": ["depth=fp16"]},
    "--budget": {"budget": ["depth.abs=1%"]},
    "--calibration": {"lowering": {"calibration": "minmax"}},
    "--calibration-images": {"lowering": {"images": 8}},
    "--equalize": {"lowering": {"equalize": True}},
    "--no-correct-bias": {"lowering": {"correct_bias": False}},
}


@pytest.mark.parametrize("option", UNUSED)
def test_an_option_that_would_not_be_used_is_refused(option: str) -> None:
    words = {"target": "onnx", "layouts": "merged", "batch": "1", **UNUSED[option]}
    parse_export(precision="int8", **words)
    used_by = ["fp16", "int8"] if option in ("--keep", "--budget") else ["int8"]
    for precision in {"fp32", "fp16"} - set(used_by):
        with pytest.raises(UsageError, match=rf"{option}: expected --precision .* found `{precision}`"):
            parse_export(precision=precision, **words)
    if "fp16" in used_by:
        parse_export(precision="fp16", **words)
