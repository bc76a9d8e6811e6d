from __future__ import annotations

import pytest

from edgemtl.bench.sampling import sampling


def test_a_short_block_is_looked_at_once_and_a_failing_one_is_left() -> None:
    looks: list[int] = []
    with sampling(lambda: looks.append(1), interval_s=60):
        pass
    assert looks == [1]
    with pytest.raises(ValueError, match="mine"), sampling(lambda: looks.append(1), interval_s=60):
        raise ValueError("mine")
    assert looks == [1, 1]
