"""Languages that users declare: guessed from names, checked against the text."""

import logging
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.errors import ConfigError, LanguageError
from emsmine.pipelines.direct.declared import (
    check_languages,
    check_pair_files,
    declared_languages,
    language_of_name,
    languages_of_bitext_name,
)

GERMAN, ENGLISH, FRENCH = kit.PARALLEL["de"], kit.PARALLEL["en"], kit.PARALLEL["fr"]


@pytest.mark.parametrize(
    ("name", "lang"),
    [
        ("a.de", "deu_Latn"),
        ("folder.en/corpus.de-en.de", "deu_Latn"),
        ("a.de.gz", "deu_Latn"),
        ("b.en.txt", "eng_Latn"),
        ("b.en.txt.zst", "eng_Latn"),
        ("x.deu_Latn", "deu_Latn"),
        ("x.zh-Hant", "zho_Hant"),
        ("x.pt-BR.xz", "por_Latn"),
        ("de.en", "eng_Latn"),
        ("a", None),
        ("de", None),
        ("a.txt", None),
        ("a.tsv.gz", None),
        ("a.tok", None),
        ("a.de.backup", None),
        ("a.xx", None),
        ("-", None),
    ],
)
def test_a_name_tells_its_language(name: str, lang: str | None) -> None:
    assert language_of_name(name) == lang


@pytest.mark.parametrize(
    ("name", "langs"),
    [
        ("de-en.tsv", ("deu_Latn", "eng_Latn")),
        ("x/corpus.en-de.tsv.gz", ("eng_Latn", "deu_Latn")),
        ("deu_Latn-eng_Latn.tsv", ("deu_Latn", "eng_Latn")),
        ("en-en.tsv", None),
        ("pairs.tsv", None),
        ("my-own.tsv", None),
    ],
)
def test_a_name_tells_the_languages_of_its_columns(name: str, langs: tuple[str, str] | None) -> None:
    assert languages_of_bitext_name(name) == langs


def test_what_is_given_wins_over_the_name() -> None:
    assert declared_languages("mine", ["a.de", "b.en"], None, None) == ("deu_Latn", "eng_Latn")
    assert declared_languages("mine", ["a.de", "b.en"], "fr", None) == ("fra_Latn", "eng_Latn")
    assert declared_languages("score", ["de-en.tsv"], None, None) == ("deu_Latn", "eng_Latn")
    assert declared_languages("score", ["pairs.tsv"], "de", "en") == ("deu_Latn", "eng_Latn")


@pytest.mark.parametrize(
    ("paths", "given", "words"),
    [
        (["a", "b"], (None, None), r"--source-lang \(-s\) and --target-lang \(-t\) must be given"),
        (["a.de", "b"], (None, None), r"mine: --target-lang \(-t\) must be given"),
        (["a", "b"], ("de", None), r"mine: --target-lang \(-t\) must be given"),
        (["pairs.tsv"], (None, None), r"--source-lang \(-s\) and --target-lang \(-t\)"),
        (["a.de", "b.de"], (None, None), "both sides are deu_Latn"),
        (["a.de", "b.en"], ("en", None), "both sides are eng_Latn"),
    ],
)
def test_all_that_is_missing_is_named(paths: list[str], given: tuple[str | None, str | None], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        declared_languages("mine", paths, *given)
    with pytest.raises(LanguageError, match="'xx'"):
        declared_languages("mine", paths, "xx", "en")


def warnings(caplog: pytest.LogCaptureFixture, sides: dict[str, tuple[str, list[str]]]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_languages("mine", sides)
    return caplog.messages


def test_right_languages_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for lang, code in (("deu_Latn", "de"), ("eng_Latn", "en"), ("fra_Latn", "fr"), ("spa_Latn", "es")):
        assert warnings(caplog, {"a": (lang, kit.PARALLEL[code])}) == []


def test_swapped_and_wrong_languages_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    found = warnings(caplog, {"a.de": ("deu_Latn", ENGLISH), "b.en": ("eng_Latn", GERMAN)})
    assert len(found) == 2
    assert "a.de was declared as German (de), but 100 % of a sample looks like English (en)" in found[0]
    assert all("swapped" in message for message in found)
    (wrong,) = warnings(caplog, {"a.de": ("deu_Latn", FRENCH), "b.en": ("eng_Latn", ENGLISH)})
    assert "looks like French (fr); check the language given for it" in wrong


def test_near_languages_and_short_texts_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(caplog, {"a": ("nob_Latn", ["Dette er en bok om været i byen og på landet."])}) == []
    assert warnings(caplog, {"a": ("fra_Latn", GERMAN[:3]), "b": ("eng_Latn", [])}) == []
    assert warnings(caplog, {"a": ("fra_Latn", ["123 456"] * 500)}) == []


def test_a_mixture_is_no_majority(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(caplog, {"a": ("deu_Latn", [*GERMAN, *FRENCH, *ENGLISH, *kit.PARALLEL["es"]])}) == []


def test_pair_files_with_swapped_columns_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, rows in (("de-en", zip(GERMAN, ENGLISH, strict=True)), ("en-fr", zip(FRENCH, ENGLISH, strict=True))):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in rows), encoding="utf-8")
    (tmp_path / "de-es.tsv").write_text("", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        check_pair_files("train", [str(tmp_path)])
    assert len(caplog.messages) == 2
    assert all("en-fr.tsv" in message and "swapped" in message for message in caplog.messages)
