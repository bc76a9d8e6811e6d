from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl.core.bundle import MANIFEST, SUMS, Manifest, read_manifest, sha256, write_manifest
from edgemtl.core.errors import BundleError, DataError
from tests.fixtures.places import TINY

READ = read_manifest(TINY)
COVERED = sorted([*READ.files, MANIFEST])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


def replace(folder: Path, **changes: object) -> None:
    """Write another manifest, with hashes that agree: what a hostile or buggy writer would do."""
    write_manifest(folder, msgspec.structs.replace(READ, **changes))


def test_what_was_written_is_read_back(folder: Path) -> None:
    write_manifest(folder, READ)
    assert read_manifest(folder) == READ
    assert (folder / MANIFEST).read_bytes() == (TINY / MANIFEST).read_bytes()
    assert (folder / SUMS).read_bytes() == (TINY / SUMS).read_bytes()


def test_the_sums_cover_every_file() -> None:
    files = {path.relative_to(TINY).as_posix() for path in TINY.rglob("*") if path.is_file()}
    assert files == {*COVERED, SUMS}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_the_board_can_check_the_sums_alone() -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=TINY, check=True)


@settings(deadline=None)  # files
@given(data=st.data(), name=st.sampled_from(COVERED))
def test_any_changed_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("tampered") / "bundle"))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError):
        read_manifest(folder)


@pytest.mark.parametrize("name", COVERED)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError if name == "manifest.json" else BundleError, match=name):
        read_manifest(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json.*edgemtl export"):
        read_manifest(tmp_path / "nowhere")


def test_missing_sums(folder: Path) -> None:
    (folder / SUMS).unlink()
    with pytest.raises(BundleError, match=MANIFEST):
        read_manifest(folder)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_truncated_manifest(folder: Path, size: int) -> None:
    (folder / MANIFEST).write_bytes((TINY / MANIFEST).read_bytes()[:size])
    with pytest.raises(BundleError, match="expected a manifest"):
        read_manifest(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b'{"format": "1"}', b'{"format": 1}'])
def test_a_manifest_that_is_none(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="expected a manifest"):
        read_manifest(folder)


def test_another_format_is_told_apart_from_damage(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"format": 2, "whatever": "a later version says"}')
    with pytest.raises(BundleError, match="expected bundle format 1, found format 2"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "golden/../../secret", "..\\secret", "C:/secret", "trunk.onnx/.."]
)
def test_a_path_that_leaves_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("not yours")
    with pytest.raises(BundleError, match="paths inside the bundle"):
        replace(folder, files={**READ.files, name: "0" * 64})
        read_manifest(folder)


def models(path: str) -> Callable[[Manifest], dict[str, object]]:
    def change(manifest: Manifest) -> dict[str, object]:
        first, *others = manifest.layouts["split"]
        return {"layouts": {"split": (msgspec.structs.replace(first, path=path), *others)}}

    return change


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd"])
def test_a_model_outside_the_bundle(folder: Path, path: str) -> None:
    replace(folder, **models(path)(READ))
    with pytest.raises(BundleError, match="paths inside the bundle"):
        read_manifest(folder)


@pytest.mark.parametrize("layouts", [{}, {"merged": ()}, {"whole": READ.layouts["merged"]}])
def test_a_manifest_without_files_to_run(folder: Path, layouts: dict[str, Any]) -> None:
    replace(folder, layouts=layouts)
    with pytest.raises(BundleError, match="the files of the layout merged or split"):
        read_manifest(folder)


@pytest.mark.parametrize("layout", READ.layouts)
@pytest.mark.parametrize("missing", ["outputs", "tasks"])
def test_a_layout_that_writes_no_file_for_a_task(folder: Path, layout: str, missing: str) -> None:
    files = [msgspec.structs.replace(file, **{missing: ()}) for file in READ.layouts[layout]]
    replace(folder, layouts={**READ.layouts, layout: tuple(files)})
    with pytest.raises(BundleError, match=f"a file of the layout {layout} that writes `segmentation`"):
        read_manifest(folder)


@pytest.mark.parametrize("batch", [(0, 1), (2, 1)])
def test_batches_that_make_no_sense(folder: Path, batch: tuple[int, int]) -> None:
    replace(folder, input=msgspec.structs.replace(READ.input, batch=batch))
    with pytest.raises(BundleError, match="expected a smallest and a largest batch"):
        read_manifest(folder)


def test_a_task_whose_tensor_has_another_name(folder: Path) -> None:
    depth = READ.tasks["depth"]
    other = msgspec.structs.replace(depth, tensor=msgspec.structs.replace(depth.tensor, name="output_0"))
    replace(folder, tasks={**READ.tasks, "depth": other})
    with pytest.raises(BundleError, match="a tensor `depth` for the task `depth`"):
        read_manifest(folder)


def test_a_file_that_is_used_but_not_covered(folder: Path) -> None:
    (folder / "other.onnx").write_bytes(b"")
    replace(folder, **models("other.onnx")(READ))
    with pytest.raises(BundleError, match=r"a hash for `other\.onnx`"):
        read_manifest(folder)


def test_a_link_that_leaves_the_bundle(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    shutil.move(folder / "trunk.onnx", outside)
    (folder / "trunk.onnx").symlink_to(outside)
    assert sha256(folder / "trunk.onnx") == READ.files["trunk.onnx"]
    with pytest.raises(BundleError, match="a link that leaves the bundle"):
        read_manifest(folder)


def test_a_link_inside_and_a_link_to_the_bundle_are_fine(folder: Path) -> None:
    shutil.move(folder / "trunk.onnx", folder / "stem.onnx")
    (folder / "trunk.onnx").symlink_to("stem.onnx")
    link = folder.parent / "latest"
    link.symlink_to(folder)
    assert read_manifest(link) == READ


def test_what_a_later_version_adds_is_ignored(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["added_later"] = {"any": "thing"}
    manifest["input"]["added_later"] = 1
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    lines = [f"{sha256(folder / name)}  {name}\n" for name in COVERED]
    (folder / SUMS).write_text("".join(lines))
    assert read_manifest(folder) == READ


def test_an_impossible_plan_is_a_damaged_bundle(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["plan"]["partitions"] = []
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="expected a manifest"):
        read_manifest(folder)
