from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch

from edgemtl.backbones import Timm, load_weights
from edgemtl.core.errors import SetupError, UsageError

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
    timm = None
    REASON = f"timm does not import: {error}"
else:
    REASON = ""

with_timm = pytest.mark.skipif(timm is None, reason=REASON)


@pytest.mark.skipif(timm is not None, reason="timm imports")
def test_without_timm_the_message_says_how_to_get_it() -> None:
    with pytest.raises(SetupError, match=r"pip install 'edgemtl\[timm\]'"):
        Timm(model="resnet18").stages()


@with_timm
def test_an_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"\$\.backbone\.model: .* found `resnet81`. Did you mean `resnet18`\?"
    ):
        Timm(model="resnet81").stages()


@with_timm
def test_the_encoder_writes_every_level_and_the_pyramid_reads_them() -> None:
    encoder, *pyramid = Timm(model="resnet18", width=8).stages()
    assert encoder.writes == ("encoder", "encoder.1", "encoder.2", "encoder.3", "encoder.4")
    assert (encoder.channels, encoder.reduction) == (512, 32)
    assert [(stage.name, stage.reads[-1], stage.reduction) for stage in pyramid] == [
        ("pyramid5", "encoder", 32),
        ("pyramid4", "encoder.1", 16),
        ("pyramid3", "encoder.2", 8),
        ("pyramid2", "encoder.3", 4),
        ("pyramid1", "encoder.4", 2),
    ]


# Families whose parts timm renames when it is asked for features in the usual way.
@with_timm
@pytest.mark.parametrize("model", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "ghostnet_050"])
def test_timm_s_own_weights_fill_the_whole_encoder(tmp_path: Path, model: str) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model(model, pretrained=False).state_dict(), path)
    spec = Timm(model=model, width=8)
    encoder = spec.stages()[0]
    assert load_weights({"encoder": encoder.module}, path, spec.stage_key).unfilled == ()


@with_timm
def test_the_normalization_is_that_of_the_pretrained_weights() -> None:
    (encoder, *_) = Timm(model="inception_v3").stages()
    assert encoder.module.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
