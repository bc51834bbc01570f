"""The network rearranged for encoding agrees with the network as trained, in each precision."""

import functools
import weakref
from typing import Any

import pytest
import torch
from encoder_tiny import build, layered_network, plain_network, tensors
from torch import Tensor
from torch.nn import functional

from emsmine.encoder.model import inference, quantised
from emsmine.encoder.model.inference import InferenceLayer, PackedLinear, PlainLinear, prepare
from emsmine.encoder.model.network import Layer, Network
from emsmine.encoder.model.quantised import Int8Linear, require_exact_products
from emsmine.errors import ConfigError

BATCH = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [], [7, 6, 5], [8, 8], [20]]


@functools.cache
def int8_works() -> bool:
    try:
        require_exact_products()
    except ConfigError:
        return False
    return True


needs_int8 = pytest.mark.skipif(not int8_works(), reason="needs a processor with exact int8 products (VNNI)")
PRECISIONS = ["fp32", pytest.param("int8", marks=needs_int8), "bf16"]


def wide_network(layer_norm: str = "post") -> Network:
    """Two layers of width 256 with the weights that torch starts from: wide enough for rounding to average out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(layered_network(dim=256, num_heads=4, ffn_dim=1024, layer_norm=layer_norm)).eval()


def cosines(ours: Tensor, theirs: Tensor) -> Tensor:
    return functional.cosine_similarity(ours.double(), theirs.double(), dim=1)


@pytest.mark.parametrize("packed", [True, False], ids=["oneDNN", "plain"])
@pytest.mark.parametrize(
    "changes",
    [{"activation": "swish"}, {"activation": "gelu"}, {"activation": "relu"}, {"layer_norm": "pre"}],
    ids=lambda changes: "-".join(changes.values()),
)
def test_fp32_is_the_network_as_trained(packed: bool, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if packed and not PackedLinear.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(PackedLinear, "is_available", lambda: packed)
    config = layered_network(**changes)
    network = build(config)
    prepare(network, "fp32")
    assert isinstance(network.layers[0], InferenceLayer)
    assert isinstance(network.layers[0].ffn_input, PackedLinear if packed else PlainLinear)
    with torch.inference_mode():
        torch.testing.assert_close(network(*tensors(BATCH)), build(config)(*tensors(BATCH)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_low_precision_is_near(precision: str, layer_norm: str) -> None:
    if precision == "int8" and not int8_works():
        pytest.skip("needs a processor with exact int8 products (VNNI)")
    network = wide_network(layer_norm)
    batch = [sentence for sentence in BATCH if sentence]
    with torch.inference_mode():
        expected = network(*tensors(batch))
        prepare(network, precision)
        found = network(*tensors(batch))
    assert found.dtype == torch.float32
    assert cosines(found, expected).min() >= 0.999
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_second_preparation_changes_nothing(precision: str) -> None:
    network = build(layered_network())
    prepare(network, precision)
    layers = list(network.layers)
    prepare(network, precision)
    assert all(one is other for one, other in zip(layers, network.layers, strict=True))


def test_a_network_without_layers_stays_as_it_is() -> None:
    network = build(plain_network())
    prepare(network, "fp32")
    torch.testing.assert_close(network(*tensors(BATCH)), build(plain_network())(*tensors(BATCH)), rtol=0, atol=0)


def test_every_precision_has_its_own_linear_layer() -> None:
    cpu = torch.device("cpu")
    assert inference._make_linear("int8", cpu) is Int8Linear
    assert inference._make_linear("fp32", torch.device("cuda")) is PlainLinear
    layer = inference._make_linear("bf16", torch.device("cuda"))(torch.ones(2, 2), torch.ones(2))
    assert isinstance(layer, PlainLinear)
    assert layer.weight_OK.dtype == layer.bias_O.dtype == torch.bfloat16


@needs_int8
class TestInt8Linear:
    @staticmethod
    def make(inputs: int = 48, outputs: int = 40) -> tuple[Int8Linear, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        weight, bias = torch.randn((outputs, inputs), generator=generator), torch.randn(outputs, generator=generator)
        return Int8Linear(weight, bias), weight, bias

    def test_whole_numbers_are_exact(self) -> None:
        # The largest of each row is 127, so every scale is 1.
        weight = torch.tensor([[127.0, -3.0, 0.0], [1.0, 2.0, -127.0]])
        rows = torch.tensor([[127.0, 0.0, 5.0], [-127.0, 127.0, 1.0]])
        found = Int8Linear(weight, torch.tensor([0.5, -1.0]))(rows)
        expected = [[127 * 127 + 0.5, 127 - 5 * 127 - 1], [-127 * 127 - 381 + 0.5, -127 + 254 - 127 - 1]]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)

    def test_the_error_is_that_of_the_rounding(self) -> None:
        layer, weight, bias = self.make()
        rows = torch.randn((9, 48), generator=torch.Generator().manual_seed(1))
        # Half a step of each factor times the other, summed over the inputs.
        row_step, weight_step = (part.abs().amax(1) / 127 for part in (rows, weight))
        bound = (
            row_step[:, None] / 2 * weight.abs().sum(1)
            + rows.abs().sum(1)[:, None] * weight_step / 2
            + 48 * row_step[:, None] * weight_step / 4
        )
        error = (layer(rows) - (rows @ weight.T + bias)).abs()
        assert bool((error <= bound).all())
        assert error.max() > 0

    def test_a_row_does_not_depend_on_its_neighbours(self) -> None:
        layer, _, _ = self.make()
        rows = torch.randn((33, 48), generator=torch.Generator().manual_seed(2))
        rows[5] *= 1000
        together = layer(rows)
        for number in (0, 5, 32):
            assert torch.equal(layer(rows[number : number + 1])[0], together[number])

    @pytest.mark.parametrize("block", [1, 100, 48 * 33, 10**6])
    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
        layer, _, _ = self.make()
        rows = torch.randn((33, 48), generator=torch.Generator().manual_seed(4))
        expected = layer(rows)
        monkeypatch.setattr(quantised, "_BLOCK", block)
        assert torch.equal(layer(rows), expected)

    def test_zeros_give_the_bias(self) -> None:
        layer, _, bias = self.make()
        torch.testing.assert_close(layer(torch.zeros(3, 48)), bias.expand(3, -1), rtol=0, atol=0)
        silent = Int8Linear(torch.zeros(4, 8), torch.arange(4.0))
        torch.testing.assert_close(silent(torch.ones(2, 8)), torch.arange(4.0).expand(2, -1), rtol=0, atol=0)

    def test_the_stride_of_a_single_row_does_not_matter(self) -> None:
        layer, _, _ = self.make()
        row = torch.randn((1, 48), generator=torch.Generator().manual_seed(3))
        assert torch.equal(layer(row.as_strided((1, 48), (0, 1))), layer(row))

    def test_one_input_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="at least 2 wide, this one is 1"):
            Int8Linear(torch.ones(4, 1), torch.ones(4))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_stays_so_and_stays_in_its_row(self, bad: float) -> None:
        layer, _, _ = self.make()
        rows = torch.ones((3, 48))
        rows[1, 7] = bad
        found = layer(rows)
        assert not bool(torch.isfinite(found[1]).any())
        torch.testing.assert_close(found[[0, 2]], layer(torch.ones((2, 48))), rtol=0, atol=0)


def test_a_processor_whose_products_overflow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(rows: Tensor, columns: Tensor) -> Tensor:
        """Shift one factor to 0…255, sum pairs of products in 16 bits, undo the shift: as done without VNNI."""
        products = (rows.long() + 128)[:, :, None] * columns.long()
        pairs = products[:, 0::2] + products[:, 1::2]
        sums: Tensor = pairs.clamp(-(2**15), 2**15 - 1).sum(1) - 128 * columns.long().sum(0)
        return sums.int()

    small = torch.full((2, 4), 3, dtype=torch.int8)
    assert saturating(small, small.t()).tolist() == [[36, 36], [36, 36]]
    monkeypatch.setattr(torch, "_int_mm", saturating)
    with pytest.raises(ConfigError, match="overflow on this processor"):
        require_exact_products.__wrapped__()


def test_a_torch_without_int8_products_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(rows: Tensor, columns: Tensor) -> Tensor:
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(torch, "_int_mm", unsupported)
    with pytest.raises(ConfigError, match=f"torch {torch.__version__.split('+')[0]}.* cannot multiply int8 here"):
        require_exact_products.__wrapped__()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_weights_as_trained_are_let_go(precision: str) -> None:
    network = build(layered_network())
    layer = network.layers[1]
    assert isinstance(layer, Layer)
    weight = weakref.ref(layer.ffn_input.weight)
    del layer
    prepare(network, precision)
    if precision != "fp32" or PackedLinear.is_available():
        assert weight() is None
