"""The functions of `import emsmine`: mine, score and search, with the code of the command line and its results.

Nothing is printed; messages go to `logging`, and bars are shown on a terminal if they are asked for.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from emsmine.columns import SAMPLE_LINES, find_columns, parse_columns
from emsmine.encoder.protocol import Encoder, checked_texts
from emsmine.encoder.registry import load_encoder
from emsmine.errors import ConfigError, InputError
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.text.normalise import sanitise
from emsmine.pipelines.configuration import build_settings
from emsmine.pipelines.direct.declared import check_different, declared_languages
from emsmine.pipelines.direct.mine import Chosen, SecondLook, check_one_stdin, check_sides, choose_pairs, search_sides
from emsmine.pipelines.direct.results import Pairs, Scores, SearchResult
from emsmine.pipelines.direct.score import Scored, collect_sides, read_bitext, score_vectors
from emsmine.pipelines.direct.score import score as score_bitext
from emsmine.pipelines.direct.sentences import Embedded, encode_usable, read_lines
from emsmine.pipelines.direct.sides import (
    Given,
    Side,
    are_vectors,
    as_vectors,
    check_widths,
    is_path,
    one_side,
    side_language,
)
from emsmine.pipelines.progress import bars
from emsmine.pipelines.rescoring import Rescorer, load_rescorer, scorer_of
from emsmine.pipelines.settings import EncodeSettings, LangidSettings, Settings

_ENCODER, _MAX_CHARS = EncodeSettings.encoder, LangidSettings.max_sentence_chars


def mine(
    source: Given,
    target: Given,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    encoder: str | os.PathLike[str] | Encoder = _ENCODER,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    rescore: bool | None = None,
    scorer: str = "auto",
    sort_by: str = "probability",
    threshold: float | None = None,
    cosine_floor: float | None = None,
    max_sentence_chars: int = _MAX_CHARS,
    device: str = "auto",
    progress: bool = False,
) -> Pairs:
    """Mine translations from two sides, as `emsmine mine` does.

    Args:
        source: sentences, the name of a file with one a line, or vectors (float [N, D], or of `read_embeddings`).
        target: the other side; it may come in another form.
        source_lang: any code of its language. May be left out for vectors, and for a file named after it (`a.de`).
        target_lang: the same for the other side.
        encoder: a name such as `ems:default`, the folder of a model, or what `load_encoder` returned.
        k: neighbours of a sentence.
        margin: `ratio`, `distance` or `absolute`.
        retrieval: `max`, `forward`, `backward` or `intersect`.
        rescore: read both sentences of every candidate, and choose pairs by the probability that they are
            translations; None: if the encoder brings a scorer, as `ems:default` does, and both sides are texts.
        scorer: model whose pair scorer is used; `auto`: the encoder's own, or that of `ems:default`.
        sort_by: what rescored pairs are chosen by: `probability` or `margin`.
        threshold: lowest score of a pair; None: a probability of 0.5, or a ratio margin of 1.2.
        cosine_floor: lowest cosine of a pair; None: 0.35.
        max_sentence_chars: longer sentences are left out, and counted.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: show bars if stderr is a terminal.

    Returns:
        Pairs, best first. Ids are places in the inputs, from 0 (of copies the first), or ids of `read_embeddings`;
        texts are cleaned as on the command line, and "" for a side of vectors. `counts` tells what was left out.

    Raises:
        ConfigError: a setting or a language is wrong or missing.
        InputError: a side has no usable sentence, a file cannot be read, or the vectors do not fit each other.
    """
    chosen = {"margin": margin, "retrieval": retrieval, "sort_by": sort_by, "cosine_floor": cosine_floor}
    settings = _settings(k, {**chosen, "threshold": threshold}, max_sentence_chars, rescore, scorer)
    left, right = _two_sides((source, target), (source_lang, target_lang), max_sentence_chars)
    counts = check_sides((left.label, left.texts), (right.label, right.texts))
    second_look = _second_look(left, right, encoder, settings)
    settings.select.lowest_score(rescored=second_look is not None)
    with bars(progress):
        vectors = _embedded("mine", left, right, encoder, device)
        found = choose_pairs(*vectors, k=k, settings=settings.select, device=device, second_look=second_look)
    return _pairs(found, left, right, counts)


def _two_sides(given: tuple[Given, Given], langs: tuple[str | None, str | None], max_chars: int) -> tuple[Side, Side]:
    """Read both sides, which must be of two languages, and not both from stdin."""
    if is_path(given[0]) and is_path(given[1]):
        check_one_stdin(given[0], given[1])
    left = one_side("mine", "source", given[0], langs[0], max_chars)
    right = one_side("mine", "target", given[1], langs[1], max_chars)
    check_different("mine", left.lang, right.lang)
    return left, right


def _second_look(
    left: Side, right: Side, encoder: str | os.PathLike[str] | Encoder, settings: Settings
) -> SecondLook | None:
    """Load what rescoring needs, if it is wanted; sides of vectors have no sentences to read."""
    if left.texts is None or right.texts is None:
        if settings.rescore.rescore or settings.rescore.scorer != "auto":
            raise ConfigError(
                "mine: rescoring reads both sentences, and a side is vectors; give texts, or leave it off"
            )
        return None
    spec = scorer_of(_name_of(encoder), settings.rescore)
    return SecondLook(load_rescorer(spec), left.texts, right.texts) if spec else None


def _name_of(encoder: str | os.PathLike[str] | Encoder) -> str:
    if isinstance(encoder, str | os.PathLike):
        return os.fspath(encoder)
    folder = getattr(encoder, "folder", None)
    return f"ems:{folder}" if folder is not None else encoder.name


def _pairs(found: Chosen, left: Side, right: Side, counts: Mapping[str, int]) -> Pairs:
    best = found.pairs
    table = pa.table(
        {
            "score": best.score,
            "margin": best.margin,
            "cosine": best.cosine,
            "suspicious": pa.array(found.marks, pa.string()),
            "source_id": left.ids[best.source_ids],
            "target_id": right.ids[best.target_ids],
            "source": pa.array(left.texts_of(best.source_ids), pa.string()),
            "target": pa.array(right.texts_of(best.target_ids), pa.string()),
        }
    )
    return Pairs(table, {**counts, **found.counts})


def _settings(
    k: int,
    select: Mapping[str, Any],
    max_sentence_chars: int = _MAX_CHARS,
    rescore: bool | None = None,
    scorer: str = "auto",
) -> Settings:
    """Check settings as those of the command line; None stands for the default."""
    reading: dict[str, Any] = {"scorer": scorer} if rescore is None else {"scorer": scorer, "rescore": rescore}
    given = {name: value for name, value in select.items() if value is not None}
    langid = {"max_sentence_chars": max_sentence_chars}
    return build_settings({}, {"search": {"k": k}, "rescore": reading, "select": given, "langid": langid})


def _loaded(encoder: str | os.PathLike[str] | Encoder, device: str) -> Encoder:
    return load_encoder(encoder, device=device) if isinstance(encoder, str | os.PathLike) else encoder


def _embedded(
    command: str, left: Side, right: Side, encoder: str | os.PathLike[str] | Encoder, device: str
) -> tuple[Embedded, Embedded]:
    needed = left.texts is not None or right.texts is not None
    loaded = _loaded(encoder, device) if needed else None
    sides = left.embedded(loaded), right.embedded(loaded)
    check_widths(command, *sides)
    return sides


def score(
    source: Given,
    target: Given | None = None,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    columns: tuple[int, int] | None = None,
    encoder: str | os.PathLike[str] | Encoder = _ENCODER,
    k: int = 4,
    margin: str = "ratio",
    rescore: bool | None = None,
    scorer: str = "auto",
    max_sentence_chars: int = _MAX_CHARS,
    device: str = "auto",
    progress: bool = False,
) -> Scores:
    """Score the pairs of an existing bitext by margin, as `emsmine score` does.

    Args:
        source: sentences, a file with one a line, or vectors; or, without `target`, a file of TAB-separated columns.
        target: what translates them, item by item.
        source_lang: as in `mine`; the name of a file of columns may tell both (`de-en.tsv`).
        target_lang: the same for the other side.
        columns: of source and target in a file of columns, from 1, as in `--columns`; None: recognised.
        encoder: as in `mine`.
        k: neighbours of a sentence.
        margin: `ratio`, `distance` or `absolute`.
        rescore: read both sentences of every pair; `score` is then the probability that it is a translation. None: if
            the encoder brings a scorer and both sides are texts.
        scorer: as in `mine`.
        max_sentence_chars: longer sentences have no score.
        device: as in `mine`.
        progress: show bars if stderr is a terminal.

    Returns:
        A row per pair, in the order of the input.

    Raises:
        ConfigError: a setting or a language is wrong or missing.
        InputError: the sides differ in length, a side has no usable sentence, or a file cannot be read.
    """
    settings = _settings(k, {"margin": margin}, max_sentence_chars, rescore, scorer)
    how: dict[str, Any] = {"k": k, "margin": margin, "device": device}
    with bars(progress):
        if are_vectors(source) or are_vectors(target):
            if rescore or scorer != "auto":
                raise ConfigError("score: rescoring reads both sentences, and these are vectors; give texts instead")
            return _score_vectors(source, target, **how)
        spec = scorer_of(_name_of(encoder), settings.rescore)
        how["rescorer"] = load_rescorer(spec) if spec else None
        given, langs = (source,) if target is None else (source, target), (source_lang, target_lang)
        if all(map(is_path, given)):
            return _score_files(given, langs, columns, max_sentence_chars, _loaded(encoder, device), **how)
        if len(given) < 2:
            raise ConfigError("score: target is missing; give the sentences that translate the source, or a file")
        return _score_lists(given, langs, max_sentence_chars, _loaded(encoder, device), **how)


def _score_vectors(source: Given, target: Given | None, *, k: int, margin: str, device: str) -> Scores:
    if target is None or not (are_vectors(source) and are_vectors(target)):
        raise ConfigError("score: one side is vectors and the other is not; give both in the same form")
    (left, _), (right, _) = as_vectors("score", "source", source), as_vectors("score", "target", target)
    _check_lengths(len(left), len(right))
    sides = Embedded.of(left), Embedded.of(right)
    check_widths("score", *sides)
    places = range(len(left))
    found = score_vectors(*sides, places, places, {"lines": len(left)}, k, margin, device)
    return _scores(found, [""] * len(left), [""] * len(left))


def _score_files(
    given: Sequence[Given],
    langs: tuple[str | None, str | None],
    columns: tuple[int, int] | None,
    max_chars: int,
    encoder: Encoder,
    **how: Any,
) -> Scores:
    paths = [os.fspath(path) for path in given if isinstance(path, str | os.PathLike)]
    codes = declared_languages("score", paths, *langs)
    chosen = None if columns is None else parse_columns(",".join(map(str, columns)), "score: columns")
    bitext = read_bitext(paths, codes, max_chars, chosen)
    found = score_bitext(encoder, bitext, **how)
    return _scores(found, *(_column(bitext.lines, place) for place in bitext.chosen))


def _column(lines: Sequence[bytes], place: int) -> list[str]:
    cells = (line.split(b"\t") for line in lines)
    return [sanitise(row[place].decode("utf-8", "replace")) if len(row) > place else "" for row in cells]


def _score_lists(
    given: Sequence[Given],
    langs: tuple[str | None, str | None],
    max_chars: int,
    encoder: Encoder,
    *,
    rescorer: Rescorer | None,
    **how: Any,
) -> Scores:
    columns: list[Sequence[bytes | str]] = []
    codes = []
    for name, side, lang in zip(("source", "target"), given, langs, strict=True):
        path = os.fspath(side) if isinstance(side, str | os.PathLike) else None
        codes.append(side_language("score", name, path, lang))
        columns.append(list(read_lines(path)) if path is not None else checked_texts(side, f"score: {name}"))  # type: ignore[arg-type]
    check_different("score", *codes)
    _check_lengths(*map(len, columns))
    texts = [[sanitise(t if isinstance(t, str) else t.decode("utf-8", "replace")) for t in lines] for lines in columns]
    # Two sides that are the same, or numbers, are no bitext.
    joined = ("\t".join(row).encode("utf-8", "replace") for row in zip(*texts, strict=True))
    find_columns(list(islice(joined, SAMPLE_LINES)), "score", (0, 1))
    names = ("the source sentences", "the target sentences")
    left, right, counts = collect_sides(
        (columns[0], columns[1]),
        (codes[0], codes[1]),
        max_chars,
        names,
        "the two lists",
        Counter(lines=len(columns[0])),
    )
    sides = encode_usable(encoder, left), encode_usable(encoder, right)
    second_look = None if rescorer is None else SecondLook(rescorer, left, right)
    return _scores(score_vectors(*sides, left.places, right.places, counts, **how, second_look=second_look), *texts)


def _check_lengths(left: int, right: int) -> None:
    if left != right:
        raise InputError(f"score: {left} sources but {right} targets; item by item they must translate each other")


def _scores(found: Scored, source: list[str], target: list[str]) -> Scores:
    table = pa.table(
        {
            "id": np.arange(len(found.margins), dtype=np.int64),
            "score": pa.array(found.scores, from_pandas=True),
            "margin": pa.array(found.margins, from_pandas=True),
            "cosine": pa.array(found.cosines, from_pandas=True),
            "source": pa.array(source, pa.string()),
            "target": pa.array(target, pa.string()),
        }
    )
    return Scores(table, found.counts)


def search(source: Given, target: Given, *, k: int = 4, device: str = "auto", progress: bool = False) -> SearchResult:
    """Find the k nearest neighbours in both directions, exactly.

    Args:
        source: vectors, float [N, D]; they need not be of unit length. Or what `read_embeddings` returned.
        target: the same of the other side.
        k: neighbours per row; where the other side has fewer rows, the rest are missing.
        device: as in `mine`; the result is the same everywhere.
        progress: show bars if stderr is a terminal.

    Returns:
        Neighbours by row number, or by the ids of `read_embeddings`. A zero row, or one that is not finite, has no
        neighbour and is none.

    Raises:
        ConfigError: k is less than 1.
        InputError: these are no vectors, or of different widths.
    """
    _settings(k, {})
    rows = [as_vectors("search", name, given) for name, given in (("source", source), ("target", target))]
    sides = [Embedded.of(vectors) for vectors, _ in rows]
    check_widths("search", sides[0], sides[1])
    with bars(progress):
        found = search_sides(sides[0], sides[1], k, device)
    names = [ids for _, ids in rows]
    parts = [
        _whole(found.forward, sides[0], len(names[0]), names[1]),
        _whole(found.backward, sides[1], len(names[1]), names[0]),
    ]
    return SearchResult(parts[0], parts[1], names[0], names[1])


def _whole(found: Neighbours, side: Embedded, num_rows: int, names: Any) -> Neighbours:
    """Give every row its neighbours, those without a vector none, by the names of the user."""
    result = Neighbours.empty(num_rows, found.k)
    result.cosine[side.ids] = found.cosine
    result.ids[side.ids] = np.where(found.ids >= 0, names[found.ids] if len(names) else -1, -1)
    return result
