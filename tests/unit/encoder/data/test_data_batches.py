"""How EMSEncoder fills the batches of a network with layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_contract import SENTENCES
from encoder_tiny import build, layered_network, plain_network
from torch import nn

from emsmine.encoder import ems
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model


def encoder_of(config: NetworkConfig, spm: Path, folder: Path) -> EMSEncoder:
    save_model(build(config), spm, folder, name="tiny", table="float32")
    return EMSEncoder(folder, device="cpu")


def tokens_seen(encoder: EMSEncoder, sentences: Sequence[str]) -> list[int]:
    """Encode and return the number of tokens of every batch."""
    seen: list[int] = []

    def watch(_network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        ids, offsets = inputs
        assert offsets[-1] == len(ids)
        seen.append(len(ids))

    handle = encoder.network.register_forward_pre_hook(watch)
    encoder.encode(sentences, lang="eng_Latn")
    handle.remove()
    return seen


# Budgets of one, of a few and of all sentences a batch.
@pytest.mark.parametrize("budget", [1, 40, 1024])
@pytest.mark.parametrize("positions", ["learned", "none"])
def test_filling_makes_few_sizes_and_changes_no_vector(
    budget: int, positions: str, spm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(layered_network(positions=positions), spm_path, tmp_path)
    monkeypatch.setattr(ems, "TOKENS_PER_BATCH", budget)
    monkeypatch.setattr(ems, "TOKENS_MULTIPLE", 1)
    expected = encoder.encode(SENTENCES, lang="eng_Latn")
    without = tokens_seen(encoder, SENTENCES)
    monkeypatch.setattr(ems, "TOKENS_MULTIPLE", 16)
    filled = tokens_seen(encoder, SENTENCES)
    assert any(tokens % 16 for tokens in without), "these sentences show nothing"
    assert filled == [-(-tokens // 16) * 16 for tokens in without]
    np.testing.assert_allclose(encoder.encode(SENTENCES, lang="eng_Latn"), expected, atol=1e-6)


def test_a_mean_of_subword_vectors_is_not_filled(spm_path: Path, tmp_path: Path) -> None:
    encoder = encoder_of(plain_network(), spm_path, tmp_path)
    packed, _ = encoder.tokenizer.encode(["the baker paints a boat"], 24)
    assert len(packed.ids) % ems.TOKENS_MULTIPLE
    assert tokens_seen(encoder, ["the baker paints a boat"]) == [len(packed.ids)]
