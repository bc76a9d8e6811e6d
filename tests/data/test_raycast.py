"""Judged against points marched along the rays, which knows nothing of how the ray caster works."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")  # edgemtl.data needs it, although this module does not

from edgemtl.data.raycast import Camera, Light, Material, Scene, Shape, Solid, View, render

SIZE = (24, 32)
ROOM = (4.0, 5.0, 2.6)
LAMP = (1.9, 2.6, 2.5)
GRAY = Material((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
DIM = Light(LAMP, (0.5, 0.5, 0.5), (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))
NO_LAMP = DIM._replace(power=(0.0, 0.0, 0.0))
AHEAD = Camera((0.5, 2.5, 1.3), 0.0, 0.0, 0.0, math.radians(70))


def shell() -> list[Solid]:
    """Slabs around the room, 0.5 m thick."""
    slabs = []
    for axis in range(3):
        for place in (-0.25, ROOM[axis] + 0.25):
            center, half = [side / 2 for side in ROOM], [side / 2 + 0.5 for side in ROOM]
            center[axis], half[axis] = place, 0.25
            slabs.append(Solid(Shape.BOX, axis, tuple(center), tuple(half), GRAY))
    return slabs


def view_of(*solids: Solid, camera: Camera = AHEAD, light: Light = DIM, size: tuple[int, int] = SIZE) -> View:
    return render(Scene((*shell(), *solids), camera, light), size)


def within(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


angles = st.sampled_from([0.0, math.pi / 2, -math.pi]) | within(-math.pi, math.pi)
cameras = st.builds(
    Camera,
    st.tuples(within(0.25, 3.75), within(0.25, 4.75), within(0.25, 2.25)),
    angles,
    st.just(0.0) | within(-1.5, 1.5),
    st.just(0.0) | within(-0.5, 0.5),
    within(0.5, 2.0),
)
sizes = st.tuples(within(0.06, 0.7), within(0.06, 0.7), st.just(0.1) | within(0.06, 0.6))


@st.composite
def things(draw: st.DrawFn) -> Solid:
    """A solid below the lamp, standing or in the air."""
    half, lift = draw(sizes), draw(st.just(0.0) | within(0.0, 1.0))
    center = draw(within(0.5, 3.5)), draw(within(0.5, 4.5)), half[2] + lift
    return Solid(draw(st.sampled_from(Shape)), 7, center, half, GRAY, draw(angles))


crowds = st.lists(things(), max_size=4)


def unit_points(solid: Solid, points: np.ndarray) -> np.ndarray:
    """World points [..., 3] in the axes of a solid, in which its shape is a unit shape."""
    x, y, z = np.moveaxis(points - np.array(solid.center), -1, 0)
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    return np.stack((cos * x + sin * y, cos * y - sin * x, z), -1) / np.array(solid.half)


def gauge(solid: Solid, points: np.ndarray) -> np.ndarray:
    """1 on the surface of a solid, less inside, more outside."""
    unit = unit_points(solid, points)
    if solid.shape is Shape.BOX:
        return np.abs(unit).max(-1)
    if solid.shape is Shape.ELLIPSOID:
        return np.linalg.norm(unit, axis=-1)
    return np.maximum(np.hypot(unit[..., 0], unit[..., 1]), np.abs(unit[..., 2]))


def rays_of(camera: Camera, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[H, W, 3] in camera axes."""
    height, width = size
    focal = width / 2 / math.tan(camera.field_of_view / 2)
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    return np.stack((u / focal, v / focal, np.ones_like(u)), -1)


def back_projected(camera: Camera, depth: np.ndarray) -> np.ndarray:
    """World points [H, W, 3]."""
    seen = rays_of(camera, depth.shape) * depth[..., None]
    return seen @ camera.rotation().astype(np.float64) + np.array(camera.position)


def facing_lamp(camera: Camera, view: View) -> np.ndarray:
    """The pixels whose surface clearly turns to the lamp."""
    outward = np.moveaxis(view.normals, 0, -1) @ camera.rotation().astype(np.float64)
    return ((np.array(LAMP) - back_projected(camera, view.depth)) * outward).sum(-1) > 0.05


def outside(camera: Camera, solids: list[Solid]) -> bool:
    return all(gauge(solid, np.array(camera.position)) > 1.05 for solid in solids)


@settings(max_examples=60, deadline=None)
@given(cameras, crowds)
def test_depth_ends_on_the_solid_that_is_seen_and_nothing_stands_before_it(
    camera: Camera, solids: list[Solid]
) -> None:
    assume(outside(camera, solids))
    view, everything = view_of(*solids, camera=camera), [*shell(), *solids]
    points = back_projected(camera, view.depth)
    origin = np.array(camera.position)
    on_the_way = origin + np.linspace(0.02, 0.98, 50)[:, None, None, None] * (points - origin)
    for index, solid in enumerate(everything):
        mine = view.solid == index
        # A grazing ray may leave within rounding of where it entered.
        np.testing.assert_allclose(gauge(solid, points)[mine], 1, atol=2e-3)
        assert (gauge(solid, on_the_way) > 0.99).all()


@settings(max_examples=60, deadline=None)
@given(cameras, crowds)
def test_normals_are_unit_vectors_that_face_the_camera_and_stand_on_the_surface(
    camera: Camera, solids: list[Solid]
) -> None:
    assume(outside(camera, solids))
    view, everything = view_of(*solids, camera=camera), [*shell(), *solids]
    np.testing.assert_allclose(np.linalg.norm(view.normals, axis=0), 1, atol=1e-5)
    rays, normals = rays_of(camera), np.moveaxis(view.normals, 0, -1)
    slant = (rays * normals).sum(-1) / np.linalg.norm(rays, axis=-1)
    assert (slant < 1e-2).all()

    points = back_projected(camera, view.depth)
    outward = normals @ camera.rotation().astype(np.float64)
    for index, solid in enumerate(everything):
        mine = view.solid == index
        assert (gauge(solid, points + 1e-2 * outward)[mine] > 1).all()


def test_normals_agree_with_the_slope_of_depth_away_from_edges() -> None:
    ball = Solid(Shape.ELLIPSOID, 7, (2.2, 2.7, 1.2), (0.7, 0.5, 0.6), GRAY, 0.4)
    drum = Solid(Shape.CYLINDER, 7, (2.4, 1.6, 0.6), (0.4, 0.4, 0.6), GRAY)
    camera = Camera((0.4, 2.4, 1.6), 0.1, 0.25, 0.1, math.radians(65))
    view = view_of(ball, drum, camera=camera, size=(192, 256))
    points = back_projected(camera, view.depth) @ camera.rotation().astype(np.float64).T
    down, right = np.gradient(points, axis=(0, 1))
    slope = np.cross(down, right)  # down x right points at the camera, against z
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)

    smooth = np.ones(view.depth.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            smooth &= view.solid == np.roll(view.solid, step, axis)
            smooth &= (view.normals * np.roll(view.normals, step, 1 + axis)).sum(0) > 0.997
    smooth[[0, -1]] = smooth[:, [0, -1]] = False
    cosine = (slope * np.moveaxis(view.normals, 0, -1)).sum(-1)
    assert smooth.mean() > 0.9
    assert {6, 7} <= set(view.solid[smooth].tolist())
    assert cosine[smooth].min() > math.cos(math.radians(3))


def test_a_wall_across_the_optical_axis_has_one_depth() -> None:
    view = view_of(camera=AHEAD._replace(roll=0.3, field_of_view=0.6))
    np.testing.assert_allclose(view.depth, ROOM[0] - 0.5, rtol=1e-5)
    np.testing.assert_allclose(view.normals[2], -1, atol=1e-5)


def test_a_ray_along_an_axis_of_the_world_hits_like_any_other() -> None:
    odd = (25, 33)  # so that the middle ray is exactly the optical axis
    assert view_of(size=odd).depth[12, 16] == pytest.approx(ROOM[0] - 0.5)
    drum = Solid(Shape.CYLINDER, 7, (2.0, 2.0, 0.3), (0.4, 0.4, 0.3), GRAY)
    above = Camera((2.0, 2.0, 2.0), 0.0, math.pi / 2, 0.0, 1.0)
    assert view_of(drum, camera=above, size=odd).depth[12, 16] == pytest.approx(1.4)


def place_of_ball(camera: Camera, center: tuple[float, float, float]) -> tuple[float, float]:
    """The mean row and column, from 0 to 1, of the pixels that see a small ball."""
    view = view_of(Solid(Shape.ELLIPSOID, 7, center, (0.1, 0.1, 0.1), GRAY), camera=camera, size=(96, 96))
    rows, columns = np.nonzero(view.solid == 6)
    return rows.mean() / 96, columns.mean() / 96


def test_camera_angles_turn_left_look_down_and_tip_to_the_right() -> None:
    row, column = place_of_ball(AHEAD, (2.5, 3.0, 1.7))  # half a meter to the left, 0.4 m up
    assert row < 0.4
    assert column < 0.4
    row, column = place_of_ball(AHEAD._replace(yaw=0.2), (2.5, 2.5, 1.3))
    assert row == pytest.approx(0.5, abs=0.01)
    assert column > 0.6
    row, _ = place_of_ball(AHEAD._replace(pitch=0.2), (2.5, 2.5, 1.3))
    assert row < 0.4
    row, _ = place_of_ball(AHEAD._replace(roll=0.4), (2.5, 2.0, 1.3))  # on the right: goes up
    assert row < 0.45


@settings(max_examples=40, deadline=None)
@given(cameras, crowds)
def test_a_point_is_dark_where_a_solid_stands_between_it_and_the_lamp(
    camera: Camera, solids: list[Solid]
) -> None:
    assume(outside(camera, solids))
    view = view_of(*solids, camera=camera)
    night = view_of(*solids, camera=camera, light=NO_LAMP)
    lit = (view.image > night.image).all(0)
    points, lamp = back_projected(camera, view.depth), np.array(LAMP)
    way = lamp + np.linspace(0.0, 1.0, 200)[:, None, None, None] * (points - lamp)
    nearest = np.full(lit.shape, np.inf)
    for solid in solids:
        nearest = np.minimum(nearest, gauge(solid, way).min(0))
    facing = facing_lamp(camera, view)
    assert not lit[nearest < 0.97].any()
    assert lit[facing & (nearest > 1.5)].all()  # 1.5: what the steps of the march cannot have passed over


@settings(max_examples=40, deadline=None)
@given(cameras, things())
def test_a_convex_solid_throws_no_shadow_on_itself(camera: Camera, solid: Solid) -> None:
    assume(outside(camera, [solid]))
    view, night = view_of(solid, camera=camera), view_of(solid, camera=camera, light=NO_LAMP)
    assert (view.image > night.image)[:, facing_lamp(camera, view) & (view.solid == 6)].all()


def test_what_glows_shines_in_the_dark_and_casts_no_shadow() -> None:
    night = NO_LAMP._replace(ambient=(0.0, 0.0, 0.0))
    box = Solid(Shape.BOX, 7, (2.5, 2.5, 0.5), (0.3, 0.3, 0.3), GRAY)
    glowing = box._replace(material=GRAY._replace(glow=1.0))
    below = AHEAD._replace(pitch=0.4)
    dark, bright = view_of(box, camera=below, light=night), view_of(glowing, camera=below, light=night)
    assert (dark.image == 0).all()
    assert ((bright.image > 0).all(0) == (bright.solid == 6)).all()
    floor = bright.solid == 4
    assert (view_of(glowing, camera=below).image >= view_of(box, camera=below).image)[:, floor].all()
    assert (view_of(glowing, camera=below).image > view_of(box, camera=below).image)[:, floor].any()


def test_ambient_light_is_stronger_on_the_side_it_comes_from() -> None:
    view = view_of(light=NO_LAMP._replace(toward=(0.0, 0.0, 0.8)))
    floor, ceiling = (view.image[:, view.solid == index] for index in (4, 5))
    assert floor.min() > ceiling.max()


def test_a_texture_lies_between_its_two_colors_and_shows_both() -> None:
    light = NO_LAMP._replace(ambient=(1.0, 1.0, 1.0))
    waves = Material((0.1, 0.2, 0.3), (0.5, 0.4, 0.2), (9.0, 5.0, 3.0), (2.0, 7.0, 4.0), 2.0, True, 3.0)
    box = Solid(Shape.BOX, 7, (2.5, 2.5, 1.3), (0.5, 1.0, 1.0), waves)
    view = view_of(box, light=light, size=(96, 128))
    seen = view.image[:, view.solid == 6] ** 2
    np.testing.assert_allclose(seen.min(1), np.minimum(waves.color, waves.accent), atol=1e-3)
    np.testing.assert_allclose(seen.max(1), np.maximum(waves.color, waves.accent), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(cameras, crowds)
def test_a_larger_image_shows_the_same(camera: Camera, solids: list[Solid]) -> None:
    assume(outside(camera, solids))
    small = view_of(*solids, camera=camera)
    large = view_of(*solids, camera=camera, size=(3 * SIZE[0], 3 * SIZE[1]))
    middle = (slice(1, None, 3), slice(1, None, 3))  # every third pixel has the same center
    same = small.solid == large.solid[middle]
    assert same.mean() > 0.99
    np.testing.assert_allclose(small.depth[same], large.depth[middle][same], rtol=1e-3)
