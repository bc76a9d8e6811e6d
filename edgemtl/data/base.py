"""What every dataset is: splits of samples, opened from a spec that a recipe can hold.

To add one, write a file with a ``Data`` and a ``Dataset`` in it and name the former in ``DataSpec``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from edgemtl.core.errors import UsageError, nearest
from edgemtl.data.augment import Augment
from edgemtl.data.sample import Batch, LabelInfo, Sample

__all__ = ["Augment", "Batch", "Data", "Dataset", "LabelInfo", "Sample"]  # all that a dataset's file needs


class Dataset(ABC):
    """A split: samples by index, the same at every call and in every process."""

    size: tuple[int, int]  # (height, width) of every image
    labels: dict[str, LabelInfo]
    # Where samples are the frames of videos, one video after the other: those that a video begins with.
    firsts: frozenset[int] = frozenset()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def preload(self) -> None:
        """Read now what stays in memory, so that processes that fork later share it; by default nothing does.

        Raises:
            DataError: a sample cannot be read.
        """
        return


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every dataset's spec; a member lives in a file of its own and joins ``DataSpec``.

    ``augment`` says how training samples are varied.
    """

    augment: Augment = Augment()

    @property
    def name(self) -> str:
        """What reports call it: scores on data of different names are not compared."""
        return str(self.__struct_config__.tag)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that ``dataset`` takes; the first is the one to train on."""
        return ("train", "val")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images. A member whose spec says so need not open them.

        Raises:
            DataError: as ``dataset``.
        """
        return self.dataset(self.splits[0]).size

    def dataset(self, split: str) -> Dataset:
        """Open a split.

        Raises:
            UsageError: there is no split of this name.
            DataError: it is missing, empty or damaged (which file).
        """
        raise NotImplementedError

    def check_split(self, split: str) -> None:
        """Raises UsageError: there is no split of this name."""
        if split not in self.splits:
            raise UsageError(
                "--split",
                expected=f"a split of {self.name}",
                found=f"`{split}`",
                fix=nearest(split, self.splits),
            )
