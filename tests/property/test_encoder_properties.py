"""Packing, network, losses, quantisation and sampler over random input."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.data.sampler import PairSampler
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import quantise_rows
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.released import released_state
from emsmine.encoder.model.tokenizer import pack, replace_surrogates
from emsmine.encoder.protocol import unit_rows
from emsmine.encoder.training.losses import contrastive_loss, duplicate_mask, reconstruction_loss
from emsmine.errors import ModelError

VOCAB = 30
SENTENCES = st.lists(st.lists(st.integers(1, VOCAB - 1), max_size=12), max_size=8)
FEW = settings(deadline=None, max_examples=30)


def network(num_layers: int) -> Network:
    config = NetworkConfig(vocab_size=VOCAB, dim=8, num_layers=num_layers, num_heads=2, ffn_dim=12, max_tokens=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_layers)
        return Network(config).eval()


NETWORKS = {layers: network(layers) for layers in (0, 1, 2)}


def tensors(batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    packed = pack(batch, 12)
    return torch.from_numpy(packed.ids), torch.from_numpy(packed.offsets)


@FEW
@given(SENTENCES, st.integers(0, 14))
def test_packing_keeps_every_sentence(batch: list[list[int]], limit: int) -> None:
    packed = pack(batch, limit)
    back = [packed.ids[a:b].tolist() for a, b in zip(packed.offsets[:-1], packed.offsets[1:], strict=True)]
    assert back == [ids[:limit] for ids in batch]


@FEW
@given(SENTENCES.filter(bool), st.data())
def test_taking_rows_is_indexing(batch: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=12))
    taken = pack(batch, 12).take(np.array(rows, dtype=np.int64))
    expected = pack([batch[row] for row in rows], 12)
    assert taken.ids.tolist() == expected.ids.tolist()
    assert taken.offsets.tolist() == expected.offsets.tolist()


@FEW
@given(SENTENCES, st.sampled_from(sorted(NETWORKS)), st.randoms())
def test_vectors_follow_their_sentences_through_any_batch(batch: list[list[int]], layers: int, random: Any) -> None:
    order = list(range(len(batch)))
    random.shuffle(order)
    with torch.inference_mode():
        together = NETWORKS[layers](*tensors(batch))
        shuffled = NETWORKS[layers](*tensors([batch[row] for row in order]))
        alone = [NETWORKS[layers](*tensors([sentence]))[0] for sentence in batch]
    assert together.shape == (len(batch), 8)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    for row, vector in enumerate(alone):
        torch.testing.assert_close(together[row], vector, rtol=0, atol=1e-5)
        assert batch[row] or not vector.any()


@FEW
@given(SENTENCES.filter(any), st.integers(0, 1000))
def test_reconstruction_is_a_divergence(batch: list[list[int]], seed: int) -> None:
    batch = [ids for ids in batch if ids]
    logits = torch.randn((len(batch), VOCAB), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    counts = float(reconstruction_loss(logits.log_softmax(-1), *tensors(batch), "counts"))
    assert counts >= -1e-9  # Gibbs: both sides sum to 1
    if all(len(set(ids)) == len(ids) for ids in batch):
        assert float(reconstruction_loss(logits.log_softmax(-1), *tensors(batch), "paper")) == counts


@FEW
@given(st.integers(1, 9), st.integers(0, 1000), st.floats(0.05, 2.0))
def test_contrastive_is_symmetric_positive_and_ignores_the_order(size: int, seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    source, target = (torch.randn((size, 5), generator=generator, dtype=torch.float64) for _ in range(2))
    loss = contrastive_loss(source, target, temperature)
    assert float(loss) >= 0
    order = torch.randperm(size, generator=generator)
    torch.testing.assert_close(contrastive_loss(target[order], source[order], temperature), loss)
    hashes = torch.randint(0, 4, (2, size), generator=generator)
    mask = duplicate_mask(hashes[0], hashes[1])
    assert torch.equal(mask, mask.T)
    assert not mask.diagonal().any()
    # Fewer negatives: never a larger loss, never an infinite one.
    masked = float(contrastive_loss(source, target, temperature, duplicates=mask))
    assert 0 <= masked <= float(loss) + 1e-9


@FEW
@given(st.integers(0, 1000), st.floats(1e-4, 1e4))
def test_quantised_rows_are_near(seed: int, scale: float) -> None:
    table = scale * torch.randn((6, 32), generator=torch.Generator().manual_seed(seed))
    rows, scales = quantise_rows(table)
    error = (rows.float() * scales[:, None] - table).abs()
    assert bool((error <= 0.501 * scales[:, None]).all())


@FEW
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), max_size=6))
def test_unit_rows_have_length_one_or_zero(rows: list[list[float]]) -> None:
    vectors = np.array(rows, dtype=np.float32).reshape(len(rows), 3)
    lengths = np.linalg.norm(unit_rows(vectors).astype(np.float64), axis=1)
    zero = np.linalg.norm(vectors, axis=1) == 0
    np.testing.assert_allclose(lengths, np.where(zero, 0.0, 1.0), atol=1e-3)


@FEW
@given(st.text(st.characters(), max_size=20))
def test_surrogates_never_survive_and_other_text_does(text: str) -> None:
    clean = replace_surrogates(text)
    clean.encode("utf-8")
    if not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        assert clean == text
    assert replace_surrogates(clean) == clean


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any),
    batch_size=st.integers(1, 12),
    groups=st.integers(0, 3),
    exponent=st.floats(0, 1),
    seed=st.integers(0, 100),
    before=st.integers(0, 12),
)
def test_the_sampler_resumes_anywhere_and_draws_each_pair_once_an_epoch(
    sizes: list[int], batch_size: int, groups: int, exponent: float, seed: int, before: int
) -> None:
    corpora = [
        Corpus("x", "a", "b", pack([[100 * number + n // 2] for n in range(2 * size)], 1), np.arange(2 * size))
        for number, size in enumerate(sizes)
    ]

    def fresh() -> PairSampler:
        return PairSampler(corpora, batch_size=batch_size, exponent=exponent, seed=seed, groups=groups)

    sampler = fresh()
    drawn = [sampler.draw().source.ids.tolist() for _ in range(before)]
    resumed = fresh()
    resumed.restore(json.loads(json.dumps(sampler.state())))
    for _ in range(3):
        batch = sampler.draw()
        assert len(batch.source) == batch_size
        assert batch.source.ids.tolist() == batch.target.ids.tolist() == resumed.draw().source.ids.tolist()
        drawn.append(batch.source.ids.tolist())
    for number, size in enumerate(sizes):
        of_corpus = [token for ids in drawn for token in ids if token // 100 == number]
        for start in range(0, len(of_corpus), max(size, 1)):
            epoch = of_corpus[start : start + size]
            assert len(set(epoch)) == len(epoch)


@FEW
@given(st.sets(st.integers(0, 43)), st.booleans())
def test_a_released_state_is_whole_or_refused(dropped: set[int], wrapped: bool) -> None:
    names = _released_names()
    kept = {("module." if wrapped else "") + name: torch.ones(1) for n, name in enumerate(names) if n not in dropped}
    missing = {names[number] for number in dropped if number < len(names)}
    heads = [name for name in names if not name.startswith("model.bert.")]
    parts = ([name for name in heads if name.startswith("align")], [n for n in heads if not n.startswith("align")])
    whole = all(not missing & set(part) or missing >= set(part) for part in parts)
    if whole and not any(name.startswith("model.bert.") for name in missing):
        assert released_state(kept).num_layers == 1
    else:
        with pytest.raises(ModelError, match=r"missing: (model|align)"):
            released_state(kept)


def _released_names() -> list[str]:
    layer = [f"attention.self_attention.{name}" for name in ("query", "key", "value")]
    layer += ["attention.output.dense", "attention.output.LayerNorm"]
    layer += ["intermediate.dense", "output.dense", "output.LayerNorm"]
    names = [f"model.bert.encoder.layer.0.{name}.{kind}" for name in layer for kind in ("weight", "bias")]
    names += ["model.bert.embedding.word_embedding.embedding.weight"]
    names += ["model.bert.embedding.position_embedding.position_embeddings.weight"]
    names += ["model.bert.embedding.layer_norm.weight", "model.bert.embedding.layer_norm.bias"]
    names += ["model.la_tag_linear.embedding.weight", "model.decoder.decoder.weight"]
    names += [
        f"model.{name}.{kind}"
        for name in ("la_tag_linear.layer_norm", "transform.dense", "transform.LayerNorm")
        for kind in ("weight", "bias")
    ]
    return names + [f"alignproj.{number}.{kind}" for number in (0, 3) for kind in ("weight", "bias")]
