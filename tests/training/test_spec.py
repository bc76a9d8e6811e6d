from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import UsageError
from edgemtl.training.spec import Training


def test_a_spec_survives_plain_data() -> None:
    spec = Training(epochs=3, ema=0.99, clip_norm=1.0, precision="bf16")
    assert msgspec.convert(msgspec.to_builtins(spec), Training) == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("batch", 2.5),
        ("update", "jointly"),
        ("aggregation", "mean"),
        ("precision", "fp8"),
        ("clip_norm", 0),
        ("ema", 1.0),
        ("ema", 0),
        ("devices", 0),
        ("nodes", -1),
        ("workers", -1),
        ("accelerator", "tpu"),
        ("checkpoint_every_s", 0),
        ("optimizer", "adam"),
        ("epoch", 3),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: value}, Training)


def test_processes_share_a_batch_evenly() -> None:
    assert Training(batch=6, devices=3).batch == 6
    with pytest.raises(UsageError, match=r"\$\.training\.batch: .* the 4 processes .* found 6\. Use 8\."):
        Training(batch=6, devices=2, nodes=2)
