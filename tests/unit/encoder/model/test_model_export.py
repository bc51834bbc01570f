"""The moving average, the best weights, and which of them the model directory gets."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import assert_same, corpus, dense_training, mixed_training, sparse_training

from emsmine.encoder.model.directory import load_model
from emsmine.encoder.training.checkpoints import BEST, load_best, load_checkpoint, save_best
from emsmine.encoder.training.run import train
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.encoder.training.trainer import Trainer
from emsmine.errors import ConfigError, ModelError

CPU = torch.device("cpu")
TABLE = "embedding.tokens.weight"


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder)[0].state_dict())


def state(output: Path) -> dict[str, Any]:
    found = load_checkpoint(output, CPU)
    assert found is not None
    return found


def rows(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def with_export(config: TrainingConfig, export: str) -> TrainingConfig:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, export=export))


def test_the_average_by_hand() -> None:
    config = sparse_training(Path("p"), Path("r"), Path("x"), optimiser={"ema_decay": 0.5, "sparse_learning_rate": 0.1})
    made = Trainer(config, [corpus([([2 + n], [20 + n]) for n in range(9)])], CPU)
    assert made.average is not None
    expected = made.model.network.state_dict()[TABLE].double()
    for step in range(1, 13):
        made.train_step()
        # 2/11, 3/12 … until the decay of the settings is reached at step 8.
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * made.model.network.state_dict()[TABLE]
    torch.testing.assert_close(made.average.network.state_dict()[TABLE].double(), expected, rtol=1e-5, atol=1e-6)
    assert not made.average.network.embedding.tokens.weight.requires_grad


@pytest.fixture(scope="module")
def run(pairs: Path, spm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    """Return the settings of a finished run with an average, whose validation accuracy falls at its end."""
    output = tmp_path_factory.mktemp("run")
    changes: dict[str, dict[str, Any]] = {
        "run": {"validate_every": 4, "log_every": 4, "checkpoint_every": 4, "table": "float32"},
        "optimiser": {"ema_decay": 0.9, "sparse_learning_rate": 0.05, "schedule": "linear", "embedding_std": 0.2},
        "data": {"validation_pairs": 12},
    }
    config = sparse_training(pairs, output, spm_path, **changes)
    train(config, device="cpu")
    return config


def test_each_choice_exports_its_weights(run: TrainingConfig) -> None:
    output = Path(run.run.output)
    last = state(output)
    best = load_best(output, CPU)
    wanted = {
        "last": {name.removeprefix("network."): v for name, v in last["model"].items() if name.startswith("network.")},
        "ema": last["average"],
        "best": best["network"],
    }
    assert not torch.equal(wanted["ema"][TABLE], wanted["last"][TABLE])
    for export, weights in wanted.items():
        # A finished run may be exported again in another way.
        found = exported(train(with_export(run, export), device="cpu"))
        torch.testing.assert_close(found[TABLE], weights[TABLE].float(), rtol=0, atol=0)
    assert_same(state(output), last)


def test_the_best_weights_are_those_of_the_best_validation(run: TrainingConfig) -> None:
    output = Path(run.run.output)
    best = load_best(output, CPU)
    seen = {
        row["step"]: max(row["validation_accuracy"], row["validation_accuracy_ema"])
        for row in rows(output)
        if "validation_accuracy" in row
    }
    assert list(seen) == [4, 8, 12, 16, 20]
    assert best["accuracy"] == pytest.approx(max(seen.values()), abs=1e-6)
    # Of equal ones the first.
    assert best["step"] == next(step for step, accuracy in seen.items() if accuracy == max(seen.values()))
    assert state(output)["best"] == {"accuracy": best["accuracy"], "step": best["step"]}


def test_a_worse_network_does_not_replace_the_best(tmp_path: Path) -> None:
    config = sparse_training(Path("p"), tmp_path, Path("x"))
    made = Trainer(config, [corpus([([2 + n], [20 + n]) for n in range(40)])], CPU)
    # Of equal ones the first stays.
    for accuracy, expected, step in ((0.5, 0.5, 1), (0.25, 0.5, 1), (0.5, 0.5, 1), (0.75, 0.75, 4)):
        made.step += 1
        made._keep_if_best(accuracy, made.model.network, tmp_path)
        kept = load_best(tmp_path, CPU)
        assert (kept["accuracy"], kept["step"]) == (expected, step)


def test_a_stop_does_not_decide_what_is_best(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    configs = [
        dense_training(pairs, tmp_path / name, spm_path, run={"export": "best", "validate_every": 8})
        for name in ("whole", "stopped")
    ]
    train(configs[0], device="cpu")
    model = train(configs[1], device="cpu", stop_after=3)
    assert load_best(tmp_path / "stopped", CPU)["step"] == 3
    assert state(tmp_path / "stopped")["best"] is None
    first = exported(model)
    train(configs[1], device="cpu", stop_after=9)
    train(configs[1], device="cpu")
    assert_same(load_best(tmp_path / "stopped", CPU), load_best(tmp_path / "whole", CPU))
    assert not torch.equal(exported(model)[TABLE], first[TABLE])
    assert_same(state(tmp_path / "stopped"), state(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_best_file_that_is_lost_is_not_replaced_silently(
    pairs: Path, spm_path: Path, tmp_path: Path, damage: str
) -> None:
    config = sparse_training(pairs, tmp_path, spm_path, run={"export": "best"})
    train(config, device="cpu")
    path = tmp_path / BEST
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"best\.pt cannot be read .* set run\.export to last"):
        train(config, device="cpu")


def test_half_written_best_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / f".{BEST}.123").write_bytes(b"half")
    save_best({"accuracy": 0.5}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [BEST]


def test_too_few_pairs_to_choose_by_are_refused_at_the_start() -> None:
    config = sparse_training(Path("p"), Path("r"), Path("x"), run={"export": "best"})
    with pytest.raises(ConfigError, match="no corpus has the 10 pairs"):
        Trainer(config, [corpus([([2], [3])] * 9)], CPU)


def test_average_and_temperature_resume_exactly(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    for name, stops in (("whole", (20,)), ("halves", (7, 13, 20))):
        config = mixed_training(pairs, tmp_path / name, spm_path, run={"export": "ema"}, data={"chunk_size": 5})
        for stop in stops:
            train(config, device="cpu", stop_after=stop)
            torch.rand(3)
    whole, halves = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert_same(halves, whole)
    assert whole["model"]["log_scale"] != pytest.approx(2.302585)
    assert_same(exported(tmp_path / "halves/model"), exported(tmp_path / "whole/model"))
    assert rows(tmp_path / "whole")[-1]["temperature"] == pytest.approx(
        float(torch.exp(-whole["model"]["log_scale"])), 1e-2
    )
