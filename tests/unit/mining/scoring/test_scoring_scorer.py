"""The scorer as a whole: both looks, the same for swapped sides and in any order."""

import numpy as np
import pytest
from scoring_kit import all_pairs, random_scorer, random_side

from emsmine.mining.scoring import scorer
from emsmine.mining.scoring.competition import Competition
from emsmine.mining.scoring.ragged import Int64Array
from emsmine.mining.scoring.scorer import (
    MARGIN_BOUNDS,
    MARGIN_CENTRE,
    MARGIN_WEIGHT,
    PAIR_FEATURES,
    SIDE_FEATURES,
    FirstLook,
    Side,
    probabilities,
    with_margin,
)

RNG = np.random.default_rng(3)
SCORER = random_scorer(RNG)
SOURCE = random_side(RNG, SCORER.vectors, [f"Satz {n} mit HTTP." for n in range(12)], "deu_Latn")
TARGET = random_side(RNG, SCORER.vectors, [f"第 {n} 句，HTTP？" for n in range(15)], "zho_Hans")
ROWS = all_pairs(SOURCE.tokens, TARGET.tokens)  # type: ignore[arg-type]
# Not all pairs are candidates.
KEPT = RNG.permutation(len(ROWS[0]))[:90]
ROWS = ROWS[0][KEPT], ROWS[1][KEPT]


def test_the_parts_stand_where_their_names_do() -> None:
    one, other, pair = SCORER.features(SOURCE, TARGET, *ROWS)
    assert one.shape == other.shape == (90, len(SIDE_FEATURES))
    assert pair.shape == (90, len(PAIR_FEATURES))
    assert {part.dtype for part in (one, other, pair)} == {np.dtype(np.float32)}
    look = SCORER.first_look(SOURCE, TARGET, *ROWS)
    assert np.array_equal(look.cosine, pair[:, PAIR_FEATURES.index("cosine")])
    assert np.array_equal(look.logit, SCORER.pair_head(one, other, pair))
    # Source n has the number n, target n as well.
    shared = np.expm1(one[:, SIDE_FEATURES.index("numbers_shared")])
    assert shared.tolist() == pytest.approx((ROWS[0] == ROWS[1]).astype(float).tolist())


def test_swapped_sides_score_the_same_bits() -> None:
    found = SCORER.logits(SOURCE, TARGET, *ROWS)
    assert len(set(found.tolist())) > 60
    assert SCORER.logits(TARGET, SOURCE, *ROWS[::-1]).tobytes() == found.tobytes()
    looks = SCORER.first_look(SOURCE, TARGET, *ROWS), SCORER.first_look(TARGET, SOURCE, *ROWS[::-1])
    assert looks[0].logit.tobytes() == looks[1].logit.tobytes()
    assert looks[0].cosine.tobytes() == looks[1].cosine.tobytes()


@pytest.mark.parametrize("piece", [1, 7, 89])
def test_order_and_pieces_change_no_bit(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    expected = SCORER.logits(SOURCE, TARGET, *ROWS)
    order = np.random.default_rng(piece).permutation(90)
    monkeypatch.setattr(scorer, "_PIECE", piece)
    assert np.array_equal(SCORER.logits(SOURCE, TARGET, ROWS[0][order], ROWS[1][order]), expected[order])


def test_the_first_look_sees_one_pair_and_the_second_its_rivals() -> None:
    whole = SCORER.first_look(SOURCE, TARGET, *ROWS)
    logits = SCORER.logits(SOURCE, TARGET, *ROWS)
    changed = 0
    for pair in range(0, 90, 9):
        rows = ROWS[0][pair : pair + 1], ROWS[1][pair : pair + 1]
        alone = SCORER.first_look(SOURCE, TARGET, *rows)
        assert (alone.cosine[0], alone.logit[0]) == (whole.cosine[pair], whole.logit[pair])
        changed += SCORER.logits(SOURCE, TARGET, *rows)[0] != logits[pair]
    assert changed > 5


def test_logits_are_the_second_look_at_competitors_that_come_in_pieces() -> None:
    look = SCORER.first_look(SOURCE, TARGET, *ROWS)
    sides = Competition.empty(12), Competition.empty(15)
    for part in (slice(50, 90), slice(0, 50)):
        for side, rows in zip(sides, ROWS, strict=True):
            side.add(rows[part], look.cosine[part], look.logit[part])
    found = np.zeros(90, dtype=np.float32)
    for part in (slice(0, 30), slice(30, 90)):
        shown = FirstLook(look.cosine[part], look.logit[part])
        found[part] = SCORER.second_look(*sides, ROWS[0][part], ROWS[1][part], shown)
    assert np.array_equal(found, SCORER.logits(SOURCE, TARGET, *ROWS))


def test_sides_without_sentences_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Int64Array = np.zeros(0, dtype=np.int64)
    empty = random_side(np.random.default_rng(0), SCORER.vectors, [], "deu_Latn")
    assert SCORER.logits(empty, TARGET, nothing, nothing).tolist() == []
    monkeypatch.setattr(scorer, "_PIECE", 40)
    told: list[float] = []
    SCORER.first_look(SOURCE, TARGET, *ROWS, told.append)
    assert told == pytest.approx([40 / 90, 40 / 90, 10 / 90])


def test_a_side_of_texts_is_that_of_its_parts() -> None:
    texts = ["Eins 1.", "Zwei 2?"]
    side = Side.of(texts, "deu_Latn", SOURCE.tokens, SCORER.vectors)
    assert np.array_equal(side.vectors, SOURCE.vectors)
    assert side.surface.end.tolist() == [4, 1]


def test_probabilities() -> None:
    found = probabilities(np.array([0, np.log(3), -np.log(3), 60, -60], dtype=np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.5, 0.75, 0.25, 1, 0], abs=1e-6)


def test_the_margin_counts_within_bounds() -> None:
    low, high = MARGIN_BOUNDS
    margins = np.array([0.1, low, np.exp(MARGIN_CENTRE), high, 9.0, np.nan], dtype=np.float32)
    shift = with_margin(np.zeros(6, dtype=np.float32), margins)
    ends = [MARGIN_WEIGHT * (np.log(end) - MARGIN_CENTRE) for end in (low, high)]
    assert shift.tolist() == pytest.approx([ends[0], ends[0], 0, ends[1], ends[1], 0], abs=1e-5)
    assert shift.dtype == np.float32
    assert ends[0] < 0 < ends[1]
