"""Whether a training can fit into memory, asked before anything is allocated."""

import torch

from emsmine.encoder.training.settings import TrainingConfig
from emsmine.errors import ConfigError
from emsmine.memory import shortage

_FLOAT = 4


def least_bytes(config: TrainingConfig, processes: int = 1) -> int:
    """Return bytes that a process of a training takes in any case: what docs/memory.md counts, less its variable parts.

    Those are weights, their moments and gradients, and, at another time than the gradients, the cosines of a batch and
    their gradients. Activations depend on the length of sentences and are left out: nothing is refused that fits.
    """
    network, heads, loss = config.network, config.heads, config.loss
    encoder, table, dim = network.num_parameters, network.vocab_size * network.dim, network.dim
    width = dim + (heads.language_dim if heads.language_embedding else 0)
    dense = encoder
    if loss.xtr_weight:
        transformed = dim if heads.shared_embedding else width
        dense += width * transformed + (0 if heads.shared_embedding else network.vocab_size * transformed)
        dense += heads.num_languages * heads.language_dim if heads.language_embedding else 0
    if heads.projection:
        dense += dim * dim + dim * heads.projection_dim
    kept = (4 if config.optimiser.amsgrad else 3) * _FLOAT * dense
    if config.optimiser.sparse_learning_rate:
        dense -= table
        kept = (4 if config.optimiser.amsgrad else 3) * _FLOAT * dense + 3 * _FLOAT * table
    if config.optimiser.ema_decay:
        kept += _FLOAT * encoder
    own = config.data.batch_size // processes
    among = config.data.batch_size if loss.gather_negatives else own
    cosines = 2 * _FLOAT * own * among if loss.contrastive_weight else 0
    return kept + max(_FLOAT * dense, cosines)


def check_memory(config: TrainingConfig, device: torch.device, processes: int = 1) -> None:
    """Refuse a training whose weights or batch this machine cannot hold.

    Raises:
        ConfigError: it cannot; the message names the sizes.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    missing = shortage(least_bytes(config, processes), free)
    if missing:
        network, heads = config.network, config.heads
        raise ConfigError(
            f"train: these settings take {missing}; lower network.vocab_size {network.vocab_size:,}, dim "
            f"{network.dim:,}, num_layers {network.num_layers:,}, ffn_dim {network.ffn_dim:,}, heads.language_dim "
            f"{heads.language_dim:,}, num_languages {heads.num_languages:,}, projection_dim {heads.projection_dim:,} "
            f"or data.batch_size {config.data.batch_size:,} (docs/memory.md has the formulas)"
        )
