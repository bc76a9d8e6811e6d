from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import SetupError
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
