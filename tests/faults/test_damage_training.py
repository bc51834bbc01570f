"""Damage of what a training reads back: every mutant is noticed and made again or refused, or means nothing."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage_kit import mutants

from emsmine.encoder.data.cache import ArrayFile, new_entry, open_entry
from emsmine.encoder.data.negatives import NegativeSearch
from emsmine.encoder.data.pairs import PairFile, TokenCache
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import (
    save_model,
)
from emsmine.encoder.model.tokenizer import Tokenizer, is_whole, write_tokenizer
from emsmine.encoder.training.checkpoints import load_best, load_checkpoint, save_best, save_checkpoint
from emsmine.encoder.training.run import check_data, train
from emsmine.errors import CorruptOutputError, EmsmineError, ModelError, StaleOutputError

CPU = torch.device("cpu")


def cached(kind: str, tiny: Any, spm: Path, folder: Path) -> tuple[Path, Callable[[], bytes]]:
    """Return the entry of a cache and how to read it; the reader makes it again where it is damaged."""
    path = tiny.write_pairs(folder / "pairs") / "de-en.tsv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:12]))
    file = PairFile(path, "deu_Latn", "eng_Latn")
    similar = EMSEncoder(save_model(tiny.build(tiny.plain_network()), spm, folder / "e", name="e"), device="cpu")
    search = NegativeSearch(similar, 2, 0.95) if kind == "negatives" else None
    encoder = similar if kind == "teacher" else None

    def read() -> bytes:
        found = TokenCache(folder / "cache", Tokenizer(spm), 20, teacher=encoder, search=search).corpus(file)
        parts = (found.sentences.ids, found.sentences.offsets, found.hashes, found.teacher, found.neighbours)
        return b"|".join(b"" if part is None else np.ascontiguousarray(part).tobytes() for part in parts)

    read()
    mark = {"tokens": "", "teacher": "-teacher-", "negatives": "-negatives-"}[kind]
    entries = sorted((folder / "cache").iterdir(), key=lambda entry: len(entry.name))
    return next(entry for entry in entries if mark in entry.name), read


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        *(("tokens", f"{name}.npy") for name in ("ids", "offsets", "hashes")),
        ("tokens", "done.json"),
        ("teacher", "vectors.npy"),
        ("teacher", "done.json"),
        ("negatives", "rows.npy"),
        ("negatives", "done.json"),
    ],
)
def test_no_mutant_of_a_cache_is_trained_on(
    kind: str, file: str, tiny: Any, spm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry, read = cached(kind, tiny, spm, tmp_path)
    expected, whole = read(), (entry / file).read_bytes()
    again = 0
    for damaged in mutants(whole, 150):
        (entry / file).write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert read() == expected
        warned = "making it again" in caplog.text
        again += warned
        # Made again, to the same bytes; or nothing of what is read was touched.
        assert (entry / file).read_bytes() == (whole if warned else damaged)
        assert warned or file == "done.json"
    assert again > 75
    assert file == "done.json" or again > 140


def test_an_entry_of_another_key_or_of_an_earlier_version_is_made_again(
    tiny: Any, spm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry, read = cached("tokens", tiny, spm, tmp_path)
    expected = read()
    with new_entry(tmp_path / "other", {}) as folder, ArrayFile(folder / "ids.npy", np.int32) as ids:
        ids.append(np.arange(3, dtype=np.int32))
    assert open_entry(tmp_path / "other", {"ids": ((-1,), np.int32)}) is not None
    assert open_entry(tmp_path / "other", {"ids": ((4,), np.int32)}) is None
    assert open_entry(tmp_path / "other", {"ids": ((-1,), np.int64)}) is None
    (entry / "done.json").write_text('{"pairs": 12}', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert read() == expected
    assert "an earlier emsmine wrote it" in caplog.text
    shutil.rmtree(entry)
    shutil.copytree(tmp_path / "other", entry)
    with caplog.at_level(logging.WARNING):
        assert read() == expected
    assert "is of another entry or damaged" in caplog.text


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return isinstance(right, dict) and [*left] == [*right] and all(same(left[key], right[key]) for key in left)
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("kind", ["checkpoint", "best"])
def test_no_mutant_of_a_checkpoint_is_other_weights(kind: str, tmp_path: Path) -> None:
    state = {"step": 3, "model": {"weight": torch.randn(60)}, "config": "{}", "rng": torch.get_rng_state()[:40].clone()}
    path = (save_checkpoint if kind == "checkpoint" else save_best)(state, tmp_path)
    read = load_checkpoint if kind == "checkpoint" else load_best
    assert same(read(tmp_path, CPU), state)
    whole, refused = path.read_bytes(), 0
    for damaged in mutants(whole, 1500):
        path.write_bytes(damaged)
        try:
            found = read(tmp_path, CPU)
        except ModelError:
            refused += 1
        else:
            assert same(found, state)
    assert refused > 1400


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    state = {"step": 3, "model": {"weight": torch.arange(60.0)}}
    torch.save(state, tmp_path / "checkpoint-000000003.pt")
    assert same(load_checkpoint(tmp_path, CPU), state)


def test_no_mutant_of_data_json_hides_a_change(tmp_path: Path) -> None:
    check_data([], tmp_path, resuming=False, encoders={}, tokenizer=None)
    path = tmp_path / "data.json"
    whole, refused = path.read_bytes(), 0
    for damaged in mutants(whole, 200):
        path.write_bytes(damaged)
        try:
            check_data([], tmp_path, resuming=True, encoders={}, tokenizer=None)
        except (CorruptOutputError, StaleOutputError):
            refused += 1
    assert refused > 120
    path.write_text('{"0 de-en": []}', encoding="utf-8")
    with pytest.raises(StaleOutputError, match="changed: 0 de-en"):
        check_data([], tmp_path, resuming=True, encoders={}, tokenizer=None)


def test_a_damaged_tokeniser_of_a_run_is_refused_and_never_replaced(spm: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "sentencepiece.model", spm.read_bytes()
    write_tokenizer(whole, path)
    note = tmp_path / "sentencepiece.model.sha256"
    assert is_whole(path)
    for damaged in mutants(whole, 100):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"does not match sentencepiece\.model\.sha256: .* delete it, and"):
            is_whole(path)
        assert path.read_bytes() == damaged
    note.unlink()
    assert is_whole(path)
    path.unlink()
    assert not is_whole(path)
    write_tokenizer(whole, path)
    for damaged in mutants(note.read_bytes()[:64], 50):
        note.write_bytes(damaged)
        with pytest.raises(ModelError, match="does not match"):
            is_whole(path)


def test_a_run_goes_on_with_its_own_tokeniser_and_best_weights_only(tiny: Any, spm: Path, tmp_path: Path) -> None:
    data = tiny.write_pairs(tmp_path / "pairs")
    config = tiny.sparse_training(data, tmp_path / "run", spm, run={"export": "best", "validate_every": 5})
    train(config, device="cpu", stop_after=10)
    best = tmp_path / "run" / "best.pt"
    kept = best.read_bytes()
    for change in ({"accuracy": 2.0}, {"step": 7.0}, {"network": {}}, {"network": 5}):
        save_best({**load_best(tmp_path / "run", CPU), **change}, tmp_path / "run")
        with pytest.raises(ModelError, match=r"best\.pt .* is not what this training found best"):
            train(config, device="cpu", stop_after=10)
        best.write_bytes(kept)
    newest = max((tmp_path / "run").glob("checkpoint-*.pt"))
    whole = newest.read_bytes()
    state = load_checkpoint(tmp_path / "run", CPU)
    assert state is not None
    for change in ({"model": {}}, {"optimisers": []}, {"sampler": 5}, {"torch_rng": None}):
        save_checkpoint({**state, **change}, tmp_path / "run")
        with pytest.raises(ModelError, match="is not one of this training"):
            train(config, device="cpu", stop_after=10)
    newest.write_bytes(whole)
    remembered = json.loads((tmp_path / "run/data.json").read_text(encoding="utf-8"))
    assert remembered["tokenizer"] == Tokenizer(spm).sha256
    # One more unused piece: the same tokens, another tokeniser in the model.
    other = tmp_path / "other.model"
    other.write_bytes(spm.read_bytes() + b"\xa2\x06\x01x")
    assert Tokenizer(other).vocab_size == Tokenizer(spm).vocab_size
    changed = tiny.sparse_training(data, tmp_path / "run", other, run={"export": "best", "validate_every": 5})
    with pytest.raises(EmsmineError, match="tokenizer"):
        train(changed, device="cpu", stop_after=10)
