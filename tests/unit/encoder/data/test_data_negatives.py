"""Hard negatives: which pairs become neighbours, how they are kept, and how they come into batches."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from encoder_tiny import assert_same, build, plain_network, sentences, sparse_training, write_pairs

from emsmine.encoder.data import negatives as module
from emsmine.encoder.data.negatives import NegativeSearch, blocks, neighbour_table
from emsmine.encoder.data.pairs import Corpus, PairFile, TokenCache
from emsmine.encoder.data.sampler import PairSampler, split_validation
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.tokenizer import Tokenizer, pack
from emsmine.encoder.training.checkpoints import load_checkpoint
from emsmine.encoder.training.parallel import Processes
from emsmine.encoder.training.run import negative_search, train
from emsmine.encoder.training.trainer import Trainer
from emsmine.errors import ConfigError, StaleOutputError

# Angles in degrees: the cosine of neighbours on the circle is that of the difference.
ANGLES = [0.0, 5.0, 30.0, 50.0, 180.0, 52.0]


@pytest.fixture(scope="module")
def similar(tmp_path_factory: pytest.TempPathFactory, spm_path: Path) -> Path:
    """Return a model directory that says which pairs are similar."""
    folder = tmp_path_factory.mktemp("similar") / "model"
    return save_model(build(plain_network(dim=24)), spm_path, folder, name="similar", table="float32")


def circle(angles: list[float]) -> npt.NDArray[np.float16]:
    radians = np.deg2rad(angles)
    return np.stack((np.cos(radians), np.sin(radians)), axis=1).astype(np.float16)


def search(similar: Path, **changes: Any) -> NegativeSearch:
    settings: dict[str, Any] = {"num_neighbours": 2, "limit": 0.95} | changes
    return NegativeSearch(EMSEncoder(similar, device="cpu"), **settings)


def distinct(size: int) -> npt.NDArray[np.int64]:
    return np.arange(2 * size, dtype=np.int64)


def test_neighbours_by_hand(tmp_path: Path, similar: Path) -> None:
    """The cosine of 5 degrees is 0.996, of 20 degrees 0.94, of more than 90 negative."""
    table = neighbour_table(circle(ANGLES), distinct(6), 6, tmp_path / "x", search(similar))
    assert table.tolist() == [[2, 3], [2, 3], [3, 5], [2, 1], [-1, -1], [2, 1]]


def test_pairs_that_share_a_sentence_are_no_negatives(tmp_path: Path, similar: Path) -> None:
    hashes = distinct(6)
    hashes[2 * 2] = hashes[2 * 0]  # a source
    hashes[2 * 3 + 1] = hashes[2 * 0 + 1]  # a target
    hashes[2 * 5 + 1] = hashes[2 * 3]  # a target that is another's source means nothing
    table = neighbour_table(circle(ANGLES), hashes, 6, tmp_path / "x", search(similar))
    assert table[0].tolist() == [5, -1]


def test_copies_of_one_sentence_are_one_neighbour(tmp_path: Path, similar: Path) -> None:
    hashes = distinct(6)
    hashes[2 * 3] = hashes[2 * 2]
    table = neighbour_table(circle(ANGLES), hashes, 6, tmp_path / "x", search(similar))
    assert table[0].tolist() == [2, 5]


def test_pairs_without_a_vector_have_no_neighbours(tmp_path: Path, similar: Path) -> None:
    vectors = circle(ANGLES)
    vectors[2] = 0
    table = neighbour_table(vectors, distinct(6), 6, tmp_path / "x", search(similar, limit=1.0))
    assert table[2].tolist() == [-1, -1]
    assert 2 not in table[:2]


def test_held_out_pairs_and_other_blocks_are_nobodys_neighbours(
    tmp_path: Path, similar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = circle([float(n * 4 % 60) for n in range(50)])
    table = neighbour_table(vectors, distinct(50), 45, tmp_path / "x", search(similar, limit=1.0))
    assert table.shape == (45, 2)
    assert int(table.max()) == 44
    monkeypatch.setattr(module, "_TILE_ELEMENTS", 30)
    cut = neighbour_table(vectors, distinct(50), 45, tmp_path / "x", search(similar, limit=1.0, among=10))
    assert blocks(45, 10) == [(0, 9), (9, 18), (18, 27), (27, 36), (36, 45)]
    assert (cut // 9 == np.arange(45)[:, None] // 9).all()
    assert not (cut == np.arange(45)[:, None]).any()
    unit = vectors.astype(np.float32)
    cosine = unit[18:27] @ unit[18:27].T - 2 * np.eye(9)
    np.testing.assert_allclose(
        np.take_along_axis(cosine, cut[18:27] - 18, axis=1), -np.sort(-cosine, axis=1)[:, :2], atol=1e-3
    )


def test_no_pairs_give_an_empty_table(tmp_path: Path, similar: Path) -> None:
    assert neighbour_table(circle([]), distinct(0), 0, tmp_path / "x", search(similar)).shape == (0, 2)


def test_tables_are_kept_and_follow_all_that_decides_them(
    tmp_path: Path, similar: Path, spm_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = tmp_path / "cache" / "x"
    arguments = (circle(ANGLES), distinct(6), 6, entry)
    first = neighbour_table(*arguments, search(similar)).tolist()
    [folder] = entry.parent.iterdir()
    assert json.loads((folder / "done.json").read_text(encoding="utf-8"))["neighbours"] == 10
    # The second time it comes from the disk: the vectors are not looked at.
    nothing = np.zeros((6, 2), np.float16)
    assert neighbour_table(nothing, *arguments[1:], search(similar)).tolist() == first
    other = save_model(build(plain_network(dim=24), seed=7), spm_path, tmp_path / "other", name="x", table="float32")
    for number, changed in enumerate(
        (search(similar, num_neighbours=1), search(similar, limit=0.9), search(other)), start=2
    ):
        neighbour_table(*arguments, changed)
        assert len(list(entry.parent.iterdir())) == number
    neighbour_table(*arguments[:2], 5, entry, search(similar))
    assert len(list(entry.parent.iterdir())) == 5
    for damage in ("cut", "other"):
        if damage == "cut":
            os.truncate(folder / "rows.npy", 140)
        else:
            np.save(folder / "rows.npy", np.zeros((6, 2), np.int32))
        with caplog.at_level(logging.WARNING):
            assert neighbour_table(*arguments, search(similar)).tolist() == first
        assert "damaged" in caplog.text
        caplog.clear()


def chain(size: int, table: list[list[int]], base: int = 0) -> Corpus:
    """Make a corpus whose pair n has the token base + n on both sides."""
    sentences = pack([[base + n // 2] for n in range(2 * size)], 1)
    neighbours = np.array(table, dtype=np.int64)
    return Corpus("de-en", "deu_Latn", "eng_Latn", sentences, np.arange(2 * size), None, neighbours)


def sampler(corpora: list[Corpus], **changes: Any) -> PairSampler:
    settings: dict[str, Any] = {"batch_size": 9, "exponent": 1.0, "seed": 3, "hard_negatives": 2} | changes
    return PairSampler(corpora, **settings)


def test_neighbours_follow_their_pair_into_the_batch() -> None:
    # Pair n below 50 is a seed with two neighbours of its own.
    corpus = chain(150, [[50 + 2 * n, 51 + 2 * n] if n < 50 else [-1, -1] for n in range(150)])
    made = sampler([corpus])
    for _ in range(10):
        found = made.draw().source.ids.tolist()
        seeds, rest = found[:3], found[3:]
        expected = [50 + 2 * n for n in seeds if n < 50] + [51 + 2 * n for n in seeds if n < 50]
        assert rest[: len(expected)] == expected
        assert len(found) == 9
    # Three seeds of every batch, and what neighbours were missing, came out of the epoch.
    plain = sampler([corpus], hard_negatives=0, batch_size=1)
    order = [int(plain.draw().source.ids[0]) for _ in range(150)]
    first = sampler([corpus]).draw().source.ids.tolist()
    assert first[:3] == order[:3]
    num_filled = 2 * sum(n >= 50 for n in order[:3])
    assert num_filled
    assert first[9 - num_filled :] == order[3 : 3 + num_filled]


def test_a_neighbour_stands_in_a_batch_once() -> None:
    corpus = chain(40, [[(n + 1) % 40, 0] for n in range(40)])
    made = sampler([corpus], batch_size=12)
    for _ in range(12):
        found = made.draw().source.ids.tolist()
        seeds = found[:4]
        wanted = [(n + 1) % 40 for n in seeds] + [0]
        expected = [n for place, n in enumerate(wanted) if n not in seeds and n not in wanted[:place]]
        assert found[4 : 4 + len(expected)] == expected


def test_groups_and_remainders_keep_the_batch_size() -> None:
    corpora = [chain(30, [[(n + 7) % 30, (n + 9) % 30] for n in range(30)], base) for base in (0, 100)]
    for groups, batch_size in ((0, 10), (2, 11), (3, 3)):
        made = sampler(corpora, groups=groups, batch_size=batch_size)
        for _ in range(10):
            batch = made.draw()
            assert len(batch.source) == batch_size
            assert (batch.source.ids // 100).tolist() == batch.corpus.tolist()
    # A family comes from one corpus: without groups 9 pairs are three families.
    counts = {tuple(np.bincount(sampler(corpora, seed=s).draw().corpus, minlength=2)) for s in range(20)}
    assert counts == {(0, 9), (3, 6), (6, 3), (9, 0)}


def test_the_vectors_of_a_teacher_are_shared(tmp_path: Path, spm_path: Path, similar: Path) -> None:
    path = write_pairs(tmp_path / "pairs") / "de-en.tsv"
    encoder = EMSEncoder(similar, device="cpu")
    chosen = NegativeSearch(encoder, 2, 0.95, validation_pairs=12)
    cache = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 24, teacher=encoder, search=chosen)
    made = cache.corpus(PairFile(path, "deu_Latn", "eng_Latn"))
    kinds = sorted(entry.name.split("-")[3] for entry in (tmp_path / "cache").iterdir() if entry.name.count("-") > 2)
    assert kinds == ["negatives", "teacher"]
    assert made.neighbours is not None
    assert made.neighbours.shape == (113, 2)
    # Neighbours are similar English sentences, not the same.
    english = encoder.encode(sentences("en"), lang="eng_Latn")
    usable = made.neighbours >= 0
    assert usable.mean() > 0.9
    rows, columns = np.nonzero(usable)
    cosines = (english[rows] * english[made.neighbours[rows, columns]]).sum(1)
    assert cosines.max() <= 0.951
    assert cosines.mean() > (english @ english.T).mean() + 0.1
    [kept], [held_out] = split_validation([made], 12)
    assert kept.neighbours is not None
    assert len(kept.neighbours) == len(kept) == 113
    assert held_out.neighbours is None


def configured(pairs: Path, output: Path, spm_path: Path, similar: Path, **changes: dict[str, Any]) -> Any:
    data = {"hard_negatives": 2, "negatives": f"ems:{similar}", "validation_pairs": 12} | changes.pop("data", {})
    return sparse_training(pairs, output, spm_path, data=data, **changes)


def test_all_that_is_set_about_negatives_reaches_their_search(similar: Path, spm_path: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    data = {"negatives_limit": 0.75, "negatives_among": 17}
    config = configured(pairs, tmp_path / "run", spm_path, similar, data=data)
    chosen = negative_search(config, None, torch.device("cpu"))
    assert chosen is not None
    assert (chosen.num_neighbours, chosen.limit, chosen.validation_pairs, chosen.among) == (2, 0.75, 12, 17)


def test_training_with_hard_negatives_resumes_exactly(
    tmp_path: Path, pairs: Path, spm_path: Path, similar: Path
) -> None:
    train(configured(pairs, tmp_path / "whole", spm_path, similar), device="cpu")
    half = configured(pairs, tmp_path / "half", spm_path, similar)
    train(half, device="cpu", stop_after=10)
    shutil.rmtree(tmp_path / "half/cache")  # found again, or the data would count as changed
    train(half, device="cpu")
    whole, resumed = (load_checkpoint(tmp_path / name, torch.device("cpu")) for name in ("whole", "half"))
    assert_same(resumed, whole)
    assert whole is not None
    # Every pair drawn from the epochs brought others along.
    assert sum(whole["sampler"]["drawn"]) < 0.7 * 20 * 16
    remembered = json.loads((tmp_path / "half/data.json").read_text(encoding="utf-8"))
    assert remembered["negatives"] == ["ems:similar", EMSEncoder(similar, device="cpu").fingerprint()]
    assert len(remembered["0 de-en"]) == 5


def test_another_encoder_of_the_same_name_is_noticed(
    tmp_path: Path, pairs: Path, spm_path: Path, similar: Path
) -> None:
    moved = tmp_path / "similar"
    shutil.copytree(similar, moved)
    config = configured(pairs, tmp_path / "run", spm_path, moved)
    train(config, device="cpu", stop_after=1)
    shutil.rmtree(moved)
    save_model(build(plain_network(dim=24), seed=5), spm_path, moved, name="similar", table="float32")
    with pytest.raises(StaleOutputError, match="changed: 0 de-en, 1 en-fr, negatives"):
        train(config, device="cpu")


def test_processes_that_keep_their_negatives_to_themselves_are_refused(
    tmp_path: Path, pairs: Path, spm_path: Path, similar: Path
) -> None:
    loss = {"gather_negatives": False, "mask_duplicates": True, "xtr_weight": 0.0}
    config = configured(pairs, tmp_path, spm_path, similar, loss=loss)
    corpora = [chain(20, [[0, 1]] * 20)]
    Trainer(config, corpora, torch.device("cpu"))
    with pytest.raises(ConfigError, match="gather_negatives is false, but the 2 processes share a pair"):
        Trainer(config, corpora, torch.device("cpu"), processes=Processes(0, 2))
