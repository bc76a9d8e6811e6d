from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
from onnx import helper

from edgemtl.export.graph import (
    between_parts,
    constants,
    copied,
    edges,
    extract,
    join,
    part_of,
    set_constants,
)
from tests.export.networks import TASKS, images, joined, parts, run, run_in_turn


def test_the_joined_graph_computes_what_the_parts_do_one_after_the_other() -> None:
    onnx.checker.check_model(joined(), full_check=True)
    expected = run_in_turn(parts(), images(1))
    for task, value in run(joined(), {"image": images(1)}).items():
        np.testing.assert_allclose(value, expected[task], atol=1e-6)


def test_an_extracted_part_is_the_part_that_was_joined() -> None:
    again = {name: extract(joined(), file) for name, file in parts().items()}
    for model in again.values():
        onnx.checker.check_model(model, full_check=True)
    assert sum(len(model.graph.initializer) for model in again.values()) == len(joined().graph.initializer)
    expected = run_in_turn(parts(), images(1))
    for name, value in run_in_turn(again, images(1)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_what_lies_between_any_inputs_and_outputs_can_be_extracted() -> None:
    """Of several parts, too; an input that is left out, as of Resize, is no tensor."""
    heads = join({name: parts()[name] for name in ("head_depth", "head_normals")}, ("depth", "normals"))
    extracted = extract(joined(), heads)
    onnx.checker.check_model(extracted, full_check=True)
    assert {part_of(node) for node in extracted.graph.node} == {"head_depth", "head_normals"}
    whole = extract(joined(), joined())
    assert [node.name for node in whole.graph.node] == [node.name for node in joined().graph.node]
    odd = copied(joined())
    odd.graph.node.insert(0, helper.make_node("LayerNormalization", ["image", "w"], ["q", "", "inverse"]))
    assert extract(odd, joined()) == extract(joined(), joined())


def test_what_needs_more_than_the_inputs_is_refused() -> None:
    reads_the_image = edges(joined(), "depth", ["image"], ["depth"])
    assert {part_of(node) for node in extract(joined(), reads_the_image).graph.node} > {"trunk", "head_depth"}
    reads_nothing = edges(joined(), "depth", [], ["depth"])
    with pytest.raises(ValueError, match=r"depth: \['depth'\] need more than \[\]"):
        extract(joined(), reads_nothing)


def test_names_are_unique_and_every_node_knows_its_part() -> None:
    names = [node.name for node in joined().graph.node]
    assert len(set(names)) == len(names)
    assert {part_of(node) for node in joined().graph.node} == set(parts())


def test_tensors_between_parts_are_the_same_seen_from_the_whole_and_from_the_files() -> None:
    of_files = set().union(*(between_parts(extract(joined(), file).graph) for name, file in parts().items()))
    assert of_files == between_parts(joined().graph)
    assert of_files == {t.name for file in parts().values() for t in file.graph.output} - set(TASKS)


def test_setting_constants_changes_the_copy_alone() -> None:
    before = constants(joined().graph)
    name = next(name for name, value in before.items() if value.ndim == 4)
    changed = copied(joined())
    set_constants(changed.graph, {name: before[name].astype(np.float64) * 2})
    np.testing.assert_array_equal(constants(changed.graph)[name], before[name] * 2)
    np.testing.assert_array_equal(constants(joined().graph)[name], before[name])
