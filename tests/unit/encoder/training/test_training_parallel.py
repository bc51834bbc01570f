"""Several processes train as one: same batches, same losses, same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import assert_same, build, corpus, dense_training, plain_network, sparse_training, write_pairs

from emsmine.encoder.data.sampler import PairSampler
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.training.checkpoints import load_checkpoint, save_checkpoint
from emsmine.encoder.training.losses import contrastive_loss
from emsmine.encoder.training.objective import to_torch
from emsmine.encoder.training.parallel import Processes, launched, process_group
from emsmine.encoder.training.trainer import Trainer
from emsmine.errors import ConfigError, StaleOutputError
from emsmine.pipelines.cli.main import run_cli

CPU = torch.device("cpu")

# Everything that mixes pairs or moves sparse rows, and no dropout, which differs from process to process.
CONFIG = """
[network]
vocab_size = 110
dim = 16
num_layers = 1
num_heads = 4
ffn_dim = 24
max_tokens = 24
embedding_dropout = 0.0
attention_dropout = 0.0
hidden_dropout = 0.0
[heads]
language_dim = 8
projection = false
[data]
train = ["pairs"]
tokenizer = "{tokenizer}"
batch_size = 16
chunk_tokens = {chunk_tokens}
shuffle_buffer = 30
hard_negatives = 2
negatives = "ems:{negatives}"
[loss]
mask_duplicates = true
margin = 0.1
learn_temperature = true
matryoshka = [8]
[optimiser]
steps = 6
warmup_steps = 2
learning_rate = 0.01
sparse_learning_rate = 0.02
gradient_clip = 1.0
ema_decay = 0.9
[run]
output = "{output}"
table = "float32"
log_every = 1
validate_every = 3
"""


def rows(output: Path) -> list[dict[str, float]]:
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith("_per_second")} for line in lines
    ]


def test_two_processes_give_the_losses_of_one(
    tmp_path: Path, spm_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "pairs")
    similar = save_model(build(plain_network(dim=24)), spm_path, tmp_path / "similar", name="similar")
    for name, chunk_tokens in (("one", 0), ("two", 100)):
        text = CONFIG.format(tokenizer=spm_path, output=name, chunk_tokens=chunk_tokens, negatives=similar)
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    assert run_cli(["train", "one.toml", "--device", "cpu"]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "emsmine", "train", "two.toml", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    # One process speaks for both.
    assert done.stdout.splitlines() == ["two/model"]
    assert done.stderr.count("step 6/6") == 1
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [1, 2, 3, 4, 5, 6]
    for ours, expected in zip(two, one, strict=True):
        assert ours == pytest.approx(expected, rel=1e-5, abs=2e-6)
    states = [load_checkpoint(tmp_path / name, CPU) for name in ("one", "two")]
    assert states[0] is not None
    assert states[1] is not None
    assert (states[0]["processes"], states[1]["processes"]) == (1, 2)
    assert states[0]["sampler"] == states[1]["sampler"]
    for part in ("model", "average"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, rtol=1e-3, atol=1e-4, msg=name)
    capsys.readouterr()
    # Other numbers of processes do not continue it.
    assert run_cli(["train", "two.toml", "--device", "cpu"]) == 1
    assert "the checkpoint was made by 2 processes, now there are 1; start 2 (torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("groups", [0, 4])
def test_shares_are_the_batch(size: int, groups: int) -> None:
    corpora = [corpus([([2 + n], [40 + n]) for n in range(13)]), corpus([([20 + n], [60 + n]) for n in range(9)])]
    made = [PairSampler(corpora, batch_size=12, exponent=0.5, seed=3, groups=groups) for _ in range(size + 1)]
    for _ in range(4):
        whole = made[0].draw()
        shares = [made[rank + 1].draw(rank, size) for rank in range(size)]
        assert all(sampler.state() == made[0].state() for sampler in made)
        for rank, share in enumerate(shares):
            assert (len(share.source), share.first) == (12 // size, rank * (12 // size))
            assert share.source.ids.tolist() == whole.source.ids[rank::size].tolist()
            assert share.target.ids.tolist() == whole.target.ids[rank::size].tolist()
            assert share.corpus.tolist() == whole.corpus[rank::size].tolist()
            # The hashes are those of all, by process.
            assert share.source_hash.tolist() == shares[0].source_hash.tolist()
            mine = slice(share.first, share.first + len(share.source))
            assert share.source_hash[mine].tolist() == whole.source_hash[rank::size].tolist()
            assert share.target_hash[mine].tolist() == whole.target_hash[rank::size].tolist()


@pytest.mark.parametrize("among_all", [True, False])
def test_duplicates_are_looked_for_where_the_negatives_are(among_all: bool) -> None:
    same = corpus([([2], [30 + n]) for n in range(8)])
    sampler = PairSampler([same], batch_size=8, exponent=1.0, seed=0)
    batch = to_torch(sampler.draw(1, 2), sampler.corpora, CPU, mask_duplicates=True, among_all=among_all)
    assert batch.duplicates is not None
    width, first = (8, 4) if among_all else (4, 0)
    expected = [[column != row + first for column in range(width)] for row in range(4)]
    assert batch.duplicates.tolist() == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set but RANK is ''; start the processes with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "RANK is 0 and WORLD_SIZE is 0"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2 but MASTER_ADDR is not set"),
    ],
)
def test_an_incomplete_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught, process_group("cpu"):
        pass
    assert message in str(caught.value)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == (0, 1)
    with process_group("cpu") as (processes, device):
        assert (processes, device) == (Processes(), CPU)
        assert not torch.distributed.is_initialized()
        rows = torch.ones((2, 3))
        assert processes.gather_rows(rows) is rows
        assert processes.collect(rows) == [rows]


def settings(**changes: dict[str, Any]) -> Any:
    return dense_training(Path("p"), Path("r"), Path("x"), **changes)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    data = [corpus([([2 + n], [20 + n]) for n in range(9)])]
    with pytest.raises(ConfigError, match="batch_size is 16, which 3 processes cannot share"):
        Trainer(settings(), data, CPU, processes=Processes(0, 3))
    with pytest.raises(ConfigError, match=r"one pair per process has no negatives"):
        Trainer(settings(loss={"gather_negatives": False}), data, CPU, processes=Processes(0, 16))


def test_local_negatives_are_those_of_the_process() -> None:
    data = [corpus([([2 + n], [20 + n]) for n in range(30)])]
    config = settings(loss={"gather_negatives": False, "xtr_weight": 0.0, "mask_duplicates": True})
    made = Trainer(config, data, CPU, processes=Processes(1, 2))
    model = made.model.eval()
    batch = to_torch(made.sampler.draw(1, 2), made.sampler.corpora, CPU, mask_duplicates=True, among_all=False)
    with torch.no_grad():
        source, target = model.encode(batch)
        assert model.projection is not None
        alone = contrastive_loss(model.projection(source), model.projection(target), 0.1, duplicates=batch.duplicates)
        # Its part of the mean over both processes.
        torch.testing.assert_close(model.losses(batch)["contrastive"], alone / 2)


def test_processes_start_with_one_network_and_their_own_dropout() -> None:
    data = [corpus([([2 + n], [20 + n]) for n in range(9)])]
    made, drawn = [], []
    for rank in (0, 1):
        made.append(Trainer(settings(), data, CPU, processes=Processes(rank, 2)).model.state_dict())
        drawn.append(torch.rand(4))
    assert_same(dict(made[0]), dict(made[1]))
    assert not torch.equal(drawn[0], drawn[1])


def test_checkpoints_of_other_versions_continue(tmp_path: Path, pairs: Path, spm_path: Path) -> None:
    """A checkpoint that lacks what is new, in state and settings, stands for the old behaviour."""
    made = Trainer(sparse_training(pairs, tmp_path, spm_path), [corpus([([2], [3])] * 20)], CPU)
    made.train_step()
    old = made.state()
    for key in ("processes", "scaler", "average", "best"):
        del old[key]
    kept = {
        "data": ["batch_size", "exponent", "groups", "tokenizer", "tokenizer_sample", "validation_pairs"],
        "loss": ["xtr_weight", "contrastive_weight", "temperature", "xtr_targets", "mask_duplicates"],
        "heads": ["language_dim", "num_languages", "projection_dim", "projection", "xtr"],
    }
    config = json.loads(old["config"])
    for table, keys in kept.items():
        config[table] = {key: config[table][key] for key in keys}
    del config["optimiser"]["ema_decay"]
    old["config"] = json.dumps(config)
    save_checkpoint(old, tmp_path)
    state = load_checkpoint(tmp_path, CPU)
    assert state is not None
    resumed = Trainer(made.config, [corpus([([2], [3])] * 20)], CPU)
    resumed.restore(state)
    assert resumed.train_step() == made.train_step()
    assert_same(dict(resumed.model.state_dict()), dict(made.model.state_dict()))
    changed = sparse_training(pairs, tmp_path, spm_path, loss={"margin": 0.3, "xtr_weight": 0.0, "temperature": 0.1})
    with pytest.raises(StaleOutputError, match=r"loss\.margin: 0\.0 → 0\.3"):
        Trainer(changed, [corpus([([2], [3])] * 20)], CPU).restore(state)
