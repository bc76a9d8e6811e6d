"""What holds for every session: FakeSession, the reference, and every runtime that is installed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgemtl.core.bundle import ModelFile, read_manifest
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.session import Array, FakeSession, Session
from tests.fixtures.places import TINY

FILES = [file for layout in read_manifest(TINY).layouts.values() for file in layout]
OPEN: dict[str, Callable[[ModelFile], Session]] = {
    "fake": FakeSession,
    "ort": lambda file: open_session(TINY / file.path, file, threads=1),
}


@pytest.fixture(params=OPEN)
def opened(request: pytest.FixtureRequest) -> Callable[[ModelFile], Session]:
    return OPEN[request.param]


def feeds_for(file: ModelFile, batch: int, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        tensor.name: random.random((batch, *tensor.shape[1:]), dtype=np.float32) for tensor in file.inputs
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_as_declared(opened: Callable[[ModelFile], Session], file: ModelFile, batch: int) -> None:
    outputs = opened(file).run(feeds_for(file, batch))
    assert list(outputs) == [tensor.name for tensor in file.outputs]
    for tensor in file.outputs:
        assert outputs[tensor.name].shape == (batch, *tensor.shape[1:])
        assert outputs[tensor.name].dtype == tensor.dtype


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_asked_outputs_equal_those_of_a_full_run(
    opened: Callable[[ModelFile], Session], file: ModelFile
) -> None:
    session, feeds = opened(file), feeds_for(file, 2)
    full = session.run(feeds)
    for name in full:
        only = session.run(feeds, (name,))
        assert list(only) == [name]
        np.testing.assert_array_equal(only[name], full[name])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_samples_do_not_see_each_other(opened: Callable[[ModelFile], Session], file: ModelFile) -> None:
    session, feeds = opened(file), feeds_for(file, 3)
    together = session.run(feeds)
    for sample in range(3):
        alone = session.run({name: value[sample : sample + 1] for name, value in feeds.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], together[name][sample], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_result_outlives_the_next_run(opened: Callable[[ModelFile], Session], file: ModelFile) -> None:
    session = opened(file)
    first = session.run(feeds_for(file, 1))
    copies = {name: value.copy() for name, value in first.items()}
    second = session.run(feeds_for(file, 1, seed=1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, copies[name])
        assert not np.array_equal(value, second[name])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_inputs_are_left_alone(opened: Callable[[ModelFile], Session], file: ModelFile) -> None:
    feeds = feeds_for(file, 1)
    opened(file).run(feeds)
    for name, value in feeds_for(file, 1).items():
        np.testing.assert_array_equal(feeds[name], value)


def test_a_session_names_its_runtime(opened: Callable[[ModelFile], Session]) -> None:
    assert opened(FILES[0]).runtime
