"""Measure an encoder and the miner on data whose pairs are known, with the very functions that mine.

Nothing here scores or chooses a pair by itself: kNN, margins and retrieval come from `knn`, `margin` and `retrieve`.
MTEB's task called BUCC is a retrieval task; its numbers cannot be compared with the mining F1 of `bucc_scores`.
"""

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine import __version__
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import BoolArray, Float32Array, Int64Array
from emsmine.mining.selection.retrieve import Candidates, candidates, select

# The order in which a signature lists what moves a score.
SIGNATURE_KEYS = (
    "enc",
    "model",
    "dev",
    "data",
    "pair",
    "langs",
    "texts",
    "margin",
    "k",
    "ret",
    "th",
    "floor",
    "chars",
    "index",
    "rescore",
    "sort",
)
_HASH_DIGITS = 12

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RetrievalHits:
    """Whether each sentence found its translation, kept per sentence for bootstrap intervals.

    `forward_hits` has one entry per source, `backward_hits` one per target that has a translation.
    """

    forward_hits: BoolArray
    backward_hits: BoolArray

    @property
    def forward(self) -> float:
        """Accuracy, source to target."""
        return float(self.forward_hits.mean())

    @property
    def backward(self) -> float:
        """Accuracy, target to source."""
        return float(self.backward_hits.mean())

    @property
    def forward_error(self) -> float:
        """Error rate, source to target: what xsim reports."""
        return float((~self.forward_hits).mean())

    @property
    def backward_error(self) -> float:
        """Error rate, target to source."""
        return float((~self.backward_hits).mean())


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision, recall and F1 of all pairs with at least each score.

    Shapes: [T], one entry per distinct score, descending; num_pairs int64, the others float64.
    """

    score: Float64Array
    num_pairs: Int64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array


@dataclass(frozen=True)
class BuccScores:
    """Mining scores at `threshold`, and the best F1 that any threshold reaches on these gold pairs."""

    threshold: float
    precision: float
    recall: float
    f1: float
    num_mined: int
    num_gold: int
    best_threshold: float
    best_f1: float


def tatoeba_accuracy(
    source_ND: Float32Array,
    target_ND: Float32Array,
    *,
    source_texts: Sequence[str] | None = None,
    target_texts: Sequence[str] | None = None,
) -> RetrievalHits:
    """Check for each line whether its nearest neighbour by cosine is the same line of the other side.

    Args:
        source_ND: unit rows; row i is the translation of row i of the target.
        target_ND: unit rows.
        source_texts: when given, a neighbour with the same text as the right line is a hit too (backward).
        target_texts: the same for the target side (forward).

    Returns: hits of both directions; with equal cosines the lower line number is the nearest.
    Raises: ValueError for no rows, unequal numbers of rows or texts, or vectors that `search_both` refuses.
    Reference: Artetxe and Schwenk 2019, "Massively Multilingual Sentence Embeddings", TACL, section 4.3.
    """
    if len(source_ND) != len(target_ND):
        raise ValueError(f"tatoeba: {len(source_ND)} source and {len(target_ND)} target rows; lines must correspond")
    _check_lines("tatoeba", source_ND, target_ND, source_texts, target_texts)
    forward, backward = search_both(source_ND, target_ND, 1)
    rows = np.arange(len(source_ND))
    return RetrievalHits(_hits(rows, forward.ids[:, 0], target_texts), _hits(rows, backward.ids[:, 0], source_texts))


def retrieval_hits(pairs: Candidates, num_lines: int) -> RetrievalHits:
    """Check for each line whether its best-scored candidate is the same line of the other side.

    Args:
        pairs: candidates of both directions; ids are line numbers.
        num_lines: lines of a side; one without a candidate is an error.

    Returns: hits of both directions; of equal scores the candidate that comes first in the order counts.
    Raises: ValueError for no lines.
    """
    if not num_lines:
        raise ValueError("retrieval: no lines to evaluate")
    found = [np.full(num_lines, -1, dtype=np.int64) for _ in range(2)]
    # Backwards, so that the best one is written last.
    found[0][pairs.source_ids[::-1]] = pairs.target_ids[::-1]
    found[1][pairs.target_ids[::-1]] = pairs.source_ids[::-1]
    rows = np.arange(num_lines)
    return RetrievalHits(found[0] == rows, found[1] == rows)


def xsim_error(
    source_ND: Float32Array,
    target_MD: Float32Array,
    *,
    margin: str = "ratio",
    k: int = 4,
    source_texts: Sequence[str] | None = None,
    target_texts: Sequence[str] | None = None,
) -> RetrievalHits:
    """Check for each line whether its best-margin neighbour is the same line of the other side.

    A sentence without any defined margin is an error.

    Args:
        source_ND: unit rows; row i is the translation of row i of the target.
        target_MD: unit rows. Rows beyond the source's are distractors, as in xsim++: they can be found, wrongly, but
            are not looked up themselves.
        margin: one of `emsmine.mining.selection.MARGINS`.
        k: neighbours per direction.
        source_texts: when given, a neighbour with the same text as the right line is a hit too (backward).
        target_texts: the same for the target side (forward).

    Returns: hits of both directions; `forward_error` is xsim.
    Raises: ValueError for no rows, fewer targets than sources, or whatever `search_both` and `candidates` refuse.
    Reference: LASER, tasks/xsim; Chen et al. 2023, "xSIM++", ACL.
    """
    if len(source_ND) > len(target_MD):
        raise ValueError(f"xsim: {len(source_ND)} source rows but {len(target_MD)} target rows to find them in")
    _check_lines("xsim", source_ND, target_MD, source_texts, target_texts)
    pairs = candidates(*search_both(source_ND, target_MD, k), margin=margin)
    rows = np.arange(len(source_ND))
    forward, backward = select(pairs, "forward"), select(pairs, "backward")
    found_target = np.full(len(source_ND), -1, dtype=np.int64)
    found_target[forward.source_ids] = forward.target_ids
    found_source = np.full(len(target_MD), -1, dtype=np.int64)
    found_source[backward.target_ids] = backward.source_ids
    return RetrievalHits(
        _hits(rows, found_target, target_texts), _hits(rows, found_source[: len(source_ND)], source_texts)
    )


def precision_recall_curve(pairs: Candidates, gold: Set[tuple[int, int]]) -> PrecisionRecallCurve:
    """Compute precision, recall and F1 at every threshold that separates the pairs.

    Pairs of equal score cannot be separated, so a group of them makes one entry. Undefined scores are left out.

    Raises: ValueError when there are no gold pairs: recall would be undefined.
    """
    if not gold:
        raise ValueError("bucc: no gold pairs given; check the gold file and that its ids are those of the sentences")
    defined = pairs.take(np.flatnonzero(~np.isnan(pairs.score)))
    correct = np.cumsum([pair in gold for pair in defined.pairs()], dtype=np.int64)
    ends = np.flatnonzero(np.append(defined.score[1:] != defined.score[:-1], True))[: len(defined)]
    num_correct, num_pairs = correct[ends], ends + 1
    return PrecisionRecallCurve(
        score=defined.score[ends].astype(np.float64),
        num_pairs=num_pairs,
        precision=num_correct / num_pairs,
        recall=num_correct / len(gold),
        # In counts: unlike 2PR / (P + R) it is defined where nothing is correct.
        f1=2 * num_correct / (num_pairs + len(gold)),
    )


def bucc_scores(pairs: Candidates, gold: Set[tuple[int, int]], *, threshold: float | None = None) -> BuccScores:
    """Score mined pairs against gold pairs as the BUCC shared task does.

    The best threshold lies midway between the best-F1 score and the next lower one, as in LASER. Two differences:
    a threshold never falls inside a group of equal scores, so mining with it gives exactly the best F1; and where
    the last score is the best, it is the threshold itself (LASER reads past the end there). If no pair is correct,
    the best threshold is infinite: mine nothing.

    Args:
        pairs: what `select` chose, normally with "max" and without a threshold.
        gold: (source id, target id). Pairs of sentences left out of the mining count as missed.
        threshold: lowest score to count as mined, tuned on another set; None takes the best on this gold.

    Returns: precision, recall and F1, zero where nothing is mined.
    Raises: ValueError when there are no gold pairs.
    Reference: LASER, tasks/bucc/bucc.py; Zweigenbaum, Sharoff and Rapp 2018, BUCC shared task.
    """
    curve = precision_recall_curve(pairs, gold)
    best_threshold, best_f1 = np.inf, 0.0
    if curve.f1.size and curve.f1.max() > 0:
        best = int(curve.f1.argmax())
        best_f1 = float(curve.f1[best])
        best_threshold = float(curve.score[best : best + 2].mean())
    threshold = best_threshold if threshold is None else float(threshold)
    num_reached = int((curve.score >= threshold).sum())
    last = num_reached - 1
    return BuccScores(
        threshold=threshold,
        precision=float(curve.precision[last]) if num_reached else 0.0,
        recall=float(curve.recall[last]) if num_reached else 0.0,
        f1=float(curve.f1[last]) if num_reached else 0.0,
        num_mined=int(curve.num_pairs[last]) if num_reached else 0,
        num_gold=len(gold),
        best_threshold=best_threshold,
        best_f1=best_f1,
    )


def bootstrap_interval(
    hits: BoolArray, *, num_samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Estimate a percentile interval of an accuracy by resampling its sentences.

    Drawing n of n booleans with replacement and counting the true ones is one binomial draw, so no resample is built.

    Returns: (low, high).
    Raises: ValueError for no hits, no samples, or a confidence outside (0, 1).
    Reference: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP.
    """
    if hits.dtype != np.bool_ or hits.ndim != 1 or not hits.size:
        raise ValueError(f"bootstrap: hits must be bool [N] with N >= 1, got {hits.dtype} {hits.shape}")
    if num_samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"bootstrap: {num_samples} samples at confidence {confidence}; need >= 1 and in (0, 1)")
    counts = np.random.default_rng(seed).binomial(hits.size, hits.mean(), size=num_samples)
    low, high = np.quantile(counts / hits.size, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def content_hash(parts: Iterable[str | int]) -> str:
    """Return a short hash of texts and numbers in their order, for a signature; their limits count, too."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else str(part).encode()
        digest.update(f"{'t' if isinstance(part, str) else 'n'}{len(data)}:".encode() + data)
    return digest.hexdigest()[:_HASH_DIGITS]


def signature(**settings: str | int | float) -> str:
    """Write down all that moves a score, in a fixed order and with our version, to print beside the score.

    Args:
        settings: any of `SIGNATURE_KEYS`, such as `signature(enc="ems:paper", margin="ratio", k=4)`.

    Returns: `enc:ems:paper|margin:ratio|k:4|v:0.1.0`; the first colon of a field ends its key.
    Raises: ValueError for an unknown key, or a value that is empty or holds `|` or a line break.
    """
    unknown = sorted(set(settings) - set(SIGNATURE_KEYS))
    if unknown:
        raise ValueError(f"signature: unknown setting {unknown[0]!r}; choose from {', '.join(SIGNATURE_KEYS)}")
    fields = [(key, str(settings[key])) for key in SIGNATURE_KEYS if key in settings]
    for key, value in fields:
        if "|" in value or len(value.splitlines()) != 1:
            raise ValueError(f"signature: {key} is {value!r}; it must be one non-empty line without '|'")
    return "|".join(f"{key}:{value}" for key, value in [*fields, ("v", __version__)])


def _hits(gold_rows: Int64Array, found_rows: Int64Array, texts: Sequence[str] | None) -> BoolArray:
    """Compare found rows (-1: nothing found) with gold rows, by text as well when texts are given."""
    hits: BoolArray = gold_rows == found_rows
    if texts is not None:
        for row in np.flatnonzero(~hits & (found_rows >= 0)).tolist():
            hits[row] = texts[found_rows[row]] == texts[gold_rows[row]]
    return hits


def _check_lines(
    task: str,
    source_ND: Float32Array,
    target_MD: Float32Array,
    source_texts: Sequence[str] | None,
    target_texts: Sequence[str] | None,
) -> None:
    if not len(source_ND):
        raise ValueError(f"{task}: no rows to evaluate")
    for side, vectors, texts in (("source", source_ND, source_texts), ("target", target_MD, target_texts)):
        if texts is not None and len(texts) != len(vectors):
            raise ValueError(f"{task}: {len(texts)} {side} texts for {len(vectors)} {side} rows")
