"""Datasets: images with labels, the same at every call. One file a dataset; to add one, write its file and
name it in ``DataSpec``."""

from edgemtl.data.base import Augment, Batch, Data, Dataset, LabelInfo, Sample
from edgemtl.data.folder import Folder
from edgemtl.data.nyuv2 import NYUv2
from edgemtl.data.scenes import Scenes

DataSpec = Scenes | NYUv2 | Folder

__all__ = [
    "Augment",
    "Batch",
    "Data",
    "DataSpec",
    "Dataset",
    "Folder",
    "LabelInfo",
    "NYUv2",
    "Sample",
    "Scenes",
]
