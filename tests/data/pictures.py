"""A small set of a user's own pictures, for the tests of datasets of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgemtl.data.folder import Folder
from edgemtl.data.labels import ClassFiles, DepthFiles, NormalFiles

SIZE = (6, 8)
NAMES = ("road", "car", "sky")
VOID = 255


def folder(root: Path, **others: object) -> Folder:
    """The spec of what ``write`` writes."""
    labels = {
        "segmentation": ClassFiles(names=NAMES),
        "depth": DepthFiles(folder="distance", meters=0.001),
        "normals": NormalFiles(),
    }
    return Folder(root=str(root), **{"labels": labels, **others})  # type: ignore[arg-type]


def write(root: Path, images: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """Random pictures in the layout of ``folder``; image 1 of each split has no depth."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(images):
            normal = rng.normal(size=(*size, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            classes = rng.integers(0, len(NAMES), size).astype(np.uint8)
            classes[0, 0] = VOID
            pictures = {
                "image": Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)),
                "segmentation": Image.fromarray(classes),
                "distance": Image.fromarray(rng.integers(500, 9000, size).astype(np.uint16)),
                "normals": Image.fromarray(np.rint((normal + 1) * 127.5).astype(np.uint8)),
            }
            if index == 1:
                del pictures["distance"]
            for kind, picture in pictures.items():
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                picture.save(root / split / kind / f"{index}.png")
    return root
