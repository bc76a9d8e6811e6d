"""Tasks: head, loss, metrics and what the output means. One file a task; to add one, write its file and name
it in ``TaskSpec``."""

from edgemtl.tasks.base import Head, LossSum, Meter, Task
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.segmentation import Segmentation

TaskSpec = Segmentation | Depth | Normals

__all__ = ["Depth", "Head", "LossSum", "Meter", "Normals", "Segmentation", "Task", "TaskSpec"]
