"""The walk of `tiles` on a GPU: scores never leave it, and what comes out has the same bytes.

A product in float16 proposes, block maxima tell where to look, and entries that may be among the k best are scored in
float64 there. A sum in float64 that lies so near a midpoint of two float32 that its order could decide how it is
rounded is left to `exact_cosine`, which is what the processor's search rounds all of them with.

Source rows are kept on the device, as many as fit; target rows pass. The neighbours of a target tile go with it.

Shape suffixes: R x C tile, W blocks of columns, G blocks of rows, S kept source rows, P positions of a factor (whole
blocks), Q query positions, F flagged blocks, H hits, U touched rows, K neighbours, D dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from emsmine.errors import ConfigError
from emsmine.mining.exact.gpu import CHUNK_BLOCKS, CHUNK_VALUES, Gpu, check_products, exact_accumulation, tile_shape
from emsmine.mining.exact.operands import BLOCK, Side, ranks
from emsmine.mining.exact.refine import Positions, Searched
from emsmine.mining.neighbours import exact_cosine
from emsmine.mining.rounding import LENGTH, ROUNDING, float64_error, half_error, slices
from emsmine.progress import report

_LOWEST_LIMIT = -2.0
_SIGN, _ALL = 1 << 31, (1 << 32) - 1


def search_on_gpu(source: Searched, target: Searched, gpu: Gpu) -> None:
    """Fill in the nearest of both sides.

    Args:
        source: one side.
        target: the other.
        gpu: where to multiply, and how much memory that may take.

    Raises: ConfigError if the memory is too small or taken by others, or the device does not multiply as it should.
    """
    dim, k = source.side.vectors.shape[1], source.best.k
    shape = tile_shape(source.num_rows, target.num_rows, dim, k, gpu.memory_bytes)
    check_products(gpu.device, dim)
    try:
        with torch.inference_mode(), exact_accumulation():
            for kept in slices(0, source.num_rows, shape.kept_rows):
                spans = slices(kept.start, kept.stop, shape.source_rows)
                lefts = [_Rows(source, span, gpu.device) for span in spans]
                for span in slices(0, target.num_rows, shape.target_rows):
                    right = _Rows(target, span, gpu.device)
                    for left in lefts:
                        _search_tile(left, right)
                    report((kept.stop - kept.start) / source.num_rows * (span.stop - span.start) / target.num_rows)
                    right.store()
                for left in lefts:
                    left.store()
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"search: {gpu.device} has no room for the {gpu.memory_bytes >> 20:,} MiB that a task may take; lower "
            f"--max-gpu-memory, take fewer workers (-j), or search on processors (--device cpu): {error}"
        ) from error


class _Rows:
    """Rows of one side on the device, in whole blocks, with their neighbours so far.

    Positions are laid out and filled up as in `operands`: a block is every W-th position.

    Shapes: float32, float16 [P, D]; error [P], how far rounding moved each row, and half of what the product errs by;
    row_P, the row of the span that stands at each position; real_P, False for a repeated row; ids, cosine [S, K].
    """

    def __init__(self, searched: Searched, span: slice, device: str) -> None:
        self._searched, self.span = searched, span
        rank, real = ranks(span.stop - span.start)
        self.row_P, self.real_P = torch.from_numpy(rank).to(device), torch.from_numpy(real).to(device)
        dim = searched.side.vectors.shape[1]
        self.float32 = torch.empty(len(rank), dim, device=device)
        self.float16 = torch.empty(len(rank), dim, dtype=torch.float16, device=device)
        self.error = torch.empty(len(rank), device=device)
        for part in slices(0, len(rank), max(1, CHUNK_VALUES // dim)):
            self._upload(searched.side, rank[part] + span.start, part)
        self.largest_error = float(self.error.max())
        best = searched.best
        self.ids, self.cosine = (torch.from_numpy(array[span]).to(device) for array in (best.ids, best.cosine))
        if device == "cpu":  # elsewhere these are copies already
            self.ids, self.cosine = self.ids.clone(), self.cosine.clone()

    def _upload(self, side: Side, rows: Positions, part: slice) -> None:
        vectors = torch.from_numpy(side.take(rows)).to(self.float32.device)
        dim = vectors.shape[1]
        halves = vectors.half()
        # Float32 holds what rounding took away; the factor covers the sum of its squares.
        length = torch.linalg.vector_norm(vectors - halves.float(), dim=1) * (1 + dim * 2.0**-24)
        self.float32[part], self.float16[part], self.error[part] = vectors, halves, length + half_error(dim)

    def store(self) -> None:
        """Store the neighbours found so far in the side they belong to."""
        self._searched.best.ids[self.span] = self.ids.cpu().numpy()
        self._searched.best.cosine[self.span] = self.cosine.cpu().numpy()


def _search_tile(left: _Rows, right: _Rows) -> None:
    """Update the neighbours of both sides with the scores of one tile."""
    scores_RC = left.float16 @ right.float16.T
    num_rows, num_columns = scores_RC.shape
    by_row_RBW = scores_RC.view(num_rows, BLOCK, num_columns // BLOCK)
    by_column_CBG = scores_RC.view(BLOCK, num_rows // BLOCK, num_columns).permute(2, 0, 1)
    _absorb(_Blocks(by_row_RBW, scores_RC), left, right)
    _absorb(_Blocks(by_column_CBG, scores_RC.T), right, left)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The scores of queries with blocks of base positions.

    Shapes: by_query [Q, 32, W]; scores the same as [Q, base positions].
    """

    by_query: Tensor
    scores: Tensor

    def positions(self, block_H: Tensor, member_H: Tensor) -> Tensor:
        """Return the base position of a member of a block."""
        return member_H * self.by_query.shape[2] + block_H


def _absorb(blocks: _Blocks, query: _Rows, base: _Rows) -> None:
    """Merge the entries that may be among the k best of a query into its neighbours."""
    maxima_QW = blocks.by_query.amax(dim=1)
    slack_Q = _slack(query, base)
    limit_Q = _floor(blocks, maxima_QW, slack_Q, query, base) - slack_Q
    row_F, block_F = torch.nonzero(maxima_QW >= limit_Q[:, None], as_tuple=True)
    for part in slices(0, len(row_F), CHUNK_BLOCKS):
        row, block = row_F[part], block_F[part]
        entries_FB = blocks.by_query[row, :, block]
        hit, member = torch.nonzero(entries_FB >= limit_Q[row, None], as_tuple=True)
        query_H, base_H = row[hit], blocks.positions(block[hit], member)
        real_H = query.real_P[query_H] & base.real_P[base_H]
        query_H, base_H = query_H[real_H], base_H[real_H]
        if len(query_H):
            _merge(
                query, query.row_P[query_H], base.row_P[base_H] + base.span.start, _scores(query, base, query_H, base_H)
            )


def _slack(query: _Rows, base: _Rows) -> Tensor:
    """Bound how far the products of each query are from its scores; see `operands`.

    One error stands for those of all base rows, which hardly differ.
    """
    return LENGTH * base.largest_error + query.error * (LENGTH + base.largest_error) + float(ROUNDING)


def _floor(blocks: _Blocks, maxima_QW: Tensor, slack_Q: Tensor, query: _Rows, base: _Rows) -> Tensor:
    """Bound the exact score of each query's k-th nearest from below, by its neighbours so far and this tile.

    Distinct blocks hold distinct entries, so k blocks whose maxima reach a value prove k entries that do. Where a tile
    has fewer than k blocks, its entries themselves are counted.
    """
    kth_Q = query.cosine[query.row_P, -1]
    floor_Q = kth_Q.clamp(min=_LOWEST_LIMIT)
    if bool(torch.isfinite(kth_Q).all()):
        return floor_Q
    k = query.cosine.shape[1]
    values = maxima_QW if maxima_QW.shape[1] >= k else blocks.scores[:, base.real_P]
    if values.shape[1] < k:
        return floor_Q
    return torch.maximum(floor_Q, values.float().topk(k, dim=1).values[:, -1] - slack_Q)


def _scores(query: _Rows, base: _Rows, query_H: Tensor, base_H: Tensor) -> Tensor:
    """Return what `exact_cosine` gives for each hit, float32 [H]."""
    dim = query.float32.shape[1]
    error, parts = float64_error(dim), []
    for part in slices(0, len(query_H), max(1, CHUNK_VALUES // dim)):
        left_HD, right_HD = query.float32[query_H[part]], base.float32[base_H[part]]
        sums_H = (left_HD.double() * right_HD.double()).sum(dim=1)
        scores_H = (sums_H - error).float()
        unsure = torch.nonzero(scores_H != (sums_H + error).float())[:, 0]
        if len(unsure):
            exact = exact_cosine(left_HD[unsure].cpu().numpy(), right_HD[unsure].cpu().numpy())
            scores_H[unsure] = torch.from_numpy(exact).to(scores_H.device)
        parts.append(scores_H)
    return torch.cat(parts)


def _merge(query: _Rows, row_H: Tensor, id_H: Tensor, cosine_H: Tensor) -> None:
    """Merge entries into the neighbours of the query rows that they belong to."""
    better = cosine_H >= query.cosine[row_H, -1]
    row_H, id_H, cosine_H = row_H[better], id_H[better], cosine_H[better]
    touched_U, number_H = torch.unique(row_H, return_inverse=True)
    old_ids, old_cosine = query.ids[touched_U], query.cosine[touched_U]
    old_row, old_rank = torch.nonzero(old_ids >= 0, as_tuple=True)
    query.ids[touched_U], query.cosine[touched_U] = top_k(
        torch.cat([old_row, number_H]),
        torch.cat([old_ids[old_row, old_rank], id_H]),
        torch.cat([old_cosine[old_row, old_rank], cosine_H]),
        *old_ids.shape,
    )


def top_k(row_H: Tensor, id_H: Tensor, cosine_H: Tensor, num_rows: int, k: int) -> tuple[Tensor, Tensor]:
    """Keep the k best entries of each row: cosine descending, then id ascending.

    Shapes: int64, int64, float32 [H]. Returns: ids int64 and cosine float32 [num_rows, K], -1 and -inf for none.
    """
    order = torch.argsort(id_H, stable=True)
    keys = (row_H << 32) | descending_bits(cosine_H)
    order = order[torch.argsort(keys[order], stable=True)]
    row_H = row_H[order]
    first = torch.searchsorted(row_H, torch.arange(num_rows, device=row_H.device))
    rank = torch.arange(len(row_H), device=row_H.device) - first[row_H]
    kept = rank < k
    ids = torch.full((num_rows, k), -1, dtype=torch.int64, device=row_H.device)
    cosine = torch.full((num_rows, k), -torch.inf, device=row_H.device)
    row, rank, order = row_H[kept], rank[kept], order[kept]
    ids[row, rank], cosine[row, rank] = id_H[order], cosine_H[order]
    return ids, cosine


def descending_bits(scores: Tensor) -> Tensor:
    """Turn float32 scores into integers below 2^32 that ascend as the scores descend; equal for 0.0 and -0.0."""
    bits = (scores + 0.0).view(torch.int32).long() & _ALL
    return torch.where(bits >= _SIGN, bits, ~bits & (_SIGN - 1))
