"""A recipe says exactly one thing, or what is wrong with it, where, and what was meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from edgemtl.backbones import ResNet, SegNet, Timm
from edgemtl.core.errors import UsageError
from edgemtl.core.locate import recipes
from edgemtl.kernels import Factorized, Plain
from edgemtl.recipe import Recipe, dump, load, parse
from edgemtl.tasks import Depth, Segmentation
from edgemtl.training.optim import SGD, Adam, Poly

SEGNET = {"type": "segnet", "widths": [4, 8], "convs": [1, 1]}
FACTORIZED = {"type": "factorized"}
MOMENTUMLESS = {"type": "sgd", "nesterov": True, "momentum": 0}
TREE: dict[str, Any] = {
    "name": "test",
    "data": {"type": "scenes", "size": [96, 128]},
    "backbone": SEGNET,
    "tasks": {"segmentation": {"classes": 13}, "depth": {}},
    "plan": {"forks": {"decoder1": [["segmentation"], ["depth"]]}},
    "kernel": FACTORIZED,
    "balancing": {"type": "fixed", "weights": {"depth": 0.5}},
    "training": {"epochs": 2, "optimizer": {"type": "adam", "lr": 0.01}, "schedule": {"type": "cosine"}},
}


def recipe(*overrides: str, **changes: Any) -> Recipe:
    return parse({**TREE, **changes}, overrides)


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in TREE.items() if key not in keys}


@pytest.mark.parametrize("name", recipes())
def test_what_ships_survives_being_written_out(tmp_path: Path, name: str) -> None:
    first = load(recipes()[name])
    (tmp_path / "recipe.yaml").write_text(dump(first))
    assert load(tmp_path / "recipe.yaml") == first
    assert first.name == name


@pytest.mark.parametrize("text", ["seed: 1\nname: a\nseed: 2\n", "training: {epochs: 1, epochs: 2}\n"])
def test_a_key_stands_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"the key `(seed|epochs)` stands twice.*line"):
        load(tmp_path / "recipe.yaml")


def test_keys_override_those_that_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    merged = "training: {optimizer: &adam {<<: {type: adam, lr: 0.1}, lr: 0.2}}\n"
    path.write_text(yaml.safe_dump(without("training")) + merged)
    assert load(path).training.optimizer == Adam(lr=0.2)
    path.write_text(path.read_text() + "more: {<<: *adam}\n")  # merges what was merged into
    with pytest.raises(UsageError, match="expected a known key, found `more`"):
        load(path)


@given(
    text=st.from_regex(r"[-+]?[0-9][0-9_]*\.?[0-9]*[eE][-+]?[0-9]+", fullmatch=True)
    | st.text(".-_0123456789abef")
)
@example(text="1e5")
def test_text_that_looks_like_a_number_stays_text(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    written = recipe(data={"type": "folder", "root": text, "labels": {"depth": "depth"}})
    path.write_text(dump(written))
    assert load(path) == written


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_does_not_take(seed: int) -> None:
    with pytest.raises(UsageError, match=r"\$\.seed: expected "):
        recipe(f"seed={seed}")


def test_a_dump_says_everything() -> None:
    text = dump(parse(without("plan", "kernel", "balancing", "training")))
    for key in (
        "forks: {}",
        "type: plain",
        "weights: {}",
        "type: cosine",
        "checkpoint_every_s: 60.0",
        "seed: 0",
    ):
        assert key in text


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ({"kernel": "factorized"}, ("kernel", Factorized())),
        ({"kernel": "plain"}, ("kernel", Plain())),
        ({"backbone": "resnet"}, ("backbone", ResNet())),
        ({"backbone": "timm:convnext_atto"}, ("backbone", Timm(model="convnext_atto"))),
        ({"tasks": ["depth"]}, ("tasks", {"depth": Depth()})),
        ({"tasks": {"depth": None}}, ("tasks", {"depth": Depth()})),
        ({"tasks": {"far": "depth"}}, ("tasks", {"far": Depth()})),
        ({"tasks": {"far": {"type": "depth", "label": "z"}}}, ("tasks", {"far": Depth(label="z")})),
    ],
    ids=str,
)
def test_a_short_form_is_what_it_stands_for(short: dict[str, Any], expected: tuple[str, object]) -> None:
    name, value = expected
    assert getattr(parse({**without("plan", "balancing"), **short}), name) == value


def test_options_alone_take_the_default_s_type() -> None:
    training = recipe(training={"optimizer": {"lr": 0.5}, "schedule": "poly"}).training
    assert (training.optimizer, training.schedule) == (Adam(lr=0.5), Poly())


@pytest.mark.parametrize(
    ("forks", "groups"),
    [
        ("each", (("segmentation",), ("depth",))),
        ([["depth"], ["segmentation"]], (("depth",), ("segmentation",))),
    ],
)
def test_forks_become_a_plan(forks: object, groups: tuple[tuple[str, ...], ...]) -> None:
    found = recipe(plan={"forks": {"low": forks}}).plan.build(("segmentation", "depth"), ("high", "low"))
    assert found.partitions == ((("segmentation", "depth"),), groups)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", "1_0e-4"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, number: str) -> None:
    text = dump(recipe()).replace("lr: 0.01", f"lr: {number}")
    assert load(write(tmp_path, text)).training.optimizer.lr == pytest.approx(1e-3)
    assert recipe(f"training.optimizer.lr={number}").training.optimizer.lr == pytest.approx(1e-3)


@pytest.mark.parametrize("place", ["optimizer.lr", "optimizer.weight_decay", "clip_norm", "distill.weight"])
@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(place: str, number: str) -> None:
    with pytest.raises(UsageError, match=rf"\$\.training\.{place}: expected a finite number"):
        recipe(f"training.{place}={number}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"recipe\.yaml: expected YAML, found while parsing"),
        ("name: a: b", r"recipe\.yaml: expected YAML, found mapping values are not allowed here"),
        ("name: 2024-13-45", r"recipe\.yaml: expected YAML, found month must be in 1..12"),
        ("a: !!python/object/apply:os.getcwd []", r"recipe\.yaml: expected YAML, found could not determine"),
        ("- depth\n- normals", r"\$: expected a recipe \(keys and values\), found list"),
        ("depth", "found str"),
        ("", "found NoneType"),
    ],
    ids=["unclosed", "twice", "date", "code", "list", "word", "empty"],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(UsageError, match=r"recipe\.yaml: expected a recipe file, found 'utf-8' codec"):
        load(path)


@pytest.mark.parametrize("name", ["nowhere.yaml", ""], ids=["missing", "folder"])
def test_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a recipe file.*edgemtl recipes ls"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", "seed", 3),
        ("training.epochs=5", "training.epochs", 5),
        ("training.clip_norm=1", "training.clip_norm", 1.0),
        ("training.optimizer=sgd", "training.optimizer", SGD()),
        ("training.optimizer.lr=1e-4", "training.optimizer", Adam(lr=1e-4)),
        ("backbone.widths=[2, 4]", "backbone", SegNet(widths=(2, 4), convs=(1, 1))),
        ("backbone={type: resnet, depth: 34}", "backbone", ResNet(depth=34)),
        ("kernel=plain", "kernel", Plain()),
        ("kernel.combine=mean", "kernel", Factorized(combine="mean")),
        ("plan.forks={}", "plan.forks", {}),
        ("balancing.weights.segmentation=2", "balancing.weights", {"depth": 0.5, "segmentation": 2.0}),
    ],
)
def test_an_override_changes_one_thing(override: str, path: str, value: object) -> None:
    found, plain = msgspec.to_builtins(recipe(override)), msgspec.to_builtins(recipe())
    *parents, last = path.split(".")
    for parent in parents:
        found_below, plain_below = found[parent], plain[parent]
        assert {**found, parent: None} == {**plain, parent: None}
        found, plain = found_below, plain_below
    assert found[last] == msgspec.to_builtins(value)
    assert {**found, last: None} == {**plain, last: None}


def test_overrides_reach_into_short_forms_and_follow_each_other() -> None:
    tree = without("plan", "balancing", "kernel") | {"tasks": ["depth", "normals"], "backbone": "resnet"}
    overrides = ["tasks.depth.label=z", "backbone.depth=34", "kernel=factorized", "kernel.combine=sum"]
    found = parse(tree, overrides)
    assert found.tasks["depth"] == Depth(label="z")
    assert (found.backbone, found.kernel) == (ResNet(depth=34), Factorized(combine="sum"))


def test_a_later_override_wins() -> None:
    assert recipe("seed=1", "seed=2").seed == 2


def test_the_tree_given_stays_as_it_was() -> None:
    tree = copy.deepcopy(TREE)
    parse(tree, ["training.optimizer.lr=1", "tasks.segmentation.classes=3"])
    assert tree == TREE


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", r"override: expected key=value, found `training.epochs`"),
        ("=3", "override: expected key=value"),
        ("training.epochs=[", "override training.epochs: expected YAML"),
        ("name.first=3", r"override name.first: expected `name` to have keys, found 'test'"),
        (
            "backbone.widths.0=3",
            r"override backbone.widths.0: expected `widths` to have keys, found \[4, 8\]",
        ),
        ("training.epoch=3", r"\$\.training: expected a known key, found `epoch`. Did you mean `epochs`\?"),
        ("epochs=3", r"\$: expected a known key, found `epochs`. Did you mean `training.epochs`\?"),
        ("lr=3", r"\$: expected a known key, found `lr`. Did you mean `training.optimizer.lr`\?"),
        ("trainig.epochs=3", r"\$: expected a known key, found `trainig`. Did you mean `training`\?"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(override)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Unknown keys, types and choices, with the nearest name.
        ({"kernal": "plain"}, r"\$: expected a known key, found `kernal`. Did you mean `kernel`\?"),
        ({"tasks": {"depth": {"lable": "z"}}}, r"\$\.tasks\.depth: .* found `lable`. Did you mean `label`\?"),
        ({"kernel": "factorised"}, r"\$\.kernel\.type: .* `factorised`. Did you mean `factorized`\?"),
        ({"tasks": ["dpeth"]}, r"\$\.tasks\.dpeth\.type: .* found `dpeth`. Did you mean `depth`\?"),
        ({"backbone": {"widths": [4]}}, r"\$\.backbone\.type: expected a known type, found none. Known: "),
        ({"backbone": {"type": 3}}, r"\$\.backbone\.type: expected a known type, found `3`"),
        ({"training": {"accelerator": "gpu"}}, r"accelerator: .* `gpu`\. Known: auto, cpu, cuda"),
        ({"kernel": FACTORIZED | {"combine": "maen"}}, r"\$\.kernel\.combine: .* Known: mean, product, sum"),
        ({"backbone": {"type": "resnet", "depth": 20}}, r"depth: .* found `20`. Known: 18, 34, 50"),
        ({"plan": {"forks": {"decoder1": "eahc"}}}, r"\$\.plan\.forks\.decoder1: .* Known: each"),
        # Wrong types, lengths and numbers.
        ({"training": {"epochs": "three"}}, r"\$\.training\.epochs: expected `int`, found 'three'"),
        ({"training": {"epochs": 0}}, r"\$\.training\.epochs: expected `int` >= 1, found 0"),
        ({"training": 3}, r"\$\.training: expected `object`, found 3"),
        ({"data": {"type": "scenes", "size": [96]}}, r"\$\.data\.size: .* of length 2, found \[96\]"),
        ({"backbone": SEGNET | {"convs": [1, "b"]}}, r"\$\.backbone\.convs\[1\]: .* found 'b'"),
        ({"tasks": {"depth": {"label": 3}}}, r"\$\.tasks\.depth\.label: expected `str`, found 3"),
        ({"balancing": {"weights": {"depth": -1}}}, r"weights\[...\]: .* >= 0.0, found {'depth': -1}"),
        ({"balancing": {"weights": {1: 1}}}, r"\$\.balancing\.weights: expected names as keys, found `1`"),
        ({"tasks": {}}, r"\$\.tasks: expected `object` of length >= 1, found {}"),
        ({"name": "a b"}, r"\$\.name: expected `str` matching regex .* found 'a b'"),
        ({"name": ".."}, r"\$\.name: .* found '\.\.'"),
        ({"seed": 1.5}, r"\$\.seed: expected `int`, found 1.5"),
        ({"data": None}, r"\$\.data: expected `object`, found None"),
        # Missing keys.
        ({"backbone": "timm"}, r"\$\.backbone: expected the key `model`, found none"),
        ({"tasks": {"image": "depth"}}, r"\$\.tasks: expected task names of .* found `image`"),
        ({"tasks": {"a.b": "depth"}}, r"\$\.tasks: expected task names of .* found `a\.b`"),
        # Impossible combinations.
        ({"backbone": SEGNET | {"widths": [4]}}, r"\$\.backbone\.convs: .* each of the 1 widths, found 2"),
        ({"training": {"optimizer": MOMENTUMLESS}}, r"\$\.training\.optimizer.*`momentum` above 0"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("key", ["name", "data", "backbone", "tasks"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(UsageError, match=rf"\$: expected the key `{key}`, found none"):
        parse(without(key))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The recipe with something else in one place, or something more."""
    tree = below = copy.deepcopy(TREE)
    while True:
        key = draw(st.sampled_from([*below, draw(st.text())]))
        if isinstance(below.get(key), dict) and below[key] and draw(st.booleans()):
            below = below[key]
            continue
        below[key] = draw(PLAIN)
        return tree


@given(damaged())
@example({**TREE, "tasks": {1: None}})
@example({**TREE, "plan": {"forks": {"decoder1": [["depth"], 3]}}})
@example({**TREE, "training": {"optimizer": []}})
def test_whatever_a_recipe_holds_nothing_but_a_recipe_error_is_raised(tree: dict[str, Any]) -> None:
    try:
        found = parse(tree)
    except UsageError as error:
        assert len(str(error)) < 1000
    else:
        assert parse(yaml.safe_load(dump(found))) == found


def test_segmentation_says_how_many_classes_or_which() -> None:
    with pytest.raises(UsageError, match=r"classes"):
        recipe(tasks=["segmentation"])
    assert recipe().tasks["segmentation"] == Segmentation(classes=13)


def test_weights_of_tasks_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="normals"):
        recipe("balancing.weights.normals=2")
