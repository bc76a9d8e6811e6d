from __future__ import annotations

import io
import re
import sys

import pytest

from edgemtl.core.report import Progress, Scores
from edgemtl.report.console import training_console

SCORES = {"depth": {"abs": 0.51234, "rel": 0.2}, "normals": {"within_11.25": 0.3}}
COLOR = re.compile(r"\x1b\[[0-9;]*m")
LEFT = re.compile(r"left (\S+)")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Terminal:
    """Stands in for stderr. Not a fixture: pytest puts its own stderr back before the test runs."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    return stream


def progress(
    step: int = 5, *, elapsed_s: float = 10.0, loss: float = 1.0, scores: Scores | None = None
) -> Progress:
    return Progress(step, 20, 1, 4, elapsed_s, 0.01, {"depth": loss, "normals": 0.25}, scores)


def test_without_a_terminal_an_evaluated_epoch_is_one_plain_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with training_console() as observe:
        for step in range(1, 11):
            observe(progress(step, scores=SCORES if step % 5 == 0 else None))
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == (
        "epoch 1/4  left 0:30  depth: loss 1 abs 0.5123 rel 0.2  normals: loss 0.25 within_11.25 0.3"
    )
    assert "left 0:10" in second


def test_metrics_without_a_loss_are_shown_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabeled = Progress(5, 20, 1, 4, 10.0, 0.01, {"normals": 0.25}, SCORES)
    with training_console() as observe:
        observe(unlabeled)
    assert "depth: loss nan abs 0.5123 rel 0.2  normals: loss 0.25" in capsys.readouterr().err
    stream = terminal(monkeypatch)
    with training_console() as observe:
        observe(unlabeled)
    assert re.search(r"depth +nan +abs 0.5123", COLOR.sub("", stream.getvalue()))


def test_a_loss_without_metrics_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    with training_console() as observe:
        losses = {"depth": 1.0, "distill.depth": 0.25}
        observe(Progress(5, 20, 1, 4, 10.0, 0.01, losses, {"depth": {"abs": 0.5}}))
    assert capsys.readouterr().err.strip().endswith("depth: loss 1 abs 0.5  distill.depth: loss 0.25")


@pytest.mark.parametrize(
    ("elapsed_s", "left"), [(0.1, "0:00"), (20, "1:00"), (1214, "1:00:42"), (40_000, "33:20:00")]
)
def test_the_time_left_is_that_of_the_steps_left(
    capsys: pytest.CaptureFixture[str], elapsed_s: float, left: str
) -> None:
    with training_console() as observe:
        observe(progress(5, elapsed_s=elapsed_s, scores=SCORES))
    assert LEFT.findall(capsys.readouterr().err) == [left]


def test_a_terminal_shows_progress_losses_and_the_last_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with training_console() as observe:
        observe(progress(5, scores=SCORES))
        observe(progress(6))
    last = COLOR.sub("", stream.getvalue()).rpartition("epoch 1/4")[2]
    for expected in "6/20", "left 0:23", "lr 1.00e-02", "abs 0.5123  rel 0.2", "within_11.25 0.3":
        assert expected in last


def test_losses_on_a_terminal_are_a_running_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with training_console() as observe:
        observe(progress(5, loss=1.0))
        observe(progress(6, loss=3.0))
    assert "1.1000" in stream.getvalue().rpartition("epoch")[2]


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_breaks_no_figure_of_the_head(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    stream = terminal(monkeypatch, columns)
    with training_console() as observe:
        observe(Progress(12_345, 20_000, 150, 200, 36_000.0, 1e-2, {"depth": 1.0}))
    lines = COLOR.sub("", stream.getvalue()).splitlines()
    assert any(re.search(r"epoch 150/200 .*12345/20000  left 6:12:03  lr 1.00e-02", line) for line in lines)


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    stream = terminal(monkeypatch)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    with training_console() as observe:
        observe(progress())
    assert bool(re.search(r"\x1b\[[0-9;]*[34]8;", stream.getvalue())) != no_color
