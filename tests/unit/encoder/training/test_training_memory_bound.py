"""Sizes that no machine has are refused before a file is read or a byte allocated; what fits is not."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import dense_training, sparse_training, write_pairs

from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.network import Network
from emsmine.encoder.training.memory_bound import check_memory, least_bytes
from emsmine.encoder.training.run import train
from emsmine.encoder.training.settings import TrainingConfig, load_training_config
from emsmine.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[4] / "encoder/recipes"


@pytest.mark.parametrize("positions", ["learned", "none"])
@pytest.mark.parametrize("embedding_norm", [True, False])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_the_number_of_weights_is_counted_without_building(
    positions: str, embedding_norm: bool, num_layers: int
) -> None:
    config = NetworkConfig(
        vocab_size=50,
        dim=12,
        num_layers=num_layers,
        num_heads=3,
        ffn_dim=20,
        max_tokens=9,
        positions=positions,
        embedding_norm=embedding_norm,
    )
    assert config.num_parameters == sum(weight.numel() for weight in Network(config).parameters())


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("network", "vocab_size", 2**31 - 1),
        ("network", "vocab_size", 10**12),
        ("network", "dim", 10**9),
        ("network", "dim", 65_536),
        ("network", "num_layers", 10**9),
        ("network", "num_layers", -1),
        ("network", "ffn_dim", 10**12),
        ("network", "max_tokens", 10**12),
        ("network", "layer_norm_eps", 0.0),
        ("data", "batch_size", 10**8),
        ("data", "batch_size", 2**63 - 1),
        ("data", "exponent", 1e300),
        ("data", "exponent", -1.0),
        ("heads", "projection_dim", 10**15),
        ("heads", "language_dim", 10**12),
        ("heads", "num_languages", 10**15),
        ("optimiser", "embedding_std", -1.0),
        ("network", "vocab_size", True),
        ("network", "dim", "384"),
        ("network", "dim", 384.0),
        ("data", "batch_size", [1]),
    ],
)
def test_absurd_settings_are_refused_at_once(tmp_path: Path, table: str, key: str, value: Any) -> None:
    data = write_pairs(tmp_path / "pairs")
    path = tmp_path / "config.toml"
    shown = repr(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    tables = {"data": f'train = ["{data}"]\n', "run": f'output = "{tmp_path / "run"}"\n', table: ""} | {
        "network": "vocab_size = 90\n" * (key != "vocab_size") + "num_heads = 1\n"
    }
    tables["data"] = f'train = ["{data}"]\n'
    tables[table] += f"{key} = {shown}\n"
    path.write_text("".join(f"[{name}]\n{content}" for name, content in tables.items()), encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        train(load_training_config(path), device="cpu")
    assert key in str(caught.value)
    assert time.monotonic() - started < 2
    assert not (tmp_path / "run").exists()


def test_the_message_says_what_is_wanted_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emsmine.memory.available_memory", lambda: (8 << 30, "MemAvailable"))
    with pytest.raises(
        ConfigError, match=r"take at least 17 GiB of memory, and there are 8 GiB \(MemAvailable\); lower"
    ):
        check_memory(TrainingConfig(network=NetworkConfig(vocab_size=500_000)), torch.device("cpu"))
    monkeypatch.setattr("emsmine.memory.available_memory", lambda: (None, "unknown"))
    check_memory(TrainingConfig(network=NetworkConfig(vocab_size=500_000)), torch.device("cpu"))


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.toml") if path.name != "scorer.toml"))
def test_never_more_than_the_formulas_that_were_measured(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`training_bytes` of the memory benchmark was within 4 % of measurements; more would refuse what fits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = load_training_config(RECIPES / recipe)
    spec = importlib.util.spec_from_file_location("bench_memory", Path(__file__).parents[3] / "perf/bench_memory.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    formula = bench.training_bytes(config, 25)
    assert 0.05 * formula < least_bytes(config) <= formula
    assert least_bytes(config, 8) <= least_bytes(config)


def test_small_trainings_pass(tmp_path: Path) -> None:
    for make in (sparse_training, dense_training):
        config = make(tmp_path, tmp_path / "run", tmp_path / "x.model")
        assert least_bytes(config) < 1_000_000
        check_memory(config, torch.device("cpu"))
