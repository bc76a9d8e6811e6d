from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgemtl.core.bundle import ModelFile, TensorInfo
from edgemtl.core.errors import SetupError
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.session import FakeSession, available_cores, recording

FILE = ModelFile(
    "head",
    "head.onnx",
    ("depth",),
    (TensorInfo("feature", (-1, 4, 2, 3)), TensorInfo("skip", (-1, 1, 4, 6))),
    (TensorInfo("depth", (-1, 1, 4, 6)), TensorInfo("other", (-1, 2), "float16")),
    parameters=0,
    macs=0,
    channels=0,
)


def test_fake_depends_on_every_input_and_on_the_name() -> None:
    feature, skip = np.zeros((1, 4, 2, 3), np.float32), np.zeros((1, 1, 4, 6), np.float32)
    session = FakeSession(FILE)
    base = session.run({"feature": feature, "skip": skip})
    assert base["depth"].flat[0] != base["other"].flat[0]
    for changed in {"feature": feature + 1, "skip": skip}, {"feature": feature, "skip": skip + 1}:
        assert (session.run(changed)["depth"] != base["depth"]).all()


def test_fake_records_what_was_asked() -> None:
    session = FakeSession(FILE)
    feeds = {"feature": np.ones((2, 4, 2, 3), np.float32), "skip": np.ones((2, 1, 4, 6), np.float32)}
    session.run(feeds, ["other"])
    session.run(feeds)
    assert session.runs == [("other",), ("depth", "other")]


def test_a_file_that_no_runtime_reads() -> None:
    with pytest.raises(SetupError, match=r"\.onnx.*`\.engine`"):
        open_session(Path("trunk.engine"), FILE, 1)


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_recorded_session_tells_when_it_runs_and_is_otherwise_the_same() -> None:
    feeds = {"feature": np.ones((1, 4, 2, 3), np.float32), "skip": np.ones((1, 1, 4, 6), np.float32)}
    ran: list[str] = []
    session = recording(lambda path, file, threads: FakeSession(file), ran)(Path("head.onnx"), FILE, 1)
    assert (session.runtime, session.settings) == ("fake", {})
    assert ran == []
    found, expected = session.run(feeds, ["depth"]), FakeSession(FILE).run(feeds, ["depth"])
    np.testing.assert_array_equal(found["depth"], expected["depth"])
    assert ran == ["head"]
