"""What a failed write leaves behind. Tests may run as root, whom permission bits do not stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgemtl.core.errors import SetupError
from edgemtl.core.files import replacing


def write(draft: Path, text: str, kind: str) -> None:
    """A file with a text, or a folder with a file in it."""
    if kind == "folder":
        draft.mkdir()
        draft /= "inside"
    draft.write_text(text)


def read(path: Path, kind: str) -> str:
    return (path / "inside" if kind == "folder" else path).read_text()


@pytest.fixture(params=["file", "folder"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_was_written_takes_the_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep" / "er" / "there"
    for text in "first", "second":
        with replacing(path) as draft:
            write(draft, text, kind)
        assert read(path, kind) == text
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "run") as draft:
        draft.mkdir()
        (draft / "old").touch()
    with replacing(tmp_path / "run") as draft:
        draft.mkdir()
        (draft / "new").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["new"]


def test_until_the_end_readers_see_the_old_one(tmp_path: Path, kind: str) -> None:
    with replacing(tmp_path / "there") as draft:
        write(draft, "old", kind)
    with replacing(tmp_path / "there") as draft:
        write(draft, "new", kind)
        assert read(tmp_path / "there", kind) == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_one_and_no_draft(
    tmp_path: Path, kind: str, error: type[BaseException]
) -> None:
    path = tmp_path / "there"
    with replacing(path) as draft:
        write(draft, "old", kind)
    with pytest.raises(error), replacing(path) as draft:
        write(draft, "new", kind)
        raise error
    assert read(path, kind) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_was_left_behind_is_overwritten(tmp_path: Path, kind: str) -> None:
    stale = tmp_path / ".there.part"
    write(stale, "stale", kind)
    with replacing(tmp_path / "there") as draft:
        assert draft == stale
        write(draft, "new", kind)
    assert read(tmp_path / "there", kind) == "new"


@pytest.mark.parametrize("parent", ["file", "/proc"], ids=["below a file", "not writable"])
def test_a_place_that_cannot_be_written_is_a_setup_error(tmp_path: Path, parent: str, kind: str) -> None:
    (tmp_path / "file").write_text("kept")
    path = tmp_path / parent / "below" / "there"
    with pytest.raises(SetupError, match="expected a place to write"), replacing(path) as draft:
        write(draft, "new", kind)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SetupError), replacing(tmp_path / "there") as draft:
        draft.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from edgemtl.core.errors import SetupError
from edgemtl.core.files import replacing

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replacing(Path(sys.argv[1])) as draft:
        draft.write_bytes(bytes(5000))
except SetupError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_a_setup_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("old")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "expected a place to write, found File too large. Free disk space" in found.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
