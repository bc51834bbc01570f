"""The inverted lists of an opened FAISS index, and how far their vectors in float16 misplace a score.

Nothing is copied but the part of a list that is asked for: the lists of an index file stay mapped.

Shape suffixes: M rows of a list, D dimensions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.approximate.loader import load_faiss
from emsmine.mining.exact.search import Float32Array, Int64Array


class StoredLists:
    """Lists of vectors in float16.

    Args:
        index: a FAISS index of inverted lists, which is kept alive.
        dim: dimension of the vectors.

    Raises: ValueError for an index that stores its vectors in another way.
    """

    def __init__(self, index: Any, dim: int) -> None:
        faiss = load_faiss()
        self._lists = faiss.downcast_InvertedLists(index.invlists)
        self._index, self._view, self._dim = index, faiss.rev_swig_ptr, dim
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.by_residual or index.code_size != 2 * dim:
            raise ValueError(
                f"search: an index of {type(index).__name__} with {index.code_size} bytes a row cannot be searched "
                f"list by list, which needs {dim} float16 values a row; build it again"
            )

    def __len__(self) -> int:
        """Return the number of lists."""
        return int(self._lists.nlist)

    def rows(self, number: int) -> Int64Array:
        """Return the rows of a list, int64 [M]; valid as long as the index is open."""
        size = self._lists.list_size(number)
        if not size:
            return np.zeros(0, dtype=np.int64)
        rows: Int64Array = self._view(self._lists.get_ids(number), size)
        return rows

    def vectors(self, number: int, part: slice, *, use_torch: bool) -> Float32Array:
        """Return a part of the vectors of a list, float32 [M, D]; the list must not be empty.

        Args:
            use_torch: by torch, which turns float16 into float32 about 15 times as fast as numpy, to the same values.
        """
        size = self._lists.list_size(number)
        codes: NDArray[np.uint8] = self._view(self._lists.get_codes(number), size * 2 * self._dim)
        half = codes.view(np.float16).reshape(size, self._dim)[part]
        if not use_torch:
            return half.astype(np.float32)
        import torch

        vectors: Float32Array = torch.from_numpy(half).float().numpy()
        return vectors
