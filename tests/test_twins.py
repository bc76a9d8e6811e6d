"""Twins of real tiny runs: trained, killed, resumed, and the baseline of an evaluation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import msgspec
import safetensors.torch

from edgemtl import workflow
from edgemtl.build import build_model
from edgemtl.core.errors import DataError
from edgemtl.core.report import EvalReport
from edgemtl.evaluation import evaluate
from edgemtl.kernels import Plain
from edgemtl.recipe import Recipe
from edgemtl.run import Run
from edgemtl.training.trainer import Trainer
from edgemtl.twins import TWINS, open_twins, twin_of
from tests.tiny import tiny, two_tasks
from tests.training.stopping import StopError, stop_at

TASKS = ("segmentation", "depth")
STEPS = 8  # of each of the three runs: two epochs of four


def routed() -> Recipe:
    return two_tasks("training.update=routed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return workflow.train(routed(), tmp_path_factory.mktemp("twins") / "run", twins=True)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The run with its twins, to be damaged."""
    shutil.copytree(run.path, tmp_path / "copy")
    return tmp_path / "copy"


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The final weights of a run and of its twins."""
    paths = {name: folder / TWINS / name for name in TASKS} | {"run": folder}
    return {name: safetensors.torch.load_file(p / "weights/last.safetensors") for name, p in paths.items()}


def test_a_twin_differs_from_its_run_in_nothing_but_what_several_tasks_or_a_method_brought() -> None:
    method = ["update=routed", "aggregation=pcgrad", "factor_optimizer={type: sgd}", "distill={teachers: x}"]
    full = tiny("balancing.weights={depth: 2.0}", *(f"training.{setting}" for setting in method))
    alone = {"update": "joint", "aggregation": "sum", "factor_optimizer": None, "distill": None}
    for task in full.tasks:
        twin = twin_of(full, task)
        assert list(twin.tasks) == [task]
        assert twin.kernel == Plain()
        assert (twin.data, twin.backbone, twin.seed) == (full.data, full.backbone, full.seed)
        assert twin.training == msgspec.structs.replace(full.training, **alone)
        assert [segment.name for segment in build_model(twin).tree] == ["trunk"]


def test_every_task_gets_a_finished_run_of_its_own(run: Run) -> None:
    twins = open_twins(run.path, TASKS)
    assert open_twins(run.path / TWINS, TASKS).keys() == twins.keys()
    for task, twin in twins.items():
        assert twin.recipe == twin_of(run.recipe, task)
        assert set(twin.summary.tasks) == {task}
        assert (twin.path / "plots" / "curves.png").is_file()


@pytest.mark.parametrize("step", [0, 5, STEPS, 2 * STEPS + 5])
def test_killed_anywhere_and_resumed_the_run_and_its_twins_end_with_the_same_weights(
    run: Run, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "parts"
    monkeypatch.setattr(workflow, "illustrate", lambda _: None)  # takes longer than to train
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_at(step, patch, save_every=3)
        workflow.train(routed(), parts, twins=True)
    workflow.resume(parts, twins=True)
    torch.testing.assert_close(weights(parts), weights(run.path), rtol=0, atol=0)
    records = [[record["step"] for record in Run.open(path).metrics] for path in parts.glob("twins/*")]
    assert records == [[4, 8], [4, 8]]


def test_what_is_finished_is_not_trained_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / TWINS / "depth")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    workflow.resume(copy, twins=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert Run.open(copy / TWINS / "depth").finished
    monkeypatch.setattr(Trainer, "fit", lambda _: pytest.fail("all was finished"))
    workflow.resume(copy, twins=True)


def test_a_twin_of_another_recipe_is_refused(copy: Path) -> None:
    saved = copy / "recipe.yaml"
    saved.write_text(saved.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(DataError, match=r"twins/segmentation: expected a twin of this run"):
        workflow.resume(copy, twins=True)


def test_a_missing_and_an_unfinished_twin_are_named(copy: Path) -> None:
    with pytest.raises(DataError, match=r"twins: expected a twin for the task normals, found none"):
        open_twins(copy, [*TASKS, "normals"])
    (copy / TWINS / "depth" / "summary.json").unlink()
    with pytest.raises(DataError, match=r"twins/depth: expected a twin that is finished"):
        open_twins(copy, TASKS)
    with pytest.raises(DataError, match="finished"):
        evaluate(copy, baseline=copy / TWINS)


def gain(report: EvalReport, twins: Path, task: str, metric: str, sign: int) -> float:
    """By hand, from the files."""
    found = msgspec.json.decode((twins / task / "summary.json").read_bytes())["tasks"][task][metric]
    return sign * 100 * (report.tasks[task][metric] / found - 1)


def test_twins_are_the_baseline_of_the_run_and_of_its_bundle(copy: Path) -> None:
    workflow.collapse(Run.open(copy), evaluate=False)
    bundle, _ = workflow.export(Run.open(copy))
    for subject in (copy, bundle):
        report = evaluate(subject)
        assert report.baseline == str(copy / TWINS)
        signs = {("segmentation", "miou"): 1, ("segmentation", "pixel_accuracy"): 1}
        signs |= {("depth", "abs"): -1, ("depth", "rel"): -1}
        by_hand = {key: gain(report, copy / TWINS, *key, sign) for key, sign in signs.items()}
        found = {(t, m): g for t, table in report.delta_m_metrics.items() for m, g in table.items()}
        assert found == pytest.approx(by_hand)
        assert report.delta_m_tasks["depth"] == pytest.approx(
            (by_hand["depth", "abs"] + by_hand["depth", "rel"]) / 2
        )
        assert report.delta_m == pytest.approx(sum(by_hand.values()) / 4)


def test_another_run_is_compared_with_the_same_twins(run: Run) -> None:
    twin = run.path / TWINS / "depth"
    report = evaluate(twin, network="checkpoint", baseline=run.path / TWINS)
    assert report.delta_m == pytest.approx(0)


def test_twins_that_are_not_all_there_are_no_baseline_by_themselves(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / TWINS / "depth")
    assert evaluate(copy).baseline is None
    assert "no Delta_m" in caplog.text
    caplog.clear()
    shutil.rmtree(copy / TWINS)
    assert evaluate(copy).baseline is None
    assert not caplog.text


def test_a_twin_without_a_gain_to_count_from_costs_no_metrics(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = copy / TWINS / "segmentation" / "summary.json"
    report = msgspec.json.decode(summary.read_bytes(), type=EvalReport)
    report.tasks["segmentation"]["miou"] = 0.0
    summary.write_bytes(msgspec.json.encode(report))
    assert evaluate(copy).delta_m is None
    assert "no Delta_m: baseline segmentation.miou" in caplog.text


def test_on_another_split_than_that_of_training_the_twins_are_evaluated_there(run: Run) -> None:
    of_val = evaluate(run.path)
    of_train = evaluate(run.path, split="train")
    twin = evaluate(run.path / TWINS / "depth", split="train").tasks["depth"]["abs"]
    expected = 100 * (1 - of_train.tasks["depth"]["abs"] / twin)
    assert of_train.delta_m_metrics["depth"]["abs"] == pytest.approx(expected)
    assert of_train.delta_m_metrics["depth"] != of_val.delta_m_metrics["depth"]


@pytest.mark.parametrize(
    ("name", "other"), [("data", "nyuv2"), ("split", "train"), ("images", 3), ("size", (32, 48))]
)
def test_a_report_on_other_images_is_no_baseline(run: Run, tmp_path: Path, name: str, other: object) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(run.summary, **{name: other})))
    with pytest.raises(
        DataError, match=rf"expected a baseline on the same {name}, .*found {re.escape(str(other))}"
    ):
        evaluate(run.path, baseline=path)
