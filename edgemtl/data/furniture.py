"""Furniture drawn at random: what stands, lies and hangs in the rooms of `scenes`.

A piece is a list of solids in axes of its own, in meters: x along the wall behind it, y from that wall into
the room, z up from the floor. Colors and patterns have nearly the same distribution for all classes, so
that a color says little about what a thing is; shape, place and neighbors do.
"""

from __future__ import annotations

import colorsys
import math
from enum import IntEnum

from numpy.random import Generator

from edgemtl.data.raycast import Material, Shape, Solid, Vector

Piece = list[Solid]
Span = tuple[float, float]


# The 13 classes of NYUv2 in their usual order (Couprie et al. 2013).
Label = IntEnum(
    "Label", "BED BOOKS CEILING CHAIR FLOOR FURNITURE OBJECTS PICTURE SOFA TABLE TV WALL WINDOW", start=0
)
CLASSES = tuple(label.name.lower() for label in Label)


def color(rng: Generator, brightness: Span = (0.06, 0.85)) -> Vector:
    """Linear RGB of any hue; browns and pale colors are the most frequent."""
    hue = rng.uniform(0.04, 0.12) if rng.random() < 0.4 else rng.random()
    return colorsys.hsv_to_rgb(hue, 0.75 * rng.random() ** 1.5, rng.uniform(*brightness))


def material(rng: Generator, brightness: Span = (0.06, 0.85)) -> Material:
    """Blotched, grained, striped or checked, in any color."""
    first = color(rng, brightness)
    second = _mix(first, color(rng, brightness), rng.uniform(0.1, 0.6))
    kind = rng.random()
    if kind < 0.4:
        return _blotches(rng, first, second)
    if kind < 0.65:
        wave, cross = _wave(rng, 0.1, 0.3), _wave(rng, 0.6, 1.5)
        return Material(first, second, wave, cross, warp=rng.uniform(1.0, 3.0))
    if kind < 0.85:
        return Material(first, second, _wave(rng, 0.12, 0.5), sharpness=rng.uniform(1.0, 4.0))
    wave, cross = _wave(rng, 0.2, 0.7), _wave(rng, 0.2, 0.7)
    return Material(first, second, wave, cross, checked=True, sharpness=4.0)


def _blotches(rng: Generator, first: Vector, second: Vector) -> Material:
    return Material(first, second, _wave(rng, 0.5, 2.0), _wave(rng, 0.5, 2.0), warp=2.0)


def _spines(rng: Generator, standing: bool) -> Material:
    """Uneven stripes, as the backs of books have them that stand in a row or lie in a pile."""
    k = 2 * math.pi / rng.uniform(0.08, 0.16)
    wave, cross = ((a, 0.0, 0.0) if standing else (0.0, 0.0, a) for a in (k, 0.37 * k))
    return Material(color(rng), color(rng), wave, cross, warp=rng.uniform(1.0, 2.5), sharpness=2.0)


def _mix(first: Vector, second: Vector, share: float) -> Vector:
    r, g, b = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return r, g, b


def _wave(rng: Generator, shortest: float, longest: float) -> Vector:
    """A wave vector in radians per meter, mostly along one axis, with a wavelength between two bounds."""
    length, axis, x, y, z = rng.random(5).tolist()
    k, main = 2 * math.pi / (shortest + (longest - shortest) * length), int(3 * axis)
    return k * (0.3 * x + (main == 0)), k * (0.3 * y + (main == 1)), k * (0.3 * z + (main == 2))


def block(label: Label, paint: Material, x: Span, y: Span, z: Span) -> Solid:
    """A box from its extent along each axis."""
    center = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
    half = ((x[1] - x[0]) / 2, (y[1] - y[0]) / 2, (z[1] - z[0]) / 2)
    return Solid(Shape.BOX, label, center, half, paint)


def drum(label: Label, paint: Material, x: float, y: float, z: Span, radius: float) -> Solid:
    """An upright cylinder."""
    half = (radius, radius, (z[1] - z[0]) / 2)
    return Solid(Shape.CYLINDER, label, (x, y, (z[0] + z[1]) / 2), half, paint)


def ball(label: Label, paint: Material, center: Vector, half: Vector) -> Solid:
    """An ellipsoid."""
    return Solid(Shape.ELLIPSOID, label, center, half, paint)


def moved(piece: Piece, x: float, y: float, yaw: float, z: float = 0.0) -> Piece:
    """The piece turned by ``yaw`` radians about its origin, then carried to (x, y, z)."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return [
        solid._replace(center=(x + cos * a - sin * b, y + sin * a + cos * b, z + c), yaw=solid.yaw + yaw)
        for solid in piece
        for a, b, c in [solid.center]
    ]


def bed(rng: Generator) -> Piece:
    """A mattress with a headboard, a blanket and pillows."""
    half, length, top = rng.uniform(0.45, 0.9), rng.uniform(1.9, 2.1), rng.uniform(0.35, 0.6)
    board = (0.0, top + rng.uniform(0.2, 0.6))
    folded, linen = rng.uniform(0.5, 1.0), material(rng)
    cover, pillow = material(rng), linen if rng.random() < 0.5 else material(rng)
    cover_y, cover_z = (folded, length + 0.02), (top - 0.2, top + 0.04)
    pillows = (-half / 2, half / 2) if half > 0.65 else (0.0,)
    return [
        block(Label.BED, material(rng), (-half - 0.05, half + 0.05), (0.0, 0.07), board),
        block(Label.BED, linen, (-half, half), (0.07, length), (0.08, top)),
        block(Label.BED, cover, (-half - 0.02, half + 0.02), cover_y, cover_z),
        *(ball(Label.BED, pillow, (x, 0.35, top + 0.06), (0.32, 0.22, 0.11)) for x in pillows),
    ]


def sofa(rng: Generator) -> Piece:
    """A seat, a back and two arms, with cushions."""
    half, depth, arm = rng.uniform(0.4, 1.1), rng.uniform(0.75, 1.0), rng.uniform(0.1, 0.22)
    seat, back = rng.uniform(0.36, 0.46), rng.uniform(0.7, 0.95)
    cloth, cushion = material(rng), material(rng)
    places = rng.uniform(-half + 0.2, half - 0.2, rng.integers(3)).tolist()
    return [
        block(Label.SOFA, cloth, (-half, half), (0.0, depth), (0.05, seat)),
        block(Label.SOFA, cloth, (-half, half), (0.0, 0.22), (seat, back)),
        block(Label.SOFA, cloth, (-half - arm, -half), (0.0, depth), (0.0, seat + 0.2)),
        block(Label.SOFA, cloth, (half, half + arm), (0.0, depth), (0.0, seat + 0.2)),
        *(ball(Label.SOFA, cushion, (x, 0.32, seat + 0.18), (0.2, 0.1, 0.19)) for x in places),
    ]


def chair(rng: Generator) -> Piece:
    """A seat and a back on four legs or on a pedestal."""
    half, seat, top = rng.uniform(0.19, 0.25), rng.uniform(0.42, 0.5), rng.uniform(0.75, 1.05)
    shell, frame = material(rng), material(rng)
    piece = [
        block(Label.CHAIR, shell, (-half, half), (0.0, 2 * half), (seat - 0.05, seat)),
        block(Label.CHAIR, shell, (-half, half), (0.0, 0.04), (seat + rng.uniform(0.0, 0.15), top)),
    ]
    if rng.random() < 0.3:
        return piece + _pedestal(Label.CHAIR, frame, half, seat - 0.05, 1.2 * half)
    return piece + _legs(Label.CHAIR, frame, half, half, seat - 0.05, 0.02)


def _legs(label: Label, wood: Material, half: float, half_depth: float, top: float, radius: float) -> Piece:
    a, b = half - radius, half_depth - radius
    places = ((-a, -b), (a, -b), (-a, b), (a, b))
    return [drum(label, wood, x, half_depth + y, (0.0, top), radius) for x, y in places]


def _pedestal(label: Label, wood: Material, y: float, top: float, radius: float) -> Piece:
    return [drum(label, wood, 0.0, y, (0.0, 0.05), radius), drum(label, wood, 0.0, y, (0.05, top), 0.05)]


def table(rng: Generator) -> Piece:
    """A round top on a pedestal or a square one on legs, low or high, with things on it."""
    half, half_depth, top = rng.uniform(0.4, 0.9), rng.uniform(0.28, 0.5), rng.uniform(0.4, 0.78)
    board, wood, under = material(rng), material(rng), top - rng.uniform(0.03, 0.06)
    if rng.random() < 0.25:
        half_depth = half
        piece = [drum(Label.TABLE, board, 0.0, half, (under, top), half)]
        piece += _pedestal(Label.TABLE, wood, half, under, 0.5 * half)
    else:
        piece = [block(Label.TABLE, board, (-half, half), (0.0, 2 * half_depth), (under, top))]
        piece += _legs(Label.TABLE, wood, half, half_depth, under, rng.uniform(0.025, 0.05))
    return piece + _clutter(rng, 0.65 * half, 2 * half_depth, top)


def table_with_chairs(rng: Generator) -> Piece:
    """A table with chairs pushed up to its long sides."""
    piece = table(rng)
    depth = 2 * piece[0].half[1]
    for x, y, yaw in ((-0.3, -0.35, 0.0), (0.3, -0.35, 0.0), (0.0, depth + 0.35, math.pi)):
        if rng.random() < 0.6:
            piece += moved(chair(rng), x, y, yaw + rng.uniform(-0.3, 0.3))
    return piece


def cabinet(rng: Generator) -> Piece:
    """A chest or a wardrobe with two doors; things stand on a low one."""
    half, depth, top = rng.uniform(0.25, 0.8), rng.uniform(0.42, 0.62), rng.uniform(0.45, 2.1)
    wood = material(rng)
    door = wood._replace(color=_mix(wood.color, color(rng), 0.25))
    low_and_high, front = (0.08, top - 0.03), (depth, depth + 0.02)
    piece = [
        block(Label.FURNITURE, wood, (-half, half), (0.0, depth), (0.0, top)),
        block(Label.FURNITURE, door, (0.02 - half, -0.01), front, low_and_high),
        block(Label.FURNITURE, door, (0.01, half - 0.02), front, low_and_high),
    ]
    return piece + _clutter(rng, 0.8 * half, depth, top) if top < 1.4 else piece


def bookcase(rng: Generator) -> Piece:
    """Shelves, partly filled with books."""
    half, depth, shelf = rng.uniform(0.35, 0.8), rng.uniform(0.26, 0.34), rng.uniform(0.3, 0.42)
    count, wood = int(rng.integers(2, 6)), material(rng)
    height = (0.0, count * shelf + 0.04)
    piece = [
        block(Label.FURNITURE, wood, (-half, half), (0.0, 0.02), height),
        block(Label.FURNITURE, wood, (-half - 0.03, -half), (0.0, depth), height),
        block(Label.FURNITURE, wood, (half, half + 0.03), (0.0, depth), height),
    ]
    for level in range(count + 1):
        low = level * shelf + 0.04
        piece.append(block(Label.FURNITURE, wood, (-half, half), (0.02, depth), (low - 0.04, low)))
        if level < count and rng.random() < 0.85:
            x = (-half, rng.uniform(0.0, half)) if rng.random() < 0.5 else (rng.uniform(-half, 0.0), half)
            z = (low, low + shelf * rng.uniform(0.6, 0.88))
            piece.append(block(Label.BOOKS, _spines(rng, standing=True), x, (0.03, depth - 0.05), z))
    return piece


def tv_stand(rng: Generator) -> Piece:
    """A television on a low cabinet."""
    half, depth, top = rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.5), rng.uniform(0.35, 0.7)
    stand = block(Label.FURNITURE, material(rng), (-half, half), (0.0, depth), (0.0, top))
    return [stand, *moved(_screen(rng, rng.uniform(0.35, 0.65)), 0.0, 0.15, 0.0, top)]


def _screen(rng: Generator, half: float) -> Piece:
    """A television or monitor on its foot, on or off."""
    case, high = Material((0.03, 0.03, 0.035), (0.06, 0.06, 0.06)), 0.06 + 1.15 * half
    if rng.random() < 0.35:
        panel = material(rng)._replace(glow=rng.uniform(0.3, 0.8))
    else:
        panel = _blotches(rng, color(rng, (0.02, 0.1)), color(rng, (0.04, 0.2)))
    return [
        block(Label.TV, case, (-0.4 * half, 0.4 * half), (-0.08, 0.1), (0.0, 0.06)),
        block(Label.TV, case, (-half, half), (0.0, 0.04), (0.06, high)),
        block(Label.TV, panel, (0.02 - half, half - 0.02), (0.04, 0.045), (0.08, high - 0.02)),
    ]


def _clutter(rng: Generator, half: float, depth: float, z: float) -> Piece:
    """Up to four things on a surface at height ``z``, clear of the wall behind it."""
    piece: Piece = []
    for _ in range(rng.integers(5)):
        kind = rng.random()
        item = books(rng) if kind < 0.25 else _screen(rng, 0.3) if kind < 0.4 else thing(rng, (0.05, 0.14))
        x, y = rng.uniform(-half, half), rng.uniform(0.24, depth - 0.16)
        piece += moved(item, x, y, rng.uniform(-0.3, 0.3), z)
    return piece


def books(rng: Generator) -> Piece:
    """A pile of books."""
    a, b, height = rng.uniform(0.09, 0.15), rng.uniform(0.12, 0.2), rng.uniform(0.05, 0.3)
    return [block(Label.BOOKS, _spines(rng, standing=False), (-a, a), (-b, b), (0.0, height))]


def thing(rng: Generator, sizes: Span = (0.08, 0.22)) -> Piece:
    """A carton, a jar, a ball or a lamp."""
    size, kind, paint = rng.uniform(*sizes), rng.integers(4), material(rng)
    if kind == 0:
        y, z = size * rng.uniform(0.5, 1.5), size * rng.uniform(1.0, 3.0)
        return [block(Label.OBJECTS, paint, (-size, size), (-y, y), (0.0, z))]
    if kind == 1:
        return [drum(Label.OBJECTS, paint, 0.0, 0.0, (0.0, size * rng.uniform(1.5, 4.0)), 0.7 * size)]
    if kind == 2:
        return [ball(Label.OBJECTS, paint, (0.0, 0.0, size), (size, size, size))]
    shade, half = paint._replace(glow=rng.uniform(0.0, 0.8)), (size, size, 0.8 * size)
    return [
        drum(Label.OBJECTS, material(rng), 0.0, 0.0, (0.0, 2 * size), 0.02),
        ball(Label.OBJECTS, shade, (0.0, 0.0, 2.5 * size), half),
    ]


def rug(rng: Generator) -> Piece:
    """Flat on the floor, and part of it."""
    half, depth = rng.uniform(0.5, 1.2), rng.uniform(0.8, 2.0)
    return [block(Label.FLOOR, material(rng), (-half, half), (0.0, depth), (0.0, 0.012))]


def picture(rng: Generator) -> Piece:
    """A framed picture, hung on the wall."""
    half, low = rng.uniform(0.15, 0.6), rng.uniform(1.0, 1.5)
    high = low + rng.uniform(0.3, 0.8)
    canvas = Material(color(rng), color(rng), _wave(rng, 0.2, 1.0), _wave(rng, 0.2, 1.0), warp=2.5)
    return [
        block(Label.PICTURE, material(rng), (-half, half), (0.0, 0.025), (low, high)),
        block(Label.PICTURE, canvas, (0.04 - half, half - 0.04), (0.025, 0.03), (low + 0.04, high - 0.04)),
    ]


def window(rng: Generator) -> Piece:
    """A frame with two panes, bright by day and dark by night."""
    half, low = rng.uniform(0.4, 1.1), rng.uniform(0.3, 1.1)
    high = low + rng.uniform(0.8, 1.2)
    day = rng.random() < 0.75
    shine, glow = ((0.35, 1.0), rng.uniform(0.5, 1.2)) if day else ((0.02, 0.15), 0.0)
    pane = _blotches(rng, color(rng, shine), color(rng, shine))._replace(glow=glow)
    return [
        block(Label.WINDOW, material(rng), (-half, half), (0.0, 0.04), (low, high)),
        block(Label.WINDOW, pane, (0.05 - half, -0.03), (0.04, 0.045), (low + 0.05, high - 0.05)),
        block(Label.WINDOW, pane, (0.03, half - 0.05), (0.04, 0.045), (low + 0.05, high - 0.05)),
    ]
