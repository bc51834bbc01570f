"""`emsmine train`: from a configuration file and pair files to a model directory."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from encoder_tiny import plain_network, sentences, sparse_training, write_pairs

from emsmine.encoder.data.pairs import TokenCache, find_pair_files
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import TOKENIZER
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.training.run import balanced_sample, train
from emsmine.errors import ConfigError, InputError
from emsmine.pipelines.cli.main import run_cli
from emsmine.pipelines.store.lock import run_lock


def test_english_gets_its_share_from_every_file(pairs: Path) -> None:
    drawn = list(balanced_sample(find_pair_files([pairs]), 20, seed=1))
    share = {lang: sum(text in set(sentences(lang)) for text in drawn) for lang in ("de", "en", "fr")}
    # English stands in both files; it may have four shares in all.
    assert share == {"de": 20, "en": 80, "fr": 20}
    assert drawn == list(balanced_sample(find_pair_files([pairs]), 20, seed=1))
    assert drawn != list(balanced_sample(find_pair_files([pairs]), 20, seed=2))


def test_dense_scripts_get_more_sentences_of_a_tokeniser_sample(tmp_path: Path) -> None:
    for code in ("de", "ja", "ko", "zh"):
        lines = [f"{code} {n}\tline {n}\n" for n in range(80)]
        (tmp_path / f"{code}-en.tsv").write_text("".join(lines), encoding="utf-8")
    drawn = Counter(text.split()[0] for text in balanced_sample(find_pair_files([tmp_path]), 20, seed=1))
    assert drawn == {"de": 20, "ja": 40, "ko": 40, "zh": 60, "line": 80}


def test_a_sample_gives_every_sentence_the_same_chance(tmp_path: Path) -> None:
    (tmp_path / "de-en.tsv").write_text("".join(f"satz {n}\tline {n}\n" for n in range(40)), encoding="utf-8")
    files = find_pair_files([tmp_path])
    counts = np.zeros(40)
    for seed in range(300):
        drawn = list(balanced_sample(files, 10, seed))
        numbers = [int(text.split()[1]) for text in drawn]
        assert [text.split()[0] for text in drawn] == ["satz"] * 10 + ["line"] * 10
        assert len(set(numbers[:10])) == len(set(numbers[10:])) == 10
        assert set(numbers[:10]) != set(numbers[10:])
        counts += np.bincount(numbers, minlength=40)
    # 39 degrees of freedom, p = 0.001; the seeds are fixed. Draws of a sample exclude each other: below chi-square.
    assert float(((counts - 150) ** 2 / 150).sum()) < 72.1
    assert len(list(balanced_sample(files, 100, 1))) == 80


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
    assert re.search(r"[\d,]+ pairs/s  [\d,]+ tokens/s  \d+ min left", err)
    encoder = EMSEncoder(tmp_path / "runs/tiny/model", device="cpu")
    assert (encoder.name, encoder.network.config) == ("ems:tiny", plain_network(vocab_size=100, max_tokens=120))
    vectors = encoder.encode(["the baker sells seven lamps."], lang="eng_Latn")
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "runs/tiny/model" / TOKENIZER).read_bytes() == (tmp_path / "runs/tiny" / TOKENIZER).read_bytes()


def test_a_second_training_in_the_same_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs")
    (tmp_path / "tiny.toml").write_text(CONFIG.format(vocab_size=100), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with run_lock("runs/tiny", "train"):
        assert run_cli(["train", "tiny.toml", "--steps", "1", "--device", "cpu"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert f"is in use by process {os.getpid()}" in err
    assert not list((tmp_path / "runs/tiny").glob("*.pt"))
    assert run_cli(["train", "tiny.toml", "--steps", "1", "--device", "cpu"]) == 0


def test_text_is_prepared_as_the_release_does(tmp_path: Path, spm_path: Path) -> None:
    """For the tokens of training, for the tokeniser and for who uses the model."""
    pytest.importorskip("sacremoses")
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "de-en.tsv").write_text("Das Boot, grün.\tThe Boat, green.\n" * 12, encoding="utf-8")
    config = sparse_training(
        folder, tmp_path / "run", spm_path, data={"preprocessing": "ems", "batch_size": 2}, run={"table": "float32"}
    )
    model = train(config, device="cpu", stop_after=1)
    files = find_pair_files([folder])
    assert set(balanced_sample(files, 9, 1, "ems")) == {"das boot , grün .", "the boat , green ."}
    tokenizer = Tokenizer(spm_path)
    made = TokenCache(tmp_path / "run/cache", tokenizer, 24, preprocessing="ems").corpus(files[0])
    expected, _ = tokenizer.encode(["das boot , grün .", "the boat , green ."], 24)
    assert made.sentences.take(np.arange(2)).ids.tolist() == expected.ids.tolist()
    # Not the entry of the unprepared text.
    plain = TokenCache(tmp_path / "run/cache", tokenizer, 24).corpus(files[0])
    assert plain.sentences.ids.tolist() != made.sentences.ids.tolist()
    assert EMSEncoder(model, device="cpu").preprocessing == "ems"


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
