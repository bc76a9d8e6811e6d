from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgemtl.balancing import DWA, Balancer, Balancing, Fixed, Uncertainty
from edgemtl.core.errors import UsageError
from edgemtl.data import Batch
from edgemtl.kernels import DOConv, Factorized, KernelMethod, Plain, factors, parametrized
from edgemtl.training.objective import Objective
from edgemtl.training.optim import SGD, Adam, AdamW, Optimizer
from tests.contracts.networks import SIZE, TASKS, network


def labeled(depth: torch.Tensor) -> Batch:
    return Batch(
        tuple(str(i) for i in range(len(depth))),
        torch.rand(len(depth), 3, *SIZE, generator=torch.Generator().manual_seed(0)),
        {
            "segmentation": torch.full((len(depth), *SIZE), -1),
            "depth": depth,
            "normals": torch.zeros(len(depth), 3, *SIZE),
        },
    )


def test_a_label_without_a_valid_pixel_gives_a_loss_of_zero_and_a_finite_gradient() -> None:
    model = network(Plain())
    losses, balanced = Objective(model, Fixed().build(tuple(TASKS))).losses(labeled(torch.zeros(2, 1, *SIZE)))
    assert {task: loss.item() for task, loss in losses.items()} == dict.fromkeys(TASKS, 0.0)
    sum(balanced.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("spec", [Fixed(), Uncertainty(), DWA()])
def test_a_task_without_labels_in_a_batch_does_not_train_its_weight(spec: Balancing) -> None:
    objective = Objective(network(Plain()), balancer := spec.build(tuple(TASKS)))
    _, balanced = objective.losses(labeled(torch.ones(2, 1, *SIZE)))
    assert objective.unlabeled == ["segmentation", "normals"]
    assert balanced["segmentation"] == balanced["normals"] == 0 < balanced["depth"]
    sum(balanced.values()).backward()
    weights = dict(zip(TASKS, balancer.parameters(), strict=False))
    assert {task: bool(weight.grad) for task, weight in weights.items()} == {
        task: task == "depth" for task in weights
    }


def test_two_halves_give_the_mean_over_the_valid_pixels_of_the_whole() -> None:
    """Samples with very different numbers of valid pixels: a mean of means would be wrong."""
    model = network(Plain()).eval()
    depth = torch.rand(2, 1, *SIZE) + 0.5
    depth[1, :, 2:] = 0
    whole = labeled(depth)
    balancer = Fixed().build(tuple(TASKS))
    expected = Objective(model, balancer).losses(whole)[0]["depth"]
    halves = [
        Batch(
            whole.ids[i : i + 1], whole.image[i : i + 1], {k: v[i : i + 1] for k, v in whole.labels.items()}
        )
        for i in range(2)
    ]
    counts = sum(torch.tensor([0.0, (half.labels["depth"] > 0).sum(), 0.0]) for half in halves)
    parts = [
        Objective(model, balancer, add_up=lambda _: counts, processes=2).losses(half)[0]["depth"]
        for half in halves
    ]
    torch.testing.assert_close(sum(parts) / 2, expected)


def test_only_the_tasks_asked_for_are_computed() -> None:
    objective = Objective(network(Plain()), Fixed().build(tuple(TASKS)))
    losses, balanced = objective.losses(labeled(torch.ones(2, 1, *SIZE)), ["depth"])
    assert set(losses) == set(balanced) == {"depth"}


def test_factors_may_have_an_optimizer_of_their_own() -> None:
    model = network(DOConv())
    objective = Objective(model, Fixed().build(tuple(TASKS)))
    rest, own = objective.optimizer(Adam(), SGD()).parts
    found = {id(f.parameter) for _, layer in parametrized(model) for f in factors(layer)}
    assert ids_of(own) == found
    assert ids_of(rest) == {id(p) for p in objective.trained} - found


def ids_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def test_an_optimizer_of_factors_needs_factors() -> None:
    objective = Objective(network(Plain()), Fixed().build(tuple(TASKS)))
    with pytest.raises(
        UsageError, match=r"\$\.training\.factor_optimizer: expected kernels that have factors"
    ):
        objective.optimizer(Adam(), SGD())


def decays(
    method: KernelMethod, balancer: Balancer, factor_spec: Optimizer | None = None
) -> dict[str, float]:
    """The weight decay of every parameter that is trained, by its name."""
    model = network(method)
    optimizer = Objective(model, balancer).optimizer(AdamW(weight_decay=0.5), factor_spec)
    names = {p: name for name, p in (*model.named_parameters(), *balancer.named_parameters())}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_what_a_balancer_learns_does_not_decay() -> None:
    balancer = Uncertainty().build(tuple(TASKS))
    found = decays(Plain(), balancer)
    learned = {name for name, _ in balancer.named_parameters()}
    assert learned
    assert {name for name, decay in found.items() if decay == 0} == learned


def test_a_kernel_decays_and_what_is_added_to_it_does_not() -> None:
    found = decays(DOConv(), Fixed().build(tuple(TASKS)))
    kernels = {decay for name, decay in found.items() if name.endswith("weight.original0")}
    residuals = {decay for name, decay in found.items() if name.endswith("weight.original1")}
    assert (kernels, residuals) == ({0.5}, {0.0})


@pytest.mark.parametrize(("own", "expected"), [(None, 0.25), (0.125, 0.125)])
def test_factors_decay_as_their_method_says_or_else_their_optimizer(
    own: float | None, expected: float
) -> None:
    found = decays(Factorized(weight_decay=own), Fixed().build(tuple(TASKS)), AdamW(weight_decay=0.25))
    assert {decay for name, decay in found.items() if ".original" in name} == {expected}
    assert {decay for name, decay in found.items() if ".original" not in name} == {0.5}
