"""An exponential moving average of the weights of a network."""

import copy

import torch
from torch import Tensor

from emsmine.encoder.model.network import Network


class Average:
    """A second network that follows the trained one slowly."""

    def __init__(self, network: Network, decay: float) -> None:
        """Start from the present weights."""
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Move towards the weights after `step` steps.

        The decay is at most (1 + step) / (10 + step), so that the random weights of the start are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs."""
        return dict(self.network.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from an earlier `state`."""
        self.network.load_state_dict(state)
