"""Language identification: scripts, restriction, labels, and the accuracy that was measured."""

import re
import tarfile
from pathlib import Path

import pytest
import zstandard

from emsmine.errors import ConfigError, LanguageError
from emsmine.languages import EMS_CODES, resolve
from emsmine.mining.text.langid import LanguageIdentifier, Prediction, load_identifier, script_of

TATOEBA = Path(__file__).resolve().parents[5] / "shared/data/tatoeba/tatoeba-v1.tar.zst"


@pytest.fixture(scope="module")
def ems_identifier() -> LanguageIdentifier:
    return load_identifier(languages=EMS_CODES)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("", "Zyyy"),
        ("123 !?", "Zyyy"),
        ("cat", "Latn"),
        ("Ｆｕｌｌ", "Latn"),
        ("кошка cat", "Cyrl"),
        ("图书馆", "Hani"),
        ("図書館へ行く", "Jpan"),
        ("カタカナ", "Jpan"),
        ("고양이", "Kore"),
        ("नमस्ते", "Deva"),
        ("我用Python", "Hani"),
    ],
)
def test_script_of(text: str, script: str) -> None:
    assert script_of(text) == script


def test_names_languages_canonically(ems_identifier: LanguageIdentifier) -> None:
    texts = {
        "eng_Latn": "The old library closes early on winter evenings.",
        "deu_Latn": "Die alte Bibliothek schließt an Winterabenden früh.",
        "zho_Hans": "这个老图书馆冬天的晚上很早就关门了。",
        "jpn_Jpan": "古い図書館は冬の夜、早く閉まります。",
        "nob_Latn": "Jeg vet ikke hvorfor biblioteket stenger så tidlig om vinteren.",
        "ara_Arab": "تغلق المكتبة القديمة أبوابها مبكرا في الشتاء.",
        "ukr_Cyrl": "Стара бібліотека взимку зачиняється рано, і це прикро.",
    }
    predictions = ems_identifier.identify(list(texts.values()))
    assert [prediction.lang for prediction in predictions] == list(texts)
    assert all(0.5 < prediction.score <= 1.0 for prediction in predictions)


@pytest.mark.parametrize("text", ["", "  ", "12:30 — 14:00", "☃ ★", "Go!"])
def test_text_without_letters_or_evidence_is_undetermined(ems_identifier: LanguageIdentifier, text: str) -> None:
    assert ems_identifier.identify([text]) == [Prediction("und", 0.0)]


def test_answers_stay_in_the_wanted_languages() -> None:
    identifier = load_identifier(languages=["de", "ru"])
    cyrillic, latin, greek = identifier.identify(["Кошка спит на окне.", "Die Katze schläft.", "Η γάτα κοιμάται."])
    assert (cyrillic.lang, latin.lang) == ("rus_Cyrl", "deu_Latn")
    assert greek == Prediction("und", 0.0)


def test_script_overrides_an_impossible_answer_with_a_low_score() -> None:
    # Serbian in Latin script, where only Serbian in Cyrillic and English are wanted: no confident answer exists.
    (prediction,) = load_identifier(languages=["sr", "en"]).identify(["Mačka spava na prozoru i čeka proleće."])
    assert prediction.lang == "eng_Latn"
    assert prediction.score < 0.1


def test_mixed_text_keeps_its_language(ems_identifier: LanguageIdentifier) -> None:
    (prediction,) = ems_identifier.identify(["我每天都用JavaScript和TypeScript写程序"])
    assert prediction.lang == "zho_Hans"


def test_the_form_in_the_script_of_the_text_is_chosen() -> None:
    identifier = load_identifier(languages=["srp_Cyrl", "srp_Latn", "zho_Hans", "zho_Hant"])
    texts = ["Мачка спава на прозору.", "Mačka spava na prozoru.", "这个国家的语言", "這個國家的語言"]
    found = [prediction.lang for prediction in identifier.identify(texts)]
    assert found == ["srp_Cyrl", "srp_Latn", "zho_Hans", "zho_Hant"]
    (only,) = load_identifier(languages=["zho_Hant", "en"]).identify(["这个国家的语言"])
    assert only.lang == "zho_Hant"


def test_without_restriction_all_languages_are_answers() -> None:
    (prediction,) = load_identifier().identify(["Mae'r hen lyfrgell yn cau'n gynnar ar nosweithiau'r gaeaf."])
    assert prediction.lang == "cym_Latn"


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'cld9'.*py3langid"):
        load_identifier("cld9")
    with pytest.raises(ConfigError, match=re.escape("tlh_Latn")):
        load_identifier(languages=["en", "tlh_Latn"])
    with pytest.raises(ConfigError, match="empty list"):
        load_identifier(languages=[])
    with pytest.raises(LanguageError):
        load_identifier(languages=["english?"])


def test_accuracy_on_tatoeba(ems_identifier: LanguageIdentifier) -> None:
    """0.953 was measured on 150 sentences of 59 languages; Serbian is half Latin there, which `srp_Cyrl` excludes."""
    if not TATOEBA.exists():
        pytest.skip("shared/data/tatoeba is not here")
    wanted = {resolve(code).partition("_")[0]: resolve(code) for code in EMS_CODES}
    wanted |= {"cmn": "zho_Hans", "pes": "fas_Arab", "swh": "swa_Latn", "lvs": "lav_Latn", "zsm": "msa_Latn"}
    accuracies = {}
    with TATOEBA.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                extension = member.name.rpartition(".")[2]
                content = archive.extractfile(member) if member.isfile() and extension in wanted else None
                if content is None or extension == "eng":
                    continue
                lines = content.read().decode("utf-8").split("\n")[:40]
                predictions = ems_identifier.identify(lines)
                hits = [prediction.lang == wanted[extension] for prediction in predictions]
                accuracies[extension] = sum(hits) / len(hits)
    assert len(accuracies) >= 55
    assert sum(accuracies.values()) / len(accuracies) > 0.93
