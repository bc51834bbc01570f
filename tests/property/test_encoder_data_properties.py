"""The order of pairs, hard negatives, files written in pieces and passes by tokens, over random input."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.encoder.data.cache import ArrayFile
from emsmine.encoder.data.negatives import nearest_in_block
from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.data.sampler import PairSampler
from emsmine.encoder.data.shuffling import Order
from emsmine.encoder.model.tokenizer import pack
from emsmine.encoder.training.gradients import Chunks
from emsmine.encoder.training.objective import TorchBatch

FEW = settings(deadline=None, max_examples=40)


@FEW
@given(
    size=st.integers(1, 60),
    buffer=st.integers(0, 70),
    pieces=st.lists(st.integers(0, 25), max_size=12),
    start=st.integers(0, 150),
)
def test_an_order_gives_every_row_once_an_epoch_from_any_position(
    size: int, buffer: int, pieces: list[int], start: int
) -> None:
    whole = Order(size, (1, 2), buffer).rows(0, 4 * size)
    for epoch in range(4):
        assert sorted(whole[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))
    resumed = Order(size, (1, 2), buffer)
    position = start % (2 * size)
    for count in pieces:
        found = resumed.rows(position, count)
        expected = np.concatenate((whole, Order(size, (1, 2), buffer).rows(4 * size, 300)))
        assert found.tolist() == expected[position : position + count].tolist()
        position += count


@FEW
@given(size=st.integers(2, 5000), buffer=st.integers(1, 4999))
def test_a_window_mixes_blocks_of_the_whole_corpus(size: int, buffer: int) -> None:
    order = Order(size, (3, 4), buffer)
    if buffer >= size:
        assert order.rows(0, size).tolist() == Order(size, (3, 4)).rows(0, size).tolist()
        return
    rows = order.rows(0, size)
    for start in range(0, size, buffer):
        window = rows[start : start + buffer]
        blocks = set((window // order.block).tolist())
        # Whole blocks but for those at both ends, and the short one at the end of the corpus.
        assert len(blocks) <= len(window) / order.block + 3
    assert order.block <= max(1, buffer // 256, -(-size // buffer))
    assert -(-size // order.block) <= max(buffer, 1)
    assert order._shuffled is not None
    assert len(order._shuffled[1]) <= buffer


def toy_corpora(sizes: list[int], neighbours: int, seed: int) -> list[Corpus]:
    """Make corpora whose pair n is the token 100 × corpus + n on both sides, with random tables of neighbours."""
    rng = np.random.default_rng(seed)
    made = []
    for number, size in enumerate(sizes):
        table: npt.NDArray[np.int64] = rng.integers(-1, max(size, 1), size=(size, neighbours))
        sentences = pack([[100 * number + n // 2] for n in range(2 * size)], 1)
        made.append(Corpus("x", "a", "b", sentences, np.arange(2 * size), None, -np.sort(-table, axis=1)))
    return made


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=3).filter(any),
    batch_size=st.integers(4, 16),
    groups=st.integers(0, 3),
    buffer=st.integers(0, 12),
    neighbours=st.integers(1, 3),
    seed=st.integers(0, 100),
    before=st.integers(0, 8),
    processes=st.integers(1, 3),
)
def test_batches_with_hard_negatives_keep_their_size_resume_and_are_shared(
    sizes: list[int],
    batch_size: int,
    groups: int,
    buffer: int,
    neighbours: int,
    seed: int,
    before: int,
    processes: int,
) -> None:
    batch_size -= batch_size % processes
    corpora = toy_corpora(sizes, neighbours, seed)
    chosen: dict[str, Any] = {"groups": groups, "shuffle_buffer": buffer, "hard_negatives": neighbours}

    def fresh() -> PairSampler:
        return PairSampler(corpora, batch_size=batch_size, exponent=0.5, seed=seed, **chosen)

    sampler = fresh()
    for _ in range(before):
        sampler.draw()
    shares = [fresh() for _ in range(processes)]
    for share in shares:
        share.restore(json.loads(json.dumps(sampler.state())))
    for _ in range(3):
        batch = sampler.draw()
        assert len(batch.source) == len(batch.target) == len(batch.corpus) == batch_size
        assert batch.num_tokens == 2 * batch_size
        for rank, share in enumerate(shares):
            part = share.draw(rank, processes)
            assert part.source.ids.tolist() == batch.source.ids[rank::processes].tolist()
            assert part.num_tokens == batch.num_tokens
    assert sampler.state() == shares[-1].state()


@FEW
@given(
    vectors=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=14),
    copies=st.integers(1, 14),
    neighbours=st.integers(1, 3),
    limit=st.sampled_from([0.5, 0.95, 1.0]),
)
def test_neighbours_are_those_of_a_search_by_hand(
    vectors: list[list[int]], copies: int, neighbours: int, limit: float
) -> None:
    size = len(vectors)
    block = torch.tensor(vectors, dtype=torch.float32)
    # Targets repeat after `copies` pairs, sources never.
    hashes = torch.tensor([(n, 100 + n % copies) for n in range(size)])
    [found] = nearest_in_block(block, hashes, neighbours, limit)
    assert found.shape == (size, neighbours)
    unit = torch.nn.functional.normalize(block, dim=-1)
    cosine = (unit @ unit.T).tolist()
    for row in range(size):
        usable = [n for n in range(size) if n % copies != row % copies and 0 < cosine[row][n] <= limit]
        chosen = [n for n in found[row].tolist() if n >= 0]
        assert found[row].tolist() == chosen + [-1] * (neighbours - len(chosen))
        assert set(chosen) <= set(usable)
        assert len({n % copies for n in chosen}) == len(chosen)
        ours = [cosine[row][n] for n in chosen]
        assert ours == sorted(ours, reverse=True)
        # Nothing nearer was passed over, but copies of what is nearer still.
        best: dict[int, float] = {}
        for n in usable:
            best[n % copies] = max(best.get(n % copies, -1.0), cosine[row][n])
        if size <= 4 * neighbours:
            assert ours == pytest.approx(sorted(best.values(), reverse=True)[:neighbours])


@FEW
@given(
    st.lists(st.integers(0, 7), max_size=5),
    st.sampled_from(["int32", "int64", "float16"]),
    st.sampled_from([None, 1, 3]),
)
def test_a_file_in_pieces_is_that_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], dtype: str, width: int | None
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "x.npy"
    shape = () if width is None else (width,)
    pieces = [np.arange(n * (width or 1)).reshape(n, *shape).astype(dtype) for n in lengths]
    with ArrayFile(path, dtype, width) as file:
        for piece in pieces:
            file.append(piece)
    expected = io.BytesIO()
    np.save(expected, np.concatenate([np.zeros((0, *shape), dtype), *pieces]))
    assert path.read_bytes() == expected.getvalue()
    assert file.num_rows == sum(lengths)


@FEW
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20),
    budget=st.integers(1, 60),
)
def test_passes_hold_every_pair_once_within_the_budget(lengths: list[tuple[int, int]], budget: int) -> None:
    offsets = [torch.tensor([0, *np.cumsum([pair[side] for pair in lengths])]) for side in (0, 1)]
    ids = [torch.arange(int(each[-1])) for each in offsets]
    languages = torch.arange(len(lengths))
    batch = TorchBatch(ids[0], offsets[0], ids[1], offsets[1], languages, languages, None)
    chunks = Chunks.of_tokens(batch, budget)
    assert chunks.order is not None
    assert sorted(chunks.order.tolist()) == list(range(len(lengths)))
    assert [start for start, _ in chunks.bounds] == [0, *(stop for _, stop in chunks.bounds[:-1])]
    assert chunks.bounds[-1][1] == len(lengths)
    sorted_batch = batch.take(chunks.order)
    totals = [sum(lengths[n]) for n in chunks.order.tolist()]
    assert totals == sorted(totals)
    for number, (start, stop) in enumerate(chunks.bounds):
        assert stop > start
        assert sum(totals[start:stop]) <= budget or stop == start + 1
        if number + 1 < len(chunks.bounds):
            assert sum(totals[start : stop + 1]) > budget
        part = sorted_batch.chunk(start, stop)
        expected = [
            torch.cat([side[o[n] : o[n + 1]] for n in chunks.order[start:stop].tolist()])
            for side, o in zip(ids, offsets, strict=True)
        ]
        assert part.source_ids.tolist() == expected[0].tolist()
        assert part.target_ids.tolist() == expected[1].tolist()
        assert part.source_language.tolist() == chunks.order[start:stop].tolist()


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with ArrayFile(tmp_path / "x.npy", np.int32, 2) as file:
        for rows in (np.zeros((1, 2), np.int64), np.zeros((1, 3), np.int32), np.zeros(2, np.int32)):
            with pytest.raises(ValueError, match="in a file of int32"):
                file.append(rows)
    assert np.load(tmp_path / "x.npy").shape == (0, 2)
