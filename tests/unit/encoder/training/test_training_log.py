"""`log.jsonl` has every step once, whatever a killed run left; TensorBoard only where it is installed."""

import importlib.util
import json
from pathlib import Path

import pytest

from emsmine.encoder.training.log import LOG, TENSORBOARD, TrainingLog


def steps(folder: Path) -> list[float]:
    return [json.loads(line)["step"] for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def row(step: int) -> dict[str, float]:
    return {"step": float(step), "total": 1 / 3}


def test_rows_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    for step in (5, 10, 15):
        log.write(row(step))
    resumed = TrainingLog(tmp_path, 10)
    assert steps(tmp_path) == [5, 10]
    resumed.write(row(15))
    assert steps(tmp_path) == [5, 10, 15]
    assert (tmp_path / LOG).read_text(encoding="utf-8").splitlines()[2] == '{"step": 15.0, "total": 0.333333}'


@pytest.mark.parametrize("rest", [b'{"step": 6.0, "to', b'{"step": 6.0}', b"\xff\xfe\n", b"null\n", b'{"total": 1}\n'])
def test_what_is_no_whole_row_goes(tmp_path: Path, rest: bytes) -> None:
    TrainingLog(tmp_path, 0).write(row(5))
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + rest)
    TrainingLog(tmp_path, 5)
    assert (tmp_path / LOG).read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [LOG]


def test_a_last_line_without_its_end_is_ended(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 5.0}')
    TrainingLog(tmp_path, 5).write(row(6))
    assert steps(tmp_path) == [5, 6]


def test_a_fresh_run_in_an_old_folder_starts_an_empty_log(tmp_path: Path) -> None:
    TrainingLog(tmp_path, 0).write(row(5))
    TrainingLog(tmp_path, 0)
    assert steps(tmp_path) == []


def test_tensorboard_is_used_where_it_is_installed(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.write(row(5))
    log.close()
    installed = importlib.util.find_spec("tensorboard") is not None
    assert (tmp_path / TENSORBOARD).exists() == installed
    if installed:
        [events] = (tmp_path / TENSORBOARD).iterdir()
        assert b"total" in events.read_bytes()
