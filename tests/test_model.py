from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgemtl.backbones import SegNet, Stage, chain
from edgemtl.core.errors import UsageError
from edgemtl.core.plan import SharingPlan
from edgemtl.kernels import Factorized, Plain
from edgemtl.model import MultitaskModel, check_size, macs_of, parameters_of
from tests.contracts.networks import PLANS, SIZE, TASKS, images, network


@pytest.mark.parametrize("plan", PLANS)
def test_every_task_gets_a_prediction_of_the_image_s_size(plan: str) -> None:
    predictions = network(Plain(), plan)(images())
    channels = {"segmentation": 5, "depth": 1, "normals": 3}
    assert {task: p.shape for task, p in predictions.items()} == {
        t: (2, c, *SIZE) for t, c in channels.items()
    }


@pytest.mark.parametrize("plan", PLANS)
def test_a_subset_of_tasks_gives_the_same_predictions_and_runs_only_what_it_needs(plan: str) -> None:
    model = network(Factorized(), plan).eval()
    image, ran = images(), []
    for segment in model.tree:
        for name, module in model.segment(segment.name).items():
            module.register_forward_hook(lambda *_, where=(segment.name, name): ran.append(where))
    everything = model(image)
    ran.clear()
    only = model(image, ["depth"])
    assert set(only) == {"depth"}
    torch.testing.assert_close(only["depth"], everything["depth"], rtol=0, atol=0)
    assert {name for name, _ in ran} == {s.name for s in model.tree if "depth" in s.group}
    assert len(ran) == len(model.blueprint)


def test_forked_copies_start_equal_and_are_trained_apart() -> None:
    model = network(Plain(), "separate")
    first, second = (model.segment(f"branch_{task}")["first"][0].weight for task in ("depth", "normals"))
    assert torch.equal(first, second)
    model(images())["depth"].sum().backward()
    assert first.grad is not None
    assert second.grad is None


def test_the_stages_that_were_given_stay_untouched() -> None:
    stages = SegNet(widths=(4, 8), convs=(1, 1)).stages()
    before = {s.name: {k: v.clone() for k, v in s.module.state_dict().items()} for s in stages}
    model = MultitaskModel(stages, TASKS, kernel=Factorized())
    model(torch.rand(2, 3, 16, 16))["depth"].sum().backward()
    for stage in stages:
        assert all(torch.equal(v, before[stage.name][k]) for k, v in stage.module.state_dict().items())


def test_a_plan_of_other_stages_or_tasks_is_refused() -> None:
    stages = SegNet(widths=(4,), convs=(1,)).stages()
    with pytest.raises(UsageError, match="encoder1, decoder1"):
        MultitaskModel(stages, TASKS, SharingPlan.shared(tuple(TASKS), ("stem",)))
    with pytest.raises(UsageError, match="segmentation, depth, normals"):
        MultitaskModel(stages, TASKS, SharingPlan.shared(("depth",), ("encoder1", "decoder1")))


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean `depth`"):
        network(Plain())(images(), ["dept"])


def test_parameters_that_groups_share_count_once() -> None:
    shared, forked = network(Factorized()), network(Factorized(), "separate")
    own = sum(p.numel() for name, p in forked.named_parameters() if ".branch_depth." in name)
    assert parameters_of(forked) < parameters_of(shared) + 2 * own


def test_macs_are_multiply_accumulates() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert macs_of(conv, torch.rand(1, 3, 10, 12)) == 8 * 3 * 9 * 10 * 12


@pytest.mark.parametrize("name", ["type", "values", "half", "a.b"])
def test_names_that_torch_modules_use_are_refused(name: str) -> None:
    stages = SegNet(widths=(4,), convs=(1,)).stages()
    with pytest.raises(UsageError, match="Rename it"):
        MultitaskModel(stages, {name: TASKS["depth"]})


def test_a_size_that_the_network_does_not_take_is_refused() -> None:
    model = MultitaskModel(SegNet(widths=(2,) * 5, convs=(1,) * 5).stages(), {"depth": TASKS["depth"]})
    check_size(model, (32, 48))
    with pytest.raises(UsageError, match=r"\$\.backbone: expected a network that takes images of 16x24"):
        check_size(model, (16, 24))


class FixedSize(torch.nn.Conv2d):
    """As transformers do that know their images' size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == 24, "Input size doesn't match"
        return super().forward(x)


def test_a_network_that_fails_otherwise_is_refused_as_well() -> None:
    stage = Stage("only", FixedSize(3, 4, 1), ("image",), 4, 1)
    check_size(MultitaskModel((stage,), TASKS), (16, 24))
    with pytest.raises(UsageError, match=r"images of 16x32, found Input size doesn't match\. Use images of"):
        check_size(MultitaskModel((stage,), TASKS), (16, 32))


def test_a_stage_has_the_channels_that_it_says() -> None:
    stages = (
        Stage("stem", torch.nn.Conv2d(3, 4, 1), ("image",), 5, 1),
        chain(last=torch.nn.Conv2d(3, 4, 1))[0],
    )
    for count in (1, 2):  # where a head reads it, and where nothing does
        with pytest.raises(UsageError, match=r"stage stem: expected .* of 5 channels.*\[1, 4, 16, 24\]"):
            check_size(MultitaskModel(stages[:count], TASKS), (16, 24))


def test_a_fork_at_what_changes_its_input_in_place_is_refused() -> None:
    """Each branch would read what the one before it left."""
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    stages = chain(stem=conv, act=torch.nn.Sequential(torch.nn.LeakyReLU(inplace=True)))
    check_size(MultitaskModel(stages, TASKS), (16, 24))
    forks = {"act": [[task] for task in TASKS]}
    plan = SharingPlan.forked(tuple(TASKS), ("stem", "act"), forks)
    with pytest.raises(UsageError, match=r"stage act: expected .* found it changes stem in place"):
        check_size(MultitaskModel(stages, TASKS, plan), (16, 24))


def test_a_head_that_changes_what_others_read_in_place_is_refused() -> None:
    """Heads fork, too. A task with a feature of its own may change it."""
    plan = SharingPlan.forked(
        tuple(TASKS), ("stem", "end"), {"end": [["depth"], ["segmentation", "normals"]]}
    )
    model = MultitaskModel(chain(stem=torch.nn.Conv2d(3, 4, 1), end=torch.nn.Conv2d(4, 4, 1)), TASKS, plan)
    for task in ("depth", "normals"):
        check_size(model, (16, 24))
        head = model.heads[task]
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].relu_(), *inputs[1:]))
    with pytest.raises(UsageError, match=r"the head of normals: expected .* found it changes end in place"):
        check_size(model, (16, 24))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "keys", "a.b"])
def test_a_name_that_something_else_uses_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"stage or task `{name}`: expected a name"):
        MultitaskModel(chain(stem=torch.nn.Conv2d(3, 4, 1)), {name: TASKS["depth"]})
