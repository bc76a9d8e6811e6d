from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from numpy.typing import NDArray

from edgemtl import workflow
from edgemtl.core.errors import DataError
from edgemtl.data import Dataset, Scenes
from edgemtl.export import Export, Lowering
from edgemtl.material import material_of
from edgemtl.run import Run

TRAIN = 16  # images of the training split of the tiny recipe


def int8(images: int) -> Export:
    return Export(precision="int8", lowering=Lowering(images=images))


@pytest.fixture(scope="module")
def run(typed_chain: Path) -> Run:
    return Run.open(typed_chain / "runs/tiny")


def test_fewer_images_than_asked_are_refused_with_how_many_there_are(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"calibration: expected 17 .*found 16 .*--calibration-images 16"):
        workflow.export(run, tmp_path / "bundle", int8(TRAIN + 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 5, TRAIN])
def test_the_images_are_of_the_training_split_and_spread_over_it(run: Run, count: int) -> None:
    found = material_of(run, int8(count), "").images
    split = run.recipe.data.dataset("train")
    places = [index for index in range(TRAIN) for image in found if np.array_equal(image, split[index].image)]
    assert len(found) == len(places) == count
    assert not places[0]
    assert len(set(np.diff(places))) <= 2, "gaps that differ by more than rounding"


def test_only_int8_is_calibrated_and_only_a_named_split_is_measured_on(run: Run) -> None:
    halved = Export(precision="fp16")
    assert material_of(run, halved, "").images is None
    assert material_of(run, halved, "").measure is None
    assert material_of(run, halved, "val").measure is not None


def test_a_split_is_opened_once_however_often_it_is_measured_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    dataset = Scenes.dataset

    def watched(spec: Scenes, split: str) -> Dataset:
        opened.append(split)
        return dataset(spec, split)

    monkeypatch.setattr(Scenes, "dataset", watched)
    measure = material_of(run, Export(precision="fp16"), "val").measure
    assert measure is not None
    model = run.collapsed().model

    def predict(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {task: output.numpy() for task, output in model(torch.from_numpy(images)).items()}

    assert measure(predict, 2) != measure(predict, None)
    assert opened == ["val"]
