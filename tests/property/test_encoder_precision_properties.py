"""Vectors follow their sentences through any batch, in each precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.inference import prepare
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.quantised import Int8Linear, require_exact_products
from emsmine.encoder.model.tokenizer import pack
from emsmine.errors import ConfigError

VOCAB = 30
SENTENCES = st.lists(st.lists(st.integers(1, VOCAB - 1), max_size=12), min_size=1, max_size=10)
FEW = settings(deadline=None, max_examples=25)


def network(precision: str) -> Network:
    config = NetworkConfig(vocab_size=VOCAB, dim=64, num_layers=2, num_heads=4, ffn_dim=128, max_tokens=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Network(config).eval()
    prepare(made, precision)
    return made


PRECISIONS: tuple[str, ...] = ("fp32", "int8")
try:
    require_exact_products()
except ConfigError:  # A processor without VNNI.
    PRECISIONS = ("fp32",)
NETWORKS = {precision: network(precision) for precision in PRECISIONS}


def encode(precision: str, batch: list[list[int]]) -> torch.Tensor:
    packed = pack(batch, 12)
    with torch.inference_mode():
        vectors: torch.Tensor = NETWORKS[precision](torch.from_numpy(packed.ids), torch.from_numpy(packed.offsets))
    return vectors


@FEW
@given(SENTENCES, st.sampled_from(PRECISIONS), st.data())
def test_a_vector_does_not_depend_on_the_batch(batch: list[list[int]], precision: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=12))
    together = encode(precision, batch)
    torch.testing.assert_close(encode(precision, [batch[row] for row in rows]), together[rows], rtol=0, atol=1e-5)
    assert bool(torch.isfinite(together).all())


@pytest.mark.skipif("int8" not in PRECISIONS, reason="needs a processor with exact int8 products (VNNI)")
@FEW
@given(st.integers(1, 40), st.integers(2, 70), st.integers(1, 40), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_an_int8_row_is_the_same_in_any_company(rows: int, inputs: int, outputs: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = scale * torch.randn((rows, inputs), generator=generator)
    layer = Int8Linear(torch.randn((outputs, inputs), generator=generator), torch.randn(outputs, generator=generator))
    order = torch.randperm(rows, generator=generator)
    together = layer(hidden)
    assert torch.equal(layer(hidden[order]), together[order])
    assert torch.equal(layer(hidden[-1:]), together[-1:])
