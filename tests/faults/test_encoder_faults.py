"""What a training survives: SIGKILL at any moment, damaged and missing checkpoints."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from emsmine.encoder.training.checkpoints import load_best, load_checkpoint, save_checkpoint
from emsmine.encoder.training.run import train
from emsmine.errors import ModelError

HELPERS = Path(__file__).resolve().parents[1] / "unit" / "encoder"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return training pairs and a tokeniser."""
    folder = tmp_path_factory.mktemp("inputs")
    return tiny.write_pairs(folder / "pairs"), tiny.train_tiny_tokenizer(folder / "tiny.model")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def start(kind: str, data: Path, output: Path, tokenizer: Path) -> "subprocess.Popen[str]":
    """Train in another process with a checkpoint at every step; it prints the steps it has logged."""
    command = [sys.executable, str(HELPERS / "encoder_tiny.py"), kind, str(data), str(output), str(tokenizer)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_after(process: "subprocess.Popen[str]", steps: int, delay_seconds: float) -> None:
    assert process.stdout is not None
    for _ in range(steps):
        assert process.stdout.readline()
    time.sleep(delay_seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()


# The process prints a step just before it writes the checkpoint of that step: the delays hit the writing.
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_killed_trainings_end_with_the_weights_of_an_uninterrupted_one(
    kind: str, tiny: Any, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    data, tokenizer = inputs
    make = {"sparse": tiny.sparse_training, "dense": tiny.dense_training}[kind]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(make(data, tmp_path / "whole", tokenizer), device="cpu")
        for steps, delay_seconds in ((3, 0.0), (4, 0.004)):
            process = start(kind, data, tmp_path / "killed", tokenizer)
            kill_after(process, steps, delay_seconds)
            assert process.returncode == -signal.SIGKILL
            state = load_checkpoint(tmp_path / "killed", CPU)
            assert state is not None
            assert 0 < state["step"] < 20
        assert not (tmp_path / "killed" / "model").exists()
        train(make(data, tmp_path / "killed", tokenizer), device="cpu")
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "killed" / "model") == files(tmp_path / "whole" / "model")
    tiny.assert_same(load_checkpoint(tmp_path / "killed", CPU), load_checkpoint(tmp_path / "whole", CPU))
    # Half-written checkpoints of the killed processes are gone.
    assert not list((tmp_path / "killed").glob(".checkpoint-*"))


def start_two(data: Path, output: Path, tokenizer: Path) -> "list[subprocess.Popen[str]]":
    """Train in two processes, as torchrun would start them; the first prints the steps it has logged."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(HELPERS / "encoder_tiny.py"), "full", str(data), str(output), str(tokenizer)]
    shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | shared | {"RANK": str(rank)},
        )
        for rank in (0, 1)
    ]


def end(processes: "list[subprocess.Popen[str]]") -> list[int]:
    """Wait for the ends; returns the exit codes."""
    codes = []
    for process in processes:
        codes.append(process.wait(timeout=120))
        assert process.stdout is not None
        process.stdout.close()
    return codes


def test_two_killed_processes_end_with_the_weights_of_uninterrupted_ones(
    tiny: Any, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """Sparse and dense gradients, dropout of each process, average and learned temperature, hard negatives in a
    shuffled window, passes by tokens: bit for bit."""
    data, tokenizer = inputs
    tiny.full_training(data, tmp_path, tokenizer)  # makes the encoder of the negatives
    assert end(start_two(data, tmp_path / "whole", tokenizer)) == [0, 0]
    killed = start_two(data, tmp_path / "killed", tokenizer)
    output = killed[0].stdout
    assert output is not None
    for _ in range(10):
        assert output.readline()
    for process in killed:
        process.send_signal(signal.SIGKILL)
    assert end(killed) == [-signal.SIGKILL] * 2
    state = load_checkpoint(tmp_path / "killed", CPU)
    assert state is not None
    assert 9 <= state["step"] < 20
    assert not (tmp_path / "killed" / "model").exists()
    assert end(start_two(data, tmp_path / "killed", tokenizer)) == [0, 0]
    whole, resumed = (load_checkpoint(tmp_path / name, CPU) for name in ("whole", "killed"))
    tiny.assert_same(resumed, whole)
    assert whole is not None
    assert (whole["step"], whole["processes"]) == (20, 2)
    # The processes did draw different numbers.
    assert not torch.equal(whole["torch_rng"][0], whole["torch_rng"][1])
    assert files(tmp_path / "killed" / "model") == files(tmp_path / "whole" / "model")
    best = [load_best(tmp_path / name, CPU) for name in ("whole", "killed")]
    tiny.assert_same(best[1], best[0])
    rows = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("whole", "killed")
    ]
    for row in (*rows[0], *rows[1]):
        del row["pairs_per_second"], row["tokens_per_second"]
    assert rows[1] == rows[0]
    assert [row["step"] for row in rows[0]] == list(range(1, 21))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder with checkpoints of steps 1 and 2."""
    for step in (1, 2):
        generator = torch.Generator().manual_seed(step)
        weight = torch.randn(300, generator=generator)
        save_checkpoint({"step": step, "model": {"weight": weight}, "config": "{}"}, tmp_path)
    return tmp_path


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*.pt"))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zip"])
def test_a_damaged_newest_checkpoint_is_passed_over(run: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = newest(run)
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_bytes({"empty": b"", "text": b"not a checkpoint", "zip": b"PK\x05\x06" + bytes(18)}[damage])
    with caplog.at_level(logging.WARNING):
        state = load_checkpoint(run, CPU)
    assert state is not None
    assert state["step"] == 1
    assert "checkpoint-000000002.pt cannot be read" in caplog.text


def test_no_flipped_byte_changes_what_is_resumed(run: Path) -> None:
    """Torch reads flipped weights without a word; the checksums of the archive are compared first."""
    path = newest(run)
    whole = path.read_bytes()
    expected = load_checkpoint(run, CPU)
    assert expected is not None
    passed_over = 0
    for place in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        state = load_checkpoint(run, CPU)
        assert state is not None
        if state["step"] == 1:
            passed_over += 1
        else:
            # The byte meant nothing: padding between the records, or a date.
            assert torch.equal(state["model"]["weight"], expected["model"]["weight"]), place
            assert state["config"] == expected["config"]
    assert passed_over > len(whole) / 13 / 3


def test_a_flipped_weight_is_noticed(run: Path) -> None:
    path = newest(run)
    whole = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(300, generator=generator).numpy().tobytes()
    whole[whole.index(weights) + 600] ^= 0x01
    path.write_bytes(whole)
    state = load_checkpoint(run, CPU)
    assert state is not None
    assert state["step"] == 1


def test_checkpoints_that_are_all_damaged_are_not_a_fresh_start(run: Path) -> None:
    for path in run.glob("checkpoint-*.pt"):
        os.truncate(path, 100)
    with pytest.raises(ModelError, match=r"none of the 2 checkpoints in .* can be read; delete them to start anew"):
        load_checkpoint(run, CPU)


def test_a_checkpoint_with_code_in_it_is_not_executed(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(target),)

    torch.save({"step": 3, "trap": Trap()}, newest(run))
    state = load_checkpoint(run, CPU)
    assert state is not None
    assert state["step"] == 1
    assert not target.exists()


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, CPU) is None
    assert load_checkpoint(tmp_path / "nothing", CPU) is None


def test_what_killed_runs_left_half_written_is_removed(run: Path) -> None:
    (run / ".checkpoint-000000002.pt.12345").write_bytes(b"half")
    save_checkpoint({"step": 3}, run)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-000000002.pt", "checkpoint-000000003.pt"]
