"""Train a pair scorer from simulated crawls.

Three parts, one after the other: token weights and projection, with a network that is thrown away; the network of the
first look, on the features that scoring computes; the network of the second look, on what the first says of all
candidates.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from emsmine.mining.neighbours import BoolArray
from emsmine.mining.scoring import competition, scorer
from emsmine.mining.scoring.competition import Competition, context_features
from emsmine.mining.scoring.interaction import SIDE_FEATURES, padded
from emsmine.mining.scoring.learned import LearnedHead, LearnedTokens
from emsmine.mining.scoring.ragged import Int64Array, TokenLists
from emsmine.mining.scoring.scorer import FirstLook, PairScorer, Side, pair_features
from emsmine.mining.scoring.surface import Surface
from emsmine.mining.scoring.tokens import TokenVectors, token_vectors

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Features = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class Examples:
    """The candidates of one simulated crawl.

    Shapes: source_rows, target_rows int64 [P]; is_translation bool [P].
    """

    name: str
    source_tokens: TokenLists
    target_tokens: TokenLists
    source_surface: Surface
    target_surface: Surface
    source_rows: Int64Array
    target_rows: Int64Array
    is_translation: BoolArray

    def sides(self, vectors: TokenVectors) -> tuple[Side, Side]:
        """Return both sides as scoring sees them."""
        return (
            Side(self.source_tokens, self.source_surface, vectors.sentence_vectors(self.source_tokens)),
            Side(self.target_tokens, self.target_surface, vectors.sentence_vectors(self.target_tokens)),
        )


@dataclass(frozen=True)
class TrainingPlan:
    """How a scorer is trained.

    Args:
        width: of the projection.
        hidden: units of a hidden layer.
        token_steps: steps of the first part.
        epochs: of the second and the third part.
        batch_size: candidates of a step.
        offset: added to every logit in the end: where the threshold of 0.5 stands. In a simulated crawl wrong pairs are
            less alike than in some real ones.
        seed: of everything that is drawn.
    """

    width: int = 128
    hidden: int = 64
    token_steps: int = 1500
    epochs: int = 3
    batch_size: int = 2048
    offset: float = 0.0
    seed: int = 1


@dataclass(frozen=True, eq=False)
class TrainedScorer:
    """A scorer, and what its token vectors are made of: projection float32 [D, W], log weights float32 [V]."""

    scorer: PairScorer
    projection: FloatArray
    log_weights: FloatArray


_TOKEN_RATES = {"projection": 2e-4, "factor": 5e-3}
_RATE = 2e-3
_HEAD_RATE = 3e-3
_WARMUP = 50
_FACTOR_DECAY = 1e-6
_LOG_EVERY = 250
_BATCHES_AT_ONCE = 4


def train_scorer(table_VD: FloatArray, examples: Sequence[Examples], plan: TrainingPlan) -> TrainedScorer:
    """Train all three parts.

    Args:
        table_VD: token vectors of the encoder whose tokeniser made the tokens.
        examples: crawls of many languages and domains; large ones weigh by the root of their size.
        plan: sizes and steps.
    """
    torch.manual_seed(plan.seed)
    tokens = _train_tokens(table_VD, examples, plan)
    with torch.no_grad():
        log_weights = tokens.log_weights(torch.arange(len(table_VD))).numpy().astype(np.float32)
    projection = tokens.projection.detach().numpy().astype(np.float32)
    # As a file holds them.
    log_weights, projection = (part.astype(np.float16).astype(np.float32) for part in (log_weights, projection))
    vectors = token_vectors(table_VD, projection, log_weights)
    sides = [item.sides(vectors) for item in examples]
    found = [
        pair_features(vectors, *pair, item.source_rows, item.target_rows)
        for pair, item in zip(sides, examples, strict=True)
    ]
    labels = [item.is_translation for item in examples]
    widths = len(scorer.SIDE_FEATURES), len(scorer.PAIR_FEATURES)
    pair_head = _train_head(found, labels, LearnedHead(*widths, plan.hidden), plan, "first look").head()
    looks = [FirstLook(item[2][:, 0], pair_head(*item)) for item in found]
    contexts = [
        _context(item, look, len(pair[0].vectors), len(pair[1].vectors))
        for item, look, pair in zip(examples, looks, sides, strict=True)
    ]
    widths = len(competition.SIDE_FEATURES), len(competition.PAIR_FEATURES)
    context_head = _train_head(contexts, labels, LearnedHead(*widths, plan.hidden // 2), plan, "second look").head()
    context_head.biases[-1][:] += np.float32(plan.offset)
    return TrainedScorer(PairScorer(vectors, pair_head, context_head), projection, log_weights)


def _context(item: Examples, look: FirstLook, num_source: int, num_target: int) -> Features:
    sides = Competition.empty(num_source), Competition.empty(num_target)
    for side, rows in zip(sides, (item.source_rows, item.target_rows), strict=True):
        side.add(rows, look.cosine, look.logit)
    return context_features(*sides, item.source_rows, item.target_rows, look.cosine, look.logit)


def _shares(sizes: Sequence[int]) -> NDArray[np.float64]:
    weights = np.sqrt(np.asarray(sizes, dtype=np.float64))
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARMUP) * max(0.01, 1 - step / steps)


def _train_tokens(table_VD: FloatArray, examples: Sequence[Examples], plan: TrainingPlan) -> LearnedTokens:
    """Learn weights and projection; every step draws candidates of one crawl."""
    rng = np.random.default_rng(plan.seed)
    tokens = LearnedTokens(table_VD, plan.width)
    head = LearnedHead(len(SIDE_FEATURES), 1, plan.hidden)
    groups = [{"params": [getattr(tokens, name)], "lr": rate} for name, rate in _TOKEN_RATES.items()]
    optimiser = torch.optim.Adam([*groups, {"params": [tokens.power, *head.parameters()], "lr": _RATE}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _schedule(step, plan.token_steps))
    shares = _shares([len(item.source_rows) for item in examples])
    losses: list[float] = []
    waiting: list[tuple[Examples, Int64Array]] = []
    for step in range(plan.token_steps):
        if not waiting:
            drawn_from = examples[int(rng.choice(len(examples), p=shares))]
            waiting = [(drawn_from, rows) for rows in _batches_by_length(drawn_from, plan.batch_size, rng)]
        item, drawn = waiting.pop()
        one, other, cosine = tokens.features(
            *padded(item.source_tokens, item.source_rows[drawn]), *padded(item.target_tokens, item.target_rows[drawn])
        )
        label = torch.from_numpy(item.is_translation[drawn].astype(np.float32))
        loss = functional.binary_cross_entropy_with_logits(head(one, other, cosine), label)
        (loss + _FACTOR_DECAY * tokens.factor.square().sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % _LOG_EVERY == 0 or step + 1 == plan.token_steps:
            logger.info(
                "tokens: step %s/%s  loss %.4f", step + 1, plan.token_steps, float(np.mean(losses[-_LOG_EVERY:]))
            )
    return tokens


def _batches_by_length(item: Examples, size: int, rng: np.random.Generator) -> list[Int64Array]:
    """Draw some batches of candidates, each of similar lengths: little is padded, which halves the time of a step."""
    drawn = rng.integers(0, len(item.source_rows), size * _BATCHES_AT_ONCE)
    lengths = [
        side.offsets[rows[drawn] + 1] - side.offsets[rows[drawn]]
        for side, rows in ((item.source_tokens, item.source_rows), (item.target_tokens, item.target_rows))
    ]
    by_length = drawn[np.argsort(np.maximum(*lengths), kind="stable")].reshape(_BATCHES_AT_ONCE, size)
    return [by_length[place] for place in rng.permutation(_BATCHES_AT_ONCE)]


def _train_head(
    features: Sequence[Features], labels: Sequence[BoolArray], head: LearnedHead, plan: TrainingPlan, name: str
) -> LearnedHead:
    """Train a network on candidates in a random order; those of a crawl weigh together the root of their number."""
    one, other, pair = (np.concatenate([item[part] for item in features]) for part in range(3))
    label = np.concatenate(labels).astype(np.float32)
    weight = np.concatenate([np.full(len(item), max(1, len(item)) ** -0.5, dtype=np.float32) for item in labels])
    weight /= weight.mean()
    rng = np.random.default_rng(plan.seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=_HEAD_RATE, weight_decay=1e-3)
    per_epoch = max(1, len(label) // plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _schedule(step, plan.epochs * per_epoch))
    for epoch in range(plan.epochs):
        order = rng.permutation(len(label))
        total = 0.0
        for step in range(per_epoch):
            drawn = np.sort(order[step * plan.batch_size : (step + 1) * plan.batch_size])
            parts = [torch.from_numpy(part[drawn]) for part in (one, other, pair)]
            loss = functional.binary_cross_entropy_with_logits(
                head(*parts), torch.from_numpy(label[drawn]), weight=torch.from_numpy(weight[drawn])
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            total += loss.item()
        logger.info("%s: epoch %d/%d  loss %.4f", name, epoch + 1, plan.epochs, total / per_epoch)
    return head.eval()
