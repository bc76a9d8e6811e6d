from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import DataError
from edgemtl.training.log import Epoch, MetricsLog

RECORDS = [{"step": step, "epoch": step // 4} for step in (4, 8, 12)]


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for record in RECORDS:
        log.append(record)
    return log


def test_what_was_appended_reads_back_a_line_a_record(log: MetricsLog) -> None:
    assert log.read() == RECORDS
    assert len(log.path.read_text().splitlines()) == 3


@pytest.mark.parametrize("step", [0, 3, 4, 11, 12, 99])
def test_a_resumed_run_keeps_what_came_before_its_checkpoint(log: MetricsLog, step: int) -> None:
    log.keep_until(step)
    assert log.read() == [record for record in RECORDS if record["step"] <= step]


def test_before_the_first_epoch_there_is_nothing(tmp_path: Path) -> None:
    assert MetricsLog(tmp_path / "metrics.jsonl").read() == []


@pytest.mark.parametrize("text", ["no json\n", '{"epoch": 1}\n{"epo'], ids=["text", "cut off"])
def test_what_is_no_record_is_a_data_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.jsonl: expected a JSON record a line"):
        MetricsLog(path).read()


def test_a_mean_is_over_the_steps_that_had_labels() -> None:
    epoch = Epoch()
    for losses in ({"depth": 1.0, "normals": 2.0}, {"depth": 2.0}, {"depth": 3.0, "normals": 4.0}):
        epoch.add(losses, waited_s=0.1, spent_s=1.0)
    assert epoch.means() == {"depth": 2.0, "normals": 3.0}
    assert Epoch().means() == {}
