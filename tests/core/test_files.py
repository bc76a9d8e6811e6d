"""What a failed write leaves behind. Tests may run as root, whom permission bits do not stop."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgemtl.core import files
from edgemtl.core.errors import SetupError, UsageError
from edgemtl.core.files import claim, replacing


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


def test_of_many_who_ask_for_a_folder_at_once_one_gets_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for attempt in range(50):
            asked = [tmp_path / "deep" / str(attempt)] * 8
            assert sorted(threads.map(claim, asked)) == [False] * 7 + [True]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_setup(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="a place to write"):
        claim(tmp_path / "file" / "folder")


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


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path, kind: str) -> None:
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in "first", "second":
        with replacing(link) as draft:
            if kind == "folder":
                draft.mkdir()
            (draft / "a" if kind == "folder" else draft).write_text(text)
        assert link.is_symlink()
        assert (target / "a" if kind == "folder" else target).read_text() == text
    assert list(target.parent.iterdir()) == [target]


def test_a_device_or_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path / "pipe", Path("/dev/null"):
        with pytest.raises(UsageError, match="found a device or a pipe"), replacing(path):
            pytest.fail("it was opened")
    assert (tmp_path / "pipe").is_fifo()


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


@pytest.mark.parametrize("atomic", [True, False], ids=["one step", "two steps"])
def test_folders_are_exchanged_with_and_without_help_of_the_system(
    tmp_path: Path, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not atomic:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    write(tmp_path / ".there.old", "left by a process that was killed", "folder")
    for text in "first", "second", "third":
        with replacing(tmp_path / "there") as draft:
            write(draft, text, "folder")
        assert read(tmp_path / "there", "folder") == text
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems exchange folders in two steps")
def test_a_reader_never_finds_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "there", "old", "folder")
    write(tmp_path / "probe", "new", "folder")
    if not files._swap(tmp_path / "probe", tmp_path / "there"):
        pytest.skip("this file system exchanges folders in two steps")

    def fail(self: Path, target: Path) -> Path:
        raise AssertionError("renamed in two steps")

    monkeypatch.setattr(Path, "replace", fail)
    with replacing(tmp_path / "there") as draft:
        write(draft, "newest", "folder")
    assert read(tmp_path / "there", "folder") == "newest"


def test_what_stood_aside_when_a_process_was_killed_comes_back(tmp_path: Path) -> None:
    write(tmp_path / ".there.old", "old", "folder")
    with pytest.raises(ValueError, match="of the block"), replacing(tmp_path / "there"):
        raise ValueError("of the block")
    assert read(tmp_path / "there", "folder") == "old"


def test_a_failure_between_two_steps_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "there", "old", "folder")
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(files, "_swap", lambda one, other: False)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "there") as draft:
        write(draft, "new", "folder")
    assert read(tmp_path / "there", "folder") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_folder_that_one_is_in_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\.: expected a file or folder by its name"), replacing(Path()):
        pass
    assert not list(tmp_path.iterdir())


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


def test_a_name_that_no_system_takes_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(tmp_path / "there")
    (tmp_path / "there").symlink_to(tmp_path / "here")
    for path in tmp_path / ("x" * 300), tmp_path / "here":
        with pytest.raises(SetupError, match="a place to write"), replacing(path):
            pytest.fail("it was opened")
