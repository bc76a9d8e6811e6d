"""Distillation from single-task teachers (Li and Bilen, "Knowledge Distillation for Multi-Task Learning",
ECCV workshops 2020, arXiv 2007.06889).

To the loss of each task t is added

    weight * mean over pixels of || n(A_t f) - n(f_t) ||^2

with f [B, C, h, w] the feature that enters the task's head, f_t the same of its teacher, n the scaling of
each pixel's channels to length 1, and A_t an adaptor: a 1x1 convolution without bias, which is trained along
and is no part of the network. The term joins its task's loss after balancing, as in the paper: a balancer
judges how the tasks learn their labels, not how far their teachers are.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.core.errors import UsageError
from edgemtl.model import Features, MultitaskModel
from edgemtl.modes import evaluating
from edgemtl.tasks.base import LossSum
from edgemtl.training.optim import Positive


class Distill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``teachers``: a folder of twins, or a run that has one. ``weight``: that of the terms above, which
    balancing leaves as it is.
    """

    teachers: str
    weight: Positive = 1.0

    def build(
        self, student: MultitaskModel, teachers: Mapping[str, MultitaskModel], size: tuple[int, int]
    ) -> Distiller:
        """A distiller into a student that trains on images of (height, width).

        Raises:
            UsageError: the features of a teacher are of another (height, width) than the student's.
        """
        blank = torch.zeros(1, 3, *size)
        own = _features(student, blank)
        channels = {}
        for task, teacher in teachers.items():
            theirs = _features(teacher, blank)[task]
            (_, inputs, *here), (_, outputs, *there) = own[task].shape, theirs.shape
            if here != there:
                raise UsageError(
                    "$.training.distill.teachers",
                    expected=f"features of {here[0]}x{here[1]} for the head of {task}, as in this network",
                    found=f"{there[0]}x{there[1]} in {self.teachers}",
                    fix="Use twins of a backbone that reduces the image as much.",
                )
            channels[task] = (inputs, outputs)
        return Distiller(teachers, channels, self.weight)


class Distiller(nn.Module):
    """Teachers, and the adaptors to them, which alone are trained, saved and resumed.

    Args:
        teachers: the network of each task, in eval mode, without gradients.
        channels: of each task, those of the student's feature and of the teacher's.
        weight: see ``Distill``.
    """

    def __init__(
        self, teachers: Mapping[str, MultitaskModel], channels: Mapping[str, tuple[int, int]], weight: float
    ) -> None:
        super().__init__()
        self.weight = weight
        self.teachers = nn.ModuleDict(teachers)
        self.adaptors = nn.ModuleDict(
            {task: nn.Conv2d(inputs, outputs, 1, bias=False) for task, (inputs, outputs) in channels.items()}
        )
        for adaptor in self.adaptors.children():
            # A twin starts from the same weights as its run, so its channels mean the same at first.
            nn.init.dirac_(adaptor.get_parameter("weight"))
        self._seen: tuple[Tensor, dict[str, Tensor]] | None = None

    def forward(self, image: Tensor, features: Mapping[str, Tensor]) -> dict[str, LossSum]:
        """[B, 3, H, W] and the student's feature of each task, or of some -> the sum over pixels of each."""
        targets = self._targets(image)
        return {
            task: _distance(_unit(self.adaptors[task](feature)), targets[task])
            for task, feature in features.items()
        }

    @torch.no_grad()
    def _targets(self, image: Tensor) -> dict[str, Tensor]:
        # Alternating updates come several times with one batch: the teachers run once.
        if self._seen is None or self._seen[0] is not image:
            found = {}
            for task, teacher in self.teachers.items():
                assert isinstance(teacher, MultitaskModel)
                found[task] = _unit(teacher.features(image)[task])
            self._seen = image, found
        return self._seen[1]


@torch.no_grad()
def _features(model: MultitaskModel, image: Tensor) -> Features:
    with evaluating(model):
        return model.features(image)


def _unit(feature: Tensor) -> Tensor:
    # At a pixel where all channels are near 0 the gradient is about 1 / eps: the default 1e-12 would explode.
    return F.normalize(feature.float(), dim=1, eps=1e-4)


def _distance(a: Tensor, b: Tensor) -> LossSum:
    squared = (a - b).square().sum(dim=1)
    return LossSum(squared.sum(), torch.tensor(squared.numel(), device=squared.device))
