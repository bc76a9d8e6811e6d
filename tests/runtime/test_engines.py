from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("onnxruntime")

from edgemtl.core.bundle import read_manifest, sha256, write_manifest
from edgemtl.core.errors import SetupError
from edgemtl.runtime import engines
from edgemtl.runtime.build import tensorrt
from edgemtl.runtime.cuda import Gpu
from edgemtl.runtime.engines import Sidecar, open_engine
from tests.fixtures.places import TINY
from tests.runtime.conftest import Install
from tests.runtime.fake_cuda import FakeGpu

MANIFEST = read_manifest(TINY)
FILE = MANIFEST.layouts["merged"][0]
ENGINE = f"{FILE.name}.tensorrt-10.3.0.sm87.engine"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture
def opened(bundle: Path, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Open the engine; gives what was said meanwhile, nothing where a kept one served."""

    def open_it() -> str:
        caplog.clear()
        assert open_engine(bundle / FILE.path, FILE, tensorrt(), Gpu()) is not None
        return caplog.text

    return open_it


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_engine_is_built_once_and_kept_in_the_bundle_which_stays_sound(
    install: Install, bundle: Path, opened: Callable[[], str]
) -> None:
    install()
    assert f"Building {bundle}/engines/{ENGINE} for tensorrt 10.3.0 on Orin" in opened()
    assert names(bundle / "engines") == [ENGINE, f"{ENGINE}.json"]
    assert read_manifest(bundle) == MANIFEST
    assert opened() == ""


def test_the_sidecar_says_what_it_was_built_from(
    install: Install, bundle: Path, opened: Callable[[], str]
) -> None:
    install()
    opened()
    engine = bundle / "engines" / ENGINE
    found = json.loads(engine.with_name(f"{ENGINE}.json").read_text())
    assert set(found) == set(Sidecar.__struct_fields__)
    assert found["build_s"] > 0
    assert found["created"]
    assert found["built_by"].startswith("edgemtl ")
    known = {name: value for name, value in found.items() if name not in ("build_s", "created", "built_by")}
    assert known == {
        "onnx_sha256": sha256(bundle / FILE.path),
        "engine_sha256": sha256(engine),
        "runtime": "tensorrt 10.3.0",
        "device": "Orin",
        "precision": "fp32",
        "capability": "8.7",
        "batch": list(MANIFEST.input.batch),
        "dla": False,
    }


def test_every_version_and_capability_has_an_engine_of_its_own(
    install: Install, bundle: Path, opened: Callable[[], str]
) -> None:
    machines = [("8.6.2", (8, 7)), ("10.3.0", (8, 7)), ("10.3.0", (11, 0))]
    for version, capability in machines:
        install(version, FakeGpu(capability=capability))
        assert opened()
    for version, capability in machines:
        install(version, FakeGpu(capability=capability))
        assert opened() == ""


def test_an_engine_of_another_gpu_of_the_same_capability(install: Install, opened: Callable[[], str]) -> None:
    install()
    opened()
    install(gpu=FakeGpu("Orin Nano"))
    assert "is built again: it was built for device Orin, not Orin Nano" in opened()
    assert opened() == ""


def test_an_engine_of_another_model(install: Install, bundle: Path, opened: Callable[[], str]) -> None:
    install()
    opened()
    shutil.copyfile(bundle / "trunk.onnx", bundle / FILE.path)
    assert "it was built for onnx_sha256" in opened()


def test_an_engine_that_uses_no_dla_where_the_bundle_may(
    install: Install, bundle: Path, opened: Callable[[], str]
) -> None:
    install()
    opened()
    write_manifest(bundle, msgspec.structs.replace(MANIFEST, dla=True))
    assert "it was built for dla False, not True" in opened()
    assert opened() == ""


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_truncated_engine_is_built_again(
    install: Install, bundle: Path, opened: Callable[[], str], size: int
) -> None:
    install()
    opened()
    engine = bundle / "engines" / ENGINE
    engine.write_bytes(engine.read_bytes()[:size])
    assert f"{ENGINE} is built again: it is truncated or was changed" in opened()
    assert opened() == ""


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_an_engine_without_a_sound_sidecar_is_built_again(
    install: Install, bundle: Path, opened: Callable[[], str], content: bytes | None
) -> None:
    install()
    opened()
    sidecar = (bundle / "engines") / f"{ENGINE}.json"
    sidecar.unlink()
    if content is not None:
        sidecar.write_bytes(content)
    assert "is built again: its sidecar cannot be read" in opened()
    assert opened() == ""


def test_an_engine_that_tensorrt_refuses_is_built_again(
    install: Install, bundle: Path, opened: Callable[[], str]
) -> None:
    """A driver or a library may have changed under the same version."""
    install()
    opened()
    engine = bundle / "engines" / ENGINE
    sidecar = engine.with_name(f"{ENGINE}.json")
    engine.write_bytes(b"foreign")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"engine_sha256": sha256(engine)}))
    assert "is built again: Serialization assertion failed" in opened()
    assert opened() == ""


def test_a_board_says_which_one_it_is(
    install: Install, opened: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has one name for the GPUs of a Nano and of an AGX, which are fast with unlike engines."""
    install()
    model = tmp_path / "model"
    monkeypatch.setattr(engines, "MODEL", model)
    for board in ("NVIDIA Jetson AGX Orin", "NVIDIA Jetson Orin Nano"):
        model.write_text(f"{board}\0")
        assert f"on {board}; this can take minutes" in opened()
        assert opened() == ""


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests may run as root, whom permissions do not stop."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))


def test_where_the_bundle_is_read_only_the_user_s_cache_serves(
    install: Install,
    bundle: Path,
    opened: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install()
    read_only(bundle, monkeypatch)
    assert opened()
    (kept,) = (tmp_path / "cache" / "edgemtl").iterdir()
    assert names(kept) == [ENGINE, f"{ENGINE}.json"]
    assert opened() == ""


def test_engines_that_came_with_a_read_only_bundle_are_used(
    install: Install, bundle: Path, opened: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    opened()
    read_only(bundle / "engines", monkeypatch)
    assert opened() == ""


def test_where_nothing_can_be_written_no_minutes_are_wasted(
    install: Install, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    read_only(bundle, monkeypatch)
    read_only(tmp_path, monkeypatch)
    with pytest.raises(SetupError, match=r"cache/edgemtl/.*no permission\. Set XDG_CACHE_HOME"):
        open_engine(bundle / FILE.path, FILE, tensorrt(), Gpu())


def test_a_build_that_would_be_killed_is_refused(install: Install, bundle: Path) -> None:
    install(gpu=FakeGpu(free_bytes=511 << 20))
    with pytest.raises(
        SetupError, match=r"memory: expected 512 MiB free, found 511 MiB\. Stop other programs"
    ):
        open_engine(bundle / FILE.path, FILE, tensorrt(), Gpu())
    assert not (bundle / "engines").exists()


def test_a_failed_build_leaves_nothing(install: Install, bundle: Path) -> None:
    install()
    (bundle / FILE.path).write_bytes(b"no model")
    with pytest.raises(SetupError, match=r"expected a model that tensorrt 10\.3\.0 can read"):
        open_engine(bundle / FILE.path, FILE, tensorrt(), Gpu())
    assert not (bundle / "engines").exists()
