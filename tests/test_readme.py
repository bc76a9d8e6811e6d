"""What the README shows works: its commands run in order, its Python runs, its recipe decodes."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import typer
from typer.core import TyperGroup

import edgemtl.data.base
from edgemtl.cli import _words, app, main
from edgemtl.recipe import load

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [body for found, body in fences if found == language]


def commands() -> list[list[str]]:
    """The lines of console blocks that a user types."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_chain_runs_as_it_is_typed(
    nyuv2_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nyuv2").symlink_to(nyuv2_root)
    monkeypatch.chdir(tmp_path)
    typed = commands()
    assert [words[1] for words in typed] == ["train", "collapse", "export", "verify", "evaluate", "bench"]
    # Eight images and an epoch instead of 795 and 24; all else as it stands in the README.
    shorter = {"train": ["training.epochs=1", "training.batch=4"], "bench": ["--duration", "0.05"]}
    for program, verb, *rest in typed:
        assert program == "edgemtl"
        monkeypatch.setattr(sys, "argv", ["edgemtl", verb, *rest, *shorter.get(verb, [])])
        main_without_exit()
    assert Path("runs/nyuv2_compact/bundles/onnx-fp32/manifest.json").exists()
    assert "segmentation" in capsys.readouterr().out


def main_without_exit() -> None:
    try:
        main()
    except SystemExit as end:
        assert not end.code


def typed_in_bare_fences() -> list[str]:
    """The lines that show what else there is: they need files that are not here."""
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("edgemtl ")]


@pytest.mark.parametrize("line", typed_in_bare_fences())
def test_every_command_is_one_that_typer_takes(line: str) -> None:
    _, *words = shlex.split(line)
    command, context = typer.main.get_command(app), None
    words = _words(words)
    while isinstance(command, TyperGroup):
        context = command.make_context("edgemtl", words, parent=context)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, words, parent=context)


def test_every_verb_with_a_subject_is_shown() -> None:
    shown = {line.split()[1] for line in typed_in_bare_fences()} | {words[1] for words in commands()}
    assert {command.callback.__name__ for command in app.registered_commands} - shown <= {"doctor"}


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sketch, whole = blocks("python")
    exec(compile(sketch, "README.md", "exec"), {**vars(edgemtl.data), **vars(edgemtl.data.base)})
    exec(compile(whole, "README.md", "exec"), {})
    assert Path("my_bundle/manifest.json").exists()


@pytest.mark.parametrize("block", blocks("yaml"))
def test_a_recipe_decodes(block: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(block)
    recipe = load(tmp_path / "recipe.yaml")
    assert recipe.plan.build(tuple(recipe.tasks), [s.name for s in recipe.backbone.stages()]).segments()
