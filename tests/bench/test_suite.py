from __future__ import annotations

import msgspec
import pytest

from edgemtl.bench import suite
from edgemtl.bench.power import monitors
from edgemtl.bench.probe import Probe, run_probe
from edgemtl.bench.suite import BenchSettings, bench
from edgemtl.core.bundle import read_manifest, sha256
from edgemtl.core.errors import UsageError
from edgemtl.core.report import BenchReport
from edgemtl.runtime.runner import needed_files
from edgemtl.runtime.session import FakeSession
from edgemtl.runtime.video import Keyframes
from tests.bench.boards import THROTTLING
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
QUICK = BenchSettings(threads=1, duration_s=0.005, warmup_ms=1, repeats=5)


@pytest.fixture(scope="module")
def report() -> BenchReport:
    with pytest.MonkeyPatch.context() as patch:
        # Fourteen processes would take seconds; test_probe.py starts real ones.
        patch.setattr(suite, "probe", run_probe)
        return bench(TINY, QUICK)


def test_everything_is_priced(report: BenchReport) -> None:
    assert list(report.layouts) == ["merged", "split"]
    assert list(report.segments) == [file.name for file in MANIFEST.layouts["split"]]
    assert len(report.subsets) == 6
    for measures in report.layouts, report.segments, report.subsets:
        for measure in measures.values():
            assert measure.latency_ms.count >= QUICK.repeats
            assert measure.images_per_s == pytest.approx(1000 / measure.latency_ms.mean)
            assert measure.compute_ms is None, "no GPU tells"
            assert measure.load_ms is not None
            assert measure.load_ms > 0


def test_parts_add_up_to_the_whole(report: BenchReport) -> None:
    layouts = report.layouts
    ran = [report.segments[file.name] for file in needed_files(MANIFEST, "split", MANIFEST.tasks)]
    assert sum(segment.macs for segment in ran) == layouts["split"].macs == layouts["merged"].macs
    assert sum(segment.size_mib for segment in ran) == pytest.approx(layouts["split"].size_mib)
    needed = ("trunk", "branch_depth_normals", "head_depth")
    assert report.subsets["depth"].macs == sum(report.segments[name].macs for name in needed)


def test_the_report_says_what_was_measured_how_and_where(report: BenchReport) -> None:
    assert report.manifest_sha256 == sha256(TINY / "manifest.json")
    assert report.settings["layout"] == "merged"
    assert (report.settings["batch"], report.settings["threads"]) == (1, 1)
    assert report.settings["arena"] == "one for all sessions"
    assert str(report.device.runtime).startswith("onnxruntime ")
    assert report.tasks["segmentation"] == {"miou": 0.42}
    assert report.metrics["depth"] == MANIFEST.tasks["depth"].metrics


def test_the_settings_are_those_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "probe", lambda _: Probe(1.0, 1.0, None))
    monkeypatch.setattr(suite, "open_session", lambda path, file, threads: FakeSession(file))
    report = bench(TINY, QUICK)
    assert report.device.runtime == "fake"
    assert not {"arena", "spinning"} & set(report.settings)


class Timed(FakeSession):
    """A session whose device tells what it took."""

    @property
    def compute_ms(self) -> float:
        return 2.0


def test_what_a_device_tells_of_its_time_is_the_sum_over_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "probe", lambda _: Probe(1.0, 1.0, None))
    monkeypatch.setattr(suite, "open_session", lambda path, file, threads: Timed(file))
    found = bench(TINY, QUICK).layouts
    files = {layout: len(needed_files(MANIFEST, layout, MANIFEST.tasks)) for layout in found}
    assert {layout: measure.compute_ms for layout, measure in found.items()} == {
        layout: 2.0 * count for layout, count in files.items()
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 0), ("batch", 0), ("repeats", 0), ("duration_s", -1.0), ("duration_s", float("inf"))],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{name}: expected \d or more, found {value}"):
        BenchSettings(**{name: value})


def test_what_the_bundle_lacks() -> None:
    with pytest.raises(UsageError, match="`tiled`"):
        bench(TINY, BenchSettings(layout="tiled"))
    with pytest.raises(UsageError, match=r"--batch: expected 1 to 4.* found 5\. Export"):
        bench(TINY, BenchSettings(batch=5))


def test_a_video_is_priced_where_rates_or_keyframes_are_given(report: BenchReport) -> None:
    assert report.video == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "probe", run_probe)
        settings = msgspec.structs.replace(QUICK, rates=("depth=1/3",), keyframes=Keyframes(every=2))
        found = bench(TINY, settings)
    assert found.settings["rates"] == "depth=1/3"
    assert found.settings["keyframes"] == "every=2,threshold=0.02"
    calls = found.video["moving"].calls
    assert calls["heads_branch_depth_normals"] == pytest.approx(1 / 3)  # both are due
    assert calls["head_normals"] == pytest.approx(2 / 3)
    assert "head_depth" not in calls
    assert found.video["still"].calls["trunk"] == pytest.approx(1 / 2)


def test_a_rate_that_is_none_is_refused_before_anything_is_measured() -> None:
    forever = BenchSettings(rates=("dept=1/3",), duration_s=1e9)
    with pytest.raises(UsageError, match=r"`dept`.*`depth`"):
        bench(TINY, forever)


def test_a_board_that_throttles_is_reported_with_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "probe", run_probe)
    device = bench(TINY, QUICK, root=THROTTLING).device
    assert device.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert device.power is not None
    assert device.power.total == "VDD_IN"
    assert device.warnings == ("throttling: gpu",)
    assert device.runtime


def test_this_machine_reports_its_conditions_and_no_power_that_nothing_measures(report: BenchReport) -> None:
    assert report.device.before is not None
    assert report.device.after is not None
    assert (report.device.power is None) == (not monitors())
