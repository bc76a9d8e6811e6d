"""Every verb as a user types it, and what a script relies on: exit codes, JSON, one error line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from edgemtl.bench import suite
from edgemtl.bench.device import device_facts
from edgemtl.bench.probe import run_probe
from tests.fixtures.places import TINY
from tests.tiny import as_yaml, without
from tests.typed import edgemtl, error_line


@pytest.fixture(scope="module")
def chain(typed_chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of our own in which each verb finds the newest subject."""
    return Path(shutil.copytree(typed_chain, tmp_path_factory.mktemp("cli") / "chain"))


def test_verify_replays_and_prints_json(chain: Path) -> None:
    report = json.loads(edgemtl("verify", "--json", cwd=chain).stdout)
    assert report["device"]["before"] and report["device"]["after"]
    assert report["kind"] == "verify"
    assert report["passed"]


def test_verify_fails_with_3_when_the_golden_outputs_are_not_met(chain: Path) -> None:
    found = edgemtl("verify", "--atol", "0", "--rtol", "0", cwd=chain, code=3)
    assert "golden outputs" in error_line(found)


def test_bench_writes_a_report_that_is_its_own_baseline(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["bench", "--json", "--duration", "0.05", "--warmup-ms", "10", "--repeats", "5", "--threads", "1"]
    report = json.loads(edgemtl(*words, cwd=chain).stdout)
    assert report["latency_ms"]["p50"] > 0
    (chain / "base.json").write_text(json.dumps(report))
    monkeypatch.setattr(suite, "probe", run_probe)  # a process for each way, as above, takes seconds
    gates = ["--baseline=base.json", "--max-regress=latency_ms.p50=100000%", "--min=tasks.depth.rel=0"]
    edgemtl(*words, *gates, cwd=chain)
    failed = edgemtl(*words, "--min", "tasks.segmentation.miou=0.99", cwd=chain, code=3)
    assert "tasks.segmentation.miou" in error_line(failed)
    assert json.loads(failed.stdout)["kind"] == "bench"
    compared = json.loads(edgemtl("compare", "base.json", "base.json", "--json", cwd=chain).stdout)
    assert compared["kind"] == "bench"


def test_evaluate_agrees_for_run_and_bundle_and_obeys_gates(chain: Path) -> None:
    of_run = json.loads(edgemtl("evaluate", "--json", cwd=chain).stdout)
    of_bundle = json.loads(edgemtl("evaluate", "runs/tiny/bundles/onnx-fp32", "--json", cwd=chain).stdout)
    assert all(report["device"]["before"] and report["device"]["after"] for report in (of_run, of_bundle))
    assert of_bundle["tasks"]["depth"]["abs"] == pytest.approx(of_run["tasks"]["depth"]["abs"], abs=1e-3)
    edgemtl("evaluate", "--max", "tasks.depth.abs=0", cwd=chain, code=3)


def test_what_no_gate_could_judge_is_refused_before_it_is_measured(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemtl.bench.suite.bench", None)
    monkeypatch.setattr("edgemtl.evaluation.evaluate", None)
    regress = ["--max-regress", "latency_ms.p50=5%"]
    assert "expected --baseline REPORT" in error_line(edgemtl("bench", *regress, cwd=chain, code=2))
    assert "latency_ms" in error_line(edgemtl("bench", "--max", "latncy_ms.p50=5", cwd=chain, code=2))
    assert "tasks" in error_line(edgemtl("evaluate", "--min", "task.depth.abs=5", cwd=chain, code=2))
    alone = edgemtl("bench", "--baseline", "report.json", cwd=chain, code=2)
    assert "expected a --max-regress" in error_line(alone)


def test_a_runtime_is_chosen_by_name(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMTL_RUNTIME", "tensorrt")
    assert "onnxruntime" in edgemtl("verify", "--runtime", "ort", cwd=chain).stdout
    assert "Did you mean `ort`" in error_line(edgemtl("verify", "--runtime", "orr", cwd=chain, code=2))
    beside = edgemtl("evaluate", "runs/tiny", "--runtime", "ort", cwd=chain, code=2)
    assert "expected a bundle to run with it" in error_line(beside)


def test_what_was_measured_is_seen_even_where_it_cannot_be_written(chain: Path) -> None:
    found = edgemtl("verify", "--out", "runs/tiny/recipe.yaml/report.json", cwd=chain, code=4)
    assert "pass" in found.stdout
    assert "a place to write" in error_line(found)


def test_no_bundle_is_no_failed_verification(chain: Path) -> None:
    assert "expected a bundle" in error_line(edgemtl("verify", "runs/nowhere", cwd=chain, code=5))


def test_runs_are_compared_by_their_folders(chain: Path) -> None:
    found = edgemtl("compare", "runs/tiny", "runs/tiny", cwd=chain).stdout
    assert "tasks.depth.abs" in found


def test_rates_and_keyframes_are_priced_in_time_and_in_accuracy(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "probe", run_probe)
    words = ["--json", "--rates", "depth=1/2", "normals=1/3", "--rates", "segmentation=1"]
    quick = ["--duration", "0.01", "--warmup-ms", "1", "--repeats", "5", "--threads", "1"]
    bench = json.loads(edgemtl("bench", *words, "--keyframes", "every=4", *quick, cwd=chain).stdout)
    assert set(bench["video"]) == {"moving", "still"}
    evaluate = json.loads(edgemtl("evaluate", "--split", "video", *words, cwd=chain).stdout)
    assert evaluate["video"]["rates"] == {"segmentation": "1", "depth": "1/2", "normals": "1/3"}
    assert "mean age" in edgemtl("evaluate", "--split", "video", "--keyframes", "every=2", cwd=chain).stdout
    assert "depth=1/3" in error_line(edgemtl("bench", "--rates", "depth=0.5", cwd=chain, code=2))
    edgemtl("evaluate", "--keyframes", "every=0", cwd=chain, code=2)


def test_train_with_twins_and_evaluate_against_them(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(as_yaml(tasks={"depth": {}}, plan={}))
    command = ["train", "tiny.yaml", "training.epochs=1", "--twins"]
    assert edgemtl(*command, cwd=tmp_path).stdout.strip() == "runs/tiny"
    shutil.rmtree(tmp_path / "runs" / "tiny" / "twins" / "depth")
    edgemtl("train", "--resume", "runs/tiny", "--twins", cwd=tmp_path)
    report = json.loads(edgemtl("evaluate", "--json", "--min", "delta_m=-100", cwd=tmp_path).stdout)
    assert (report["subject"], report["baseline"]) == ("runs/tiny", "runs/tiny/twins")
    assert report["delta_m"] == report["delta_m_tasks"]["depth"]
    assert "Delta_m depth" in edgemtl("evaluate", "--baseline", "runs/tiny/twins", cwd=tmp_path).stdout


def test_resume_names_what_does_not_go_with_it(chain: Path) -> None:
    words = ["train", "--resume", "runs/tiny", "training.epochs=9", "--out", "x", "--dry-run"]
    assert "found training.epochs=9, --out, --dry-run" in error_line(edgemtl(*words, cwd=chain, code=2))


def test_the_folder_that_one_is_in_cannot_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(as_yaml())
    (tmp_path / "empty").mkdir()
    found = edgemtl("train", tmp_path / "tiny.yaml", "--out", ".", cwd=tmp_path / "empty", code=2)
    assert "file or folder by its name" in error_line(found)
    assert {path.name for path in tmp_path.rglob("*")} == {"tiny.yaml", "empty"}


def test_run_writes_pictures_and_arrays(chain: Path) -> None:
    from PIL import Image

    Image.new("RGB", (50, 40), "teal").save(chain / "photo.png")
    found = edgemtl("run", "runs/tiny/bundles/onnx-fp32", "photo.png", cwd=chain)
    assert found.stdout.strip() == "predictions/photo.png"
    with Image.open(chain / "predictions" / "photo.png") as grid:
        assert grid.width > 4 * 24
    assert (chain / "predictions" / "photo.npz").exists()
    newest = edgemtl("run", "photo.png", "--out", "again", cwd=chain)
    assert (newest.stdout, newest.stderr) == ("again/photo.png\n", "bundle: runs/tiny/bundles/onnx-fp32\n")


def test_inspect_takes_a_recipe_a_run_or_a_bundle(chain: Path) -> None:
    for subject in ("tiny.yaml", "runs/tiny", "runs/tiny/bundles/onnx-fp32"):
        assert json.loads(edgemtl("inspect", subject, "--json", cwd=chain).stdout)["parameters"] > 0
    assert "head_depth" in edgemtl("inspect", "tiny.yaml", "kernel=plain", cwd=chain).stdout
    for subject in ("runs/tiny", "runs/tiny/bundles/onnx-fp32"):
        assert "found kernel=plain" in error_line(
            edgemtl("inspect", subject, "kernel=plain", cwd=chain, code=2)
        )


def test_a_dry_run_shows_the_network_and_writes_nothing(chain: Path, tmp_path: Path) -> None:
    shutil.copy(chain / "tiny.yaml", tmp_path)
    assert "encoder1" in edgemtl("train", "tiny.yaml", "--dry-run", cwd=tmp_path).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_export_on_a_board_is_for_its_own_jetpack(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = device_facts()
    monkeypatch.setattr(
        "edgemtl.bench.device.device_facts", lambda: msgspec.structs.replace(here, jetpack="6.2")
    )
    found = edgemtl("export", "--target", "jetson", "--layout", "merged", cwd=chain)
    assert found.stdout.strip().endswith("jetson-6.2-fp32")
    assert "one bundle for" not in found.stderr


def test_export_for_a_board_says_what_it_suits_and_refuses_what_it_cannot_run(chain: Path) -> None:
    found = edgemtl("export", "--target", "jetson-orin-nano", "--layout", "merged", cwd=chain)
    assert found.stdout.strip() == "runs/tiny/bundles/jetson-orin-nano-fp32"
    assert "one bundle for JetPack 5.1, " in found.stderr
    assert "--jetpack" in found.stderr
    assert json.loads(edgemtl("verify", "--json", cwd=chain).stdout)["passed"]
    before = sorted((chain / "runs" / "tiny" / "bundles").iterdir())
    for words, says in [
        (["--precision", "fp8"], "Use fp16 or int8"),
        (["--opset", "18"], "--jetpack 6.1"),
        (["--dla", "--precision", "fp16"], "jetson-orin-nx"),
        (["--jetpack", "4.6"], "5.1, 6.0"),
    ]:
        refused = edgemtl("export", "--target", "jetson-orin-nano", *words, cwd=chain, code=2)
        assert says in error_line(refused)
    assert sorted((chain / "runs" / "tiny" / "bundles").iterdir()) == before
    for folder in before:
        if folder.name != "onnx-fp32":  # what other tests take is the newest
            shutil.rmtree(folder)


def test_recipes_are_listed_copied_and_checked(tmp_path: Path) -> None:
    listed = edgemtl("recipes", "ls", cwd=tmp_path).stdout
    assert {"scenes_quickstart", "nyuv2_segnet", "nyuv2_compact", "nyuv2_resnet18"} <= set(listed.split())
    edgemtl("recipes", "cp", "scenes_quickstart", ".", cwd=tmp_path)
    checked = edgemtl("recipes", "check", "scenes_quickstart.yaml", "training.epochs=7", cwd=tmp_path).stdout
    assert "epochs: 7" in checked
    found = edgemtl("recipes", "cp", "scenes_quickstart", ".", cwd=tmp_path, code=2)
    assert "scenes_quickstart.yaml" in error_line(found)


def test_data_check_reads_every_sample(chain: Path) -> None:
    found = json.loads(edgemtl("data", "check", "tiny.yaml", "--json", cwd=chain).stdout)
    assert {part["split"]: part["images"] for part in found} == {"train": 16, "val": 4, "video": 12}


BAD_RECIPES = {
    "unknown key": (as_yaml(trianing={}), [], 2, "Did you mean `training`?"),
    "unknown variant": (as_yaml(kernel="factorised"), [], 2, "Did you mean `factorized`?"),
    "wrong type": (as_yaml(), ["training.epochs=many"], 2, "$.training.epochs"),
    "wrong shape": (as_yaml(), ["data.size=[16]"], 2, "$.data.size"),
    "missing key": (without(["backbone"]), [], 2, "`backbone`"),
    "unknown stage": (as_yaml(), ["plan.forks.decoder9=each"], 2, "Did you mean `decoder"),
    "other classes": (as_yaml(), ["tasks.segmentation.classes=5"], 5, "classes"),
    "no such label": (as_yaml(), ["tasks.edges={type: depth, label: edges}"], 5, "edges"),
    "no data": (as_yaml(), ["data={type: nyuv2, root: nowhere}"], 5, "nowhere"),
    "image smaller than the crop": (as_yaml(), ["data.augment.crop=[99, 99]"], 5, "crop"),
    "no device": (as_yaml(), ["training.accelerator=cuda"], 4, "CUDA"),
    "channels_last on a CPU": (as_yaml(), ["training.channels_last=true"], 2, "channels_last"),
    "not a recipe": ("- 1\n- 2\n", [], 2, "a recipe"),
    "not YAML": ("name: [", [], 2, "YAML"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_bad_recipe_gets_one_line_and_an_exit_code_and_writes_nothing(case: str, tmp_path: Path) -> None:
    text, overrides, code, words = BAD_RECIPES[case]
    (tmp_path / "bad.yaml").write_text(text)
    found = edgemtl("train", "bad.yaml", *overrides, cwd=tmp_path, code=code)
    assert words in error_line(found)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_bundle_with_a_changed_byte_is_refused_by_every_verb(chain: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(chain / "runs" / "tiny" / "bundles" / "onnx-fp32", bundle)
    model = bundle / "trunk.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    for words in (["verify", bundle], ["bench", bundle], ["run", bundle, "x.png"], ["inspect", bundle]):
        assert "trunk.onnx" in error_line(edgemtl(*words, cwd=tmp_path, code=3))


def test_a_batch_that_the_bundle_does_not_take_is_refused(chain: Path) -> None:
    assert "batch" in error_line(edgemtl("bench", "--batch", "4", cwd=chain, code=2))


def test_verbs_without_a_subject_say_which_verb_comes_first(tmp_path: Path) -> None:
    assert "edgemtl export" in error_line(edgemtl("verify", cwd=tmp_path, code=5))
    assert "edgemtl train" in error_line(edgemtl("collapse", cwd=tmp_path, code=5))
    assert "Did you mean `nyuv2_compact`" in error_line(
        edgemtl("train", "nyuv2_compat", cwd=tmp_path, code=2)
    )


def test_a_traceback_only_with_debug(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgemtl", "--debug", "verify", "nowhere"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert "manifest.json" in found.stderr


def test_the_version_is_printed(tmp_path: Path) -> None:
    from edgemtl import __version__

    assert edgemtl("--version", cwd=tmp_path).stdout.strip() == __version__


def test_an_interrupted_verb_exits_with_130_and_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgemtl.runtime.verify.verify", interrupted)
    assert "Traceback" not in edgemtl("verify", TINY, cwd=tmp_path, code=130).stderr
