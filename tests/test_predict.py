from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgemtl.core.errors import RecipeError
from edgemtl.predict import predict
from tests.fixtures.places import TINY


@pytest.fixture
def image(tmp_path: Path) -> Path:
    np.save(tmp_path / "room.npy", np.random.default_rng(0).random((12, 16, 3), np.float32))
    return tmp_path / "room.npy"


def test_two_images_of_one_name_would_overwrite_each_other(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match=r"images: expected names that differ, found `room` twice"):
        list(predict(TINY, [image, tmp_path / "elsewhere" / "room.png"], out))
    assert not out.exists()


def test_an_unknown_task_is_refused_with_the_nearest(image: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`dept`.*`depth`"):
        list(predict(TINY, [image], tmp_path / "out", tasks=["segmentation", "dept"]))
    assert not (tmp_path / "out").exists()


def test_only_the_tasks_that_are_asked_for_are_written(image: Path, tmp_path: Path) -> None:
    (path,) = predict(TINY, [image], tmp_path / "out", tasks=["depth"])
    assert path == tmp_path / "out" / "room.png"
    assert set(np.load(path.with_suffix(".npz"))) == {"depth"}
