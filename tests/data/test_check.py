from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError
from edgemtl.data.base import Dataset, LabelInfo, Sample
from edgemtl.data.check import check

SIZE = (2, 4)


def sound(index: int) -> Sample:
    """The left half is unlabeled; the rest is class ``index``, ``index`` + 1 meters away, and faces us."""
    right = torch.arange(4).expand(SIZE) >= 2
    facing = torch.tensor([0.0, 0.0, -1.0])[:, None, None]
    return Sample(
        f"s{index}",
        torch.full((3, *SIZE), 0.5),
        {
            "classes": torch.where(right, index, -1),
            "depth": torch.where(right, index + 1.0, 0.0)[None],
            "normals": torch.where(right, facing, 0.0),
        },
    )


class Samples(Dataset):
    size = SIZE

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.labels = {
            "classes": LabelInfo("classes", ("a", "b", "c")),
            "depth": LabelInfo("depth"),
            "normals": LabelInfo("normals"),
        }

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def test_it_says_what_is_there() -> None:
    found = check(Samples([sound(0), sound(0), sound(2), sound(0)]))
    assert (found.images, found.size) == (4, SIZE)
    assert {name: label.valid for name, label in found.labels.items()} == {
        "classes": 0.5,
        "depth": 0.5,
        "normals": 0.5,
    }
    assert found.labels["classes"].classes == {"a": 0.75, "b": 0.0, "c": 0.25}
    assert found.labels["depth"].depth_m == (1.0, 3.0)


def test_a_limit_reads_no_more() -> None:
    unreadable = replace(sound(1), image=torch.full((3, *SIZE), 2.0))
    assert check(Samples([sound(0), sound(1), unreadable]), limit=2).images == 2
    assert check(Samples([sound(0)]), limit=5).images == 1


def test_a_label_that_nobody_gave_is_no_error() -> None:
    sample = sound(0)
    sample.labels["depth"] = torch.zeros(1, *SIZE)
    sample.labels["classes"] = torch.full(SIZE, -1)
    found = check(Samples([sample])).labels
    assert (found["depth"].valid, found["depth"].depth_m) == (0.0, None)
    assert (found["classes"].valid, found["classes"].classes) == (0.0, {"a": 0.0, "b": 0.0, "c": 0.0})


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("classes", torch.full(SIZE, 3), r"s1 classes: expected values in -1\.\.2, found 3\.\.3"),
        ("classes", torch.full(SIZE, -2), r"found -2\.\.-2"),
        ("classes", torch.zeros(SIZE), "torch.int64"),
        ("depth", torch.full((1, *SIZE), -1.0), r"s1 depth: expected values in 0\.\."),
        ("depth", torch.full((1, *SIZE), torch.nan), r"found nan\.\.nan"),
        ("depth", torch.full((1, *SIZE), torch.inf), r"found inf\.\.inf"),
        ("depth", torch.ones(SIZE), r"expected torch.float32 \[1, 2, 4\], found torch.float32 \[2, 4\]"),
        ("normals", torch.ones(3, *SIZE), "s1 normals: expected vectors of length 1"),
        ("normals", torch.full((3, *SIZE), 0.3), r"found 0\.5\d+\.\.0\.5\d+"),
        ("normals", torch.full((3, *SIZE), torch.nan), "expected vectors of length 1"),
        ("extra", torch.ones(SIZE), "s1 labels: expected classes, depth, normals"),
    ],
)
def test_a_label_that_breaks_the_promise_is_named(label: str, value: torch.Tensor, message: str) -> None:
    broken = sound(1)
    broken.labels[label] = value
    with pytest.raises(DataError, match=message):
        check(Samples([sound(0), broken]))


@pytest.mark.parametrize(
    "image", [torch.full((3, *SIZE), 1.5), torch.full((3, *SIZE), torch.nan), torch.zeros(3, 4, 2)]
)
def test_an_image_that_breaks_the_promise_is_named(image: torch.Tensor) -> None:
    with pytest.raises(DataError, match="s0 image"):
        check(Samples([replace(sound(0), image=image)]))
