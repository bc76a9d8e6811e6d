"""What the entry point does before and after a verb. None of these needs PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgemtl.bench import suite
from edgemtl.cli import _words, main
from edgemtl.cli.output import gate
from edgemtl.core.errors import GateError
from edgemtl.core.report import BenchReport, Verdict

REPORT = Path(__file__).parents[1] / "fixtures" / "bench_report.json"

# Packages of the desk that look as if they were not installed, on a machine where they are.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "lightning_fabric", "yaml", "onnx", "safetensors"), None))
from edgemtl.cli import main
main()
"""


def edge(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "scenes_quickstart"],
        ["evaluate", "run"],
        ["collapse", "run"],
        ["export", "run"],
        ["inspect", "scenes_quickstart"],
        ["recipes", "check", "scenes_quickstart"],
        ["data", "check", "scenes_quickstart"],
    ],
    ids=" ".join,
)
def test_a_verb_of_the_desk_says_how_to_install_it(words: list[str], tmp_path: Path) -> None:
    found = edge(*words, cwd=tmp_path)
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert "`pip install 'edgemtl[desk]'`" in line
    assert found.returncode == 4
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_a_package_is_missing(tmp_path: Path) -> None:
    assert "Traceback" in edge("--debug", "inspect", "scenes_quickstart", cwd=tmp_path).stderr


@pytest.mark.parametrize("words", [["--debug", "verify", "nowhere"], ["verify", "nowhere", "--debug"]])
def test_debug_stands_before_or_after_the_verb(words: list[str], tmp_path: Path) -> None:
    found = edge(*words, cwd=tmp_path)
    assert "Traceback" in found.stderr
    assert "expected a bundle with manifest.json" in found.stderr


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (
            "bench --rates a=1 b=1/3 c=1/2 here",
            ["bench", "--rates", "a=1", "--rates", "b=1/3", "--rates", "c=1/2", "here"],
        ),
        ("bench --min a.b=1 c=2", ["bench", "--min", "a.b=1", "--min", "c=2"]),
        ("export --keep a=fp16 b=fp32 --json", ["export", "--keep", "a=fp16", "--keep", "b=fp32", "--json"]),
        ("train here --out x a=1 b=2", ["train", "here", "--out", "x", "a=1", "b=2"]),
        ("bench --rates a=1 --rates b=1/2", ["bench", "--rates", "a=1", "--rates", "b=1/2"]),
        ("train recipe seed=1 --out x seed=2", ["train", "recipe", "seed=1", "--out", "x", "seed=2"]),
        ("bench --rates", ["bench", "--rates"]),
        (
            "export --budget segmentation.miou=0.5 depth.abs=1% run",
            ["export", "--budget", "segmentation.miou=0.5", "--budget", "depth.abs=1%", "run"],
        ),
    ],
)
def test_rates_and_limits_may_be_given_apart_and_nothing_else_is_moved(given: str, read: list[str]) -> None:
    assert _words(given.split()) == read


def test_bench_takes_the_force_that_its_error_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = msgspec.json.decode(REPORT.read_bytes(), type=BenchReport)
    elsewhere = msgspec.structs.replace(report, device=msgspec.structs.replace(report.device, gpu="another"))
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(elsewhere))
    monkeypatch.setattr(suite, "bench", lambda bundle, settings: report)
    words = ["edgemtl", "bench", "here", "--baseline", str(tmp_path / "old.json")]
    words += ["--max-regress", "latency_ms.p50=1%"]
    for force, code, says in ([], 2, "device.gpu another"), (["--force"], 0, ""):
        monkeypatch.setattr(sys, "argv", [*words, *force])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        told = capsys.readouterr().err
        assert says in told
        assert ("--force" in told) == bool(code)


def test_a_recipe_is_copied_into_a_new_folder_and_never_over_a_file(tmp_path: Path) -> None:
    for code, says in (0, ""), (2, "expected no such file yet, found one"):
        found = edge("recipes", "cp", "scenes_quickstart", "new/x.yaml", cwd=tmp_path)
        assert found.returncode == code
        assert says in found.stderr
    assert "name:" in (tmp_path / "new" / "x.yaml").read_text()
    (tmp_path / "file").touch()
    found = edge("recipes", "cp", "scenes_quickstart", "file/x.yaml", cwd=tmp_path)
    assert found.returncode == 4
    assert found.stderr.startswith("error: file/x.yaml: expected a place to write")


def test_of_a_gate_that_fails_is_said_whether_its_figure_was_measured() -> None:
    verdicts = [
        Verdict(gate=f"--min {name}=1", value=value, bound="at least", limit=1, passed=passed)
        for name, value, passed in (("a", 2, True), ("b", 0, False), ("c", None, False))
    ]
    gate(tuple(verdicts[:1]))
    with pytest.raises(GateError, match="found --min b=1 failed; --min c=1 not measured"):
        gate(tuple(verdicts))


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    found = edge("compare", tmp_path / ("long" * 100), REPORT, cwd=tmp_path)
    assert (found.returncode, found.stderr.count("\n")) == (4, 1)
    assert "File name too long. Check the path" in found.stderr
