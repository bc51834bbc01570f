"""Near-duplicate texts: MinHash signatures, LSH bands, and an exact check of every candidate.

The sketches are datasketch's; its LSH index is not used. With its default parameters that index found 76–82 % of the
pairs at a Jaccard similarity of 0.8, the 16 bands of 8 here 99 %, and sorting band keys takes a tenth of the time of
inserting and querying. A band key is also what a hash-partitioned shuffle needs, which an in-memory index cannot give.

Shapes: N texts, P = 128 permutations, B bands.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from emsmine.mining.text.langid import script_of
from emsmine.mining.text.normalise import dedup_key

NUM_PERMUTATIONS = 128
NUM_BANDS = 16
_SEED = 1
_PERMUTATION_SCHEME = "affine32"
# Signatures of two schemes look alike and cannot be compared: manifests store this name, and readers refuse another.
# It covers all that shapes a signature: datasketch's scheme, the hash, seed and shingles (version 1).
SCHEME = f"datasketch-{_PERMUTATION_SCHEME}-xxh32-p{NUM_PERMUTATIONS}-s{_SEED}-shingles1"

_WORD_SHINGLE = 3
_CHARACTER_SHINGLE = 5
# Below this many words, three-word shingles are so few that one changed word halves the similarity.
_MIN_WORDS = 50
# In these a word is not what stands between spaces.
_UNSPACED_SCRIPTS = frozenset({"Hani", "Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
# The signature estimates the similarity with a standard error of 0.036 at 0.8: five of them below the threshold, the
# text need not be fetched.
_ESTIMATE_MARGIN = 0.18
_CACHED_TEXTS = 4096


def shingles(text: str, lang: str | None = None) -> frozenset[str]:
    """Return the overlapping pieces by which two texts are compared.

    Texts are compared by `dedup_key`, so case and punctuation do not count. Pieces are three words; or five characters
    for a script without spaces and for texts of fewer than 50 words; or the whole key if that is shorter. Two texts on
    either side of 50 words share no piece, so near-duplicates there are missed.

    Args:
        text: any text.
        lang: canonical code, whose script decides; None takes the dominant script of the text.

    Returns:
        the set of pieces. A text of punctuation only is its own single piece; the empty text has none.
    """
    key = dedup_key(text)
    if not key:
        return frozenset((text.strip(),)) if text.strip() else frozenset()
    script = lang.partition("_")[2] if lang else script_of(key)
    words = key.split(" ")
    if len(words) >= _MIN_WORDS and script not in _UNSPACED_SCRIPTS:
        return frozenset(" ".join(words[i : i + _WORD_SHINGLE]) for i in range(len(words) - _WORD_SHINGLE + 1))
    num_pieces = max(1, len(key) - _CHARACTER_SHINGLE + 1)
    return frozenset(key[i : i + _CHARACTER_SHINGLE] for i in range(num_pieces))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the share of pieces that two sets have in common; 1.0 for two empty sets."""
    if not left and not right:
        return 1.0
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def signatures(texts: Iterable[str], lang: str | None = None) -> NDArray[np.uint32]:
    """Compute the MinHash signature of every text; comparable with others of the same `SCHEME` only.

    Shapes: uint32 [N, P].
    Reference: Broder 1997, "On the resemblance and containment of documents".
    """
    from datasketch import MinHash

    # Sorted, because the order of a set of strings changes from process to process; the minimum does not depend on it,
    # but then neither does anything that a debugger shows.
    encoded = ([piece.encode("utf-8", "surrogatepass") for piece in sorted(shingles(text, lang))] for text in texts)
    sketches: Iterator[NDArray[np.uint32]] = (
        sketch.hashvalues
        for sketch in MinHash.generator(
            encoded,
            num_perm=NUM_PERMUTATIONS,
            seed=_SEED,
            hashfunc=xxhash.xxh32_intdigest,
            scheme=_PERMUTATION_SCHEME,
        )
    )
    rows = list(sketches)
    return np.stack(rows) if rows else np.empty((0, NUM_PERMUTATIONS), dtype=np.uint32)


def band_keys(signatures_NP: NDArray[np.uint32], num_bands: int = NUM_BANDS) -> NDArray[np.uint64]:
    """Hash each band of a signature into one key; texts with an equal key in a column are candidates.

    Two bands of 128 bits may share a 64-bit key by chance; the exact check then finds the texts different.

    Shapes: signatures_NP uint32 [N, P] → uint64 [N, B].
    Raises: ValueError if the bands do not divide the signature.
    """
    num_rows, num_permutations = signatures_NP.shape
    if num_bands < 1 or num_permutations % num_bands:
        raise ValueError(f"band_keys: {num_bands} bands do not divide a signature of {num_permutations} values")
    bands = signatures_NP.reshape(num_rows, num_bands, num_permutations // num_bands).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, num_bands + 1, dtype=np.uint64), (num_rows, num_bands)).copy()
    for column in range(bands.shape[2]):
        # Multiply-xorshift, the constants of MurmurHash3's finaliser; uint64 wraps around by design.
        keys = (keys ^ bands[:, :, column]) * np.uint64(0xFF51AFD7ED558CCD)
        keys ^= keys >> np.uint64(33)
        keys *= np.uint64(0xC4CEB9FE1A85EC53)
        keys ^= keys >> np.uint64(29)
    return keys


class _Components:
    """Union-find over rows; the root of a component is its row of smallest rank."""

    def __init__(self, num_rows: int) -> None:
        self._parent = list(range(num_rows))

    def find(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def union(self, left: int, right: int) -> None:
        first, second = sorted((self.find(left), self.find(right)))
        self._parent[second] = first


def _buckets(keys_N: NDArray[np.uint64]) -> Iterator[list[int]]:
    """Yield the rows that share a key, two or more at a time, in ascending order."""
    order = np.argsort(keys_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(keys_N[order]) != 0, True])
    for start, stop in pairwise(starts.tolist()):
        if stop - start > 1:
            yield order[start:stop].tolist()


def _join_bucket(rows: list[int], components: _Components, is_near: Callable[[int, int], bool]) -> None:
    """Join all near pairs of a bucket, comparing only rows that are not joined yet.

    The result is the components of the graph of all near pairs, whatever the order; a bucket of n copies costs n
    comparisons, not n².
    """
    groups: list[list[int]] = []
    for row in rows:
        mine: list[int] | None = None
        kept = []
        for group in groups:
            if components.find(group[0]) != components.find(row) and not any(is_near(other, row) for other in group):
                kept.append(group)
                continue
            components.union(group[0], row)
            if mine is None:
                mine = group
                kept.append(mine)
            else:
                mine.extend(group)
        if mine is None:
            kept.append([row])
        else:
            mine.append(row)
        groups = kept


def near_duplicates(
    ids: NDArray[np.int64],
    texts: Sequence[str] | Callable[[int], str],
    signatures_NP: NDArray[np.uint32],
    *,
    threshold: float = 0.8,
    lang: str | None = None,
    num_bands: int = NUM_BANDS,
) -> NDArray[np.int64]:
    """Find the cluster of near-duplicates of each text.

    Two texts are near if they share a band and the exact Jaccard similarity of their shingles reaches the threshold;
    clusters are the connected components. The result does not depend on the order of the rows.

    Args:
        ids: distinct ids; the smallest of a cluster represents it.
        texts: the texts by row, or a function from row to text that is called for candidates only.
        signatures_NP: what `signatures` made of these texts, with the same `lang`.
        threshold: similarity from which two texts are near, above 0 and at most 1.
        lang: canonical code of the texts, or None, as for `shingles`.
        num_bands: must divide P; more find more pairs and cost more checks.

    Shapes: ids int64 [N]; signatures_NP uint32 [N, P] → int64 [N].
    Returns: for each row the smallest id of its cluster: its own id if nothing is near or if it represents.
    Raises: ValueError if lengths disagree, ids repeat, or the threshold is out of range.
    """
    num_rows = len(ids)
    if signatures_NP.ndim != 2 or len(signatures_NP) != num_rows:
        raise ValueError(f"near_duplicates: {num_rows} ids but signatures of shape {signatures_NP.shape}")
    if not callable(texts) and len(texts) != num_rows:
        raise ValueError(f"near_duplicates: {num_rows} ids but {len(texts)} texts")
    if len(np.unique(ids)) != num_rows:
        raise ValueError(
            f"near_duplicates: ids repeat ({num_rows - len(np.unique(ids))} of {num_rows}); pass distinct ids"
        )
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"near_duplicates: threshold is {threshold}; it must be above 0 and at most 1")
    fetch = texts if callable(texts) else texts.__getitem__
    # Row numbers in the order of ids make the smallest row of a component the one of smallest id.
    row_of_rank = np.argsort(ids, kind="stable")
    sorted_signatures = signatures_NP[row_of_rank]
    components = _Components(num_rows)

    @lru_cache(maxsize=_CACHED_TEXTS)
    def pieces(rank: int) -> frozenset[str]:
        return shingles(fetch(int(row_of_rank[rank])), lang)

    def is_near(left: int, right: int) -> bool:
        estimate = np.count_nonzero(sorted_signatures[left] == sorted_signatures[right]) / sorted_signatures.shape[1]
        return estimate >= threshold - _ESTIMATE_MARGIN and jaccard(pieces(left), pieces(right)) >= threshold

    keys = band_keys(sorted_signatures, num_bands)
    for band in range(num_bands):
        for bucket in _buckets(keys[:, band]):
            _join_bucket(bucket, components, is_near)
    representatives = np.empty(num_rows, dtype=np.int64)
    for rank, row in enumerate(row_of_rank):
        representatives[row] = ids[row_of_rank[components.find(rank)]]
    return representatives
