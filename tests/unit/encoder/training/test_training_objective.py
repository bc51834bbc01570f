"""The switches of the training model: ablations of the paper and improvements on it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import corpus, dense_training, sparse_training

from emsmine.encoder.training.objective import TrainingModel
from emsmine.encoder.training.trainer import Trainer
from emsmine.errors import ConfigError

CPU = torch.device("cpu")
PAIRS = [([2 + n, 3], [40 + n, 41 + n, 3]) for n in range(16)]
EVERYTHING = {"xtr", "contrastive", "total"}


def trainer(**changes: dict[str, Any]) -> Trainer:
    config = dense_training(Path("p"), Path("r"), Path("x"), data={"validation_pairs": 0}, **changes)
    return Trainer(config, [corpus(PAIRS)], CPU)


@pytest.mark.parametrize(
    ("changes", "losses", "absent"),
    [
        ({}, EVERYTHING, ""),
        ({"loss": {"contrastive_weight": 0.0}, "heads": {"projection": False}}, {"xtr", "total"}, "projection."),
        ({"loss": {"xtr_weight": 0.0}, "heads": {"xtr": False}}, {"contrastive", "total"}, "reconstruction."),
        ({"heads": {"language_embedding": False}}, EVERYTHING, "reconstruction.language"),
        ({"heads": {"projection": False}}, EVERYTHING, "projection."),
        ({"heads": {"shared_embedding": True}}, EVERYTHING, ""),
        ({"network": {"num_layers": 2}}, EVERYTHING, "network.layers.2"),
        ({"loss": {"temperature": 0.01}}, EVERYTHING, ""),
        ({"loss": {"contrastive_weight": 10.0}}, EVERYTHING, ""),
    ],
    ids=["ems", "xtr", "contrastive", "no-language", "no-projection", "shared", "layers", "temperature", "weight"],
)
def test_every_ablation_of_the_paper_trains(changes: dict[str, Any], losses: set[str], absent: str) -> None:
    made = trainer(**changes, optimiser={"steps": 30})
    rows = [made.train_step() for _ in range(30)]
    assert rows[0].keys() == losses
    # Single steps are noisy: dropout.
    assert sum(row["total"] for row in rows[-5:]) < sum(row["total"] for row in rows[:5])
    weights = {"xtr": made.config.loss.xtr_weight, "contrastive": made.config.loss.contrastive_weight}
    weighted = sum(weights[name] * value for name, value in rows[0].items() if name != "total")
    assert rows[0]["total"] == pytest.approx(weighted, rel=1e-5)
    assert not absent or not [name for name in made.model.state_dict() if name.startswith(absent)]


def test_a_shared_table_is_one_parameter() -> None:
    model = trainer(heads={"shared_embedding": True}).model
    assert model.reconstruction is not None
    assert model.reconstruction.decoder.weight is model.network.embedding.tokens.weight
    names = [name for name, _ in model.named_parameters()]
    assert "network.embedding.tokens.weight" in names
    assert "reconstruction.decoder.weight" not in names


def test_language_dropout_is_that_of_the_embeddings() -> None:
    model = trainer(network={"embedding_dropout": 0.25}).model
    assert model.reconstruction is not None
    assert model.reconstruction.language_dropout.p == 0.25


def test_without_language_vectors_any_number_of_languages_will_do() -> None:
    welsh = [corpus(PAIRS, source="cym_Latn")]
    config = dense_training(Path("p"), Path("r"), Path("x"), heads={"language_embedding": False})
    assert Trainer(config, welsh, CPU).train_step()["xtr"] > 0
    with pytest.raises(ConfigError, match="raise it to 63"):
        Trainer(dense_training(Path("p"), Path("r"), Path("x")), welsh, CPU)


def test_a_learned_temperature_starts_where_it_is_told_and_has_a_floor() -> None:
    made = trainer(loss={"learn_temperature": True, "temperature": 0.2}, optimiser={"weight_decay": 0.5})
    assert float(torch.as_tensor(made.model.temperature()).detach()) == pytest.approx(0.2)
    first = made.train_step()
    assert first["temperature"] != 0.2
    assert first["temperature"] == pytest.approx(0.2, rel=0.05)
    [(adam, _)] = made.optimisers
    [with_decay, without] = adam.param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.5, 0.0)
    assert len(without["params"]) == 1
    assert without["params"][0] is made.model.log_scale
    assert made.model.log_scale is not None
    with torch.no_grad():
        made.model.log_scale.fill_(math.log(10_000))
        assert float(made.model.temperature()) == pytest.approx(0.01)


def test_matryoshka_training_makes_the_first_components_useful() -> None:
    found = {}
    for widths in ((), (4,)):
        loss = {"matryoshka": widths, "xtr_weight": 0.0}
        config = sparse_training(Path("p"), Path("r"), Path("x"), loss=loss, data={"validation_pairs": 0})
        made = Trainer(config, [corpus(PAIRS)], CPU)
        for _ in range(20):
            made.train_step()
        with torch.no_grad():
            table = torch.nn.functional.normalize(made.model.network.embedding.tokens.weight[:, :4], dim=-1)
            found[widths] = float(
                (table[[2 + n for n, _ in enumerate(PAIRS)]] * table[[40 + n for n, _ in enumerate(PAIRS)]])
                .sum(-1)
                .mean()
            )
    assert found[(4,)] > found[()]


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16, which needs a GPU, but the device is cpu; choose fp32 or bf16"):
        trainer(run={"precision": "fp16"})


def test_bf16_trains_with_and_without_chunks_alike() -> None:
    still = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    totals = []
    for precision, chunk_size in (("fp32", 0), ("bf16", 0), ("bf16", 5)):
        config = dense_training(
            Path("p"),
            Path("r"),
            Path("x"),
            network=still,
            run={"precision": precision},
            data={"validation_pairs": 0, "chunk_size": chunk_size},
        )
        made = Trainer(config, [corpus(PAIRS)], CPU)
        totals.append([made.train_step()["total"] for _ in range(8)])
    assert totals[1] != totals[0]
    for ours in totals[1:]:
        assert ours == pytest.approx(totals[0], rel=0.02)
    assert isinstance(made.model, TrainingModel)
