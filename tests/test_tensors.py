from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError, SetupError
from edgemtl.tensors import read_tensors, write_tensors


def test_tensors_read_back_each_under_all_its_names(tmp_path: Path) -> None:
    shared = torch.rand(3, 4)
    write_tensors({"a": shared, "b": shared, "transposed": shared.T}, tmp_path / "t.safetensors")
    found = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], shared) for name in ("a", "b"))
    assert torch.equal(found["transposed"], shared.T)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match="place to write"):
        write_tensors({"a": torch.zeros(1)}, tmp_path / "file" / "t.safetensors")


class Code:
    """A pickle of this makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run_and_refused_in_one_line(tmp_path: Path) -> None:
    evil, made = tmp_path / "evil.pt", tmp_path / "made"
    evil.write_bytes(pickle.dumps({"a": Code(made)}, protocol=4))
    with pytest.raises(DataError, match="never executed") as refused:
        read_tensors(evil)
    assert not made.exists()
    # Here a warning is an error: torch's about the protocol would be the cause if it came through.
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
