"""`emsmine train`: from a configuration file and pair files to a model directory."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from encoder_tiny import plain_network, sentences, sparse_training, write_pairs

from emsmine.encoder.data import find_pair_files
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model_directory import TOKENIZER
from emsmine.encoder.training import balanced_sample, train
from emsmine.errors import ConfigError, InputError
from emsmine.pipelines.cli import run_cli


def test_english_gets_its_share_from_every_file(pairs: Path) -> None:
    drawn = list(balanced_sample(find_pair_files([pairs]), 20, seed=1))
    share = {lang: sum(text in set(sentences(lang)) for text in drawn) for lang in ("de", "en", "fr")}
    # English stands in both files; it may have four shares in all.
    assert share == {"de": 20, "en": 80, "fr": 20}
    assert drawn == list(balanced_sample(find_pair_files([pairs]), 20, seed=1))
    assert drawn != list(balanced_sample(find_pair_files([pairs]), 20, seed=2))


def test_a_tokeniser_that_does_not_fit_is_refused(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    config = sparse_training(pairs, tmp_path / "run", spm_path, network={"vocab_size": 300})
    with pytest.raises(ConfigError, match=r"has 110 pieces but network\.vocab_size is 300; set it to 110"):
        train(config, device="cpu")


def test_no_training_files(spm_path: Path, tmp_path: Path) -> None:
    config = sparse_training(tmp_path, tmp_path / "run", spm_path)
    with pytest.raises(InputError, match="holds no file that ends in"):
        train(config, device="cpu")
    with pytest.raises(ConfigError, match=r"data\.train is empty"):
        train(dataclasses.replace(config, data=dataclasses.replace(config.data, train=())), device="cpu")


CONFIG = """
[network]
vocab_size = {vocab_size}
dim = 16
num_layers = 0
positions = "none"
embedding_norm = false
embedding_dropout = 0.0
[heads]
projection = false
xtr = false
[data]
train = ["pairs"]
batch_size = 16
[loss]
xtr_weight = 0.0
[optimiser]
steps = 12
warmup_steps = 2
sparse_learning_rate = 0.02
[run]
output = "runs/tiny"
name = "tiny"
table = "int8"
log_every = 3
"""


def test_the_command_trains_tokeniser_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs")
    (tmp_path / "tiny.toml").write_text(CONFIG.format(vocab_size=100), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_cli(["train", "tiny.toml", "--steps", "6", "--device", "cpu"]) == 0
    assert run_cli(["train", "tiny.toml", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["runs/tiny/model"] * 2
    assert "training a tokeniser of 100 pieces" in err
    assert err.count("training a tokeniser") == 1
    assert "step 6/12" in err
    assert "resuming at step 6" in err
    assert "step 12/12" in err
    encoder = EMSEncoder(tmp_path / "runs/tiny/model", device="cpu")
    assert (encoder.name, encoder.network.config) == ("ems:tiny", plain_network(vocab_size=100, max_tokens=120))
    vectors = encoder.encode(["the baker sells seven lamps."], lang="eng_Latn")
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "runs/tiny/model" / TOKENIZER).read_bytes() == (tmp_path / "runs/tiny" / TOKENIZER).read_bytes()


@pytest.mark.parametrize(
    ("vocab_size", "extra", "code", "message"),
    [
        (100, "[runs]\n", 2, "unknown tables runs"),
        (5000, "", 1, "lower vocab_size 5000 or give more text"),
    ],
)
def test_the_command_reports_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    vocab_size: int,
    extra: str,
    code: int,
    message: str,
) -> None:
    write_pairs(tmp_path / "pairs")
    (tmp_path / "tiny.toml").write_text(CONFIG.format(vocab_size=vocab_size) + extra, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_cli(["train", "tiny.toml", "--device", "cpu"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
