"""Laws of the text side of mining: over all of Unicode, and over random texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.languages import EMS_CODES
from emsmine.mining.text.dedup import near_duplicates, signatures
from emsmine.mining.text.langid import script_of
from emsmine.mining.text.normalise import dedup_key, digits, letters_only, sanitise
from emsmine.mining.text.rules import PairView, apply, default_rules
from emsmine.mining.text.split import split_sentences

ANY_TEXT = st.text(st.characters(), max_size=60)
# Marks, joiners, breaks and terminators where the rules meet.
MARKS = "ab.?!:;'\"«»()「」。！？។।॥։۔؟… \n\t\u200b\u200c\u200d\u0301\u3099かが可\u00a0\u2028é\ud800\ufdd0\uac00\u11a8"
PIECES = [
    *"K\u0345ßİ",
    "\r\n",
    "Dr. ",
    "me. A",
    "。」と",
    " 3.5 ",
    "1 000",
    "\U0001f469\u200d",
    "\u0995\u09cd",
    "\u1100\u1161",
]
TRICKY = st.lists(st.sampled_from([*MARKS, *PIECES]), max_size=40).map("".join)
BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
# Planes 4 to 13 and 15 to 16 hold nothing but unassigned and private-use code points: a sample of each is enough.
SPARSE = [plane << 16 | low for plane in (*range(4, 14), 15, 16) for low in (0, 1, 0x1234, 0xFFFD, 0xFFFE, 0xFFFF)]
BLOCKS = {
    "bmp-low": range(0x8000),
    "bmp-high": range(0x8000, 0x10000),
    "plane-1": range(0x10000, 0x20000),
    "plane-2-3": range(0x20000, 0x40000, 7),
    "plane-14": range(0xE0000, 0xE2000),
    "sparse": SPARSE,
}


def visible(text: str) -> str:
    return "".join(character for character in text if not character.isspace() and character not in "\u200c\u200d")


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_sanitise_is_idempotent_and_clean_for_every_code_point(block: str) -> None:
    for code_point in BLOCKS[block]:
        character = chr(code_point)
        for text in (character, f"a{character}\u0301b{character}"):
            clean = sanitise(text)
            assert sanitise(clean) == clean, hex(code_point)
            assert not any(mark in clean for mark in BREAKS), hex(code_point)
            clean.encode("utf-8")


@pytest.mark.parametrize("block", ["bmp-low", "bmp-high", "plane-1"])
def test_dedup_key_is_idempotent_for_every_code_point(block: str) -> None:
    for code_point in BLOCKS[block]:
        text = f"か{chr(code_point)}\u3099a{chr(code_point)}"
        key = dedup_key(text)
        assert dedup_key(key) == key, hex(code_point)


@given(ANY_TEXT | TRICKY)
@settings(deadline=None, max_examples=400)
def test_sanitise_laws(text: str) -> None:
    clean = sanitise(text)
    assert sanitise(clean) == clean
    assert len(clean.splitlines()) <= 1
    assert "  " not in clean
    assert clean == clean.strip()
    clean.encode("utf-8")


@given(ANY_TEXT | TRICKY)
@settings(deadline=None, max_examples=400)
def test_dedup_key_laws(text: str) -> None:
    key = dedup_key(text)
    assert dedup_key(key) == key
    assert dedup_key(sanitise(text)) == key or "\ufffd" in sanitise(text)


@given(ANY_TEXT | TRICKY | st.lists(TRICKY, max_size=30).map(" ".join), st.sampled_from(EMS_CODES))
@settings(deadline=None, max_examples=400)
def test_splitting_loses_nothing(text: str, lang: str) -> None:
    sentences = split_sentences(text, lang)
    clean = " ".join(sanitise(line) for line in text.splitlines())
    # A joiner at the edge of a sentence joins nothing any more.
    assert visible("".join(sentences)) == visible(clean)
    assert letters_only("".join(sentences)) == letters_only(clean)
    assert all(sentence and sanitise(sentence) == sentence for sentence in sentences)


@given(st.integers(0, 10**12), st.sampled_from([0x0030, 0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0x1040, 0xFF10]))
@settings(deadline=None, max_examples=200)
def test_digits_agree_over_scripts_and_grouping(number: int, zero: int) -> None:
    def written(text: str) -> str:
        return "".join(chr(zero + int(c)) if c.isascii() and c.isdigit() else c for c in text)

    expected = (str(number),)
    grouped = f"{number:,}"
    assert digits(written(str(number))) == expected
    for separator in (",", ".", " ", "\u00a0", "'"):
        assert digits(f"a {written(grouped.replace(',', separator))} b") == expected


@given(ANY_TEXT | TRICKY)
@settings(deadline=None, max_examples=200)
def test_script_and_rules_take_any_text(text: str) -> None:
    assert len(script_of(text)) == 4
    clean = sanitise(text)
    ((scores, _),) = apply(default_rules(), [PairView(clean, clean[::-1], "eng_Latn", "deu_Latn")])
    assert all(np.isfinite(score) for score in scores.values())


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_near_duplicates_do_not_depend_on_order(data: st.DataObject) -> None:
    base = "the small grey cat sleeps on the warm window sill and dreams of fish"
    edits = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("xyz")), max_size=4)
    texts = []
    for places in data.draw(st.lists(edits, min_size=2, max_size=14)):
        characters = list(base)
        for place, character in places:
            characters[place] = character
        texts.append("".join(characters))
    ids = np.array(data.draw(st.lists(st.integers(0, 10**9), min_size=len(texts), max_size=len(texts), unique=True)))
    order = np.array(data.draw(st.permutations(range(len(texts)))))
    sketches = signatures(texts)
    straight = near_duplicates(ids, texts, sketches)
    shuffled = near_duplicates(ids[order], [texts[row] for row in order], sketches[order])
    assert shuffled.tolist() == straight[order].tolist()
    assert (straight <= ids).all()
    assert set(straight.tolist()) <= set(ids.tolist())
    # A representative represents itself.
    assert (straight[np.isin(ids, straight)] == ids[np.isin(ids, straight)]).all()
