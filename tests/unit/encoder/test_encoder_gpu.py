"""Training on a GPU: the precisions that need one, and resuming. Skipped elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import dense_training, sparse_training

from emsmine.encoder.training.checkpoints import load_checkpoint
from emsmine.encoder.training.run import train

DEVICE = "cuda"

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def weights(output: Path) -> dict[str, Any]:
    state = load_checkpoint(output, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 20
    model: dict[str, Any] = state["model"]
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", [sparse_training, dense_training], ids=["plain-sparse", "layer-dense-xtr"])
def test_twenty_steps_are_ten_and_a_resumed_ten(
    kind: Any, precision: str, pairs: Path, spm_path: Path, tmp_path: Path
) -> None:
    whole, half = (kind(pairs, tmp_path / name, spm_path, run={"precision": precision}) for name in ("whole", "half"))
    train(whole, device=DEVICE)
    train(half, device=DEVICE, stop_after=10)
    torch.manual_seed(99)  # nothing outside the checkpoint may matter
    train(half, device=DEVICE)
    resumed = weights(tmp_path / "half")
    for name, expected in weights(tmp_path / "whole").items():
        # Not bit by bit: a GPU adds up the gradients of a table in no fixed order.
        torch.testing.assert_close(resumed[name], expected, rtol=1e-2, atol=1e-3)
