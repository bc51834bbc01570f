"""What a teacher says about training pairs: one vector of each, computed once and kept on disk."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emsmine.encoder.data.cache import ArrayFile, new_entry, open_entry
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError

logger = logging.getLogger(__name__)

_ENGLISH = "eng_Latn"


def teacher_vectors(
    teacher: Encoder, chunks: Iterable[list[tuple[str, str]]], langs: tuple[str, str], entry: Path, num_pairs: int
) -> npt.NDArray[np.float16]:
    """Return the teacher's vector of every pair: that of its English side; of its source, if no side is English.

    Args:
        teacher: any encoder.
        chunks: the pairs, only read if they are not in the cache.
        langs: canonical languages of source and target.
        entry: where the vectors are kept; the teacher's fingerprint is added to the name.
        num_pairs: how many there are.

    Returns:
        float16 [num_pairs, teacher.dim], memory-mapped.

    Reference: Reimers & Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual: the teacher sees one
    language, the student both.
    """
    folder = entry.with_name(f"{entry.name}-{teacher.fingerprint()[:16]}")
    loaded = _load(folder, num_pairs, teacher.dim)
    if loaded is None:
        side = 1 if langs[1] == _ENGLISH else 0
        logger.info("%s encodes %d sentences of the training data", teacher.name, num_pairs)
        _build(teacher, chunks, side, langs[side], folder, num_pairs)
        loaded = _load(folder, num_pairs, teacher.dim)
    if loaded is None:
        raise InputError(f"train: {folder} cannot be read back after writing it; check the disk")
    return loaded


def _build(
    teacher: Encoder, chunks: Iterable[list[tuple[str, str]]], side: int, lang: str, folder: Path, num_pairs: int
) -> None:
    with new_entry(folder, {"pairs": num_pairs, "teacher": teacher.name}) as temporary:
        with ArrayFile(temporary / "vectors.npy", np.float16, teacher.dim) as vectors:
            for chunk in chunks:
                vectors.append(teacher.encode([pair[side] for pair in chunk], lang=lang).astype(np.float16))
        if vectors.num_rows != num_pairs:
            raise InputError(
                f"train: {folder.name} got {vectors.num_rows} pairs, expected {num_pairs}; did a training file change?"
            )


def _load(folder: Path, num_pairs: int, dim: int) -> npt.NDArray[np.float16] | None:
    """Return the vectors of a cache entry; None if there is no whole one."""
    found = open_entry(folder, {"vectors": ((num_pairs, dim), np.float16)})
    return None if found is None else found["vectors"]
