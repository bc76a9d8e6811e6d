"""Who may import whom. A new arrow is a decision: it is made here, in these tables."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1] / "edgemtl"
BUNDLE = Path(__file__).parent / "fixtures" / "tiny_bundle"
REPORT = Path(__file__).parent / "fixtures" / "bench_report.json"

# A room is a package, or a module at the top. Every room may read edgemtl.__version__.
ARROWS: dict[str, str] = {
    # The vocabulary of both worlds, and the edge, which never imports the desk.
    "core": "",
    "runtime": "core",
    "bench": "core runtime",
    "report": "core",
    "predict": "core runtime report",
    "doctor": "core runtime bench",
    # What a recipe chooses from: blind to each other.
    "tensors": "core",
    "data": "core",
    "tasks": "core",
    "modes": "",
    "backbones": "core modes tensors",
    "kernels": "core folding",
    "balancing": "core",
    # The desk, from the network to the verbs.
    "model": "core modes tasks backbones kernels",
    "training": "core modes tensors data tasks kernels balancing model",
    "folding": "core",
    "collapse": "core modes kernels model folding",
    "inspection": "core backbones model collapse",
    "export": "core runtime backbones model collapse",
    "recipe": "core data tasks backbones kernels balancing training",
    "build": "backbones model recipe",
    "run": "core tensors data kernels model training collapse build recipe",
    "illustrate": "core report run",
    "twins": "core kernels balancing recipe run",
    "launch": "core data tasks model training collapse build recipe run twins",
    "material": "core data export run training",
    "sequences": "core runtime data run training",
    "evaluation": "core runtime data kernels training recipe run twins sequences",
    "workflow": "core data"
    " collapse inspection export build recipe run illustrate launch twins material evaluation",
    # The command line; what it takes from the desk, it imports inside its commands.
    "cli": "core runtime bench report predict doctor export build recipe run launch evaluation workflow",
    "__main__": "cli",
}
EDGE = {"core", "runtime", "bench", "report", "predict", "doctor"}
# What the edge may import from elsewhere: the base dependencies, and those of the extra `ort`.
EDGE_PACKAGES = {"msgspec", "numpy", "rich", "typer", "PIL", "onnxruntime"}
# Drawn at the desk alone, and imported only when it is called.
DRAWS_CURVES = "edgemtl.report.plots"


def files() -> Iterator[tuple[str, str, ast.Module]]:
    """(module, room, syntax tree) of every file of the package, but for edgemtl/__init__.py."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
        if parts:
            yield ".".join(["edgemtl", *parts]), parts[0], ast.parse(path.read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    """All that is imported, in functions and under TYPE_CHECKING too; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for _, room, tree in files():
        rooms = {name.split(".")[1] for name in imported(tree) if name.startswith("edgemtl.")}
        found.setdefault(room, set()).update(rooms - {room, "__version__"})
    return found


def test_the_table_is_what_the_code_imports() -> None:
    assert arrows() == {room: set(allowed.split()) for room, allowed in ARROWS.items()}


def test_no_arrow_leads_back() -> None:
    TopologicalSorter({room: allowed.split() for room, allowed in ARROWS.items()}).prepare()


def test_the_edge_never_imports_the_desk() -> None:
    for room in EDGE:
        assert set(ARROWS[room].split()) <= EDGE


def test_a_recipe_knows_what_training_may_be_told_and_nothing_of_how_it_trains() -> None:
    ((_, _, tree),) = [file for file in files() if file[0] == "edgemtl.recipe"]
    assert {name for name in imported(tree) if name.startswith("edgemtl.training")} == {
        "edgemtl.training.spec.Training"
    }


def test_the_root_is_light() -> None:
    assert not list(imported(ast.parse((ROOT / "__init__.py").read_text())))


def test_the_edge_imports_only_what_is_installed_there() -> None:
    for module, room, tree in files():
        if room in {*EDGE, "cli"} and module != DRAWS_CURVES:
            found = {name.split(".")[0] for name in imported(tree)} - set(sys.stdlib_module_names)
            assert found <= {"edgemtl", *EDGE_PACKAGES}, module


def test_the_desk_is_imported_only_when_a_command_needs_it() -> None:
    for module, room, tree in files():
        if room in {*EDGE, "cli"}:
            at_the_top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
            names = set(imported(at_the_top)) - {"edgemtl.__version__"}
            rooms = {name.split(".")[1] for name in names if name.startswith("edgemtl.")}
            assert rooms <= {*EDGE, room}, module
            assert not any(name.startswith("matplotlib") for name in names), module


VERB = """
import sys
from edgemtl.cli import main

try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted({"torch", "lightning_fabric", "onnx", "yaml", "matplotlib"} & set(sys.modules)))
"""
needs_runtime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs edgemtl[ort]: no onnxruntime"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        pytest.param(["verify", str(BUNDLE)], marks=needs_runtime),
        pytest.param(["bench", str(BUNDLE), "--duration", "0.01", "--repeats", "2"], marks=needs_runtime),
        pytest.param(["run", str(BUNDLE), "image.npy"], marks=needs_runtime),
        ["compare", str(REPORT), str(REPORT)],
        ["recipes", "ls"],
        ["doctor", "--json"],
    ],
    ids=lambda arguments: " ".join(word for word in arguments if "/" not in word),
)
def test_the_verbs_of_the_edge_load_nothing_of_the_desk(tmp_path: Path, arguments: list[str]) -> None:
    np.save(tmp_path / "image.npy", np.zeros((12, 16, 3), np.float32))
    command = [sys.executable, "-c", VERB, *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "loaded:"
