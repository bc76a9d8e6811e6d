from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.backbones import Module, Stage, chain
from edgemtl.backbones.base import IMAGE
from edgemtl.core.errors import UsageError


def sequential(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 4, 1))


def by_hand(reads: str = IMAGE, name: str = "last") -> list[Stage]:
    first = Stage("first", nn.Conv2d(3, 3, 1), (IMAGE,), 3, 1)
    return [first, Stage(name, nn.Conv2d(3, 5, 1), (reads,), 5, 1)]


def nothing() -> list[Stage]:
    return []


def a_layer() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())


def mismatched() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 6, 1))


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(128))


def failing() -> nn.Sequential:
    raise ValueError("my own mistake\nand more of it")


def lazy() -> nn.Sequential:
    import no_such_package  # noqa: F401

    return nn.Sequential()


NOT_A_FUNCTION = "text"


def module(factory: str, **options: object) -> Module:
    return Module(factory=f"{__name__}:{factory}", options=options)


def test_a_file_that_fails_when_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {"wrong_syntax": "def f(:", "wrong_import": "raise RuntimeError('on import')"}.items():
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(UsageError, match=rf"factory: .*can be imported, found `{name}:f` \("):
            Module(factory=f"{name}:f").stages()


def test_every_child_of_a_sequential_is_a_stage() -> None:
    found = module("sequential", width=6).stages()
    assert [(s.name, s.reads, s.channels, s.reduction) for s in found] == [
        ("0", (IMAGE,), 6, 2),
        ("1", ("0",), 12, 8),
    ]


def repeated() -> nn.Sequential:
    act = nn.LeakyReLU(0.1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), act, nn.Conv2d(4, 5, 3), act)


def test_a_child_that_stands_twice_is_two_stages() -> None:
    network, image = repeated(), torch.rand(1, 3, 9, 9)
    feature = image
    for stage in chain(**network._modules):
        feature = stage.module(feature)
    assert torch.equal(feature, network(image))
    assert [stage.name for stage in module("repeated").stages()] == ["0", "1", "2", "3"]


def test_stages_of_shared_weights_are_refused() -> None:
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(UsageError, match="backbone stage last: expected weights of its own"):
        chain(first=conv, last=nn.Sequential(conv, nn.ReLU()))


class Merge(nn.Module):
    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        return x if skip is None else x + skip


def test_a_tensor_that_a_stage_may_leave_out_is_refused() -> None:
    with pytest.raises(UsageError, match=r"stage merge: expected a forward of 1 tensors, as .* `skip`"):
        chain(merge=Merge())
    assert chain(merge=nn.Sequential(Merge()))


def test_stages_written_by_hand_are_taken_as_they_are() -> None:
    assert [(stage.name, stage.reads) for stage in module("by_hand", reads="first").stages()] == [
        ("first", (IMAGE,)),
        ("last", ("first",)),
    ]


def test_chain_leaves_its_modules_as_they_were() -> None:
    norm = nn.BatchNorm2d(3)
    (stage,) = chain(norm=norm)
    assert stage.module is norm
    assert norm.training
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Module(factory="no.such:thing"), r"factory: .* found `no.such:thing` \(No module named 'no'\)"),
        (Module(factory=".relative:thing"), "found `.relative:thing` .*relative import"),
        (Module(factory="thing"), "package.file:function that can be imported, found `thing`"),
        (Module(factory=""), "package.file:function that can be imported, found ``"),
        (module("missing"), r"has no attribute 'missing'\). Check the spelling"),
        (module("NOT_A_FUNCTION"), r"\$\.backbone\.options: expected arguments of .*not a callable"),
        (module("sequential", widht=3), r"found {'widht': 3} \(got an unexpected keyword argument 'widht'\)"),
        (module("a_layer"), "expected an nn.Sequential or a sequence of Stage, found Conv2d"),
        (module("by_hand", reads="frist"), r"stage last: .* found `frist`. Did you mean `first`\?"),
        (
            module("by_hand", name="first"),
            "stage first: expected names that no feature has yet, found `first`",
        ),
        (module("by_hand", name=IMAGE), "found `image`. Rename the stage"),
        (module("nothing"), "expected at least one stage, found none"),
        (
            module("mismatched"),
            r"stage 1: .* that takes \[1, 4, 64, 64\].* expected input.* to have 5",
        ),
        (
            module("failing"),
            r"factory: .*ing to build .* ValueError: my own mistake \(.*_module\.py:\d+\)",
        ),
        (module("lazy"), r"factory: .* ModuleNotFoundError: No module named 'no_such_package'"),
        (module("sequential", width="wide"), r"factory: .* found TypeError: "),
        (module("tiny"), r"stage 0: .* from an image of 64x64, found .* too small"),
        (module("flat"), r"stage 1: expected a feature map \[B, C, h, w\], found shape \[1, 12288\]"),
    ],
    ids=lambda value: value.factory.partition(":")[2] if isinstance(value, Module) else "",
)
def test_what_cannot_be_a_backbone_is_named(spec: Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec.stages()


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_modules_know_their_sizes_and_frozen_ones_stay_frozen() -> None:
    norm = nn.BatchNorm2d(4).eval()
    stages = chain(stem=nn.Sequential(nn.LazyConv2d(4, 3), norm))
    (layer, _) = stages[0].module.children()
    assert layer.weight.shape == (4, 3, 3, 3)
    assert not norm.training
    assert stages[0].module.training
