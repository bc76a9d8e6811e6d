from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx

from edgemtl.collapse import CollapsedModel, collapse
from edgemtl.core.bundle import Classes, read_manifest
from edgemtl.core.errors import GateError, UsageError
from edgemtl.export import Export, write_bundle
from edgemtl.kernels import Factorized
from edgemtl.runtime.verify import verify
from tests.contracts.networks import SIZE, images, network


@pytest.fixture(scope="module")
def collapsed() -> CollapsedModel:
    return collapse(network(Factorized(), "forked"), SIZE)


@pytest.fixture(scope="module")
def bundle(collapsed: CollapsedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    accuracy = {"depth": {"abs": 0.5, "rel": 0.2, "rmse": 0.7}}
    write_bundle(collapsed, folder, name="net", images=images(3), accuracy=accuracy, split="val")
    return folder


@pytest.mark.parametrize(
    ("target", "jetpack", "joined"), [("onnx", "", True), ("jetson-orin-nano", "6.2", False)]
)
def test_heads_are_joined_where_onnx_runtime_runs_them(
    target: str, jetpack: str, joined: bool, collapsed: CollapsedModel, tmp_path: Path
) -> None:
    write_bundle(
        collapsed, tmp_path, name="net", images=images(1), spec=Export(target=target, jetpack=jetpack)
    )
    nodes = onnx.load(tmp_path / "merged.onnx").graph.node
    assert any(node.op_type == "Split" for node in nodes) == joined


def test_what_was_written_reads_back_and_verifies(bundle: Path) -> None:
    report = verify(bundle)
    assert report.passed
    assert set(report.layouts) == {"merged", "split"}
    assert report.samples == 3


def test_the_manifest_tells_the_edge_all_that_it_needs(bundle: Path, collapsed: CollapsedModel) -> None:
    manifest = read_manifest(bundle)
    assert (manifest.input.height, manifest.input.width) == SIZE
    assert (manifest.input.color, manifest.input.range) == ("RGB", (0.0, 1.0))
    assert isinstance(manifest.tasks["segmentation"].output, Classes)
    assert manifest.tasks["depth"].accuracy["abs"] == 0.5
    assert (manifest.tasks["depth"].split, manifest.tasks["normals"].split) == ("val", "val")
    assert manifest.certificate == collapsed.certificate.worst
    assert manifest.plan == collapsed.model.plan
    assert {"edgemtl", "torch", "onnx"} <= set(manifest.versions)
    on_disk = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert set(manifest.files) == on_disk - {"manifest.json", "SHA256SUMS"}


def test_sha256sum_checks_a_bundle_without_edgemtl(bundle: Path) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, check=True, capture_output=True
    )


def test_the_golden_outputs_are_those_of_the_collapsed_network(
    bundle: Path, collapsed: CollapsedModel
) -> None:
    image = torch.from_numpy(np.load(bundle / "golden" / "inputs.npz")["image"])
    golden = np.load(bundle / "golden" / "outputs.npz")
    for task, value in collapsed.model(image).items():
        np.testing.assert_array_equal(golden[task], value.numpy())


def test_a_network_without_a_good_certificate_is_refused_and_nothing_is_written(
    collapsed: CollapsedModel, tmp_path: Path
) -> None:
    bad = msgspec.structs.replace(collapsed.certificate.fp32["depth"], relative=1e-4)
    certificate = msgspec.structs.replace(collapsed.certificate, fp32={"depth": bad})
    with pytest.raises(GateError, match="certificate fp32 depth"):
        write_bundle(CollapsedModel(collapsed.model, certificate), tmp_path / "b", name="x", images=images())
    assert not list(tmp_path.iterdir())


def test_a_failing_export_leaves_the_old_bundle(
    collapsed: CollapsedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    spec = Export(layouts=("merged",))
    write_bundle(collapsed, folder, name="first", images=images(), spec=spec)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the exporter broke")

    monkeypatch.setattr("edgemtl.export.bundle.write_models", broken)
    with pytest.raises(RuntimeError, match="broke"):
        write_bundle(collapsed, folder, name="second", images=images(), spec=spec)
    assert read_manifest(folder).name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["thesis.txt", "env.json", "manifest.json"])
def test_what_is_no_bundle_is_never_replaced(collapsed: CollapsedModel, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(UsageError, match="--out: expected a folder that does not exist or is empty, or"):
            write_bundle(collapsed, place, name="net", images=images(1))
    assert (tmp_path / name).read_text() == "years of work"


def test_a_bundle_for_boards_carries_their_scripts_and_verifies(tmp_path: Path) -> None:
    model = collapse(network(Factorized()), SIZE)
    spec = Export(target="jetson-agx-orin", jetpack="6.2")
    manifest = write_bundle(model, tmp_path / "b", name="net", images=images(), spec=spec)
    assert {"build.sh", "verify.py", "bench.py", "network.py", "board.py", "device.txt", "README.md"} <= set(
        manifest.files
    )
    assert (tmp_path / "b" / "build.sh").stat().st_mode & 0o111
    assert (manifest.target, manifest.opset) == ("jetson-agx-orin", 18)
    assert verify(tmp_path / "b").passed


def test_a_network_that_the_target_cannot_run_leaves_nothing(tmp_path: Path) -> None:
    """The reflecting pad of this network cannot be written for opset 17, which JetPack 5 reads at most."""
    model = collapse(network(Factorized()), SIZE)
    spec = Export(target="jetson-agx-orin", jetpack="5.1", layouts=("merged",))
    with pytest.raises(UsageError, match="expected opset 17"):
        write_bundle(model, tmp_path / "b", name="net", images=images(), spec=spec)
    assert not list(tmp_path.iterdir())
