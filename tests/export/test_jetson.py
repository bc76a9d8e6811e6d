"""The files for boards that go into a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgemtl.export.jetson import COPIED, SCRIPTS
from edgemtl.export.targets import devices
from tests.export.boards import bundle


def test_the_scripts_touch_neither_packages_nor_clocks() -> None:
    forbidden = [
        "apt",
        "pip install",
        "dpkg -i",
        "sudo",
        "jetson_clocks",
        "nvpmodel -m",
        "> /sys",
        "curl",
        "wget",
    ]
    for name in COPIED:
        text = (SCRIPTS / name).read_text()
        assert not [word for word in forbidden if word in text], name


def test_the_readme_names_devices_figures_and_files(tmp_path: Path) -> None:
    text = (bundle(tmp_path / "bundle", devices("jetson-agx-orin")) / "README.md").read_text()
    assert "| jetson-agx-orin, JetPack 6.2 | 36.4, 36.5 | 10.3, strongly typed | 12.6 | 3.10 | 8.7 |" in text
    assert "| jetson-agx-orin, JetPack 7.2 | 39 | 10?, " in text
    assert "| segmentation | miou | 0.42 | 1 | higher |" in text
    assert "[1..4, 3, 12, 16]" in text
    assert "`merged`: `model.onnx`." in text
    assert "$" not in text
