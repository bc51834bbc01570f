"""Packing, tokenising and the training of a tokeniser."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from encoder_tiny import VOCAB, train_tiny_tokenizer

from emsmine.encoder.model.tokenizer import (
    PAD_ID,
    UNK_ID,
    Tokenizer,
    TokenizerTraining,
    pack,
    replace_surrogates,
    train_tokenizer,
)
from emsmine.errors import InputError, ModelError


def test_pack_and_take_by_hand() -> None:
    packed = pack([[4, 5, 6, 7], [], [8]], 3)
    assert packed.ids.tolist() == [4, 5, 6, 8]
    assert packed.offsets.tolist() == [0, 3, 3, 4]
    assert packed.lengths.tolist() == [3, 0, 1]
    assert len(packed) == 3
    taken = packed.take(np.array([2, 1, 0, 2]))
    assert taken.ids.tolist() == [8, 4, 5, 6, 8]
    assert taken.offsets.tolist() == [0, 1, 1, 4, 5]


def test_pack_and_take_of_nothing() -> None:
    packed = pack([], 3)
    assert (len(packed), packed.ids.tolist(), packed.offsets.tolist()) == (0, [], [0])
    assert len(pack([[1]], 3).take(np.array([], dtype=np.int64))) == 0


def test_encode_cuts_and_counts(spm_path: Path) -> None:
    tokenizer = Tokenizer(spm_path)
    assert tokenizer.vocab_size == VOCAB
    whole, num_cut = tokenizer.encode(["the baker paints a boat", "", "lamps"], 100)
    assert num_cut == 0
    assert whole.lengths[1] == 0
    cut, num_cut = tokenizer.encode(["the baker paints a boat", "", "lamps"], 2)
    assert num_cut == sum(whole.lengths > 2) >= 1
    assert cut.ids[:2].tolist() == whole.ids[:2].tolist()
    exact, num_cut = tokenizer.encode(["the baker paints a boat"], int(whole.lengths[0]))
    assert (num_cut, len(exact.ids)) == (0, whole.lengths[0])


def test_encode_of_nothing(spm_path: Path) -> None:
    packed, num_cut = Tokenizer(spm_path).encode([], 10)
    assert (len(packed), num_cut) == (0, 0)


def test_case_is_folded_by_a_tokeniser_that_we_train(spm_path: Path) -> None:
    packed, _ = Tokenizer(spm_path).encode(["The BAKER", "the baker"], 10)
    assert packed.take(np.array([0])).ids.tolist() == packed.take(np.array([1])).ids.tolist()


def test_ids_of_padding_and_unknown(spm_path: Path) -> None:
    packed, _ = Tokenizer(spm_path).encode(["船", "<pad>", "the <unk> boat"], 30)
    assert UNK_ID in packed.ids[: packed.offsets[1]]
    # Text can never produce the padding id, whose vector is not trained.
    assert PAD_ID not in packed.ids


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain 🦊", "plain 🦊"),
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83e\udd8a", "🦊"),  # a pair of surrogates, as from JSON, is one character
        ("\ufeffx\ud800", "\ufeffx\ufffd"),
    ],
)
def test_surrogates_are_joined_or_replaced(text: str, clean: str, spm_path: Path) -> None:
    assert replace_surrogates(text) == clean
    tokenizer = Tokenizer(spm_path)
    assert tokenizer.encode([text], 20)[0].ids.tolist() == tokenizer.encode([clean], 20)[0].ids.tolist()


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*none\.model"):
        Tokenizer(tmp_path / "none.model")
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        Tokenizer(broken)


def test_an_empty_file_is_no_tokeniser(tmp_path: Path) -> None:
    empty = tmp_path / "empty.model"
    empty.touch()
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        Tokenizer(empty)


def test_training_gives_the_same_bytes_without_a_path_in_them(spm_path: Path, tmp_path: Path) -> None:
    again = train_tiny_tokenizer(tmp_path / "again.model")
    assert again.read_bytes() == spm_path.read_bytes()
    assert str(tmp_path).encode() not in again.read_bytes()
    assert b"again" not in again.read_bytes()


@pytest.mark.parametrize("texts", [[], ["a"]], ids=["no-text", "too-little-text"])
def test_too_little_text_says_what_to_do_and_leaves_nothing(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(InputError, match="lower vocab_size 500 or give more text"):
        train_tokenizer(texts, tmp_path / "x.model", TokenizerTraining(vocab_size=500))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*, model_writer: io.BytesIO, **settings: object) -> None:
        model_writer.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "Train", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tiny_tokenizer(tmp_path / "x.model")
    assert list(tmp_path.iterdir()) == []
