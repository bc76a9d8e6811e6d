"""The network that a recipe describes."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import torch

from edgemtl.backbones import load_weights
from edgemtl.model import MultitaskModel
from edgemtl.recipe import Recipe

_LOG = logging.getLogger(__name__)


def build_model(recipe: Recipe, *, pretrained: bool = False) -> MultitaskModel:
    """The network that a recipe describes, initialized from its seed, or from ``backbone.weights`` besides.

    Raises:
        DataError: the pretrained weights are missing, damaged or of another network.
    """
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)  # a user's own backbone may draw from any
    np.random.seed(recipe.seed % 2**32)
    stages = recipe.backbone.stages()
    if pretrained and recipe.backbone.weights:
        modules = {stage.name: stage.module for stage in stages}
        loaded = load_weights(modules, Path(recipe.backbone.weights).expanduser(), recipe.backbone.stage_key)
        _LOG.warning(
            "%s: %d tensors filled; %d of the backbone are not in it; %d of it are not used",
            recipe.backbone.weights,
            len(loaded.filled),
            len(loaded.unfilled),
            len(loaded.unused),
        )
    plan = recipe.plan.build(tuple(recipe.tasks), tuple(stage.name for stage in stages))
    return MultitaskModel(stages, recipe.tasks, plan, recipe.kernel)
