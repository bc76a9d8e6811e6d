"""A folder of images and labels of your own: files of the same name, one folder for each label.

    ROOT/train, ROOT/val, each with
    image/NAME.jpg           any color picture, or a .npy [H, W, 3] in 0..1
    segmentation/NAME.png    class indices: gray or palette, or a .npy [H, W]
    depth/NAME.png           16 bits, times ``meters``, or a .npy [H, W]; 0 = invalid
    normals/NAME.png         (n + 1) / 2 in 8 bits, or a .npy [H, W, 3] in -1..1; zero = invalid

An image without a file of some label has no valid pixel there: it does not train that task.

ROOT/video, if it is there, is like the others and holds videos for `evaluate --split video --keyframes ...`.
Frames of one video have names that differ in the number at their end: yard-0001, yard-0002.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import numpy as np

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data.base import Data, Dataset, Sample
from edgemtl.data.labels import ClassFiles, DepthFiles, LabelFiles, NormalFiles, load_image
from edgemtl.data.reading import SUFFIXES, names_in

IMAGE = "image"
CACHE_LIMIT_MIB = 1024
Side = Annotated[int, msgspec.Meta(ge=1)]


class FileData(Data, frozen=True, kw_only=True):
    """What datasets of files have in common.

    ``size`` (height, width) resizes what is read, and is needed where images differ in size. ``holdout``
    takes so many images, spread evenly, out of the training set and makes a split of its own from them.
    ``cache`` keeps what was read of a split in memory if all of it takes less than 1 GiB there.
    """

    complete: ClassVar[bool] = False  # whether every image must have every label
    source: ClassVar[str] = "Let `root` have train/ and val/, each with image/ and one folder for each label."

    root: str
    size: tuple[Side, Side] | None = None
    holdout: Annotated[int, msgspec.Meta(ge=0)] = 0
    cache: bool = True

    @property
    def files(self) -> Mapping[str, LabelFiles]:
        """How the files of each label are read, by its name."""
        raise NotImplementedError

    @property
    def splits(self) -> tuple[str, ...]:
        """``train`` and ``val``, ``holdout`` where the recipe asks for it, ``video`` where there is one."""
        more = {"holdout": self.holdout, "video": (self._root / "video").is_dir()}
        return ("train", "val", *(split for split, is_there in more.items() if is_there))

    @property
    def image_size(self) -> tuple[int, int]:
        """``size``, or that of the first image."""
        return self.size or super().image_size

    def dataset(self, split: str) -> FileSplit:
        """Open a split: its first sample is read, the others when they are asked for."""
        self.check_split(split)
        folder = self._root / ("train" if split == "holdout" else split)
        entries = find_entries(folder, self.files, self.source, complete=self.complete)
        if folder.name == "train" and self.holdout:
            entries = self._divide(folder, entries)[split]
        videos = _videos(entries) if split == "video" else []
        if videos:
            entries = [entry for video in videos for entry in video]
        for label in self.files:
            if not any(label in entry.labels for entry in entries):
                raise DataError(
                    folder,
                    expected=f"an image of `{split}` with the label `{label}`",
                    found=f"none among {len(entries)}",
                    fix="Label some, leave the label out, or change `holdout`.",
                )
        found = FileSplit(folder.name, entries, self.files, self.size, cache=self.cache)
        found.firsts = frozenset(accumulate(map(len, videos[:-1]), initial=0)) if videos else frozenset()
        return found

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    def _divide(self, folder: Path, entries: list[Entry]) -> dict[str, list[Entry]]:
        if self.holdout >= len(entries):
            raise DataError(
                folder,
                expected=f"more than the {self.holdout} images to hold out",
                found=str(len(entries)),
                fix="Use a smaller `holdout`.",
            )
        held = {index * len(entries) // self.holdout for index in range(self.holdout)}
        return {
            "holdout": [entry for index, entry in enumerate(entries) if index in held],
            "train": [entry for index, entry in enumerate(entries) if index not in held],
        }


class Folder(FileData, frozen=True, kw_only=True, tag="folder"):
    """Images and labels of your own. A task reads the label that is named as its type, or its ``label``."""

    labels: Annotated[dict[str, ClassFiles | DepthFiles | NormalFiles], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if IMAGE in self.labels:
            raise UsageError(
                "$.data.labels",
                expected="names of labels",
                found=f"`{IMAGE}`, which are the images",
                fix="Name it otherwise, and say where it lies with `folder`.",
            )

    @property
    def name(self) -> str:
        """With the last part of ``root``: another folder is other data."""
        return f"folder {Path(self.root).name}"

    @property
    def files(self) -> Mapping[str, LabelFiles]:
        """As the recipe says."""
        return self.labels


class Entry(NamedTuple):
    """The files of one image; those of labels by the label's name, as far as there are any."""

    name: str
    image: Path
    labels: Mapping[str, Path]


class FileSplit(Dataset):
    """The images of ``entries``, one at least. ``name`` is that of the split's folder."""

    def __init__(
        self,
        name: str,
        entries: Sequence[Entry],
        files: Mapping[str, LabelFiles],
        size: tuple[int, int] | None,
        *,
        cache: bool,
    ) -> None:
        self._name, self._entries, self._files = name, entries, files
        self.labels = {label: file.info for label, file in files.items()}
        height, width = size or load_image(entries[0].image).shape[-2:]
        self._resize, self.size = size is not None, (height, width)
        first = self._read(entries[0])
        mib = sum(t.nbytes for t in (first.image, *first.labels.values())) * len(entries) / 2**20
        self._cache = _Cache(first, len(entries)) if cache and mib < CACHE_LIMIT_MIB else None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        if self._cache is None:
            return self._read(self._entries[index])
        if not self._cache.known[index]:
            self._cache.keep(index, self._read(self._entries[index]))
        return self._cache[index]

    def preload(self) -> None:
        """Read and check all samples, if they stay in memory."""
        if self._cache is not None:
            for index in range(len(self)):
                self[index]

    def _read(self, entry: Entry) -> Sample:
        image = load_image(entry.image)
        size = image.shape[-2], image.shape[-1]
        if size != self.size and not self._resize:
            raise DataError(
                entry.image,
                expected=f"shape {[*self.size, 3]}, as the first image has it",
                found=str([*size, 3]),
                fix="Set `size` in the recipe's data.",
            )
        labels = {}
        for label, file in self._files.items():
            path = entry.labels.get(label)
            labels[label] = file.info.blank(size) if path is None else file.load(path, size)
        sample = Sample(f"{self._name}/{entry.name}", image, labels)
        return sample if size == self.size else sample.resized(self.size)


class _Cache:
    """Samples like the first, in one tensor for all: memory that few handles share between processes."""

    def __init__(self, first: Sample, images: int) -> None:
        self.known = np.zeros(images, dtype=bool)
        self._ids = [""] * images
        self._image = first.image.new_empty(images, *first.image.shape)
        self._labels = {name: label.new_empty(images, *label.shape) for name, label in first.labels.items()}

    def __getitem__(self, index: int) -> Sample:
        """A sample that is known, as a view."""
        labels = {name: label[index] for name, label in self._labels.items()}
        return Sample(self._ids[index], self._image[index], labels)

    def keep(self, index: int, sample: Sample) -> None:
        self._ids[index], self._image[index] = sample.id, sample.image
        for name, label in sample.labels.items():
            self._labels[name][index] = label
        self.known[index] = True


def find_entries(
    folder: Path, files: Mapping[str, LabelFiles], source: str, *, complete: bool
) -> list[Entry]:
    """The images of a split's folder, with what labels they have. ``source`` says how to get them.

    Raises:
        DataError: a folder has no files, or a label has no image; with ``complete``, an image lacks a label.
    """
    folders = {
        IMAGE: folder / IMAGE,
        **{name: folder / (file.folder or name) for name, file in files.items()},
    }
    paths = {name: names_in(path) for name, path in folders.items()}
    everything = {name: path for found in paths.values() for name, path in found.items()}
    for kind, found in paths.items():
        if not found:
            raise DataError(
                folders[kind],
                expected=f"files ({', '.join(SUFFIXES)})",
                found="none",
                fix=source,
            )
        missing = [path for name, path in everything.items() if name not in found]
        if missing and kind == IMAGE and not complete:
            raise DataError(
                missing[0],
                expected=f"an image of that name in {folders[IMAGE]}",
                found="none",
                fix=f"Add the image, or remove the label ({len(missing)} are without).",
            )
        if missing and complete:
            raise DataError(
                folders[kind] / missing[0].name,
                expected=f"the same files in each of {', '.join(path.name for path in folders.values())}",
                found=f"{len(missing)} missing here",
                fix="Copy or prepare the set again.",
            )
    images = paths.pop(IMAGE)
    return [
        Entry(name, image, {kind: found[name] for kind, found in paths.items() if name in found})
        for name, image in images.items()
    ]


def _videos(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The frames of each video by their numbers, the videos in the order of their first frames."""
    videos: dict[str, list[tuple[int, Entry]]] = {}
    for entry in entries:
        video = re.sub(r"\d*$", "", entry.name)
        videos.setdefault(video, []).append((int(entry.name[len(video) :] or 0), entry))
    return [[entry for _, entry in sorted(frames)] for frames in videos.values()]
