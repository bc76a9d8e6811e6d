from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.runtime.batches import in_batches, together
from edgemtl.runtime.session import Array


@given(images=st.integers(1, 20), batch=st.integers(1, 7))
def test_every_image_is_answered_once_in_order_by_batches_of_one_size(images: int, batch: int) -> None:
    rows = np.arange(images, dtype=np.float32)[:, None]
    ran: list[Array] = []

    def run(images: Array) -> dict[str, Array]:
        ran.append(images)
        return {"once": images, "twice": 2 * images}

    found = together(in_batches(run, rows, batch))
    np.testing.assert_array_equal(found["once"], rows)
    np.testing.assert_array_equal(found["twice"], 2 * rows)
    assert [len(part) for part in ran] == [batch] * -(-images // batch)
    assert np.isin(np.concatenate(ran), rows).all()  # what fills up is real


def test_answers_come_as_soon_as_they_are_there() -> None:
    ran: list[int] = []

    def run(images: Array) -> dict[str, Array]:
        ran.append(len(images))
        return {"task": images}

    answers = in_batches(run, np.zeros((5, 1), np.float32), 2)
    assert len(next(answers)["task"]) == 2
    assert ran == [2]
    with pytest.raises(StopIteration):
        [next(answers) for _ in range(3)]
