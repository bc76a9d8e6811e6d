from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from edgemtl.core.errors import SetupError, UsageError
from edgemtl.training.fabric import average_gradients, gather, leave, make_fabric
from edgemtl.training.spec import Training

CPU = {"accelerator": "cpu"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
}
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


def test_one_process_runs_in_place() -> None:
    fabric = make_fabric(Training(**CPU))
    assert isinstance(fabric.strategy, SingleDeviceStrategy)
    assert (fabric.world_size, fabric.device) == (1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("torchrun", "nodes", "start_method"), [(False, 1, "spawn"), (True, 1, "popen"), (False, 2, "popen")]
)
def test_several_processes_are_started_unless_torchrun_or_a_cluster_does(
    monkeypatch: pytest.MonkeyPatch, torchrun: bool, nodes: int, start_method: str
) -> None:
    if torchrun:
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
    strategy = make_fabric(Training(**CPU, devices=2, nodes=nodes)).strategy
    assert isinstance(strategy, DDPStrategy)
    assert (strategy.num_processes, strategy.num_nodes) == (2, nodes)
    assert strategy._start_method == start_method


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_convolutions(precision: str, dtype: torch.dtype) -> None:
    fabric = make_fabric(Training(**CPU, precision=precision))
    with fabric.autocast():
        assert torch.nn.Conv2d(3, 2, 1)(torch.rand(1, 3, 4, 4)).dtype == dtype


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("supported", [False, True])
def test_a_precision_that_the_cpu_must_emulate_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str, supported: bool
) -> None:
    make_fabric(Training(**CPU, precision=precision))  # the real question can be asked on any machine
    caplog.clear()
    monkeypatch.setattr("edgemtl.training.fabric.computes", lambda name: supported)
    make_fabric(Training(**CPU, precision=precision))
    make_fabric(Training(**CPU))
    warned = [record.getMessage() for record in caplog.records if record.name == "edgemtl.training.fabric"]
    assert [precision in message for message in warned] == ([] if supported else [True])


@without_cuda
def test_cuda_without_a_device_is_an_error_of_the_setup() -> None:
    with pytest.raises(SetupError, match=r"\$\.training\.accelerator: expected a CUDA device") as caught:
        make_fabric(Training(accelerator="cuda"))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("auto", marks=without_cuda)])
def test_channels_last_is_refused_on_a_cpu(accelerator: str) -> None:
    with pytest.raises(UsageError, match=r"\$\.training\.channels_last: expected false on a CPU"):
        make_fabric(Training(accelerator=accelerator, channels_last=True))


def test_more_devices_than_there_are_is_an_error_of_the_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SetupError, match=r"\$\.training\.devices: expected at most 1 devices, found 2"):
        make_fabric(Training(devices=2))


@pytest.mark.parametrize("devices", [1, 4])
def test_other_processes_than_torchrun_started_are_refused(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=rf"devices: expected 2 in all, .* found {devices} on each of 1 mach"
    ):
        make_fabric(Training(**CPU, devices=devices))


def test_processes_gather_what_each_of_them_has() -> None:
    """In the order of the processes, as many items as each has."""
    fabric = make_fabric(Training(**CPU))
    assert gather(fabric, ("a", "b")) == ["a", "b"]
    assert make_fabric(Training(**CPU, devices=2)).launch(_gathered) == ["0", "1", "1"]


def test_processes_average_gradients_however_they_lie_in_memory() -> None:
    for found in make_fabric(Training(**CPU, devices=2)).launch(_averaged):
        assert found == [index + 0.5 for index in range(24)]


def _averaged(fabric: Fabric) -> list[list[float]]:
    """Gradients of 0..23 in the first process and of one more in the second."""
    values = torch.arange(24.0).view(2, 3, 4) + fabric.global_rank
    layouts = [torch.zeros(2, 3, 4), torch.zeros(4, 3, 2).permute(2, 1, 0)]
    parameters = [nn.Parameter(layout) for layout in layouts]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter).copy_(values)
    strides = [parameter.grad.stride() for parameter in parameters]
    average_gradients(fabric, [*parameters, nn.Parameter(torch.zeros(2))])
    assert [parameter.grad.stride() for parameter in parameters] == strides
    leave(fabric)
    return [parameter.grad.flatten().tolist() for parameter in parameters]


def _gathered(fabric: Fabric) -> list[str]:
    rank = fabric.global_rank
    items = gather(fabric, [str(rank)] * (rank + 1))
    leave(fabric)
    return items
