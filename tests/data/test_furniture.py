from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")  # edgemtl.data needs it, although this module does not

from edgemtl.data import furniture
from edgemtl.data.furniture import CLASSES, Label, Piece, moved
from edgemtl.data.nyuv2 import CLASSES as NYUV2_CLASSES
from edgemtl.data.raycast import Solid

Kind = Callable[[np.random.Generator], Piece]
HUNG: dict[Kind, Label] = {furniture.picture: Label.PICTURE, furniture.window: Label.WINDOW}
AT_WALL: dict[Kind, Label] = {
    furniture.bed: Label.BED,
    furniture.bookcase: Label.FURNITURE,
    furniture.cabinet: Label.FURNITURE,
    furniture.sofa: Label.SOFA,
    furniture.table: Label.TABLE,
    furniture.tv_stand: Label.TV,
    **HUNG,
}
STANDING: dict[Kind, Label] = {
    furniture.books: Label.BOOKS,
    furniture.chair: Label.CHAIR,
    furniture.rug: Label.FLOOR,
    furniture.table_with_chairs: Label.TABLE,
    furniture.thing: Label.OBJECTS,
}
KINDS = AT_WALL | STANDING


def draws(kind: Kind, count: int = 40) -> list[Piece]:
    return [kind(np.random.default_rng(seed)) for seed in range(count)]


def extent(solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest corner of an upright box around it."""
    cos, sin = abs(math.cos(solid.yaw)), abs(math.sin(solid.yaw))
    a, b, c = solid.half
    reach = np.array((cos * a + sin * b, sin * a + cos * b, c))
    return np.array(solid.center) - reach, np.array(solid.center) + reach


def test_the_classes_are_those_of_nyuv2() -> None:
    assert CLASSES == NYUV2_CLASSES


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_piece_shows_its_label_and_stands_above_the_floor_in_a_low_room(kind: Kind) -> None:
    for piece in draws(kind):
        assert KINDS[kind] in {solid.label for solid in piece}
        for solid in piece:
            low, high = extent(solid)
            assert min(solid.half) > 0
            assert low[2] > -1e-9
            assert high[2] < 2.35
            assert np.abs((low, high)).max() < 3


@pytest.mark.parametrize("kind", AT_WALL, ids=lambda kind: kind.__name__)
def test_what_stands_at_a_wall_stays_out_of_it(kind: Kind) -> None:
    assert all(extent(solid)[0][1] > -1e-9 for piece in draws(kind) for solid in piece)


@pytest.mark.parametrize("kind", HUNG, ids=lambda kind: kind.__name__)
def test_what_hangs_is_flat_and_off_the_floor(kind: Kind) -> None:
    for piece in draws(kind):
        low, high = np.min([extent(s)[0] for s in piece], 0), np.max([extent(s)[1] for s in piece], 0)
        assert low[2] >= 0.3
        assert high[1] < 0.1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_draws_differ_but_follow_from_the_generator(kind: Kind) -> None:
    pieces = draws(kind, 10)
    assert pieces == draws(kind, 10)
    assert all(piece != pieces[0] for piece in pieces[1:])


@given(st.integers(0, 2**32))
def test_colors_are_reflectances(seed: int) -> None:
    material = furniture.material(np.random.default_rng(seed))
    assert all(0 <= share <= 1 for share in (*material.color, *material.accent))


@given(*[st.floats(-3, 3)] * 4)
def test_moving_keeps_distances_and_angles(x: float, y: float, yaw: float, z: float) -> None:
    piece = furniture.table_with_chairs(np.random.default_rng(1))
    there = moved(piece, x, y, yaw, z)
    old, new = (np.array([solid.center for solid in p]) for p in (piece, there))
    np.testing.assert_allclose(np.linalg.norm(new - new[0], axis=1), np.linalg.norm(old - old[0], axis=1))
    np.testing.assert_allclose([s.yaw for s in there], [s.yaw + yaw for s in piece])
    np.testing.assert_allclose(new[:, 2], old[:, 2] + z, atol=1e-12)
    back = np.array([solid.center for solid in moved(moved(there, -x, -y, 0.0, -z), 0.0, 0.0, -yaw)])
    np.testing.assert_allclose(back, old, atol=1e-9)
