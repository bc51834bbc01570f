"""A trained network rearranged for encoding: fused projections, and weights laid out for the machine.

The numbers are those of `network.Network` in evaluation mode, up to rounding.

Shapes legend: T tokens of the whole batch, K inputs, O outputs, D model width, H heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsmine.encoder.model.network import Groups, Layer, Network, packed_attention
from emsmine.encoder.model.quantised import Int8Linear

Linear = Callable[[Tensor], Tensor]
"""A linear layer, [T, K] → [T, O]."""
MakeLinear = Callable[[Tensor, Tensor], Linear]
"""From weight [O, K] and bias [O] to a linear layer."""

# In place: a second matrix of the width of the feed-forward layer costs more in page faults than the function itself.
_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    functional.silu: torch.ops.aten.silu_,
    functional.gelu: torch.ops.aten.gelu_,
    functional.relu: torch.ops.aten.relu_,
}


class PlainLinear:
    """A linear layer in the dtype of its weight, whatever the dtype of its input."""

    def __init__(self, weight_OK: Tensor, bias_O: Tensor) -> None:
        """Keep the weight."""
        self.weight_OK, self.bias_O = weight_OK, bias_O

    def __call__(self, hidden_TK: Tensor) -> Tensor:
        """Return [T, O]."""
        return functional.linear(hidden_TK.to(self.weight_OK.dtype), self.weight_OK, self.bias_O)


class PackedLinear:
    """A float32 linear layer of a CPU whose weight is laid out once for oneDNN.

    `functional.linear` calls MKL, which lays out the weight in every call, and was 0.6 to 0.9 times as fast on an AMD
    processor. These operators are torch's own but not documented, hence `make_linear` asks whether they are there.
    """

    # Any will do; the layout was as good for 64 to 2048 rows.
    _EXPECTED_ROWS = 512

    def __init__(self, weight_OK: Tensor, bias_O: Tensor) -> None:
        """Lay out the weight."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OK, self._EXPECTED_ROWS)
        self.bias_O = bias_O

    @staticmethod
    def is_available() -> bool:
        """Tell whether this torch has oneDNN and the operators."""
        operators = ("_reorder_linear_weight", "_linear_pointwise")
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return has_onednn and all(hasattr(torch.ops.mkldnn, name) for name in operators)

    def __call__(self, hidden_TK: Tensor) -> Tensor:
        """Return float32 [T, O]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(hidden_TK, self.weight, self.bias_O, "none", [], "")
        return out


class InferenceLayer(nn.Module):
    """`network.Layer` without dropout and gradients, its query, key and value as one product."""

    def __init__(self, layer: Layer, make_linear: MakeLinear) -> None:
        """Take over the weights of a layer."""
        super().__init__()
        projections = (layer.query, layer.key, layer.value)
        self.num_heads = layer.num_heads
        self.pre_norm = layer.pre_norm
        self.query_key_value = make_linear(
            torch.cat([part.weight.detach() for part in projections]),
            torch.cat([part.bias.detach() for part in projections]),
        )
        self.attention_output, self.ffn_input, self.ffn_output = (
            make_linear(part.weight.detach(), part.bias.detach())
            for part in (layer.attention_output, layer.ffn_input, layer.ffn_output)
        )
        self.attention_norm, self.ffn_norm = layer.attention_norm, layer.ffn_norm
        self.activation_ = _IN_PLACE[layer.activation]

    def forward(self, hidden_TD: Tensor, groups: Groups) -> Tensor:
        """Return [T, D], as `Layer.forward`."""
        if self.pre_norm:
            hidden = hidden_TD + self._attended(self.attention_norm(hidden_TD), groups)
            return hidden + self._transformed(self.ffn_norm(hidden))
        hidden = self.attention_norm(hidden_TD + self._attended(hidden_TD, groups))
        out: Tensor = self.ffn_norm(hidden + self._transformed(hidden))
        return out

    def _attended(self, hidden_TD: Tensor, groups: Groups) -> Tensor:
        query, key, value = self.query_key_value(hidden_TD).view(len(hidden_TD), 3, self.num_heads, -1).unbind(1)
        return self.attention_output(packed_attention(query, key, value, groups))

    def _transformed(self, hidden_TD: Tensor) -> Tensor:
        return self.ffn_output(self.activation_(self.ffn_input(hidden_TD)))


def _make_linear(precision: str, device: torch.device) -> MakeLinear:
    if precision == "int8":
        return Int8Linear
    if precision == "bf16":
        return lambda weight, bias: PlainLinear(weight.bfloat16(), bias.bfloat16())
    return PackedLinear if device.type == "cpu" and PackedLinear.is_available() else PlainLinear


def prepare(network: Network, precision: str) -> None:
    """Replace the layers of a network by faster ones, in place and one by one, so that memory holds one copy.

    Afterwards the network can only encode: it has no `state_dict` to save and nothing to train.

    Args:
        network: in evaluation mode, on its device.
        precision: of the linear layers: `fp32`, `int8` (CPU), or `bf16`, which also holds for attention and activation
            between them. Norms and the sums of layers stay float32.

    Raises:
        ConfigError: int8 does not work on this machine.
    """
    make_linear = _make_linear(precision, network.embedding.tokens.weight.device)
    for number, layer in enumerate(network.layers):
        if isinstance(layer, Layer):
            network.layers[number] = InferenceLayer(layer, make_linear)
