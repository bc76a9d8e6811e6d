from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from edgemtl.core.errors import UsageError
from edgemtl.training.syncnorm import synchronize_norms


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def image() -> Tensor:
    # The halves differ a lot, so that statistics of a half alone would be far off.
    torch.manual_seed(1)
    return torch.cat([torch.rand(2, 3, 9, 9), 5 + 3 * torch.rand(2, 3, 9, 9)])


def learn(model: nn.Module, part: Tensor) -> Tensor:
    output = model(part)
    output.square().sum().backward()
    return output.detach()


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = network()
    names = list(model.state_dict())
    synchronize_norms(model)
    assert list(model.state_dict()) == names
    output = learn(model, image()[2 * rank : 2 * rank + 2])
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    torch.save((output, gradients, model.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalize_like_one_with_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    model = network()
    output = learn(model, image())
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), output, **close)
    for _, gradients, state in parts:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-3)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, **close)


def test_in_eval_mode_nothing_changes() -> None:
    model, synchronized = network().eval(), network().eval()
    synchronize_norms(synchronized)
    assert torch.equal(model(image()), synchronized(image()))


def test_a_normalization_that_may_do_more_is_refused() -> None:
    class NormAct(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    with pytest.raises(UsageError, match=r"NormAct.*1 normalizes by its own share"):
        synchronize_norms(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4)))
    with pytest.raises(UsageError, match=r"BatchNorm1d.*1 normalizes by its own share"):
        synchronize_norms(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))


def test_a_normalization_of_two_names_is_synchronized_under_both() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"norm": norm, "block": nn.Sequential(nn.Conv2d(3, 4, 1), norm)})
    synchronize_norms(model)
    assert type(model["norm"]) is not nn.BatchNorm2d
    assert model["norm"] is model["block"][1]
