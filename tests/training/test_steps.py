from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from torchjd.aggregation import Aggregator, AlignedMTL, PCGrad

from edgemtl.balancing import Fixed, Uncertainty
from edgemtl.core.errors import UsageError
from edgemtl.data import Batch
from edgemtl.kernels import DOConv, Factorized, KernelMethod, Plain, RepVGG, Residual, factors, parametrized
from edgemtl.model import MultitaskModel
from edgemtl.training.aggregation import Row, equally, weighing
from edgemtl.training.objective import Objective
from edgemtl.training.optim import SGD
from edgemtl.training.steps import UPDATES, _give, check_update
from tests.contracts.networks import PLANS, SIZE, TASKS, network

METHODS: list[KernelMethod] = [Plain(), Factorized(), Factorized(combine="mean", middle="full")]


@pytest.fixture(params=METHODS, ids=["plain", "product", "mean-full"])
def method(request: pytest.FixtureRequest) -> KernelMethod:
    return request.param


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    normals = torch.randn(2, 3, *SIZE, generator=generator)
    return Batch(
        ("a", "b"),
        torch.rand(2, 3, *SIZE, generator=generator),
        {
            "segmentation": torch.randint(-1, 5, (2, *SIZE), generator=generator),
            "depth": torch.rand(2, 1, *SIZE, generator=generator) + 0.5,
            "normals": normals / normals.norm(dim=1, keepdim=True),
        },
    )


def objective(model: MultitaskModel, weights: dict[str, float] | None = None) -> Objective:
    # In eval mode a forward pass changes nothing, so that several can be compared.
    return Objective(model.eval(), Fixed(weights=weights or {}).build(tuple(TASKS)))


def gradients(model: MultitaskModel) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def of_one_task(
    model: MultitaskModel, task: str, weights: dict[str, float]
) -> dict[str, torch.Tensor | None]:
    """The reference: plain backpropagation of a task's weighted loss, without any cache."""
    model.zero_grad()
    losses, _ = objective(model).losses(batch())
    (weights[task] * losses[task]).backward()
    found = gradients(model)
    model.zero_grad()
    return found


def owners(model: MultitaskModel) -> dict[int, str | None]:
    return {id(f.parameter): f.owner for _, layer in parametrized(model) for f in factors(layer)}


WEIGHTS = {"segmentation": 0.5, "depth": 2.0, "normals": 1.0}


def test_joint_is_the_gradient_of_the_weighted_sum(method: KernelMethod, plan: str) -> None:
    model = network(method, plan)
    references = [of_one_task(model, task, WEIGHTS) for task in TASKS]
    (losses,) = UPDATES["joint"](objective(model, WEIGHTS), batch())
    assert set(losses) == set(TASKS)
    for name, gradient in gradients(model).items():
        expected = [reference[name] for reference in references if reference[name] is not None]
        torch.testing.assert_close(gradient, torch.stack(expected).sum(0), rtol=1e-4, atol=1e-6)


def test_routed_gives_a_task_s_factors_its_own_gradient_and_all_else_the_sum(
    method: KernelMethod, plan: str
) -> None:
    model = network(method, plan)
    references = {task: of_one_task(model, task, WEIGHTS) for task in TASKS}
    list(UPDATES["routed"](objective(model, WEIGHTS), batch()))
    owner = owners(model)
    for name, parameter in model.named_parameters():
        task = owner.get(id(parameter))
        wanted = references if task is None else {task: references[task]}
        expected = [reference[name] for reference in wanted.values() if reference[name] is not None]
        torch.testing.assert_close(parameter.grad, torch.stack(expected).sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    "method",
    [
        Residual(sides=("input",)),
        Residual(sides=("spatial", "output")),
        Residual(sides=("output", "input"), owned="both"),
        *(Factorized(combine="mean", shared=shared) for shared in ("u", "v", "none")),
    ],
    ids=repr,
)
def test_an_optimizer_takes_every_gradient_as_it_is_meant(update: str, method: KernelMethod) -> None:
    """Fused optimizers read memory as it lies: a gradient that lies otherwise goes to the wrong entries."""
    target = objective(network(method, "forked"))
    optimizer = target.optimizer(SGD(lr=0.1, momentum=0))
    for _ in UPDATES[update](target, batch()):
        expected = [
            (parameter, parameter.detach() - group["lr"] * parameter.grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        optimizer.step()
        for parameter, value in expected:
            torch.testing.assert_close(parameter.detach(), value)
        optimizer.zero_grad()


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("frozen", ["first", "factors"])
def test_what_is_frozen_stays_and_all_else_trains(update: str, frozen: str) -> None:
    model = network(Residual(owned="both"), "forked")
    layers = [layer for _, layer in parametrized(model)]
    parts = [model.segment("trunk")["first"]] if frozen == "first" else layers
    still = [p for part in parts for p in part.parameters()]
    for parameter in still:
        parameter.requires_grad_(False)
    target = objective(model)
    if update == "alternating" and not target.own:
        with pytest.raises(UsageError, match="alternating"):
            check_update(update, target)
        return
    got = {id(p) for _ in UPDATES[update](target, batch()) for p in model.parameters() if p.grad is not None}
    assert got == {id(p) for p in model.parameters()} - {id(p) for p in still}


@pytest.mark.parametrize(
    "plan, method",
    [
        *((plan, method) for plan in PLANS for method in (Plain(), Factorized(), Residual(owned="both"))),
        ("forked", RepVGG()),
        ("forked", DOConv()),
    ],
)
def test_routed_weighs_tasks_where_they_meet_and_nowhere_else(plan: str, method: KernelMethod) -> None:
    model = network(method, plan)
    references = {task: of_one_task(model, task, WEIGHTS) for task in TASKS}
    says = dict(zip(TASKS, (2.0, -3.0, 0.5), strict=True))
    target = Objective(
        model, Fixed(weights=WEIGHTS).build(tuple(TASKS)), weigh=lambda rows: list(says.values())
    )
    list(UPDATES["routed"](target, batch()))
    owner = owners(model)
    for name, parameter in model.named_parameters():
        reached = [task for task in TASKS if references[task][name] is not None]
        task = owner.get(id(parameter)) or (reached[0] if len(reached) == 1 else None)
        expected = (
            sum(says[task] * references[task][name] for task in reached)
            if task is None
            else references[task][name]
        )
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_where_tasks_meet_every_tensor_counts_once(plan: str) -> None:
    """In kernels where they share the kernel, in shared factors where they fork, and in all that is plain."""
    model = network(Factorized(), plan)
    references = [of_one_task(model, task, WEIGHTS) for task in TASKS]
    given: list[Sequence[Row]] = []

    def weigh(rows: Sequence[Row]) -> Sequence[float]:
        given.append(rows)
        return equally(rows)

    target = Objective(model, Fixed(weights=WEIGHTS).build(tuple(TASKS)), weigh=weigh)
    layers = zip(parametrized(model), target.forked, strict=True)
    kernels = [layer.weight.shape for (_, layer), forked in layers if not forked]
    bridges = {id(parameter) for parameter in target.bridges}
    owner = owners(model)
    met = [
        parameter.shape
        for name, parameter in model.named_parameters()
        if sum(reference[name] is not None for reference in references) > 1
        and (id(parameter) in bridges or id(parameter) not in owner)
    ]
    list(UPDATES["routed"](target, batch()))
    columns = [[g for g in column if g is not None] for column in zip(*given[0], strict=True)]
    found = [column[0].shape for column in columns if len(column) > 1]
    assert sorted(found) == sorted([*kernels, *met])
    assert bool(bridges) == (plan != "trunk")


@pytest.mark.parametrize("name, reference", [("pcgrad", PCGrad), ("aligned", AlignedMTL)])
def test_a_plain_trunk_gets_what_torchjd_makes_of_its_jacobian(
    name: str, reference: type[Aggregator]
) -> None:
    model = network(Plain())
    references = [of_one_task(model, task, WEIGHTS) for task in TASKS]
    trunk = [name for name, _ in model.named_parameters() if name.startswith("segments.")]
    jacobian = torch.stack([torch.cat([row[name].flatten() for name in trunk]) for row in references])
    torch.manual_seed(0)  # PCGrad takes the tasks in a random order
    expected = reference()(jacobian.double()).float()
    if name == "aligned":
        expected *= len(TASKS)  # torchjd's default aims at the mean of the tasks, a routed step at their sum
    target = Objective(model, Fixed(weights=WEIGHTS).build(tuple(TASKS)), weigh=weighing(name, len(TASKS)))
    torch.manual_seed(0)
    list(UPDATES["routed"](target, batch()))
    found = gradients(model)
    torch.testing.assert_close(
        torch.cat([found[name].flatten() for name in trunk]), expected, rtol=1e-3, atol=1e-5
    )


def test_alternating_takes_turns_and_freezes_all_that_has_no_turn(method: KernelMethod, plan: str) -> None:
    model = network(method, plan)
    references = {task: of_one_task(model, task, WEIGHTS) for task in TASKS}
    owner = owners(model)
    turns: list[str | None] = []
    for losses in UPDATES["alternating"](objective(model, WEIGHTS), batch()):
        task = next(iter(losses)) if len(losses) == 1 else None
        turns.append(task)
        for name, parameter in model.named_parameters():
            if owner.get(id(parameter)) != task:
                assert parameter.grad is None, name
                continue
            wanted = references.values() if task is None else [references[task]]
            expected = [reference[name] for reference in wanted if reference[name] is not None]
            torch.testing.assert_close(parameter.grad, torch.stack(expected).sum(0), rtol=1e-4, atol=1e-6)
        model.zero_grad()
    has_owned = any(task is not None for task in owner.values())
    assert turns == [*(TASKS if has_owned else []), None]


@pytest.mark.parametrize("update", UPDATES)
def test_every_strategy_lowers_the_loss(update: str) -> None:
    model = network(Factorized())
    target = Objective(model, Fixed().build(tuple(TASKS)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    history = []
    for _ in range(15):
        for _ in UPDATES[update](target, batch()):
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            history.append(sum(target.losses(batch())[0].values()).item())
    assert history[-1] < 0.9 * history[0]


def test_a_kernel_is_composed_once_a_forward_pass() -> None:
    model = network(Factorized())
    calls = []
    for _, layer in parametrized(model):
        layer.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    list(UPDATES["routed"](objective(model), batch()))
    assert len(calls) == sum(1 for _ in parametrized(model))


@pytest.mark.parametrize("update", UPDATES)
def test_parameters_of_the_balancer_get_the_gradient_of_all_that_is_minimized(update: str) -> None:
    model, balancer = network(Factorized()).eval(), Uncertainty().build(tuple(TASKS))
    target = Objective(model, balancer)
    losses, balanced = target.losses(batch())
    expected = torch.autograd.grad(sum(balanced.values()), list(balancer.parameters()))
    torch.testing.assert_close(expected, tuple((1 - loss) / 2 for loss in losses.values()))
    list(UPDATES[update](target, batch()))
    torch.testing.assert_close(tuple(p.grad for p in balancer.parameters()), expected)
    assert len({id(p) for p in target.trained}) == len(target.trained)


@pytest.mark.parametrize("update", UPDATES)
def test_running_statistics_follow_a_batch_once(update: str) -> None:
    model = network(Factorized()).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [int(norm.num_batches_tracked) for norm in norms]
    for _ in UPDATES[update](Objective(model, Fixed().build(tuple(TASKS))), batch()):
        pass
    assert [int(norm.num_batches_tracked) for norm in norms] == [count + 1 for count in before]


@pytest.mark.parametrize("method", [Plain(), DOConv()], ids=["plain", "doconv"])
def test_alternating_needs_factors_of_single_tasks(method: KernelMethod) -> None:
    with pytest.raises(UsageError, match=r"\$\.training\.update"):
        check_update("alternating", objective(network(method)))
    check_update("routed", objective(network(method)))
    check_update("alternating", objective(network(Factorized())))


def test_parameters_that_are_given_one_gradient_have_each_its_own() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    _give([first, second], torch.autograd.grad((first + second).sum(), [first, second]))
    first.grad.mul_(3)
    assert (first.grad.tolist(), second.grad.tolist()) == ([3, 3], [1, 1])
