from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import onnx
from onnx import TensorProto, helper

from edgemtl.backbones import SegNet
from edgemtl.collapse import collapse
from edgemtl.core.bundle import write_manifest
from edgemtl.core.errors import SetupError, UsageError
from edgemtl.export import Export, bundle, write_bundle
from edgemtl.export.operators import INSTEAD, NEVER, SINCE, check_model, check_operators
from edgemtl.export.targets import TARGETS, devices
from edgemtl.model import MultitaskModel
from edgemtl.runtime.verify import verify
from edgemtl.tasks import Depth

THOR = devices("jetson-thor", "7.2.2")


def model(path: Path, *operators: str, opset: int = 17, domain: str = "") -> Path:
    nodes = [helper.make_node(name, ["x"], ["y"], domain=domain) for name in operators]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_the_tables_name_operators_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(NEVER) <= known
    assert set(SINCE) <= known
    assert set(INSTEAD) <= NEVER
    assert NEVER.isdisjoint(SINCE)


@pytest.mark.parametrize("target", [name for name, boards in TARGETS.items() if boards])
def test_an_operator_that_no_tensorrt_has_is_refused_everywhere(target: str, tmp_path: Path) -> None:
    path = model(tmp_path / "head.onnx", "Conv", "MaxUnpool")
    with pytest.raises(UsageError, match=r"head.onnx: .* found MaxUnpool. Upsample .* --target onnx"):
        check_model(devices(target), path, 17)


def test_an_unpooling_is_refused_as_pytorch_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as MaxUnpool, but as a scatter to the indices of a pooling."""
    torch.manual_seed(0)
    backbone = SegNet(widths=(4, 6), convs=(1, 1), decoder="unpool")
    model = MultitaskModel(backbone.stages(), {"depth": Depth()})
    collapsed = collapse(model, (16, 16))
    images = torch.rand(1, 3, 16, 16)
    with pytest.raises(UsageError, match=r"found MaxUnpool. Upsample"):
        write_bundle(
            collapsed, tmp_path / "board", name="m", images=images, spec=Export(target="jetson-agx-orin")
        )
    assert not (tmp_path / "board").exists()
    if find_spec("tensorrt_rtx") is not None:
        with pytest.raises(SetupError, match="TensorRT doesn't support"):  # refused for a reason
            write_bundle(collapsed, tmp_path / "any", name="m", images=images)
    monkeypatch.setattr(bundle, "write_manifest", write_manifest)  # without the gate
    write_bundle(collapsed, tmp_path / "any", name="m", images=images)
    assert verify(tmp_path / "any", threads=1).passed


def test_any_runtime_may_have_any_operator(tmp_path: Path) -> None:
    check_model(devices("onnx"), model(tmp_path / "m.onnx", "MaxUnpool"), 17)


def test_an_operator_is_refused_before_its_version() -> None:
    operators = [("", "LayerNormalization")]
    check_operators(devices("jetson-orin-nano", "6.0"), "m", operators)
    with pytest.raises(UsageError, match=r"TensorRT 8.5 .* since 8.6, or name --jetpack 6.0 or newer"):
        check_operators(devices("jetson-orin-nano"), "m", operators)


def test_an_operator_of_another_domain_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", "Gelu", domain="com.microsoft")
    with pytest.raises(UsageError, match=r"found com\.microsoft::Gelu"):
        check_model(THOR, path, 17)


def test_a_model_that_could_not_be_lowered_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", "Relu", opset=18)
    check_model(THOR, path, 18)
    with pytest.raises(UsageError, match=r"expected opset 17, found operators that need 18"):
        check_model((), path, 17)
