from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgemtl.core.errors import DataError
from edgemtl.training.checkpoint import FORMAT, Checkpoint
from tests.trap import Touch


def checkpoint(step: int = 7) -> Checkpoint:
    """Of a model that has really been trained for a step."""
    torch.manual_seed(step)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return Checkpoint(
        step=step,
        elapsed_s=1.5,
        best=float("inf"),
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        balancer={},
        scaler={"scale": 65536.0},
        average=None,
        random=torch.get_rng_state(),
        epoch={"losses": {"depth": 0.5}, "steps": 3},
    )


def as_bytes(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


SAVED = as_bytes({"format": FORMAT, **msgspec.structs.asdict(checkpoint())})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint().save(path)
    found, expected = Checkpoint.load(path), checkpoint()
    assert (found.step, found.best, found.epoch) == (7, float("inf"), expected.epoch)
    assert torch.equal(found.model["weight"], expected.model["weight"])
    assert torch.equal(found.random, expected.random)
    nn.Linear(3, 2).load_state_dict(found.model)
    torch.optim.Adam(nn.Linear(3, 2).parameters()).load_state_dict(found.optimizer)


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint(step=1).save(path)
    broken = msgspec.structs.replace(checkpoint(step=2), epoch={"no": lambda: "pickle"})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        broken.save(path)
    assert Checkpoint.load(path).step == 1
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, sys
from pathlib import Path
import msgspec, torch
from edgemtl.core.errors import SetupError
from edgemtl.training.checkpoint import Checkpoint

path = Path(sys.argv[1])
found = Checkpoint.load(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    msgspec.structs.replace(found, step=2, model={"weight": torch.zeros(5000)}).save(path)
except SetupError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_a_setup_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint(step=1).save(path)
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "expected a place to write, found File too large" in found.stdout
    assert Checkpoint.load(path).step == 1
    assert list(tmp_path.iterdir()) == [path]


def test_no_checkpoint_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a checkpoint to resume from, found none"):
        Checkpoint.load(tmp_path / "state.pt")


@pytest.mark.parametrize("save", [partial(pickle.dumps, protocol=2), as_bytes], ids=["pickle", "torch"])
def test_code_is_refused_and_not_executed(tmp_path: Path, save: Callable[[object], bytes]) -> None:
    trap, path = tmp_path / "executed", tmp_path / "state.pt"
    hostile = {"format": FORMAT, **msgspec.structs.asdict(checkpoint()), "epoch": Touch(trap)}
    path.write_bytes(save(hostile))
    with pytest.raises(DataError, match=r"found code or damage. Nothing in it was executed"):
        Checkpoint.load(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(hostile))
    assert trap.exists(), "the trap does not work"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": FORMAT + 1}, f"expected checkpoint format {FORMAT}, found format {FORMAT + 1}"),
        ({"state_dict": {}}, "found format None"),
        ([1, 2], "found format None"),
        ({"format": FORMAT, "step": 3}, "expected a checkpoint that edgemtl wrote, found Object missing"),
        (
            {**torch.load(io.BytesIO(SAVED)), "step": "three"},
            r"found Expected `int`, got `str` - at `\$.step`",
        ),
    ],
    ids=["newer", "foreign", "list", "incomplete", "type"],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "state.pt").write_bytes(as_bytes(content))
    with pytest.raises(DataError, match=message):
        Checkpoint.load(tmp_path / "state.pt")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(SAVED)
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = Checkpoint.load(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found.step, int)
