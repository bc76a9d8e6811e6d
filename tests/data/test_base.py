from __future__ import annotations

from typing import get_args

import msgspec
import pytest

torch = pytest.importorskip("torch")

from edgemtl.data import Augment, Data, DataSpec


@pytest.mark.parametrize("member", get_args(DataSpec), ids=lambda member: member.__name__)
def test_every_dataset_takes_an_augmentation(member: type[Data]) -> None:
    fields = {"type": member.__struct_config__.tag, "augment": {"flip": False, "crop": [8, 8]}}
    needed = {"root": "x", "labels": {"depth": {"type": "depth"}}}
    required = {f.name: needed[f.name] for f in msgspec.structs.fields(member) if f.required}
    spec = msgspec.convert({**fields, **required}, DataSpec)
    assert spec.augment == Augment(flip=False, crop=(8, 8))
    assert spec.splits[:2] == ("train", "val")


@pytest.mark.parametrize(
    ("augment", "path"),
    [
        ({"scales": []}, r"\$\.augment\.scales"),
        ({"scales": [1.0, 0.0]}, r"\$\.augment\.scales"),
        ({"crop": [8]}, r"\$\.augment\.crop"),
        ({"crop": [8, 0]}, r"\$\.augment\.crop"),
        ({"flop": True}, "flop"),
    ],
)
def test_an_impossible_augmentation_is_refused_with_its_path(augment: dict[str, object], path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=path):
        msgspec.convert({"type": "scenes", "augment": augment}, DataSpec)
