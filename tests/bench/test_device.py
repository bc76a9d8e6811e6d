from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgemtl.bench import device


def test_facts_are_plain_and_never_made_up() -> None:
    facts = device.device_facts()
    decoded = msgspec.json.decode(msgspec.json.encode(facts), type=dict[str, str | int | float | None])
    assert decoded == facts
    assert all(value not in ("", "unknown", 0) for value in facts.values())
    assert isinstance(facts["cores"], int)


def test_a_board_names_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "governor").write_text("schedutil\n")
    monkeypatch.setattr(device, "BOARD", tmp_path / "model")
    monkeypatch.setattr(device, "GOVERNOR", tmp_path / "governor")
    facts = device.device_facts()
    assert facts["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts["governor"] == "schedutil"


def test_what_cannot_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BOARD", tmp_path / "none")
    monkeypatch.setattr(device, "GOVERNOR", tmp_path)  # a folder
    facts = device.device_facts()
    assert facts["board"] is None
    assert facts["governor"] is None
