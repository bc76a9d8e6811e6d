"""NYUv2 (Silberman et al. 2012) in the directory layout of the MTAN release (Liu et al. 2019).

    ROOT/train, ROOT/val, each with
    image/K.npy   [H, W, 3] in 0..1       label/K.npy   [H, W], -1 = unlabeled, 0..12
    depth/K.npy   [H, W, 1] in meters     normal/K.npy  [H, W, 3], x right, y down, z forward

A depth of 0 and a normal of zero are invalid. Any type of number will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgemtl.data.folder import FileData
from edgemtl.data.labels import ClassFiles, DepthFiles, LabelFiles, NormalFiles

CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)


class NYUv2(FileData, frozen=True, kw_only=True, tag="nyuv2"):
    """795 images to train on and 654 for validation, of rooms, with 13 classes, depth and normals."""

    complete: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Unpack the release of MTAN (https://github.com/lorenmt/mtan) there; scenes_quickstart needs no data."
    )

    @property
    def files(self) -> Mapping[str, LabelFiles]:
        """As the release has them."""
        return {
            "segmentation": ClassFiles(folder="label", names=CLASSES, void=()),
            "depth": DepthFiles(folder="depth", farthest=100),  # no room is so deep: catches millimeters
            "normals": NormalFiles(folder="normal"),
        }
