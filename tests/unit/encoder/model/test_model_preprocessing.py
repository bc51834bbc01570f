"""Pre-tokenisation of the released model; the golden tests hold it against the released code."""

import sys

import pytest

from emsmine.encoder.model import preprocessing
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.errors import MissingDependencyError


@pytest.fixture(autouse=True)
def _fresh_splitters() -> None:
    preprocessing._splitter.cache_clear()


def test_none_changes_nothing() -> None:
    texts = [" Mixed CASE, kept! ", "", "\ud800"]
    assert preprocess(texts, "eng_Latn", "none") == texts


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'moses'; choose from none, ems"):
        preprocess(["x"], "eng_Latn", "moses")


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("eng_Latn", "  Don't stop, Anna! ", "don 't stop , anna !"),
        ("eng_Latn", 'A "quote" & <tag>', 'a " quote " & < tag >'),  # nothing is escaped
        ("fra_Latn", "L'horloge sonne.", "l' horloge sonne ."),
        ("ell_Grek", "ΚΑΛΗΜΕΡΑ.", "καλημερα ."),
        ("eng_Latn", "", ""),
        ("eng_Latn", "   ", ""),
    ],
)
def test_moses(lang: str, text: str, expected: str) -> None:
    pytest.importorskip("sacremoses")
    assert preprocess([text], lang, "ems") == [expected]


@pytest.mark.parametrize("lang", ["zho_Hans", "zho_Hant", "yue_Hant", "wuu_Hans"])
def test_jieba_splits_chinese(lang: str) -> None:
    pytest.importorskip("jieba")
    [split] = preprocess(["老师有七盏灯。"], lang, "ems")
    assert split.replace(" ", "") == "老师有七盏灯。"
    assert "老师" in split.split(" ")
    assert preprocess([""], lang, "ems") == [""]


@pytest.mark.parametrize(
    ("module", "lang"), [("sacremoses", "deu_Latn"), ("jieba", "zho_Hans"), ("rhoknp", "jpn_Jpan")]
)
def test_a_missing_word_splitter_is_named(monkeypatch: pytest.MonkeyPatch, module: str, lang: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {module}") as caught:
        preprocess(["x"], lang, "ems")
    assert lang in str(caught.value)
