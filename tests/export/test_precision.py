from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import msgspec
import numpy as np
import onnx

from edgemtl.backbones import SegNet, chain
from edgemtl.collapse import CollapsedModel, collapse
from edgemtl.core.bundle import Manifest, read_manifest
from edgemtl.core.errors import GateError, UsageError
from edgemtl.export import Export, Lowering, Material, write_bundle
from edgemtl.export.budget import parse_budget
from edgemtl.export.calibrate import digest
from edgemtl.kernels import Plain
from edgemtl.model import MultitaskModel
from edgemtl.runtime.verify import verify
from tests.contracts.networks import SIZE, TASKS, images, network
from tests.export.boards import seal
from tests.export.gate import serialized
from tests.export.networks import forked

CALIBRATION = np.random.default_rng(1).random((6, 3, *SIZE), np.float32)


@pytest.fixture(scope="module")
def collapsed() -> CollapsedModel:
    return collapse(network(Plain(), "forked"), SIZE)


def measure(predict, count: int | None) -> dict[str, dict[str, float]]:
    """A stand-in for metrics: how far depth is from a constant."""
    depth = predict(CALIBRATION[:2])["depth"]
    return {"depth": {"abs": float(np.abs(depth - 1).mean()), "rel": 0.1, "rmse": 0.1}}


def bundle(
    collapsed: CollapsedModel, folder: Path, material: Material | None = None, **spec: object
) -> Manifest:
    return write_bundle(
        collapsed,
        folder,
        name="net",
        images=images(3),
        spec=Export(**spec),
        accuracy={"depth": {"abs": 0.5}},
        split="val",
        material=Material(CALIBRATION, measure) if material is None else material,
    )


@pytest.fixture(scope="module")
def int8(collapsed: CollapsedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision") / "int8"
    bundle(collapsed, folder, precision="int8", lowering=Lowering(keep={"depth": "fp32"}))
    return folder


def test_an_int8_bundle_verifies_in_both_layouts(int8: Path) -> None:
    report = verify(int8)
    assert report.passed and set(report.layouts) == {"merged", "split"}


def test_verification_would_notice_another_network(
    int8: Path, collapsed: CollapsedModel, tmp_path: Path
) -> None:
    """The tolerance is not so wide that everything passes: the files of fresh weights fail for every task."""
    manifest = read_manifest(int8)
    other = tmp_path / "other"
    bundle(collapse(network(Plain(), "forked", seed=5), SIZE), other, precision="int8")
    golden = dict(np.load(int8 / "golden/outputs.npz"))
    for task, found in np.load(other / "golden/outputs.npz").items():
        assert np.abs(found - golden[task]).max() > (manifest.tasks[task].atol or 0), task


@pytest.mark.parametrize("task", ["segmentation", "normals"])
def test_verification_would_notice_outputs_that_all_lie_off(int8: Path, task: str, tmp_path: Path) -> None:
    """However much one element may err, the mean holds all of them."""
    folder = Path(shutil.copytree(int8, tmp_path / "bundle"))
    manifest = read_manifest(folder)
    loose = msgspec.structs.replace(manifest.tasks[task], atol=1e3)
    golden = dict(np.load(folder / "golden/outputs.npz"))
    golden[task] += np.float32(2 * loose.mean_atol)
    np.savez(folder / "golden/outputs.npz", **golden)
    seal(folder, msgspec.structs.replace(manifest, tasks={**manifest.tasks, task: loose}))
    found = verify(folder).layouts["merged"][task]
    assert found.max_abs <= loose.atol
    assert not found.passed


def test_the_manifest_says_how_it_came_to_its_precision(int8: Path) -> None:
    manifest = read_manifest(int8)
    assert manifest.precision == "int8" and manifest.lowered is not None
    kept = {part for part, precision in manifest.lowered.parts.items() if precision != "int8"}
    assert kept == {"head_depth"}
    assert (manifest.lowered.calibration_images, manifest.lowered.activations) == (len(CALIBRATION), "uint8")
    assert manifest.lowered.calibration_sha256 == digest(CALIBRATION)
    assert manifest.golden.atol == Export().atol
    assert manifest.tasks["depth"].accuracy_fp32 == {"abs": 0.5}
    assert manifest.tasks["depth"].accuracy["abs"] != 0.5


def test_both_layouts_compute_the_same(int8: Path) -> None:
    report = verify(int8)
    for task, merged in report.layouts["merged"].items():
        assert merged.max_abs == pytest.approx(report.layouts["split"][task].max_abs, abs=1e-5)


def test_only_the_merged_layout_is_the_same_file(
    int8: Path, collapsed: CollapsedModel, tmp_path: Path
) -> None:
    bundle(
        collapsed,
        tmp_path / "b",
        precision="int8",
        lowering=Lowering(keep={"depth": "fp32"}),
        layouts=("merged",),
    )
    assert sorted(path.name for path in (tmp_path / "b").glob("*.onnx")) == ["merged.onnx"]
    assert (tmp_path / "b/merged.onnx").stat().st_size == (int8 / "merged.onnx").stat().st_size


@pytest.mark.parametrize(("precision", "batch"), [("fp16", (1, 1)), ("int8", (2, 4))], ids=str)
def test_a_bundle_for_a_jetson_verifies_and_tensorrt_builds_it(
    precision: str, batch: tuple[int, int], collapsed: CollapsedModel, tmp_path: Path
) -> None:
    manifest = bundle(
        collapsed, tmp_path / "b", precision=precision, batch=batch, target="jetson-orin-nano", jetpack="6.2"
    )
    assert verify(tmp_path / "b").passed
    for file in (file for files in manifest.layouts.values() for file in files):
        assert serialized(tmp_path / "b" / file.path, batch)


def test_a_budget_is_kept_and_stored(collapsed: CollapsedModel, tmp_path: Path) -> None:
    manifest = bundle(
        collapsed,
        tmp_path / "b",
        precision="int8",
        layouts=("merged",),
        lowering=Lowering(budget=parse_budget(["depth.abs=50%"])),
    )
    assert manifest.lowered is not None
    assert manifest.lowered.budget == ("depth.abs=50%",)
    assert set(manifest.lowered.sensitivity) == set(manifest.lowered.parts)


@pytest.mark.parametrize(
    ("spec", "material", "message"),
    [
        ({}, Material(), r"images to calibrate on, found none\. Pass `material`"),
        (
            {"lowering": Lowering(budget=parse_budget(["depth.abs=1%"]))},
            Material(CALIBRATION),
            "was measured",
        ),
        ({"lowering": Lowering(keep={"dept": "fp16"})}, Material(CALIBRATION), "Did you mean `depth`"),
        ({"lowering": Lowering(budget=parse_budget(["depth.x=1"]))}, Material(CALIBRATION), "a metric of"),
    ],
    ids=["no images", "no measure", "keep", "budget"],
)
def test_what_is_missing_is_said_and_nothing_is_written(
    spec: Mapping[str, object], material: Material, message: str, collapsed: CollapsedModel, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        bundle(collapsed, tmp_path / "b", material, precision="int8", layouts=("merged",), **spec)
    assert not list(tmp_path.iterdir())


def test_an_impossible_budget_is_a_gate_that_leaves_nothing(
    collapsed: CollapsedModel, tmp_path: Path
) -> None:
    depths: list[float] = []

    def worse_each_time(predict, count: int | None) -> dict[str, dict[str, float]]:
        depths.append(2.0 ** len(depths))
        return {"depth": {"abs": depths[-1], "rel": 0.1, "rmse": 0.1}}

    limits = parse_budget(["depth.abs=1%"])
    with pytest.raises(GateError, match="at the closest"):
        bundle(
            collapsed,
            tmp_path / "b",
            Material(CALIBRATION, worse_each_time),
            precision="int8",
            layouts=("merged",),
            lowering=Lowering(budget=limits),
        )
    assert not list(tmp_path.iterdir())


def test_metrics_that_are_not_finite_are_a_gate_that_leaves_nothing(
    collapsed: CollapsedModel, tmp_path: Path
) -> None:
    def overflown(predict, count: int | None) -> dict[str, dict[str, float]]:
        return {"depth": {"abs": math.inf}}

    with pytest.raises(GateError, match="metrics of depth: expected finite values"):
        bundle(
            collapsed,
            tmp_path / "b",
            Material(CALIBRATION, overflown),
            precision="int8",
            layouts=("merged",),
        )
    assert not list(tmp_path.iterdir())


def test_fp32_has_nothing_of_all_this(collapsed: CollapsedModel, tmp_path: Path) -> None:
    manifest = bundle(collapsed, tmp_path / "b", layouts=("merged",))
    assert manifest.lowered is None
    assert manifest.tasks["depth"].atol is None
    assert msgspec.json.encode(manifest)
    onnx.checker.check_model(onnx.load(tmp_path / "b/merged.onnx"), full_check=True)


def test_indices_that_cross_between_parts_stay_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = SegNet(widths=(4, 6), convs=(1, 1), decoder="unpool")
    model = forked(backbone, {"encoder2": [["segmentation"], ["depth", "normals"]]}).eval()
    bundle(collapse(model, SIZE), tmp_path / "b", precision="int8")
    assert verify(tmp_path / "b").passed


class Masked(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x > 0).float() + x.argmax(1, keepdim=True).float() / 100


def test_what_is_cast_before_a_convolution_is_valid_in_fp16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stages = chain(first=torch.nn.Conv2d(3, 4, 3), mask=Masked(), last=torch.nn.Conv2d(4, 4, 3))
    bundle(collapse(MultitaskModel(stages, TASKS).eval(), SIZE), tmp_path / "b", precision="fp16")
    assert verify(tmp_path / "b").passed
