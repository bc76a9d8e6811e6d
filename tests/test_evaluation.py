"""What a tiny network scores, as it was trained, collapsed and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from edgemtl import workflow
from edgemtl.core.errors import DataError, UsageError
from edgemtl.core.report import EvalReport
from edgemtl.evaluation import evaluate
from edgemtl.export import Export
from edgemtl.run import Run, read_evaluation
from edgemtl.runtime.video import Keyframes
from tests.tiny import tiny


def test_metrics_of_checkpoint_collapsed_network_and_bundle_agree(run: Run) -> None:
    reports = [
        evaluate(run.path, network="checkpoint"),
        evaluate(run.path),
        evaluate(run.path / "bundles" / "onnx-fp32"),
    ]
    assert [report.network for report in reports] == ["checkpoint", "collapsed", "bundle"]
    for report in reports[1:]:
        for task, scores in reports[0].tasks.items():
            assert report.tasks[task] == pytest.approx(scores, rel=1e-3, abs=1e-3)
    summary = msgspec.json.decode((run.path / "summary.json").read_bytes(), type=EvalReport)
    assert summary.tasks["depth"] == pytest.approx(reports[0].tasks["depth"])


def test_weights_that_are_named_are_those_of_the_checkpoint(run: Run) -> None:
    assert evaluate(run.path, weights="last").network == "checkpoint"
    with pytest.raises(DataError, match=r"weights.best\.safetensors"):
        evaluate(run.path, weights="best")


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        ("", {"network": "collapsed", "weights": "best"}),
        ("bundles/onnx-fp32", {"weights": "best"}),
        ("bundles/onnx-fp32", {"network": "collapsed"}),
        ("bundles/onnx-fp32", {"baseline": Path("runs"), "rates": ["depth=1/2"]}),
        ("bundles/onnx-fp32", {"baseline": Path("runs"), "keyframes": Keyframes()}),
    ],
)
def test_what_would_not_be_used_is_refused(run: Run, subject: str, named: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--(network|weights|baseline): expected nothing beside .* has"):
        evaluate(run.path / subject, **named)


def test_a_bundle_whose_batch_does_not_divide_the_split_is_evaluated(run: Run, tmp_path: Path) -> None:
    folder, _ = workflow.export(run, run.path / "bundles" / "threes", Export(batch=(3, 3)))
    try:
        report = evaluate(folder)
        assert report.tasks["depth"] == pytest.approx(evaluate(run.path).tasks["depth"], rel=1e-3)
    finally:
        shutil.rmtree(folder)


def test_a_report_of_another_kind_is_no_baseline() -> None:
    with pytest.raises(DataError, match="Invalid enum value 'bench'"):
        read_evaluation(Path(__file__).parent / "fixtures" / "bench_report.json")


def test_delta_m_against_itself_is_zero_and_against_a_worse_run_positive(tmp_path: Path) -> None:
    # Without normals: so short a training leaves their within_11 at 0, which no relative gain has for a base.
    run = workflow.train(tiny("training.epochs=1", "tasks=[depth]", "plan={}"), tmp_path / "run")
    assert evaluate(run.path, network="checkpoint", baseline=run.path).delta_m == pytest.approx(0)
    summary = json.loads((run.path / "summary.json").read_text())
    summary["tasks"]["depth"]["abs"] *= 2
    worse = tmp_path / "worse.json"
    worse.write_text(json.dumps(summary))
    report = evaluate(run.path, network="checkpoint", baseline=worse)
    assert report.delta_m_tasks["depth"] == pytest.approx(25)  # abs 50 % better, rel the same
    assert report.baseline == str(worse)


def test_a_bundle_away_from_its_run_cannot_be_evaluated(run: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (run.path / "bundles" / "onnx-fp32").rename(bundle)
    try:
        with pytest.raises(DataError, match="inside its run"):
            evaluate(bundle)
    finally:
        bundle.rename(run.path / "bundles" / "onnx-fp32")
