from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from edgemtl.core.bundle import TensorInfo, read_manifest
from edgemtl.core.errors import BundleError, SetupError, UsageError
from edgemtl.runtime.build import tensorrt
from edgemtl.runtime.cuda import Gpu
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.ort import OrtSession
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.session import Array
from edgemtl.runtime.trt import TrtSession
from edgemtl.runtime.verify import verify
from tests.fixtures.places import TINY
from tests.runtime.conftest import Install
from tests.runtime.fake_tensorrt import VERSIONS

MANIFEST = read_manifest(TINY)
FILE = MANIFEST.layouts["merged"][0]
GRAPHS = pytest.mark.parametrize("cuda_graph", [False, True], ids=["enqueued", "graph"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def image(batch: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((batch, 3, 12, 16), dtype=np.float32)


@GRAPHS
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_computes_the_golden_outputs(
    install: Install, bundle: Path, version: str, cuda_graph: bool
) -> None:
    install(version)
    report = verify(bundle, sessions=partial(TrtSession, cuda_graph=cuda_graph))
    assert report.passed
    assert report.runtime == f"tensorrt {version}"


def test_tensorrt_rtx_takes_the_place_of_tensorrt(install: Install, bundle: Path) -> None:
    install("1.7.1", package="tensorrt_rtx")
    assert TrtSession(bundle / FILE.path, FILE, 1).runtime == "tensorrt_rtx 1.7.1"


@GRAPHS
def test_batches_may_change_from_run_to_run(install: Install, bundle: Path, cuda_graph: bool) -> None:
    install()
    session = TrtSession(bundle / FILE.path, FILE, 1, cuda_graph=cuda_graph)
    reference = OrtSession(TINY / FILE.path, FILE, 1)
    for seed, batch in enumerate((1, 4, 4, 2, 1)):
        feeds = {"image": image(batch, seed)}
        for name, value in reference.run(feeds).items():
            np.testing.assert_allclose(session.run(feeds)[name], value, rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_comes_back(install: Install, bundle: Path) -> None:
    gpu = install()
    session, feeds = TrtSession(bundle / FILE.path, FILE, 1), {"image": image(2)}
    full = session.run(feeds)
    copied = gpu.calls["cuMemcpyDtoHAsync_v2"]
    only = session.run(feeds, ("depth",))
    assert list(only) == ["depth"]
    np.testing.assert_array_equal(only["depth"], full["depth"])
    assert gpu.calls["cuMemcpyDtoHAsync_v2"] == copied + 1


def test_a_result_outlives_the_next_run(install: Install, bundle: Path) -> None:
    install()
    session = TrtSession(bundle / FILE.path, FILE, 1)
    first = session.run({"image": image(1)})
    copies = {name: value.copy() for name, value in first.items()}
    session.run({"image": image(1, seed=1)})
    for name, value in first.items():
        np.testing.assert_array_equal(value, copies[name])


def test_device_memory_is_reused(install: Install, bundle: Path) -> None:
    gpu = install()
    session = TrtSession(bundle / FILE.path, FILE, 1)
    session.run({"image": image(4)})
    taken = gpu.calls["cuMemAlloc_v2"]
    for batch in (1, 2, 4):
        session.run({"image": image(batch)})
    assert gpu.calls["cuMemAlloc_v2"] == taken == len(FILE.inputs) + len(FILE.outputs)


def test_a_graph_is_recorded_once_for_a_shape(install: Install, bundle: Path) -> None:
    gpu = install()
    session = TrtSession(bundle / FILE.path, FILE, 1, cuda_graph=True)
    for batch in (1, 1, 1, 2, 2):
        session.run({"image": image(batch)})
    assert (gpu.calls["cuStreamBeginCapture_v2"], gpu.calls["cuGraphLaunch"]) == (2, 5)
    assert gpu.alive["launchable"] == 1


def test_the_device_times_its_work(install: Install, bundle: Path) -> None:
    install()
    session = TrtSession(bundle / FILE.path, FILE, 1)
    session.run({"image": image(1)})
    assert session.compute_ms == 1.5


def test_arrays_with_gaps_are_fed_as_they_read(install: Install, bundle: Path) -> None:
    install()
    session, mirrored = TrtSession(bundle / FILE.path, FILE, 1), image(2)[..., ::-1]
    expected = session.run({"image": mirrored.copy()})
    for name, value in session.run({"image": mirrored}).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_batch_that_the_engine_was_not_built_for(install: Install, bundle: Path) -> None:
    install()
    session = TrtSession(bundle / FILE.path, FILE, 1)
    with pytest.raises(UsageError, match=r"model image: expected a shape .* found 5x3x12x16"):
        session.run({"image": image(5)})
    assert session.run({"image": image(1)})


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("cuMemAlloc_v2", "out of memory"),
        ("context", "memory for an engine to run in"),
        ("enqueue", "expected TensorRT to run"),
    ],
)
def test_too_little_memory(install: Install, bundle: Path, failing: str, message: str) -> None:
    install().fails[failing] = 2
    with pytest.raises(SetupError, match=f"{message}.*Close other programs"):
        TrtSession(bundle / FILE.path, FILE, 1).run({"image": image(1)})


def test_after_a_batch_that_found_no_memory_a_smaller_one_runs(install: Install, bundle: Path) -> None:
    gpu = install()
    session, feeds = TrtSession(bundle / FILE.path, FILE, 1), {"image": image(1)}
    expected = session.run(feeds)
    gpu.fails["cuMemAlloc_v2"] = 2
    with pytest.raises(SetupError, match="out of memory"):
        session.run({"image": image(4)})
    del gpu.fails["cuMemAlloc_v2"]
    for name, value in session.run(feeds).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_manifest_about_another_file(install: Install, bundle: Path, end: str) -> None:
    install()
    other = msgspec.structs.replace(FILE, **{end: (TensorInfo("foreign", (-1, 3, 12, 16)),)})
    with pytest.raises(BundleError, match=r"expected the tensors .*foreign float32"):
        TrtSession(bundle / FILE.path, other, 1)


def test_the_environment_chooses_it(install: Install, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("EDGEMTL_RUNTIME", "tensorrt")
    assert BundleRunner(bundle).runtime == "tensorrt 10.3.0"
    assert open_session(bundle / FILE.path, FILE, 1).settings == {"cuda_graph": "off"}
    monkeypatch.setenv("EDGEMTL_RUNTIME", "tensorrt-graph")
    assert open_session(bundle / FILE.path, FILE, 1).settings == {"cuda_graph": "on"}
    monkeypatch.setenv("EDGEMTL_RUNTIME", "tensort")
    with pytest.raises(SetupError, match=r"EDGEMTL_RUNTIME: .*Did you mean `tensorrt`"):
        open_session(bundle / FILE.path, FILE, 1)


def lacking() -> str:
    try:
        Gpu()
        tensorrt()
    except SetupError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(lacking()), reason=lacking())
@GRAPHS
@pytest.mark.parametrize("kind", ["fp16", "int8", "mixed", "resnet18-fp16", "resnet18-int8"])
def test_a_real_gpu_meets_the_golden_samples_in_lower_precision(
    kind: str, cuda_graph: bool, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from tests.export.kinds import KINDS, export

    export(KINDS[kind], tmp_path / "bundle", target="desktop")
    assert verify(tmp_path / "bundle", sessions=partial(TrtSession, cuda_graph=cuda_graph)).passed


@pytest.mark.gpu
@pytest.mark.skipif(bool(lacking()), reason=lacking())
@GRAPHS
def test_a_real_gpu_computes_what_onnx_runtime_does(bundle: Path, cuda_graph: bool) -> None:
    """To fp32: TF32 would be off by a thousandth."""
    sessions = partial(TrtSession, cuda_graph=cuda_graph)
    for layout in MANIFEST.layouts:
        runner, reference = (
            BundleRunner(bundle, layout=layout, sessions=sessions),
            BundleRunner(bundle, layout=layout),
        )
        for seed, batch in enumerate((1, 4, 4, 2)):
            expected = reference(image(batch, seed))
            for task, found in runner(image(batch, seed)).items():
                np.testing.assert_allclose(found, expected[task], rtol=1e-4, atol=1e-5)
