"""Linear layers in int8 on a CPU: the one place that knows how.

Each row of the input (a token) and each output channel of the weight has a scale of its own, so the vector of a
sentence does not depend on which sentences share its batch: integer sums are exact in any order. (torch's dynamic
quantisation takes one scale for the whole batch, and its interface is deprecated; `torch._int_mm` is as fast.)

Shapes legend: T tokens, K inputs, O outputs.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from emsmine.errors import ConfigError

_LARGEST = 127
# So that a row of zeros has a scale to divide by.
_TINY = 1e-30
# Numbers that are rounded or scaled at a time, in several steps: their 4 bytes each fit into a cache of 1 MB.
_BLOCK = 2**17


class Int8Linear:
    """`x @ weight.T + bias` with both factors rounded to int8."""

    def __init__(self, weight_OK: Tensor, bias_O: Tensor) -> None:
        """Round the weight, symmetrically per output channel.

        Raises:
            ConfigError: this machine has no exact int8 product, or the weight has one input only.
        """
        require_exact_products()
        if weight_OK.shape[1] < 2:
            # With a dimension of size 1 `torch._int_mm` can misread the strides and leave its output unwritten.
            raise ConfigError(
                f"encoder: int8 needs layers at least 2 wide, this one is {weight_OK.shape[1]}; use @fp32"
            )
        scale = weight_OK.abs().amax(dim=1, keepdim=True).clamp_min_(_TINY).div_(_LARGEST)
        self.weight_KO = (weight_OK / scale).round_().to(torch.int8).t()
        self.scale_O = scale.flatten()
        self.bias_O = bias_O

    def __call__(self, hidden_TK: Tensor) -> Tensor:
        """Return float32 [T, O]; rows that are not finite stay so."""
        # Standard strides by construction: `torch._int_mm` misreads those of a single row that is a view of something
        # else, and then leaves its output unwritten without an error (pytorch#195066).
        rounded = torch.empty(hidden_TK.shape, dtype=torch.int8)
        scales = []
        for start, stop in _blocks(hidden_TK):
            block = hidden_TK[start:stop]
            # Two reductions are faster than one of the absolute values, which would be written out first.
            least, most = block.amin(dim=1, keepdim=True), block.amax(dim=1, keepdim=True)
            scale = torch.maximum(most, least.neg_()).clamp_min_(_TINY).div_(_LARGEST)
            rounded[start:stop].copy_((block / scale).round_())
            scales.append(scale)
        sums = torch._int_mm(rounded, self.weight_KO)
        # In place, number by number, in the same 4 bytes: page faults of another matrix would take longer.
        out = sums.view(torch.float32)
        scale_T1 = torch.cat(scales)
        for start, stop in _blocks(out):
            block = out[start:stop].copy_(sums[start:stop])
            block.mul_(scale_T1[start:stop]).mul_(self.scale_O).add_(self.bias_O)
        return out


def _blocks(matrix: Tensor) -> Iterator[tuple[int, int]]:
    """Cut a matrix into runs of rows that fit into the cache; yields first row and end."""
    num_rows, width = matrix.shape
    step = max(1, _BLOCK // width)
    for start in range(0, num_rows, step):
        yield start, min(start + step, num_rows)


@functools.cache
def require_exact_products() -> None:
    """Check that int8 products are summed without saturation.

    Processors without VNNI instructions sum pairs of products in 16 bits, which overflow with large factors.

    Raises:
        ConfigError: they are not, or torch cannot multiply int8 here.
    """
    depth = 64
    rows = torch.full((32, depth), _LARGEST, dtype=torch.int8)
    rows[1::2] = -_LARGEST
    try:
        found = torch._int_mm(rows, rows.t())
    except (AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"encoder: torch {torch.__version__} cannot multiply int8 here ({error}); use @fp32"
        ) from None
    if not torch.equal(found, (rows.long() @ rows.long().t()).int()):
        raise ConfigError("encoder: int8 products overflow on this processor (it lacks VNNI); use @fp32")
