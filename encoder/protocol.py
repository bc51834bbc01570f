"""What every encoder offers, whatever is inside."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from emsmine import languages
from emsmine.errors import InputError

FloatArray = npt.NDArray[np.float32]
_Encode = TypeVar("_Encode", bound=Callable[..., FloatArray])


@runtime_checkable
class Encoder(Protocol):
    """Turn sentences into vectors.

    Attributes:
        name: for people, as in `ems:default`.
        dim: width of the vectors.
    """

    name: str
    dim: int

    def fingerprint(self) -> str:
        """Return a hash of all that decides a vector: weights, tokeniser, preprocessing, pooling, dtype."""
        ...

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences of one language.

        Args:
            sentences: texts; an empty one is allowed. A bare string is one sentence.
            lang: any code of the language: `de`, `deu`, `de-DE`, `deu_Latn`; some encoders tokenise by language.

        Returns:
            float32 [N, dim] in input order, rows of unit length (a row of zeros where there is nothing to encode: an
            empty sentence); float32 [dim] for a bare string. The values do not depend on how the sentences are cut into
            batches.

        Raises:
            InputError: a sentence is no string.
            LanguageError: the code is unknown or ambiguous.
        """
        ...


def usable_rows(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which rows are vectors of a sentence: finite, and not all zero.

    Shapes: float32 [N, D] → bool [N].
    """
    usable: npt.NDArray[np.bool_] = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    return usable


def through_gateway(encode: _Encode) -> _Encode:
    """Let an `encode` method take any code of a language and a bare string; the method sees canonical codes and lists.

    Every encoder has it, rather than its callers: a code of another form would be looked up in vain, and the text be
    tokenised by the rules of no language or of another; a bare string would give a vector per character.
    """

    @functools.wraps(encode)
    def entrance(self: Any, sentences: Sequence[str], *, lang: str) -> FloatArray:
        canonical = languages.resolve(lang)
        if isinstance(sentences, str):
            alone: FloatArray = encode(self, [sentences], lang=canonical)[0]
            return alone
        return encode(self, checked_texts(sentences, "encode"), lang=canonical)

    return cast(_Encode, entrance)


def checked_texts(texts: Iterable[str], where: str) -> list[str]:
    """Return texts as a list.

    Args:
        texts: a list, an array, a column of a pandas or Arrow table; not a bare string.
        where: what the message begins with.

    Raises:
        InputError: one of them is no string; the message names the first.
    """
    # A column of Arrow holds scalars of its own.
    texts = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
    found = texts if type(texts) is list else list(texts)
    if not set(map(type, found)) <= {str}:
        for place, text in enumerate(cast(list[object], found)):
            if not isinstance(text, str):
                shown = repr(text)[:40]
                raise InputError(
                    f"{where}: item {place} of {len(found)} is {shown} ({type(text).__name__}), no string; decode "
                    "bytes, and leave out or replace what is missing"
                )
    return found


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Scale each row to unit length; rows of zeros stay zeros.

    Shapes: float32 [N, D] → float32 [N, D].
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return result
