"""A ray caster for textured, lit solids in plain numpy: depth, normals, the solid seen, and a picture.

World axes, in meters: x and y along the floor at z = 0, z up. Camera axes: x right, y down, z forward. Rays
have length 1 along the optical axis, so the distance along a ray **is** the z-depth.

Every shape is a unit shape in the axes of its solid: |x|, |y|, |z| <= 1 for a box, x^2 + y^2 <= 1 and
|z| <= 1 for a cylinder, x^2 + y^2 + z^2 <= 1 for an ellipsoid. A convex shape is an intersection of slabs
and balls, and a ray is inside from its last entry to its first exit (Kay and Kajiya 1986).

No pixel goes through BLAS, whose rounding depends on the number of threads: the same scene gives the same
bits in every process of a machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]


class Shape(IntEnum):
    """The unit shapes."""

    BOX = 0
    CYLINDER = 1
    ELLIPSOID = 2


class Material(NamedTuple):
    """A texture throughout the solid: ``color`` and ``accent`` (linear RGB) mixed by a wave pattern.

    At a point m (meters, in the solid's axes) the pattern is sin(wave.m + warp * sin(cross.m)), multiplied
    by sin(cross.m) where ``checked``, sharpened and clipped to -1..1: stripes, checks, grain, blotches.
    ``glow`` is the share of the color that shines by itself; what glows casts no shadow.
    """

    color: Vector
    accent: Vector
    wave: Vector = (0.0, 0.0, 0.0)
    cross: Vector = (0.0, 0.0, 0.0)
    warp: float = 0.0
    checked: bool = False
    sharpness: float = 1.0
    glow: float = 0.0


class Solid(NamedTuple):
    """A convex shape: center and half extents in meters, turned by ``yaw`` radians about the vertical."""

    shape: Shape
    label: int
    center: Vector
    half: Vector
    material: Material
    yaw: float = 0.0


class Camera(NamedTuple):
    """A pinhole: position in meters, angles in radians.

    ``yaw`` turns left from the x axis, ``pitch`` looks down, ``roll`` tips the camera to its right, and
    ``field_of_view`` spans the width of the image.
    """

    position: Vector
    yaw: float
    pitch: float
    roll: float
    field_of_view: float

    def rotation(self) -> Array:
        """[3, 3], world to camera: its rows are right, down and forward in world axes."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        level, below = np.array((sy, -cy, 0.0)), np.array((-sp * cy, -sp * sy, -cp))
        forward = (cp * cy, cp * sy, -sp)
        return np.array((cr * level + sr * below, cr * below - sr * level, forward), np.float32)

    def focal(self, width: int) -> float:
        """The focal length in pixels of an image with so many columns."""
        return 0.5 * width / math.tan(0.5 * self.field_of_view)


class Light(NamedTuple):
    """A lamp that casts shadows, and ambient light that is stronger from one side (all linear RGB).

    ``power`` is the lamp's light at 1 m. ``toward`` points at the brighter side and is at most 1 long.
    """

    position: Vector
    power: Vector
    ambient: Vector
    toward: Vector


class Scene(NamedTuple):
    """What a picture is taken of, and how. The solids have to surround the camera."""

    solids: tuple[Solid, ...]
    camera: Camera
    light: Light


class View(NamedTuple):
    """What a camera sees at every pixel.

    image float32 [3, H, W] in 0..1, gamma 2; solid int [H, W], an index into ``Scene.solids``; depth float32
    [H, W] in meters along the optical axis; normals float32 [3, H, W], unit vectors in camera axes.
    """

    image: Array
    solid: Indices
    depth: Array
    normals: Array


def render(scene: Scene, size: tuple[int, int]) -> View:
    """Take the picture of ``size`` (height, width), with one ray through the center of every pixel."""
    rotation = scene.camera.rotation()
    rays = _rays(scene.camera, rotation, size)
    with np.errstate(invalid="ignore"):  # a ray beside a ball has no root, and NaN compares as a miss
        depth, seen = _nearest(scene, rotation, rays, size)
        points = rays * depth + _column(scene.camera.position)
        lit = _lit(scene, rotation, points, size)
    inside, normals = _surface(scene.solids, seen, points)
    color, glow = _paint([solid.material for solid in scene.solids], seen, inside)
    radiance = color * (glow + _illumination(scene.light, points, normals, lit))
    return View(np.sqrt(np.minimum(radiance, 1)), seen, depth, _turn(rotation, normals))


def _rays(camera: Camera, rotation: Array, size: tuple[int, int]) -> Array:
    height, width = size
    focal = camera.focal(width)
    rays = np.ones((3, height, width), np.float32)
    rays[0] = ((np.arange(width) + 0.5 - 0.5 * width) / focal)[None, :]
    rays[1] = ((np.arange(height) + 0.5 - 0.5 * height) / focal)[:, None]
    return _turn(rotation.T, rays)


def _turn(matrix: Array, vectors: Array) -> Array:
    """A 3x3 matrix times vectors [3, H, W]."""
    a, b, c = matrix.T[:, :, None, None]
    turned: Array = a * vectors[0] + b * vectors[1] + c * vectors[2]
    return turned


def _column(vector: Vector) -> Array:
    return np.array(vector, np.float32)[:, None, None]


def _nearest(scene: Scene, rotation: Array, rays: Array, size: tuple[int, int]) -> tuple[Array, Indices]:
    depth, seen = np.full(size, np.inf, np.float32), np.zeros(size, np.intp)
    for index, rows, columns in _windows(_corners(scene.solids), scene.camera, rotation, size):
        entry, enters = _entry(scene.solids[index], scene.camera.position, rays[:, rows, columns])
        closer = enters & (entry < depth[rows, columns])
        np.copyto(depth[rows, columns], entry, where=closer)
        np.copyto(seen[rows, columns], index, where=closer)
    return depth, seen


def _lit(scene: Scene, rotation: Array, points: Array, size: tuple[int, int]) -> Mask:
    """Which points the lamp reaches. Rays run from the lamp, so that all of them have one origin.

    What stands between floor and lamp throws its shadow on what lies between its corners and their shadows
    on the floor, so only the pixels that may show that region are looked at. Nothing else casts a shadow.
    """
    lamp = scene.light.position
    corners = _corners(scene.solids)
    between = (corners[..., 2] > -1e-6).all(1) & (corners[..., 2] < lamp[2]).all(1)
    dark = np.array([solid.material.glow == 0 for solid in scene.solids])
    casters = np.flatnonzero(between & dark)
    corners = corners[casters]
    on_floor = lamp + (corners - lamp) * (lamp[2] / (lamp[2] - corners[..., 2:]))
    rays, lit = points - _column(lamp), np.ones(size, np.bool_)
    reached = np.concatenate((corners, on_floor), 1)
    for index, rows, columns in _windows(reached, scene.camera, rotation, size):
        entry, enters = _entry(scene.solids[casters[index]], lamp, rays[:, rows, columns])
        lit[rows, columns] &= ~(enters & (entry < 0.998))  # 1 is the point itself
    return lit


def _corners(solids: Sequence[Solid]) -> NDArray[np.float64]:
    """The corners of the boxes around solids, in the world: [solids, 8, 3]."""
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    x, y, z = np.moveaxis(signs * np.array([solid.half for solid in solids])[:, None], -1, 0)
    cos, sin = np.array([(math.cos(solid.yaw), math.sin(solid.yaw)) for solid in solids]).T[..., None]
    corners: NDArray[np.float64] = np.stack((cos * x - sin * y, sin * x + cos * y, z), -1)
    corners += np.array([solid.center for solid in solids])[:, None]
    return corners


def _windows(
    points: NDArray[np.float64], camera: Camera, rotation: Array, size: tuple[int, int]
) -> Iterator[tuple[int, slice, slice]]:
    """For each set of points [sets, n, 3] whose hull may be seen: its index, its rows and its columns."""
    right, down, forward = np.moveaxis((points - camera.position) @ rotation.T, -1, 0)
    clear = forward.min(1) > 1e-3  # else a point is beside or behind the camera and has no place in the image
    scale = camera.focal(size[1]) / np.where(clear[:, None], forward, 1.0)
    rows, columns = _spans(down * scale, clear, size[0]), _spans(right * scale, clear, size[1])
    for index in np.flatnonzero(forward.max(1) > 0).tolist():
        if rows[index].start < rows[index].stop and columns[index].start < columns[index].stop:
            yield index, rows[index], columns[index]


def _spans(places: NDArray[np.float64], clear: Mask, length: int) -> list[slice]:
    """The pixels around places [sets, n], measured from the middle of ``length``; all where not clear."""
    starts = np.where(clear, np.floor(places.min(1) + 0.5 * length) - 1, 0).clip(0, length)
    stops = np.where(clear, np.ceil(places.max(1) + 0.5 * length) + 1, length).clip(0, length)
    return list(map(slice, starts.astype(int).tolist(), stops.astype(int).tolist()))


def _entry(solid: Solid, origin: Vector, rays: Array) -> tuple[Array, Mask]:
    """How far along rays [3, H, W] from ``origin`` they enter a solid, and which of them do, from outside."""
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y, z = (a - b for a, b in zip(origin, solid.center, strict=True))
    a, b, c = solid.half
    start = _column(((cos * x + sin * y) / a, (cos * y - sin * x) / b, z / c))
    local = np.empty_like(rays)
    local[0] = (cos / a) * rays[0] + (sin / a) * rays[1]
    local[1] = (cos / b) * rays[1] - (sin / b) * rays[0]
    local[2] = (1 / c) * rays[2]
    local += np.float32(1e-12)  # a ray along an axis stays finite when it is inverted
    near, far = _CROSSING[solid.shape](start, local)
    return near, (near < far) & (near > 0)


def _box(start: Array, rays: Array) -> tuple[Array, Array]:
    inverse = 1 / rays
    middle, reach = start * inverse, np.abs(inverse, out=inverse)
    return -(middle + reach).min(0), (reach - middle).min(0)


def _ball(start: Array, rays: Array) -> tuple[Array, Array]:
    square, slope = (rays * rays).sum(0), (start * rays).sum(0)
    root = np.sqrt(slope * slope - ((start * start).sum() - 1) * square)
    return -(slope + root) / square, (root - slope) / square


def _cylinder(start: Array, rays: Array) -> tuple[Array, Array]:
    side, caps = _ball(start[:2], rays[:2]), _box(start[2:], rays[2:])
    return np.maximum(side[0], caps[0]), np.minimum(side[1], caps[1])


# From an origin [n, 1, 1] and rays [n, H, W] in unit axes: how far along they enter and leave the shape.
_CROSSING = {Shape.BOX: _box, Shape.CYLINDER: _cylinder, Shape.ELLIPSOID: _ball}


def _surface(solids: Sequence[Solid], seen: Indices, points: Array) -> tuple[Array, Array]:
    """World points on solids -> the same points in meters in the axes of their solids, and world normals."""
    shape = _per_pixel([(solid.shape,) for solid in solids], seen)
    cos, sin = _per_pixel([(math.cos(solid.yaw), math.sin(solid.yaw)) for solid in solids], seen)
    half = _per_pixel([solid.half for solid in solids], seen)
    x, y, z = points - _per_pixel([solid.center for solid in solids], seen)
    inside = np.stack((cos * x + sin * y, cos * y - sin * x, z))
    unit = inside / half
    # A point lies on the face whose coordinate is largest; a round side has one coordinate, its radius.
    size = np.abs(unit)
    size[:2] = np.where(shape == Shape.CYLINDER, np.hypot(unit[0], unit[1]), size[:2])
    on_face = (size == size.max(0)) | (shape == Shape.ELLIPSOID)
    x, y, z = np.where(on_face, unit, np.float32(0)) / half
    normals = np.stack((cos * x - sin * y, sin * x + cos * y, z))
    return inside, normals / np.sqrt((normals * normals).sum(0))


def _per_pixel(table: Sequence[Sequence[float]], seen: Indices) -> Array:
    """A table with one row per solid -> what each pixel sees of it, [columns, H, W]."""
    columns: Array = np.array(table, np.float32).T
    return columns.take(seen, axis=1)


def _paint(materials: Sequence[Material], seen: Indices, inside: Array) -> tuple[Array, Array]:
    """The reflectance at points in the axes of their solids, and the glow, [3, H, W] and [1, H, W]."""
    warp, checked, sharpness = _per_pixel([(m.warp, m.checked, m.sharpness) for m in materials], seen)
    across = np.sin((_per_pixel([m.cross for m in materials], seen) * inside).sum(0))
    along = np.sin((_per_pixel([m.wave for m in materials], seen) * inside).sum(0) + warp * across)
    pattern = along * (1 + checked * (across - 1))
    share = 0.5 + 0.5 * np.clip(sharpness * pattern, -1, 1)
    color = _per_pixel([m.color for m in materials], seen)
    color += share * (_per_pixel([m.accent for m in materials], seen) - color)
    return color, _per_pixel([(m.glow,) for m in materials], seen)


def _illumination(light: Light, points: Array, normals: Array, lit: Mask) -> Array:
    """Lambert's law for the lamp, with its shadows, and for the ambient light: [3, H, W]."""
    to_lamp = _column(light.position) - points
    square = (to_lamp * to_lamp).sum(0)
    lamp = lit * np.maximum((to_lamp * normals).sum(0), 0) / (square * np.sqrt(square))
    around = 1 + (_column(light.toward) * normals).sum(0)
    illumination: Array = _column(light.power) * lamp + _column(light.ambient) * around
    return illumination
