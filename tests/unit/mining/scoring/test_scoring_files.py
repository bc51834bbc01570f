"""A scorer on disk: what is written is read, and nothing else."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scoring_kit import random_head, random_lists

from emsmine.errors import ModelError
from emsmine.mining.scoring.competition import PAIR_FEATURES as CONTEXT_PAIR_FEATURES
from emsmine.mining.scoring.competition import SIDE_FEATURES as CONTEXT_SIDE_FEATURES
from emsmine.mining.scoring.files import encoded_scorer, read_scorer
from emsmine.mining.scoring.head import Head
from emsmine.mining.scoring.scorer import PAIR_FEATURES, SIDE_FEATURES, PairScorer, Side
from emsmine.mining.scoring.surface import Surface
from emsmine.mining.scoring.tokens import token_vectors
from emsmine.mining.scoring.training import TrainedScorer

MODEL = "0123abcd"
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(30, 6)).astype(np.float32)


def trained(seed: int = 1, pair: Head | None = None) -> TrainedScorer:
    rng = np.random.default_rng(seed)
    # Numbers that a file holds exactly.
    projection = rng.normal(size=(6, 5)).astype(np.float16).astype(np.float32)
    logs = rng.normal(size=30).astype(np.float16).astype(np.float32)
    pair = pair or random_head(rng, len(SIDE_FEATURES), len(PAIR_FEATURES), 3)
    context = random_head(rng, len(CONTEXT_SIDE_FEATURES), len(CONTEXT_PAIR_FEATURES), 3)
    return TrainedScorer(PairScorer(token_vectors(TABLE, projection, logs), pair, context), projection, logs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "scorer.safetensors"
    found.write_bytes(encoded_scorer(trained(), MODEL))
    return found


def refused(path: Path, *words: str, model: str = MODEL, table: NDArray[np.float32] = TABLE) -> None:
    with pytest.raises(ModelError) as caught:
        read_scorer(path, table, model)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_round_trip(path: Path) -> None:
    written, read = trained().scorer, read_scorer(path, TABLE, MODEL)
    assert np.array_equal(read.vectors.vectors, written.vectors.vectors)
    assert np.array_equal(read.vectors.weights, written.vectors.weights)
    lists = random_lists(RNG, 3, 8, 30)
    surface = Surface.of(["Eins 1?", "Zwei HTTP", "Drei"], "deu_Latn")
    side = Side(lists, surface, written.vectors.sentence_vectors(lists))
    rows = np.indices((3, 3)).reshape(2, -1).astype(np.int64)
    assert read.logits(side, side, *rows).tobytes() == written.logits(side, side, *rows).tobytes()
    # The fingerprint of a scorer is that of its file, so the same training must give the same bytes.
    for _ in range(20):
        assert encoded_scorer(trained(), MODEL) == path.read_bytes()


@pytest.mark.parametrize("flip", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_refused(path: Path, flip: int) -> None:
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    # All of the length and many of the header, where a flip may give another valid header; a sample of the rest.
    places = [*range(8), *range(8, 8 + header, 5), *range(8 + header, len(content), 211), len(content) - 1]
    damaged = path.with_name("damaged.safetensors")
    for place in places:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        with pytest.raises(ModelError):
            read_scorer(damaged, TABLE, MODEL)


def test_a_shape_that_lost_its_number_is_refused(path: Path) -> None:
    content = path.read_bytes()
    assert b'"shape":[1]' in content
    path.write_bytes(content.replace(b'"shape":[1]', b'"shape":[ ]'))
    refused(path, "is damaged")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -500])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "cannot be read", "copy the model again")


def test_a_longer_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    refused(tmp_path / "scorer.safetensors", "does not exist", "emsmine train-scorer", "--no-rescore")


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path)
    path = tmp_path / "text"
    path.write_text("no scorer", encoding="utf-8")
    refused(path)


def test_an_absurd_size_is_refused_without_reading(path: Path) -> None:
    # A hole: it takes no space.
    os.truncate(path, 1 << 40)
    refused(path, "it is no scorer")


def test_another_model_is_refused(path: Path) -> None:
    refused(path, "was trained with another model", "emsmine train-scorer", model="ffff")


def test_a_seal_of_another_scorer_or_model_is_refused(path: Path) -> None:
    tensors = load(path.read_bytes())
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert b'"seal"' in path.read_bytes()[: 8 + size]
    path.write_bytes(save(tensors, {"format": "1", "model": MODEL, "seal": "0" * 64}))
    refused(path, "is damaged", "seal")
    path.write_bytes(save(tensors, {"format": "1", "model": MODEL}))
    refused(path, "is damaged")
    path.write_bytes(save(tensors, {"format": "2", "model": MODEL, "seal": "0" * 64}))
    refused(path, "format '2'", "format 1")
    path.write_bytes(save(tensors))
    refused(path, "format None")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_numbers_that_are_not_finite_are_not_written(value: float) -> None:
    made = trained()
    made.log_weights[17] = value
    with pytest.raises(ModelError, match="not finite"), np.errstate(over="ignore"):
        encoded_scorer(made, MODEL)


def test_numbers_that_are_not_finite_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = random_head(RNG, len(SIDE_FEATURES), len(PAIR_FEATURES), 3)
    head.biases[0][1] = np.nan
    with monkeypatch.context() as patched:
        patched.setattr("emsmine.mining.scoring.files._check_finite", lambda tensors, where: None)
        path.write_bytes(encoded_scorer(trained(pair=head), MODEL))
    refused(path, "not finite", "pair.0.bias")


@pytest.mark.parametrize("widths", [(len(SIDE_FEATURES) - 1, len(PAIR_FEATURES)), (len(SIDE_FEATURES), 1)])
def test_a_network_of_other_features_is_refused(path: Path, widths: tuple[int, int]) -> None:
    path.write_bytes(encoded_scorer(trained(pair=random_head(RNG, *widths, 3)), MODEL))
    refused(path, "does not fit", "train it again")


def test_a_table_of_another_shape_is_refused(path: Path) -> None:
    for table in (TABLE[:-1], TABLE[:, :-1]):
        refused(path, "does not fit", table=table)


def test_a_part_that_is_missing_is_refused(path: Path) -> None:
    head = random_head(RNG, len(SIDE_FEATURES), len(PAIR_FEATURES), 3)
    short = Head(head.mean, head.scale, (head.weights[0], head.weights[2]), (head.biases[0][:2], head.biases[2]))
    path.write_bytes(encoded_scorer(trained(pair=short), MODEL))
    refused(path, "lacks a part or has one of another shape")
