"""Simulated crawls: what is gold, what is known, what is neither."""

import random

import pytest

from emsmine.mining.scoring.near_misses import Vocabulary
from emsmine.mining.scoring.simulate import Crawl, Traps, simulate

VOCABULARY = Vocabulary(("window", "garden"), ("Anna",))
PAIRS = [(f"Satz Nummer {n} von vielen.", f"Sentence number {n} of many.") for n in range(400)]
ALONE = [(f"Ein Satz {n} ganz allein.", f"A sentence {n} quite alone.") for n in range(60)]


def crawl(
    planted: float = 0.5, traps: Traps | None = None, pairs: list[tuple[str, str]] = PAIRS, seed: int = 1
) -> Crawl:
    return simulate(pairs, planted, traps or Traps(), VOCABULARY, random.Random(seed))


def named(found: Crawl, which: frozenset[tuple[int, int]]) -> set[tuple[str, str]]:
    return {(found.source[one], found.target[other]) for one, other in which}


@pytest.mark.parametrize("planted", [0.0, 0.25, 0.75, 1.0])
def test_gold_is_what_was_planted(planted: float) -> None:
    found = crawl(planted)
    gold = named(found, found.gold)
    assert gold <= set(PAIRS)
    assert len(gold) == pytest.approx(400 * planted, abs=45)
    # Every sentence of a pair is there on one side at least, and those without their partner are on either alike.
    alone = len(found.source) - len(gold), len(found.target) - len(gold)
    assert sum(alone) + len(gold) == 400
    assert alone[0] == pytest.approx(alone[1], abs=60)
    assert set(found.source) == {one for one, other in PAIRS if one in found.source}
    # Nothing else is gold: a pair whose two sentences are there is.
    both = {pair for pair in PAIRS if pair[0] in set(found.source) and pair[1] in set(found.target)}
    assert gold == both
    assert found.known == frozenset()


def test_near_misses_and_copies_are_never_gold() -> None:
    found = crawl(1.0, Traps(share_near_misses=0.5, share_copies=0.25, kinds=("number", "word")))
    gold = named(found, found.gold)
    assert gold == set(PAIRS)
    extra = set(found.target) - {other for _, other in PAIRS}
    # A number changed often gives another sentence of the crawl, which is no near miss but a translation.
    assert 60 < len(extra) <= 200
    copies = set(found.source) - {one for one, _ in PAIRS}
    assert len(copies) == len(found.target) // 4
    assert copies <= set(found.target)
    partners = {other for _, other in found.gold}
    assert not {found.target.index(text) for text in extra} & partners


def test_near_misses_that_translate_something_are_left_out() -> None:
    pairs = [("eins", "I have 1 dogs."), ("zwei", "I have 2 dogs."), ("null", "I have 0 dogs.")]
    for seed in range(30):
        # Without planted pairs nothing may become one by a number that was exchanged.
        found = crawl(0.0, Traps(share_near_misses=1.0, kinds=("number",)), pairs, seed)
        assert found.gold == frozenset()
        assert len(found.source) + len({text for _, text in pairs} & set(found.target)) == 3


def test_known_pairs_stand_apart() -> None:
    # One of them has both sides in the pools, which is a translation that nobody is to learn from.
    found = crawl(0.5, Traps(source=ALONE[:40], target=ALONE[39:]))
    assert named(found, found.known) == {ALONE[39]}
    assert not found.gold & found.known
    assert named(found, found.gold) <= set(PAIRS)
    assert {one for one, _ in ALONE[:40]} <= set(found.source)
    assert {other for _, other in ALONE[39:]} <= set(found.target)
    assert not {one for one, _ in ALONE[40:]} & set(found.source)


def test_a_pair_of_the_pool_that_is_a_pair_of_the_crawl_is_gold() -> None:
    found = crawl(0.0, Traps(source=[PAIRS[3]], target=[PAIRS[3]]))
    assert named(found, found.gold) == {PAIRS[3]}
    assert found.known == frozenset()


def test_equal_sentences_are_one_and_all_their_translations_count() -> None:
    pairs = [("Guten Tag!", "Hello!"), ("guten tag", "Good day."), ("Tschüss.", "Bye."), ("Guten Tag.", "HELLO")]
    found = crawl(1.0, pairs=pairs)
    assert (found.source, found.target) == (["Guten Tag!", "Tschüss."], ["Hello!", "Good day.", "Bye."])
    assert found.gold == {(0, 0), (0, 1), (1, 2)}


def test_the_same_for_a_seed() -> None:
    traps = Traps(ALONE[:30], ALONE[30:], 0.3, 0.1)
    assert crawl(0.5, traps) == crawl(0.5, traps)
    assert crawl(0.5, traps) != crawl(0.5, traps, seed=2)
    assert crawl(0.5, traps, pairs=[]).gold == frozenset()
