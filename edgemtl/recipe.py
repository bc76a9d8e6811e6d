"""Recipe: everything that a run is, in one file. Wrong keys, types and combinations are named before anything
is built or written."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import inspect

from edgemtl.backbones import BackboneSpec
from edgemtl.balancing import BalancingSpec, Fixed
from edgemtl.core.errors import UsageError, nearest
from edgemtl.core.plan import SharingPlan
from edgemtl.data import DataSpec
from edgemtl.kernels import KernelSpec, Plain
from edgemtl.tasks import TaskSpec
from edgemtl.training.spec import Training

Groups = tuple[tuple[str, ...], ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as everywhere but in YAML 1.1, and no key stands twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not where it is constructed: by then what `<<` merges stands there, too.
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` stands twice", key.start_mark
                )
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes the text that ``_Loader`` would read as a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where tasks stop sharing: from the stage named on, the tasks form these groups (``each``: all apart).

    Without forks all tasks share the whole backbone and only the heads are their own.
    """

    forks: dict[str, Groups | Literal["each"]] = {}

    def build(self, tasks: Sequence[str], stages: Sequence[str]) -> SharingPlan:
        """The sharing plan for a backbone's stages."""
        apart = tuple((task,) for task in tasks)
        forks = {stage: apart if groups == "each" else groups for stage, groups in self.forks.items()}
        return SharingPlan.forked(tasks, stages, forks)


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as data. ``name`` names the run's folder; ``tasks`` maps names to specs, where ``depth: {}`` is
    short for ``depth: {type: depth}``, and any spec may be just its type, as in ``kernel: factorized``.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    data: DataSpec
    backbone: BackboneSpec
    tasks: Annotated[dict[str, TaskSpec], msgspec.Meta(min_length=1)]
    plan: Plan = Plan()
    kernel: KernelSpec = Plain()
    balancing: BalancingSpec = Fixed()
    training: Training = Training()
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        for name in self.tasks:
            if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name == "image":
                raise UsageError(
                    "$.tasks",
                    expected="task names of letters, digits and _, other than `image`",
                    found=f"`{name}`",
                    fix="Rename the task: its name becomes that of an output of the exported model.",
                )
        self.balancing.build(tuple(self.tasks))  # refuses weights of other tasks


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key=value`` overrides (``training.epochs=3``; values are YAML).

    Raises:
        UsageError: the file is missing or wrong; the message has the path and the nearest valid name.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            path,
            expected="a recipe file",
            found=str(error),
            fix="`edgemtl recipes ls` lists those that ship.",
        ) from error
    return parse(_read(text, str(path), fix="Mend the file."), overrides)


def parse(tree: object, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from plain data.

    Raises:
        UsageError: as ``load``.
    """
    if not isinstance(tree, dict):
        raise UsageError(
            "$", expected="a recipe (keys and values)", found=type(tree).__name__, fix="Mend the file."
        )
    full = _written_out(tree)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError(
                "override", expected="key=value", found=f"`{override}`", fix="For example training.epochs=3."
            )
        where = f"override {key}"
        found = _read(value, where, fix="Quote it for the shell and YAML.")
        full = _written_out(_replaced(full, key.split("."), found, where))
    return _convert(full)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, everything written out, so that a later default changes nothing."""
    return yaml.dump(msgspec.to_builtins(recipe), Dumper=_Dumper, sort_keys=False)


def _read(text: str, where: str, fix: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        raise UsageError(where, expected="YAML", found=" ".join(str(error).split()), fix=fix) from error


def _replaced(tree: Mapping[str, Any], keys: Sequence[str], value: object, where: str) -> dict[str, Any]:
    """A copy of ``tree`` with the value at a path of keys replaced."""
    first, *rest = keys
    if not rest:
        return {**tree, first: value}
    below = tree.get(first)
    if not isinstance(below, dict | None):
        raise UsageError(
            where, expected=f"`{first}` to have keys", found=reprlib.repr(below), fix="Check the path."
        )
    return {**tree, first: _replaced(below or {}, rest, value, where)}


def _written_out(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Expand the short forms: a spec that is only its type (``timm:NAME`` with the model), a task by its
    name.
    """
    full = dict(tree)
    for part in ("data", "backbone", "kernel", "balancing"):
        if part in full:
            full[part] = _spec(full[part], Recipe, part)
    if isinstance(data := full.get("data"), dict) and isinstance(labels := data.get("labels"), dict):
        typed = {name: {"type": spec} if isinstance(spec, str) else spec for name, spec in labels.items()}
        full["data"] = data | {"labels": typed}
    if isinstance(training := full.get("training"), dict):
        given = [part for part in ("optimizer", "factor_optimizer", "schedule") if part in training]
        full["training"] = training | {part: _spec(training[part], Training, part) for part in given}
    tasks = full.get("tasks")
    if isinstance(tasks, list) and all(isinstance(name, str) for name in tasks):
        tasks = dict.fromkeys(tasks)
    if isinstance(tasks, dict):
        full["tasks"] = {
            name: {"type": name, **(spec or {})} if isinstance(spec, dict | None) else {"type": spec}
            for name, spec in tasks.items()
        }
    return full


def _spec(value: object, owner: type[msgspec.Struct], part: str) -> object:
    """A spec in full: from its type alone, or with the default's type where only its options are given."""
    if isinstance(value, str):
        kind, colon, model = value.partition(":")
        return {"type": kind, "model": model} if colon else {"type": kind}
    default = next(field.default for field in msgspec.structs.fields(owner) if field.name == part)
    if isinstance(value, dict) and "type" not in value and isinstance(default, msgspec.Struct):
        return {"type": default.__struct_config__.tag, **value}
    return value


def _convert(tree: dict[str, Any]) -> Recipe:
    _check_names(tree, inspect.type_info(Recipe), "$")
    return msgspec.convert(tree, Recipe)


def _check_names(value: object, kind: inspect.Type, path: str) -> None:
    """Find a wrong key, type or choice before msgspec does, because here all valid names are at hand."""
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    structs = [option for option in options if isinstance(option, inspect.StructType)]
    choices = [v for option in options if isinstance(option, inspect.LiteralType) for v in option.values]
    if isinstance(value, dict) and structs:
        _check_struct(value, structs, path)
    elif isinstance(value, dict):
        for option in options:
            if isinstance(option, inspect.DictType):
                for key, below in value.items():
                    if not isinstance(key, str):
                        raise UsageError(path, expected="names as keys", found=f"`{key}`", fix="Quote it.")
                    _check_names(below, option.value_type, f"{path}.{key}")
    elif isinstance(value, list):
        for index, below in enumerate(value):
            _check_names(below, inspect.AnyType(), f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(path, expected="a finite number", found=f"`{value}`", fix="Mend this value.")
    elif type(value) in map(type, choices) and value not in choices:
        fix = nearest("", map(str, choices))  # they are few, and what looks alike means other things
        raise UsageError(path, expected="a known choice", found=f"`{value}`", fix=fix)


def _check_struct(value: dict[str, Any], structs: list[inspect.StructType], path: str) -> None:
    chosen = structs[0]
    if chosen.tag_field is not None:
        by_tag = {str(struct.tag): struct for struct in structs}
        tag = value.get(chosen.tag_field)
        if not isinstance(tag, str) or tag not in by_tag:
            where = f"{path}.{chosen.tag_field}"
            found = "none" if tag is None else f"`{tag}`"
            raise UsageError(where, expected="a known type", found=found, fix=nearest(str(tag), by_tag))
        chosen = by_tag[tag]
    fields = {field.encode_name: field for field in chosen.fields}
    known = {*fields, *([chosen.tag_field] if chosen.tag_field else [])}
    for key, below in value.items():
        if key not in known:
            deeper = min(_deeper(key, chosen, ""), key=lambda place: place.count("."), default="")
            fix = f"Did you mean `{deeper[1:]}`?" if deeper else nearest(str(key), known)
            raise UsageError(path, expected="a known key", found=f"`{key}`", fix=fix)
        if key in fields:
            _check_names(below, fields[key].type, f"{path}.{key}")
    for name, field in fields.items():
        if field.required and name not in value:
            raise UsageError(path, expected=f"the key `{name}`", found="none", fix="Add it to the recipe.")
    try:
        msgspec.convert(value, chosen.cls)
    except msgspec.ValidationError as error:
        raise _wrong_value(value, path, str(error)) from error


def _deeper(key: object, kind: inspect.Type, path: str) -> Iterator[str]:
    """Where below a part of a recipe a key is known."""
    for option in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        for field in option.fields if isinstance(option, inspect.StructType) else ():
            below = f"{path}.{field.encode_name}"
            if field.encode_name == key:
                yield below
            yield from _deeper(key, field.type, below)


def _wrong_value(value: Any, path: str, error: str) -> UsageError:
    """What msgspec says of a part of the recipe, with the path from the top and the value itself."""
    message, _, below = error.partition(" - at ")
    below = below.strip("`").removeprefix("$")
    # The key of a mapping is written as [...]: show all of the mapping.
    for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", below.partition("[...]")[0]):
        value = value[key] if key else value[int(index)]
    expected, _, _ = message.removeprefix("Expected ").partition(", got ")
    return UsageError(path + below, expected=expected, found=reprlib.repr(value), fix="Mend this value.")
