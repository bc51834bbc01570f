"""The Arrow schemas of all datasets, and readers for embedding columns.

A dataset is a folder of Parquet shards in a run directory; `docs/formats.md` describes them for users.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import CorruptOutputError

HASH = pa.binary(16)

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("date", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("source_length", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("html_lang", pa.string(), nullable=False),
        pa.field("declared_lang", pa.string(), nullable=False),
        pa.field("mt_hints", pa.list_(pa.string()), nullable=False),
    ]
)

DUPLICATES = pa.schema(
    [
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("duplicate_of", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
    ]
)

SEGMENTS = pa.schema(
    [
        pa.field("text_hash", HASH, nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lid_score", pa.float32(), nullable=False),
        pa.field("lid_level", pa.string(), nullable=False),
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
    ]
)

SENTENCES = pa.schema(
    [
        pa.field("sentence_id", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lid_score", pa.float32(), nullable=False),
        pa.field("lid_level", pa.string(), nullable=False),
        pa.field("text_hash", HASH, nullable=False),
    ]
)

OCCURRENCES = pa.schema(
    [
        pa.field("sentence_id", pa.int64(), nullable=False),
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
    ]
)

CANDIDATES = pa.schema(
    [
        pa.field("source_id", pa.int64(), nullable=False),
        pa.field("target_id", pa.int64(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("in_forward", pa.bool_(), nullable=False),
        pa.field("in_backward", pa.bool_(), nullable=False),
        pa.field("suspicion", pa.uint32(), nullable=False),
    ]
)

LOOKED = CANDIDATES.append(pa.field("word_cosine", pa.float32(), nullable=False)).append(
    pa.field("logit", pa.float32(), nullable=False)
)

RESCORED = CANDIDATES.append(pa.field("probability", pa.float32(), nullable=False)).append(
    pa.field("support", pa.int32(), nullable=False)
)

SELECTED = pa.schema(
    [
        pa.field("source_id", pa.int64(), nullable=False),
        pa.field("target_id", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("support", pa.int32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("suspicious", pa.string(), nullable=False),
    ]
)

_SIDE = [
    ("text", pa.string()),
    ("sentence_id", pa.int64()),
    ("url", pa.string()),
    ("date", pa.string()),
    ("doc_id", pa.int64()),
    ("position", pa.int32()),
    ("lid_score", pa.float32()),
    ("mt_hints", pa.list_(pa.string())),
]


def pairs_schema(rules: list[str]) -> pa.Schema:
    """Return the schema of the kept pairs: those of `SELECTED`, both sides with provenance, a column per rule score."""
    fields = [SELECTED.field(name) for name in ("score", "support", "margin", "cosine", "suspicious")]
    for side in ("source", "target"):
        fields += [pa.field(f"{side}_{name}", kind, nullable=False) for name, kind in _SIDE]
    fields += [pa.field(f"rule_{name}", pa.float32()) for name in rules]
    return pa.schema(fields)


def signatures_schema(width: int) -> pa.Schema:
    """Return the schema of document signatures; `width` is the size of one signature in bytes."""
    return pa.schema(
        [
            pa.field("doc_id", pa.int64(), nullable=False),
            pa.field("text_hash", HASH, nullable=False),
            pa.field("signature", pa.binary(width), nullable=False),
        ]
    )


def embeddings_schema(dim: int, encoder: str, fingerprint: str) -> pa.Schema:
    """Return the schema of embeddings: float16 vectors as fixed-size binary, described in the schema metadata."""
    metadata = {"dim": str(dim), "dtype": "float16", "encoder": encoder, "encoder_fingerprint": fingerprint}
    return pa.schema(
        [
            pa.field("sentence_id", pa.int64(), nullable=False),
            pa.field("text_hash", HASH, nullable=False),
            pa.field("embedding", pa.binary(2 * dim), nullable=False),
        ],
        metadata=metadata,
    )


def neighbours_schema(k: int) -> pa.Schema:
    """Return the schema of k nearest neighbours: ids (-1: none) and cosines, best first."""
    return pa.schema(
        [
            pa.field("sentence_id", pa.int64(), nullable=False),
            pa.field("ids", pa.list_(pa.int64(), k), nullable=False),
            pa.field("cosine", pa.list_(pa.float32(), k), nullable=False),
        ]
    )


def fixed_binary(rows: npt.NDArray[np.generic]) -> pa.Array:
    """View a C-contiguous [N, W] array as a fixed-size binary column, one row per value."""
    contiguous = np.ascontiguousarray(rows)
    width = contiguous.shape[1] * contiguous.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(contiguous), [None, pa.py_buffer(contiguous)])


def from_fixed_binary(column: pa.ChunkedArray | pa.Array, dtype: str) -> npt.NDArray[np.generic]:
    """Return a fixed-size binary column as an array [N, width / itemsize]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.byte_width
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros((0, width // np.dtype(dtype).itemsize), dtype=dtype)
    flat: npt.NDArray[np.generic] = np.frombuffer(buffer, dtype=np.uint8)
    start = array.offset * width
    return flat[start : start + len(array) * width].view(dtype).reshape(len(array), -1)


def embeddings_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return what the schema of embeddings says of them: dim, dtype, encoder, encoder_fingerprint."""
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"}


def read_embeddings(table: pa.Table) -> npt.NDArray[np.float32]:
    """Return the vectors of an embeddings table, the one reader that users need.

    Shapes: float32 [N, dim], unit rows; the rows are renormalised in float32, since float16 storage moves them off the
    unit sphere by up to 5e-4.

    Raises:
        CorruptOutputError: the table has no description of its vectors.
    """
    metadata = embeddings_metadata(table.schema)
    if "dim" not in metadata or "dtype" not in metadata:
        raise CorruptOutputError("embeddings: the schema metadata lack dim and dtype; encode the sentences again")
    vectors = from_fixed_binary(table["embedding"], metadata["dtype"]).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(norms, np.float32(1e-12))
    return unit


def text_hashes(table: pa.Table) -> npt.NDArray[np.uint8]:
    """Return the text hashes of an embeddings table, uint8 [N, 16]."""
    return from_fixed_binary(table["text_hash"], "uint8").astype(np.uint8, copy=False)
