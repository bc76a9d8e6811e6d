"""Scenes: furnished rooms, ray-cast on the fly, with exact labels for every pixel.

A default that needs no download and is hard in the ways that matter: classes share their colors, things
hide one another, lamps cast shadows, cameras differ in place, angle and field of view, sensors are noisy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np
import torch
from numpy.random import Generator

from edgemtl.data.base import Data, Dataset, LabelInfo, Sample
from edgemtl.data.furniture import (
    CLASSES,
    Label,
    Piece,
    bed,
    block,
    bookcase,
    books,
    cabinet,
    chair,
    material,
    moved,
    picture,
    rug,
    sofa,
    table,
    table_with_chairs,
    thing,
    tv_stand,
    window,
)
from edgemtl.data.raycast import Camera, Light, Scene, Vector, render

Side = Annotated[int, msgspec.Meta(ge=16)]
Count = Annotated[int, msgspec.Meta(ge=1)]
FRAME_RATE = 30  # frames a second


class Scenes(Data, frozen=True, kw_only=True, tag="scenes"):
    """Rooms with the labels ``segmentation`` (13 classes), ``depth`` and ``normals``.

    ``size`` is (height, width); ``train`` and ``val`` are the numbers of scenes; ``noise`` is the standard
    deviation of the sensor's noise in an image of range 0..1. A scene follows from ``seed``, its split and
    its index alone: another size shows the same scene.

    A third split is for `evaluate --rates`: ``video`` rooms, each with ``sequence`` frames, 30 a second, of a
    camera that walks ahead and looks around.
    """

    size: tuple[Side, Side] = (96, 128)
    train: Count = 800
    val: Count = 200
    video: Count = 8
    sequence: Count = 30
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    noise: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.03

    @property
    def splits(self) -> tuple[str, ...]:
        """See ``Data.splits``."""
        return ("train", "val", "video")

    def dataset(self, split: str) -> SceneSplit:
        """Open ``train``, ``val`` or ``video``.

        Raises:
            UsageError: there is no such split.
        """
        self.check_split(split)
        return SceneSplit(self, split)


class SceneSplit(Dataset):
    """One split of `Scenes`. Every pixel is labeled; depth is along the optical axis, not along the ray."""

    def __init__(self, spec: Scenes, split: str) -> None:
        self.size = spec.size
        self.labels = {
            "segmentation": LabelInfo("classes", CLASSES),
            "depth": LabelInfo("depth"),
            "normals": LabelInfo("normals"),
        }
        self._spec, self._split = spec, split
        self._frames = spec.sequence if split == "video" else 1
        if split == "video":
            self.firsts = frozenset(range(0, len(self), self._frames))

    def __len__(self) -> int:
        spec = self._spec
        return {"train": spec.train, "val": spec.val, "video": spec.video}[self._split] * self._frames

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of the {len(self)} in {self._split}")
        spec = self._spec
        number, frame = divmod(index, self._frames)
        key = (spec.splits.index(self._split), number)
        rng = np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key))
        scene = draw_scene(rng)
        if frame:
            scene = scene._replace(camera=_walked(scene.camera, frame / FRAME_RATE))
            rng = np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=(*key, frame)))
        view = render(scene, spec.size)
        # Noise is drawn last, so that the size of the image has no part in the scene.
        noise = rng.standard_normal(view.image.shape, np.float32) * np.float32(spec.noise)
        classes = np.array([solid.label for solid in scene.solids], np.int64)[view.solid]
        return Sample(
            f"{self._split}/{index}",
            torch.from_numpy(np.clip(view.image + noise, 0, 1)),
            {
                "segmentation": torch.from_numpy(classes),
                "depth": torch.from_numpy(view.depth[None]),
                "normals": torch.from_numpy(view.normals),
            },
        )


def draw_scene(rng: Generator) -> Scene:
    """A furnished room, a camera that looks across it, and light."""
    room = _Room(rng)
    camera = room.camera()
    for probability, put, kind in _FURNITURE:
        if rng.random() < probability:
            put(room, kind(rng))
    return Scene(tuple(room.solids), camera, room.light())


def _walked(camera: Camera, seconds: float) -> Camera:
    """To and fro by 0.6 m in 6 s, in the space that is free before the lens; 14 degrees to either side."""
    x, y, z = camera.position
    ahead = 0.3 * (1 - math.cos(2 * math.pi * seconds / 6))
    place = (x + ahead * math.cos(camera.yaw), y + ahead * math.sin(camera.yaw), z)
    return camera._replace(position=place, yaw=camera.yaw + 0.25 * math.sin(2 * math.pi * seconds / 4))


class _Room:
    """A room while it is being furnished: it keeps things from standing inside one another."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.width, self.length, self.height = rng.uniform((2.6, 3.0, 2.4), (5.0, 6.0, 3.0)).tolist()
        self.solids = self._shell()
        self.taken: list[tuple[Vector, Vector]] = []

    def camera(self) -> Camera:
        """Stand near a corner, look across the room, and keep the space before the lens free."""
        rng = self.rng
        x, y = rng.uniform(0.1, 0.3) * self.width, rng.uniform(0.08, 0.2) * self.length
        x, y = x if rng.random() < 0.5 else self.width - x, y if rng.random() < 0.5 else self.length - y
        aim_x, aim_y = rng.uniform(0.35, 0.65) * self.width, rng.uniform(0.4, 0.6) * self.length
        yaw = math.atan2(aim_y - y, aim_x - x)
        free_x, free_y = x + 0.4 * math.cos(yaw), y + 0.4 * math.sin(yaw)
        self.taken.append(((free_x - 0.6, free_y - 0.6, 0.0), (free_x + 0.6, free_y + 0.6, self.height)))
        pitch, roll = rng.uniform(-0.08, 0.42), rng.uniform(-0.08, 0.08)
        return Camera((x, y, rng.uniform(1.1, 1.6)), yaw, pitch, roll, math.radians(rng.uniform(56, 68)))

    def light(self) -> Light:
        """A lamp under the ceiling, above all that stands, and daylight that comes from somewhere."""
        rng = self.rng
        place = (rng.uniform(0.3, 0.7) * self.width, rng.uniform(0.3, 0.7) * self.length, self.height - 0.2)
        power, ambient = rng.uniform(0.5, 4.0), rng.uniform(0.15, 0.7)
        warm, cool = rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.0)
        azimuth, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.5)
        return Light(
            place,
            (power, power * (0.5 + 0.5 * warm), power * warm),
            (ambient * cool, ambient, ambient),
            (strength * math.cos(azimuth), strength * math.sin(azimuth), 0.3),
        )

    def put_at_wall(self, piece: Piece) -> None:
        """Try a few places along the walls; leave the piece out if none is free."""
        places = []
        for side, share in self.rng.random((8, 2)).tolist():
            wall = int(4 * side)
            x = (share * self.width, self.width, share * self.width, 0.0)[wall]
            y = (0.0, share * self.length, self.length, share * self.length)[wall]
            places.append((x, y, 0.5 * math.pi * wall))
        self._put(piece, places)

    def put_on_floor(self, piece: Piece) -> None:
        """Try a few places on the floor; leave the piece out if none is free."""
        self._put(piece, self.rng.uniform(0, (self.width, self.length, 2 * math.pi), (8, 3)).tolist())

    def _put(self, piece: Piece, places: Sequence[tuple[float, float, float]]) -> None:
        x, y, z = zip(*_extent(piece), strict=True)
        outline = block(Label.OBJECTS, piece[0].material, x, y, z)
        for place in places:
            low, high = _extent(moved([outline], *place))
            if self._fits(low, high):
                self.solids += moved(piece, *place)
                self.taken.append((low, high))
                return

    def _fits(self, low: Vector, high: Vector) -> bool:
        room = (self.width, self.length, self.height)
        if any(a < -0.01 or b > side + 0.01 for a, b, side in zip(low, high, room, strict=True)):
            return False
        return all(
            any(b <= c or d <= a for a, b, c, d in zip(low, high, *other, strict=True))
            for other in self.taken
        )

    def _shell(self) -> Piece:
        """Slabs around the room; the walls of one direction may be painted differently."""
        rng, thick = self.rng, 0.2
        x, y, z = (-thick, self.width + thick), (-thick, self.length + thick), (0.0, self.height)
        ceiling, paint = material(rng, (0.3, 0.95)), material(rng, (0.2, 0.9))
        other = material(rng, (0.2, 0.9)) if rng.random() < 0.3 else paint
        return [
            block(Label.FLOOR, material(rng), x, y, (-thick, 0.0)),
            block(Label.CEILING, ceiling, x, y, (self.height, self.height + thick)),
            block(Label.WALL, paint, x, (-thick, 0.0), z),
            block(Label.WALL, paint, x, (self.length, self.length + thick), z),
            block(Label.WALL, other, (-thick, 0.0), y, z),
            block(Label.WALL, other, (self.width, self.width + thick), y, z),
        ]


def _extent(piece: Piece) -> tuple[Vector, Vector]:
    """The lowest and the highest corner of an upright box around a piece."""
    lows, highs = [], []
    for solid in piece:
        (a, b, c), (x, y, z) = solid.half, solid.center
        cos, sin = abs(math.cos(solid.yaw)), abs(math.sin(solid.yaw))
        reach_x, reach_y = cos * a + sin * b, sin * a + cos * b
        lows.append((x - reach_x, y - reach_y, z - c))
        highs.append((x + reach_x, y + reach_y, z + c))
    west, south, bottom = map(min, zip(*lows, strict=True))
    east, north, top = map(max, zip(*highs, strict=True))
    return (west, south, bottom), (east, north, top)


# How likely, where, and what. The large things come first, while there is space.
_FURNITURE: tuple[tuple[float, Callable[[_Room, Piece], None], Callable[[Generator], Piece]], ...] = (
    (0.6, _Room.put_on_floor, table_with_chairs),
    (0.45, _Room.put_at_wall, bed),
    (0.5, _Room.put_at_wall, sofa),
    (0.6, _Room.put_at_wall, table),
    (0.6, _Room.put_at_wall, bookcase),
    (0.7, _Room.put_at_wall, cabinet),
    (0.5, _Room.put_at_wall, tv_stand),
    (0.5, _Room.put_at_wall, window),
    (0.5, _Room.put_at_wall, cabinet),
    (0.4, _Room.put_at_wall, bookcase),
    (0.6, _Room.put_at_wall, window),
    (0.9, _Room.put_at_wall, picture),
    (0.7, _Room.put_at_wall, picture),
    (0.5, _Room.put_at_wall, picture),
    (0.4, _Room.put_on_floor, rug),
    (0.6, _Room.put_on_floor, chair),
    (0.4, _Room.put_on_floor, chair),
    (0.7, _Room.put_on_floor, thing),
    (0.7, _Room.put_on_floor, thing),
    (0.5, _Room.put_on_floor, thing),
    (0.4, _Room.put_on_floor, books),
)
