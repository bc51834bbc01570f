"""A training that starts from a model gives that model's vectors before its first step."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import (
    VOCAB,
    build,
    dense_training,
    layered_network,
    plain_network,
    sparse_training,
    tensors,
    train_tiny_tokenizer,
)

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.network import Layer, Network
from emsmine.encoder.training.initialise import initialise, model_folder
from emsmine.encoder.training.run import train
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.errors import ConfigError

BATCH = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [7, 6, 5]]
PRE = {"layer_norm": "pre", "embedding_norm": False, "embedding_dropout": 0.0}


def saved(config: NetworkConfig, folder: Path, tokenizer: Path) -> tuple[Network, str]:
    network = build(config)
    save_model(network, tokenizer, folder, name="start", table="float32")
    return network, f"ems:{folder}"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (plain_network(), plain_network()),
        (plain_network(), layered_network(**PRE)),
        (plain_network(), layered_network(**PRE, positions="none")),
        (layered_network(), layered_network(hidden_dropout=0.3)),
        (layered_network(layer_norm="pre", num_layers=1), layered_network(layer_norm="pre", num_layers=3)),
    ],
    ids=["same", "layers-and-positions", "layers", "same-with-layers", "more-layers"],
)
def test_vectors_are_those_of_the_model(
    given: NetworkConfig, wanted: NetworkConfig, spm_path: Path, tmp_path: Path
) -> None:
    source, spec = saved(given, tmp_path / "start", spm_path)
    network = build(wanted, seed=5)
    initialise(network, spec, "none")
    with torch.inference_mode():
        torch.testing.assert_close(network(*tensors(BATCH)), source(*tensors(BATCH)), rtol=0, atol=1e-6)


def test_new_layers_can_learn(spm_path: Path, tmp_path: Path) -> None:
    _, spec = saved(plain_network(), tmp_path / "start", spm_path)
    network = build(layered_network(**PRE), seed=5)
    initialise(network, spec, "none")
    network(*tensors(BATCH)).square().sum().backward()
    for layer in network.layers:
        assert isinstance(layer, Layer)
        for linear in (layer.attention_output, layer.ffn_output):
            assert linear.weight.grad is not None
            assert float(linear.weight.grad.abs().max()) > 0
        # Were the first matrices zero as well, no gradient would ever pass.
        assert float(layer.ffn_input.weight.detach().abs().max()) > 0


@pytest.mark.parametrize(
    ("given", "wanted", "named"),
    [
        ({}, plain_network(dim=32), r"network\.dim 32 \(there 16\)"),
        ({}, layered_network(embedding_norm=True, layer_norm="pre"), r"network\.embedding_norm True \(there False\)"),
        ({}, layered_network(embedding_norm=False), r"only be added with network\.layer_norm = 'pre'"),
        (
            {"num_layers": 2, "num_heads": 4, "ffn_dim": 24},
            layered_network(embedding_norm=False, ffn_dim=32, num_heads=2, positions="none"),
            r"network\.num_heads 2 \(there 4\), network\.ffn_dim 32 \(there 24\)",
        ),
        (
            {"num_layers": 2, "num_heads": 4, "ffn_dim": 24},
            plain_network(num_heads=4, ffn_dim=24),
            r"num_layers is 0, and cannot be fewer",
        ),
        ({"positions": "learned"}, plain_network(), r"network\.positions 'none' \(there 'learned'\)"),
        ({"positions": "learned"}, plain_network(positions="learned", max_tokens=12), r"max_tokens 12 \(there 24\)"),
    ],
)
def test_a_network_that_cannot_start_so_is_refused(
    given: dict[str, Any], wanted: NetworkConfig, named: str, spm_path: Path, tmp_path: Path
) -> None:
    _, spec = saved(plain_network(**given), tmp_path / "start", spm_path)
    with pytest.raises(ConfigError, match=named):
        initialise(build(wanted), spec, "none")


def test_another_preprocessing_is_refused(spm_path: Path, tmp_path: Path) -> None:
    _, spec = saved(plain_network(), tmp_path / "start", spm_path)
    with pytest.raises(ConfigError, match=r"data\.preprocessing is 'ems', but .* was trained with 'none'"):
        initialise(build(plain_network()), spec, "ems")


@pytest.mark.parametrize("spec", ["sentence-transformers:LaBSE", "default", "ems:"])
def test_only_our_models(spec: str) -> None:
    with pytest.raises(ConfigError, match="must be ems:NAME or ems:FOLDER"):
        model_folder(spec)


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="nothing-like-it"):
        model_folder("ems:nothing-like-it")


def _started(config: TrainingConfig, spec: str, **optimiser: Any) -> TrainingConfig:
    data = dataclasses.replace(config.data, tokenizer="")
    return dataclasses.replace(
        config, data=data, optimiser=dataclasses.replace(config.optimiser, init=spec, **optimiser)
    )


def test_training_starts_from_a_model_with_its_tokeniser(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    first = train(sparse_training(pairs, tmp_path / "first", spm_path), device="cpu", stop_after=20)
    config = _started(
        dense_training(pairs, tmp_path / "second", spm_path, network={**PRE}),
        f"ems:{first}",
        learning_rate=1e-9,
    )
    second = train(config, device="cpu", stop_after=1)
    texts = ["the baker paints seven lamps.", "sieben lampen"]
    before, after = (EMSEncoder(folder, device="cpu").encode(texts, lang="eng_Latn") for folder in (first, second))
    assert float(abs(before - after).max()) < 2e-3  # float16 and one tiny step
    assert (second / "sentencepiece.model").read_bytes() == (first / "sentencepiece.model").read_bytes()


def test_another_tokeniser_is_refused(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    _, spec = saved(plain_network(), tmp_path / "start", spm_path)
    config = sparse_training(pairs, tmp_path / "run", train_tiny_tokenizer(tmp_path / "other.model", VOCAB - 4))
    network = dataclasses.replace(config.network, vocab_size=VOCAB - 4)
    optimiser = dataclasses.replace(config.optimiser, init=spec)
    with pytest.raises(ConfigError, match="is not the tokeniser of optimiser"):
        train(dataclasses.replace(config, network=network, optimiser=optimiser), device="cpu")
