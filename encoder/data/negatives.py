"""Hard negatives: for every training pair the most similar other pairs that are no translations of it.

A table of neighbours is made once, before the first step, from the vectors of any encoder, and kept on disk. Pairs
whose vectors are nearly equal are probably paraphrases, so their translations would be false negatives: they are left
out, as are pairs that share a sentence.

Shapes legend: R rows of a tile, B pairs of a block, C candidates of a pair, K neighbours of a pair, D width.

Reference: Moreira et al. 2024, NV-Retriever: Improving text embedding models with effective hard-negative mining
(positive-aware mining: no negative may be nearer than a share of the positive's similarity; here the vectors of a pair
are one, whose similarity to itself is 1, so the limit is a cosine).
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emsmine.encoder.data.cache import ArrayFile, new_entry, open_entry
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError

logger = logging.getLogger(__name__)

# Cosines in memory at a time: 64 MiB.
_TILE_ELEMENTS = 16 * 1024 * 1024
# Candidates for each neighbour: copies of one sentence are one negative.
_CANDIDATES = 4


@dataclass(frozen=True)
class NegativeSearch:
    """What decides a table of neighbours."""

    encoder: Encoder
    num_neighbours: int
    limit: float
    """Pairs with a larger cosine are taken for translations."""
    validation_pairs: int = 0
    """Held out at the end of every corpus; they are nobody's neighbours."""
    device: str = "cpu"
    """Where the products are computed."""
    among: int = 50_000
    """Neighbours are looked for among this many pairs: the cost of a pair does not grow with its corpus."""


def neighbour_table(
    vectors: npt.NDArray[np.float16],
    hashes: npt.NDArray[np.int64],
    num_pairs: int,
    entry: Path,
    search: NegativeSearch,
) -> npt.NDArray[np.int64]:
    """Return the neighbours of the first `num_pairs` pairs, from the cache or newly made.

    Args:
        vectors: float16 [at least num_pairs, D], one of each pair.
        hashes: int64 [2 × as many], of source and target by turns.
        num_pairs: the others are not looked at.
        entry: where the table is kept; a hash of all that decides it is added to the name.
        search: settings.

    Returns:
        int64 [num_pairs, K], memory-mapped: rows of neighbours, nearest first; -1 at the end where there are fewer.
    """
    parts = [search.encoder.fingerprint(), search.num_neighbours, search.limit, num_pairs, search.among, _CANDIDATES, 1]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    folder = entry.with_name(f"{entry.name}-{key}")
    shape = (num_pairs, search.num_neighbours)
    loaded = _load(folder, shape)
    if loaded is None:
        logger.info("looking for the hard negatives of %d pairs: %s", num_pairs, entry.name)
        _build(vectors, hashes, num_pairs, folder, search)
        loaded = _load(folder, shape)
    if loaded is None:
        raise InputError(f"train: {folder} cannot be read back after writing it; check the disk")
    return loaded


def _build(
    vectors: npt.NDArray[np.float16],
    hashes: npt.NDArray[np.int64],
    num_pairs: int,
    folder: Path,
    search: NegativeSearch,
) -> None:
    report: dict[str, Any] = {
        "pairs": num_pairs,
        "neighbours": 0,
        "encoder": search.encoder.name,
        "limit": search.limit,
    }
    with (
        new_entry(folder, report) as temporary,
        ArrayFile(temporary / "rows.npy", np.int64, search.num_neighbours) as table,
    ):
        for start, stop in blocks(num_pairs, search.among):
            block = torch.from_numpy(vectors[start:stop].astype(np.float32)).to(search.device)
            sides = torch.from_numpy(np.array(hashes[2 * start : 2 * stop])).view(-1, 2).to(search.device)
            for rows in nearest_in_block(block, sides, search.num_neighbours, search.limit):
                numbers = rows.cpu().numpy()
                report["neighbours"] += int((numbers >= 0).sum())
                table.append(np.where(numbers >= 0, numbers + start, -1))
    logger.info("hard negatives of %s: %s", folder.name, json.dumps(report))


def blocks(num_pairs: int, among: int) -> list[tuple[int, int]]:
    """Cut a corpus into contiguous blocks of about equal size, at most `among`, in which neighbours are looked for."""
    number = -(-num_pairs // among)
    return [(num_pairs * part // number, num_pairs * (part + 1) // number) for part in range(number)]


def nearest_in_block(vectors_BD: Tensor, hashes_B2: Tensor, num_neighbours: int, limit: float) -> Iterator[Tensor]:
    """Yield the neighbours of the pairs of a block, tile by tile.

    A neighbour shares neither source nor target with its pair, its cosine is positive and at most `limit`, and it
    shares neither side with a nearer one.

    Shapes: float32 [B, D], int64 [B, 2] → int64 [R, K] of each tile, -1 at the end.
    """
    unit = nn.functional.normalize(vectors_BD, dim=-1)
    size = len(unit)
    step = max(1, _TILE_ELEMENTS // max(1, size))
    for start in range(0, size, step):
        own_R2 = hashes_B2[start : start + step]
        cosine_RB = unit[start : start + step] @ unit.T
        # A pair shares both sides with itself, so this also keeps it from being its own neighbour.
        excluded = cosine_RB.gt(limit).logical_or_(cosine_RB.gt(0).logical_not_())
        for side in (0, 1):
            excluded.logical_or_(own_R2[:, None, side] == hashes_B2[None, :, side])
        cosine_RB.masked_fill_(excluded, float("-inf"))
        best, rows_RC = cosine_RB.topk(min(size, _CANDIDATES * num_neighbours), dim=1)
        usable = best.isfinite() & ~_repeats(hashes_B2[rows_RC])
        # Stable: the usable candidates move to the front, nearest first.
        order = torch.argsort((~usable).to(torch.uint8), dim=1, stable=True)[:, :num_neighbours]
        chosen = torch.where(usable, rows_RC, -1).gather(1, order)
        yield nn.functional.pad(chosen, (0, num_neighbours - chosen.shape[1]), value=-1)


def _repeats(hashes_RC2: Tensor) -> Tensor:
    """Say which candidates share a side with an earlier one of their row. Shapes: int64 [R, C, 2] → bool [R, C]."""
    same = (hashes_RC2[:, :, None] == hashes_RC2[:, None, :]).any(-1)
    return same.tril(-1).any(-1)


def _load(folder: Path, shape: tuple[int, int]) -> npt.NDArray[np.int64] | None:
    """Return the table of a cache entry; None if there is no whole one."""
    found = open_entry(folder, {"rows": (shape, np.int64)})
    return None if found is None else found["rows"]
