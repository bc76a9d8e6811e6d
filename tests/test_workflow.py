"""The chain, verb by verb, on a tiny network and real rendered scenes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgemtl import workflow
from edgemtl.core.errors import DataError, UsageError
from edgemtl.core.report import Observer, Progress
from edgemtl.evaluation import evaluate
from edgemtl.export import Export
from edgemtl.run import Run
from edgemtl.runtime.verify import verify
from edgemtl.tensors import read_tensors, write_tensors
from tests.tiny import tiny


def test_a_run_holds_what_the_later_verbs_need(run: Run) -> None:
    found = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert found >= {
        "recipe.yaml",
        "plan.json",
        "env.json",
        "samples.safetensors",
        "metrics.jsonl",
        "state.pt",
        "weights/last.safetensors",
        "summary.json",
        "plots/curves.png",
        "plots/samples.png",
        "collapsed/weights.safetensors",
        "collapsed/certificate.json",
        "bundles/onnx-fp32/manifest.json",
    }


def test_the_saved_recipe_is_resolved(run: Run) -> None:
    assert len(Run.open(run.path).recipe.tasks["segmentation"].output.labels) == 13


def test_the_samples_of_a_run_are_those_of_its_split(run: Run) -> None:
    val = run.recipe.data.dataset("val")
    samples = Run.open(run.path).samples
    assert samples.ids == tuple(val[index].id for index in range(len(val)))
    for index in range(len(val)):
        assert torch.equal(samples[index].image, val[index].image)


def test_weights_that_a_run_lacks_are_not_collapsed(run: Run) -> None:
    with pytest.raises(DataError, match=r"Only training with data\.holdout keeps them"):
        workflow.collapse(run, weights="best")
    with pytest.raises(UsageError, match="--weights: expected last or best, found `bset`"):
        workflow.collapse(run, weights="bset")


def test_the_certificate_records_metrics_before_and_after(run: Run) -> None:
    scores = run.collapsed().certificate.scores
    for metrics in scores.values():
        for before, after in metrics.values():
            assert after == pytest.approx(before, rel=1e-3, abs=1e-3)


@contextmanager
def interrupted() -> Iterator[Observer]:
    def observe(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    yield observe


def test_a_run_that_was_stopped_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        workflow.train(tiny(), path, observe=interrupted)
    assert f"run: interrupted; `edgemtl train {path} --resume` goes on" in caplog.text
    caplog.clear()
    evaluate(path)
    assert f"run: stopped after 1 of 3 epochs; `edgemtl train {path} --resume` goes on" in caplog.text
    shutil.rmtree(path / "weights")
    with pytest.raises(DataError, match=r"expected weights, found none yet\. `edgemtl train .* goes on"):
        evaluate(path)


def test_of_a_bundle_that_stood_there_is_said_that_it_is_replaced_once_it_is(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for refused in (True, False):
        out = Path(shutil.copytree(run.path / "bundles" / "onnx-fp32", tmp_path / str(refused)))
        with pytest.raises(DataError, match="calibration: expected") if refused else nullcontext():
            workflow.export(run, out, Export(precision="int8" if refused else "fp32"))
        assert ("replaced" in caplog.text) != refused


def test_a_collapsed_network_of_other_weights_is_neither_evaluated_nor_exported(
    run: Run, tmp_path: Path
) -> None:
    other = Run.open(Path(shutil.copytree(run.path, tmp_path / "run")))
    last = other.path / "weights" / "last.safetensors"
    write_tensors({name: value + 1e-3 for name, value in read_tensors(last).items()}, last)
    for verb in (lambda: evaluate(other.path), lambda: workflow.export(other)):
        with pytest.raises(DataError, match=r"trained on.*Run `edgemtl collapse .*run` again"):
            verb()
    workflow.collapse(other, evaluate=False)
    assert evaluate(other.path).network == "collapsed"


def test_damaged_weights_of_a_run_are_to_be_copied_or_trained_again(run: Run, tmp_path: Path) -> None:
    other = Run.open(Path(shutil.copytree(run.path, tmp_path / "run")))
    last = other.path / "weights" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(DataError, match=r"last\.safetensors: .* Copy the run again .* or train again"):
        workflow.collapse(other, evaluate=False)


@pytest.mark.parametrize("content", [None, b"{", b"training: {epochs: x}"])
def test_a_run_whose_recipe_is_damaged_is_damaged_data(
    content: bytes | None, run: Run, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(run.path, tmp_path / "run")) / "recipe.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"run/recipe\.yaml: expected the recipe of this run.*Copy the run again"
    ):
        Run.open(path.parent)


@pytest.mark.parametrize("metadata", [None, {"ids": "one"}])
def test_samples_without_their_ids_are_damaged(
    metadata: dict[str, str] | None, run: Run, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(run.path, tmp_path / "run")) / "samples.safetensors"
    write_tensors(read_tensors(path), path, metadata)
    with pytest.raises(DataError, match=r"expected images with their ids.*Copy the run again"):
        _ = Run.open(path.parent).samples
    path.unlink()
    with pytest.raises(DataError, match=r"found no such file. Copy the run again"):
        _ = Run.open(path.parent).samples


def test_the_network_of_a_recipe_is_inspected_without_its_data() -> None:
    assert workflow.inspect("nyuv2_compact", ["data.root=nowhere"]).parameters > 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float, run: Run, tmp_path: Path) -> None:
    other = Run.open(Path(shutil.copytree(run.path, tmp_path / "run")))
    last = other.path / "weights" / "last.safetensors"
    tensors = read_tensors(last)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).view(-1)[-1] = value
    write_tensors(tensors, last)
    with pytest.raises(
        DataError, match=r"last\.safetensors: expected finite weights, found NaN or infinity in"
    ):
        workflow.collapse(other, evaluate=False)


def test_a_recipe_whose_images_are_too_small_for_its_network_is_not_inspected() -> None:
    deep = ["backbone.widths=[2, 2, 2, 2, 2, 2]", "backbone.convs=[1, 1, 1, 1, 1, 1]", "data.size=[16, 24]"]
    with pytest.raises(UsageError, match="images of 16x24"):
        workflow.inspect("scenes_quickstart", deep)


def test_the_bundle_verifies_and_carries_the_accuracy(run: Run) -> None:
    bundle = run.path / "bundles" / "onnx-fp32"
    assert verify(bundle).passed
    manifest = json.loads((bundle / "manifest.json").read_text())
    after = run.collapsed().certificate.scores["depth"]["abs"][1]
    assert manifest["tasks"]["depth"]["accuracy"]["abs"] == after


def test_inspecting_recipe_run_and_bundle_gives_the_same_deployed_network(run: Run) -> None:
    of_run = workflow.inspect(str(run.path))
    of_bundle = workflow.inspect(str(run.path / "bundles" / "onnx-fp32"))
    assert (of_run.parameters, of_run.macs) == (of_bundle.parameters, of_bundle.macs)
    assert of_run.trained > of_run.parameters
    certificate = run.collapsed().certificate
    assert certificate.parameters == (of_run.trained, of_run.parameters)


def test_a_taken_folder_is_refused_and_the_default_one_counts_up(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="does not exist or is empty"):
        workflow.train(tiny(), run.path)
    monkeypatch.chdir(tmp_path)
    paths = [workflow.train(tiny("training.epochs=1")).path for _ in range(2)]
    assert paths == [Path("runs/tiny"), Path("runs/tiny-2")]


def test_exporting_before_collapsing_says_what_to_do(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.epochs=1"), tmp_path / "run")
    with pytest.raises(DataError, match="edgemtl collapse"):
        workflow.export(run)


def test_pretrained_weights_are_where_training_starts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from edgemtl.build import build_model

    stages = tiny().backbone.stages()
    values = {
        f"{s.name}.{k}": torch.full_like(v, 0.5) for s in stages for k, v in s.module.state_dict().items()
    }
    save_file(values, tmp_path / "weights.safetensors")
    recipe = tiny(f"backbone.weights={tmp_path / 'weights.safetensors'}", "kernel=plain")
    model = build_model(recipe, pretrained=True)
    weight = model.segment("trunk")["encoder1"].get_parameter("convs.0.conv.weight")
    assert (weight == 0.5).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.segmentation.classes=7", "classes"),
        ("tasks.depth.label=disparity", "disparity"),
        ("tasks.depth.label=normals", "normals"),
        ("data.train=2", "at least one batch"),
        ("data.augment.crop=[64, 64]", "crop"),
        ("data={type: nyuv2, root: /nowhere}", "/nowhere"),
    ],
)
def test_data_that_do_not_fit_the_recipe_are_refused_before_a_run_exists(
    override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        workflow.train(tiny(override), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_check_data_tells_of_every_split() -> None:
    found = list(workflow.check_data(tiny(), limit=2))
    assert [check.images for check in found] == [2, 2, 2]
    assert set(found[0].labels) == {"segmentation", "depth", "normals"}


def test_a_network_that_an_older_edgemtl_collapsed_is_to_be_collapsed_again(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "old")
    path = tmp_path / "old" / "collapsed" / "certificate.json"
    certificate = json.loads(path.read_text())
    del certificate["weights"], certificate["weights_sha256"]
    path.write_text(json.dumps(certificate))
    with pytest.raises(DataError, match=r"older edgemtl.*edgemtl collapse"):
        workflow.export(Run.open(tmp_path / "old"), tmp_path / "bundle")
