"""Distillation, part by part on small networks, and in real tiny runs with twins for teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgemtl import workflow
from edgemtl.backbones import chain
from edgemtl.balancing import Fixed
from edgemtl.build import build_model
from edgemtl.collapse import fold
from edgemtl.core.errors import DataError, UsageError
from edgemtl.data import Batch
from edgemtl.kernels import Factorized, Plain, factors, parametrized
from edgemtl.model import MultitaskModel
from edgemtl.run import Run
from edgemtl.training.distill import Distill, Distiller
from edgemtl.training.objective import Objective
from edgemtl.training.steps import UPDATES
from tests.contracts.networks import SIZE, TASKS, network
from tests.tiny import tiny, two_tasks
from tests.training.stopping import StopError, stop_at

WEIGHT = 3.0


def batch() -> Batch:
    """Without a single label: what remains to learn is what the teachers do."""
    labels = {
        "segmentation": torch.full((2, *SIZE), -1),
        "depth": torch.zeros(2, 1, *SIZE),
        "normals": torch.zeros(2, 3, *SIZE),
    }
    return Batch(("a", "b"), torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)), labels)


def distiller(student: MultitaskModel, teacher: MultitaskModel) -> Distiller:
    """Every task learns from the same teacher."""
    spec = Distill(teachers="twins", weight=WEIGHT)
    return spec.build(student, dict.fromkeys(TASKS, fold(teacher)[0]), SIZE)


def objective(student: MultitaskModel, teacher: MultitaskModel) -> Objective:
    # In eval mode a forward pass changes nothing, so that several can be compared.
    return Objective(student.eval(), Fixed().build(tuple(TASKS)), distiller(student, teacher))


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    student = network(Factorized())
    losses, balanced = objective(student, student).losses(batch())
    assert {f"distill.{task}" for task in TASKS} == losses.keys() - TASKS.keys()
    assert max(loss.item() for loss in losses.values()) < 1e-9
    assert balanced.keys() == TASKS.keys()


def test_the_loss_is_that_of_the_paper_and_joins_its_task_s_after_balancing() -> None:
    student, teacher = network(Plain()).eval(), network(Plain(), seed=1).eval()
    target = objective(student, teacher)
    target.balancer = Fixed(weights=dict.fromkeys(TASKS, 2.0)).build(tuple(TASKS))
    losses, balanced = target.losses(batch())
    with torch.no_grad():
        own, theirs = student.features(batch().image), teacher.features(batch().image)
    for task in TASKS:
        units = [
            f / f.square().sum(1, keepdim=True).sqrt().clamp_min(1e-9) for f in (own[task], theirs[task])
        ]
        expected = (units[0] - units[1]).square().sum(1).mean()
        torch.testing.assert_close(losses[f"distill.{task}"], expected, rtol=1e-4, atol=1e-6)
        joined = 2 * losses[task] + WEIGHT * expected
        torch.testing.assert_close(balanced[task], joined, rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_trunk_and_adaptors_and_leaves_heads_and_teachers_alone() -> None:
    student, teacher = network(Plain()), network(Plain(), seed=1)
    target = objective(student, teacher)
    list(UPDATES["joint"](target, batch()))
    for name, parameter in student.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith("segments."), name
    trained = {id(parameter) for parameter in target.trained}
    for parameter in target.distiller.adaptors.parameters():
        assert id(parameter) in trained
        assert parameter.grad.any()
    for parameter in target.distiller.teachers.parameters():
        assert id(parameter) not in trained
        assert not parameter.requires_grad


def test_a_routed_step_leads_the_distance_of_a_task_to_its_own_factors_alone() -> None:
    student, teacher = network(Factorized()), network(Plain(), seed=1)
    owned = {f.owner: f.parameter for _, layer in parametrized(student) for f in factors(layer) if f.owner}
    target = objective(student, teacher)
    with torch.no_grad():
        target.distiller.adaptors["depth"].weight.zero_()  # nothing then depends on the student
    list(UPDATES["routed"](target, batch()))
    assert not owned["depth"].grad.any()
    assert owned["segmentation"].grad.any()


@pytest.mark.parametrize("update", UPDATES)
def test_the_teachers_run_once_a_step(update: str) -> None:
    student = network(Factorized())
    target = objective(student, network(Plain(), seed=1))
    runs: list[int] = []
    first = next(iter(target.distiller.teachers.children()))
    first.segment("trunk")["first"].register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        list(UPDATES[update](target, batch()))
    assert len(runs) == 2 * len(TASKS), "one network teaches all the tasks here"


def test_features_of_zeros_give_finite_gradients() -> None:
    spec = Distiller({}, {"depth": (3, 3)}, WEIGHT)
    spec._seen = (image := torch.zeros(1, 3, 2, 2)), {"depth": torch.ones(1, 3, 2, 2)}
    feature = torch.zeros(1, 3, 2, 2, requires_grad=True)
    spec(image, {"depth": feature})["depth"].total.backward()
    assert feature.grad.abs().max() < 1e5


def test_a_teacher_may_have_other_channels_but_not_another_size() -> None:
    student = build_model(tiny())
    wider = build_model(tiny("backbone.widths=[5, 7]"))
    found = Distill(teachers="x").build(student, {"depth": wider}, (16, 24))
    assert found.adaptors["depth"].weight.shape == (5, 4, 1, 1)
    assert student.training, "to look at the features changes nothing"
    coarser = MultitaskModel(chain(only=torch.nn.Conv2d(3, 4, 3, stride=2)), student.tasks)
    with pytest.raises(
        UsageError, match="features of 16x24 for the head of depth, as in this network, found 7x11"
    ):
        Distill(teachers="x").build(student, {"depth": coarser}, (16, 24))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = workflow.train(
        two_tasks("training.epochs=1"), tmp_path_factory.mktemp("teachers") / "run", twins=True
    )
    return run.path / "twins"


@pytest.fixture(scope="module")
def run(twins: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("distilled") / "run"
    return workflow.train(two_tasks(f"training.distill.teachers={twins}"), folder)


def test_the_distances_are_recorded_and_fall(run: Run) -> None:
    first, last = run.metrics[0]["losses"], run.metrics[-1]["losses"]
    for task in run.recipe.tasks:
        assert 0 < last[f"distill.{task}"] < first[f"distill.{task}"]
    assert set(run.metrics[-1]["validation_losses"]) == set(run.recipe.tasks)


def test_neither_adaptors_nor_teachers_are_part_of_the_network(run: Run) -> None:
    plain = build_model(two_tasks())
    assert run.trained().state_dict().keys() == plain.state_dict().keys()
    collapsed = workflow.collapse(run, evaluate=False)
    assert collapsed.model.state_dict().keys() == fold(plain)[0].state_dict().keys()


@pytest.mark.parametrize("update", UPDATES)
def test_a_distilled_run_that_is_stopped_and_resumed_ends_with_the_same_weights(
    update: str, twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = two_tasks(f"training.distill.teachers={twins.parent}", f"training.update={update}")
    whole = workflow.train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_at(6, patch, save_every=5)
        workflow.train(settings, tmp_path / "parts")
    parts = workflow.resume(tmp_path / "parts")
    state, expected = (torch.load(run.path / "state.pt", weights_only=True) for run in (parts, whole))
    for part in ("model", "adaptors"):
        assert state[part].keys() == expected[part].keys()
        assert all(torch.equal(state[part][key], value) for key, value in expected[part].items())
    assert set(state["adaptors"]) == {"segmentation.weight", "depth.weight"}


def test_two_processes_distill_to_what_one_does(twins: Path, tmp_path: Path) -> None:
    # SGD: Adam divides by the size of gradients, and so makes much of rounding where they are close to 0.
    settings = [f"training.distill.teachers={twins}", "training.optimizer.type=sgd", "training.epochs=1"]
    runs = [workflow.train(two_tasks(*settings, f"training.devices={n}"), tmp_path / str(n)) for n in (1, 2)]
    one, two = (torch.load(run.path / "state.pt", weights_only=True)["adaptors"] for run in runs)
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("training.distill.teachers=/nowhere", DataError, "a twin for the task segmentation, found none"),
        ("training.distill={teachers: TWINS, weigth: 2}", UsageError, "Did you mean `weight`"),
        ("training.distill={teachers: TWINS, weight: -1}", UsageError, r"training\.distill\.weight"),
        ("training.distill={}", UsageError, "the key `teachers`"),
    ],
)
def test_bad_settings_are_refused_before_a_run_exists(
    override: str, error: type[Exception], message: str, twins: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        workflow.train(two_tasks(override.replace("TWINS", str(twins))), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_task_without_a_teacher_is_named(twins: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a twin for the task normals, found none"):
        workflow.train(tiny(f"training.distill.teachers={twins}"), tmp_path / "run")
