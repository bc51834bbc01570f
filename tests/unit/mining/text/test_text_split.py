"""Sentence splitting: one invented text per writing system, the known hard cases, and bounded time."""

import time

import pytest

from emsmine.errors import LanguageError
from emsmine.languages import EMS_CODES
from emsmine.mining.text.split import split_sentences

BY_LANGUAGE = {
    "eng_Latn": ["Dr. Green fed the cat.", "Was it hungry?", "It was!"],
    "deu_Latn": ["Am 3. Mai kam Prof. Klein z. B. nach Bonn.", "Er blieb dort."],
    "zho_Hans": ["今天下雨了。", "你带伞了吗？", "没有！"],
    "jpn_Jpan": ["猫が寝ている。", "起こしますか？", "いいえ。"],
    "hin_Deva": ["बिल्ली सो रही है।", "क्या वह भूखी है?", "नहीं।"],
    "ben_Beng": ["বিড়াল ঘুমায়।", "সে কি ক্ষুধার্ত?"],
    "mya_Mymr": ["ကြောင် အိပ်နေသည်။", "မိုး ရွာသည်။"],
    "hye_Armn": ["Կատուն քնած է։", "Անձրև է գալիս:", "Գնանք։"],
    "urd_Arab": ["بلی سو رہی ہے۔", "کیا وہ بھوکی ہے؟", "نہیں۔"],
    "ara_Arab": ["القطة نائمة.", "هل هي جائعة؟", "لا."],
    "ell_Grek": ["Θα 'ναι εδώ αύριο.", "Πού 'ναι η γάτα;", "Κοιμάται."],
    "swe_Latn": ["Jag gillar det.", "Katten gick ut.", "Den kom tillbaka."],
    "tgl_Latn": ["Nakita ko ang pusa mo.", "Natutulog ito."],
    "kor_Kore": ["고양이가 잔다.", "배가 고플까?"],
    "amh_Ethi": ["ድመቷ ተኝታለች።", "ዝናብ ነው።"],
}


@pytest.mark.parametrize("lang", sorted(BY_LANGUAGE))
def test_splits_each_writing_system(lang: str) -> None:
    sentences = BY_LANGUAGE[lang]
    joint = "" if lang in ("zho_Hans", "jpn_Jpan") else " "
    assert split_sentences(joint.join(sentences), lang) == sentences


@pytest.mark.parametrize("code", EMS_CODES)
def test_every_ems_language_splits_at_a_question_mark_and_a_newline(code: str) -> None:
    mark = ";" if code == "el" else "?"
    first, second = ("Γάτα εδώ", "Σκύλος εκεί") if code == "el" else ("Kata ena", "Suno ika")
    assert split_sentences(f"{first}{mark} {second}\n{first}", code) == [f"{first}{mark}", second, first]


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_every_line_break_separates(mark: str) -> None:
    assert split_sentences(f"A title{mark}{mark} the text", "en") == ["A title", "the text"]


def test_japanese_quotation_that_goes_on_is_one_sentence() -> None:
    assert split_sentences("「雨だ。」と母が言った。寒い。", "ja") == ["「雨だ。」と母が言った。", "寒い。"]


def test_apostrophes_do_not_glue_sentences() -> None:
    text = "I don't know him. She can't swim. We won't go."
    assert split_sentences(text, "en") == ["I don't know him.", "She can't swim.", "We won't go."]


def test_thai_is_cut_at_spaces_only_when_long() -> None:
    short = "แมวนอนหลับ ฝนตกหนัก"
    assert split_sentences(short, "th") == [short]
    pieces = split_sentences(" ".join([short] * 30), "th")
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 160
    assert " ".join(pieces) == " ".join([short] * 30)


def test_result_is_sanitised_and_never_empty() -> None:
    assert split_sentences("\ufeff \n\x00\n One\u200b\xa0two.  Three. ", "en") == ["One two.", "Three."]
    assert split_sentences("", "en") == []


def test_sentence_longer_than_a_window_stays_whole() -> None:
    long = "word " * 3000 + "end."
    assert split_sentences(f"{long} Next one. {long}", "en") == [long, "Next one.", long]


def test_unknown_language_is_refused() -> None:
    with pytest.raises(LanguageError, match=r"english\?"):
        split_sentences("text", "english?")


@pytest.mark.parametrize(
    ("unit", "lang"),
    [
        ("word ", "en"),
        ("(“", "en"),
        ("“a. ", "en"),
        ("don't ", "en"),
        ("。", "zh"),
        ("「雨。」と", "ja"),
        ("। ", "hi"),
        ("։", "en"),
        ("'", "en"),
        ("ก ", "th"),
    ],
)
def test_time_is_linear_in_one_huge_paragraph(unit: str, lang: str) -> None:
    def seconds(num_chars: int) -> float:
        text = unit * (num_chars // len(unit))
        start = time.process_time()
        split_sentences(text, lang)
        return time.process_time() - start

    seconds(1000)
    # Quadratic time would be 64 times as long; 0.3 s keeps noise on tiny times out.
    assert seconds(800_000) < 24 * seconds(100_000) + 0.3
