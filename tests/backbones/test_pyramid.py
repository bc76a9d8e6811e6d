from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.backbones.pyramid import Level, pyramid_stages

LEVELS = [Level("fine", 8, 4), Level("middle", 12, 8), Level("coarse", 16, 16)]


def test_stages_go_from_coarse_to_fine() -> None:
    found = [(s.name, s.reads, s.channels, s.reduction) for s in pyramid_stages(LEVELS, 6)]
    assert found == [
        ("pyramid3", ("coarse",), 6, 16),
        ("pyramid2", ("pyramid3", "middle"), 6, 8),
        ("pyramid1", ("pyramid2", "fine"), 6, 4),
    ]


def test_one_level_is_projected() -> None:
    (stage,) = pyramid_stages(LEVELS[:1], 6)
    assert stage(stage.module, {"fine": torch.rand(2, 8, 5, 7)})["pyramid1"].shape == (2, 6, 5, 7)


@pytest.mark.parametrize("sizes", [[(16, 24), (8, 12)], [(5, 7), (3, 4)], [(5, 7), (2, 3)]], ids=str)
def test_a_coarse_feature_is_brought_to_the_size_of_the_fine(sizes: list[tuple[int, int]]) -> None:
    fine, coarse = sizes
    stages = pyramid_stages(LEVELS[:2], 6)
    known = {"fine": torch.rand(2, 8, *fine), "middle": torch.rand(2, 12, *coarse)}
    for stage in stages:
        known.update(stage(stage.module, known))
    assert known["pyramid1"].shape == (2, 6, *fine)


def test_the_fine_feature_is_added_to_the_coarse() -> None:
    merge = pyramid_stages(LEVELS[:2], 8)[-1].module
    merge.lateral = merge.smooth = nn.Identity()
    coarse, fine = torch.rand(1, 8, 1, 1), torch.rand(1, 8, 2, 3)
    torch.testing.assert_close(merge(coarse, fine), coarse + fine)
