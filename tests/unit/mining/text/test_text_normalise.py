"""Normal forms of text: worked cases. Laws over all of Unicode are in tests/property."""

import pytest

from emsmine.mining.text.normalise import dedup_key, digits, hash128, letters_only, sanitise


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        (" a\tb\r\nc\u2028d\x85e ", "a b c d e"),
        ("a\xa0\u3000 b", "a b"),
        ("bell\x07 and nul\x00", "bell and nul"),
        ("\ufeffmark\u200b and \u202ebidi\u202c", "mark and bidi"),
        ("soft\xadhyphen", "softhyphen"),
        ("cafe\u0301", "caf\xe9"),
        ("e\u200b\u0301", "\xe9"),
        ("lone \ud800 half", "lone \ufffd half"),
        ("not a character \ufdd0\uffff", "not a character \ufffd\ufffd"),
        ("می\u200cروم", "می\u200cروم"),
        ("ക\u0d4d\u200d", "ക\u0d4d\u200d"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("plain\u200d text\u200c \u200dx", "plain text x"),
        ("می\u200c\u200cروم", "می\u200cروم"),
        ("\r\n\t ", ""),
    ],
)
def test_sanitise_gives_one_clean_line(text: str, clean: str) -> None:
    assert sanitise(text) == clean


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Hello, World!", "hello world"),
        ("Don’t go…", "don't go"),
        ("Ｆｕｌｌ width ﬁt", "full width fit"),
        ("STRASSE", "straße"),
        ("你好，世界！", "你好 世界"),
        ("می\u200cروم", "میروم"),
        ("Ça va ?", "ça va?"),
        ("100 %", "100%"),
        ("«Guten Tag» — sagte er", '"Guten Tag", sagte er.'),
        ("هل أنت هنا؟", "هل أنت هنا?"),
    ],
)
def test_dedup_key_folds_what_readers_take_for_the_same(left: str, right: str) -> None:
    assert dedup_key(left) == dedup_key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("You came.", "You came?"),
        ("Learn C", "Learn C#"),
        ("It costs 3.5", "It costs 35"),
        ("It costs 3.5", "It costs 3 5"),
        ("we'll", "well"),
        ("résumé", "resume"),
        ("$5", "5"),
    ],
)
def test_dedup_key_keeps_what_changes_the_translation(left: str, right: str) -> None:
    assert dedup_key(left) != dedup_key(right)


def test_dedup_key_of_punctuation_is_empty() -> None:
    assert dedup_key("… — !") == ""


def test_hash128_is_the_published_xxh3_value() -> None:
    # Test vector of xxHash: XXH3 128 bits of no input, seed 0.
    assert hash128("").hex() == "99aa06d3014798d86001c324468d497f"
    assert hash128("é") != hash128("e\u0301")
    with pytest.raises(UnicodeEncodeError):
        hash128("\ud800")


def test_letters_only_keeps_vowel_signs() -> None:
    assert letters_only("नमस्ते, 2 दुनिया!") == "नमस्तेदुनिया"


@pytest.mark.parametrize(
    "text", ["1,000", "1.000", "1 000", "1\xa0000", "1\u202f000", "1'000", "١٬٠٠٠", "१,०००", "１，０００"]
)
def test_digits_agree_on_grouping(text: str) -> None:
    assert digits(f"x {text} y") == ("1000",)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("no number", ()),
        ("1,5 or 1.50", ("1.5", "1.5")),
        ("1.234,56 = 1,234.56", ("1234.56", "1234.56")),
        ("12,34,567 and 1.234.567", ("1234567", "1234567")),
        ("on 3.5.2020 or 03/05/2020", ("3", "5", "2020", "3", "5", "2020")),
        ("version 1.2.3", ("1", "2", "3")),
        ("in 2020 500 people", ("2020", "500")),
        ("agent 007, room 0", ("7", "0")),
        ("٣٫٥", ("3.5",)),
        ("x² + 1", ("1",)),
    ],
)
def test_digits_read_numbers(text: str, numbers: tuple[str, ...]) -> None:
    assert digits(text) == numbers
