"""Files of pretrained weights as the world writes them; damaged, foreign and hostile ones are refused."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgemtl.backbones import load_weights
from edgemtl.core.errors import DataError
from edgemtl.tensors import read_tensors
from tests.trap import Touch

STATE = {
    "first.weight": torch.randn(4, 3, 3, 3),
    "first.bias": torch.randn(4),
    "last.weight": torch.randn(2, 4),
}


def modules() -> dict[str, nn.Module]:
    return {"first": nn.Conv2d(3, 4, 3), "last": nn.Linear(4, 2)}


def as_torch(state: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


FILES = {
    "weights.safetensors": safetensors.torch.save(STATE),
    "weights.pt": as_torch(STATE),
    "ordered.pth": as_torch(OrderedDict(STATE)),
    "legacy.pth": as_torch(STATE, zipped=False),
    "wrapped.pt": as_torch({"state_dict": STATE, "epoch": 3}),
    "twice.pt": as_torch({"state_dict": {"model": STATE}, "optimizer": {"lr": 0.1}}),
    "trainer.pt": as_torch({"model_state_dict": STATE, "optimizer_state_dict": {}}),
    "compiled.pt": as_torch({f"module._orig_mod.model.{name}": value for name, value in STATE.items()}),
    "segmenter.pt": as_torch({f"backbone.{name}": value for name, value in STATE.items()}),
    "parallel.pt": as_torch({f"module.{name}": value for name, value in STATE.items()}),
}


def same(key: str) -> str | None:
    return key


@pytest.mark.parametrize("name", FILES)
def test_weights_are_taken_from_every_common_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    targets = modules()
    loaded = load_weights(targets, tmp_path / name, same)
    assert (set(loaded.filled), loaded.unfilled, loaded.unused) == (set(STATE), ("last.bias",), ())
    assert torch.equal(targets["first"].weight, STATE["first.weight"])
    assert torch.equal(targets["last"].weight, STATE["last.weight"])


def test_keys_are_renamed_left_out_or_unused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(
        as_torch({"conv": STATE["first.weight"], "fc": Tensor(), "else": Tensor()})
    )
    names = {"conv": "first.weight", "fc": None, "else": "no.where"}
    loaded = load_weights(modules(), tmp_path / "w.pt", names.__getitem__)
    assert (loaded.filled, loaded.unused) == (("first.weight",), ("else",))


def test_a_name_of_its_own_comes_before_what_wrappers_add(tmp_path: Path) -> None:
    targets = {"model": nn.Conv2d(3, 4, 3, bias=False), "weight": nn.ParameterDict({"x": torch.zeros(1)})}
    (tmp_path / "w.pt").write_bytes(as_torch({"model.weight": STATE["first.weight"]}))
    assert load_weights(targets, tmp_path / "w.pt", same).filled == ("model.weight",)


def test_what_is_not_wanted_is_not_wanted_when_wrapped_either(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(as_torch({"module.first.bias": torch.ones(4), "module.fc": Tensor()}))
    loaded = load_weights(modules(), tmp_path / "w.pt", lambda key: None if key == "fc" else key)
    assert (loaded.filled, loaded.unused) == (("first.bias",), ())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(as_torch({name: value.half() for name, value in STATE.items()}))
    targets = modules()
    load_weights(targets, tmp_path / "w.pt", same)
    assert targets["first"].weight.dtype == torch.float32
    assert torch.equal(targets["first"].weight, STATE["first.weight"].half().float())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {**STATE, "last.weight": torch.zeros(3, 4)},
            r"last.weight: expected shape \[2, 4\] .*, found \[3, 4\]",
        ),
        ({**STATE, "last.weight": torch.full((2, 4), torch.nan)}, r"last.weight: expected finite numbers"),
        ({"frist.weight": torch.zeros(1)}, r"the first `frist.weight`. Did you mean `first.weight`\?"),
        ({}, "expected weights of this backbone, found 0 others"),
        ([torch.zeros(1)], "expected names with tensors, found list"),
        ({"state_dict": 3}, "expected names with tensors, found dict"),
        (torch.zeros(1), "expected names with tensors, found Tensor"),
    ],
    ids=["shape", "not finite", "no match", "empty", "list", "numbers", "tensor"],
)
def test_tensors_of_another_network_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(as_torch(content))
    with pytest.raises(DataError, match=message):
        load_weights(modules(), path, same)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.pt: expected a file of tensors, found no such file"):
        read_tensors(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("wrap", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, wrap: str, name: str) -> None:
    trap = tmp_path / "executed"
    hostile = {"first.weight": Touch(trap)}
    content = pickle.dumps(hostile) if wrap == "pickle" else as_torch(hostile, zipped=wrap == "zip")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"expected tensors alone.*code in a file is never executed"):
        read_tensors(tmp_path / name)
    assert not trap.exists()
    pickle.loads(pickle.dumps(hostile))
    assert trap.exists(), "the trap does not work"


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "legacy.pth"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_tensors(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in found.values())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "legacy.pth"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    (tmp_path / name).write_bytes(FILES[name][: int(share * len(FILES[name]))])
    with pytest.raises(DataError, match="expected tensors alone"):
        read_tensors(tmp_path / name)
