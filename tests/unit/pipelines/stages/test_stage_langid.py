"""langid: documents become the distinct sentences of each language, each with every place where it stands."""

from collections import Counter
from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pytest

from emsmine import languages
from emsmine.mining.text.langid import Prediction, load_identifier
from emsmine.mining.text.normalise import dedup_key, hash128
from emsmine.mining.text.split import split_sentences
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import LangidSettings, Settings
from emsmine.pipelines.stages.langid import decide_language, script_of_language

PAIRS = parse_pairs(["de-en"])


def langid(root: Path, texts: list[str], settings: LangidSettings | None = None, pairs: Any = PAIRS) -> None:
    path = root.parent / "in.jsonl"
    path.write_bytes(b"".join(kit.json_line(f"http://{n}", text) for n, text in enumerate(texts)))
    chosen = Settings(inputs=(str(path),), pairs=pairs, langid=settings or LangidSettings())
    kit.run_stage(root, chosen, "ingest", "dedup", "langid")


GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"]
DE, EN = "deu_Latn", "eng_Latn"


@pytest.mark.parametrize(
    ("sentence", "prediction", "document", "expected"),
    [
        # Agreement: the sentence's own score.
        ("Guten Morgen.", Prediction(DE, 0.6), Prediction(DE, 0.99), (DE, 0.6, "sentence")),
        # Short or unsure: the document decides, with its score.
        ("Ja, gut.", Prediction("nld_Latn", 0.95), Prediction(DE, 0.99), (DE, 0.99, "document")),
        (ENGLISH[0], Prediction(EN, 0.89), Prediction(DE, 0.99), (DE, 0.99, "document")),
        # Long and sure: the sentence decides.
        (ENGLISH[0], Prediction(EN, 0.9), Prediction(DE, 0.99), (EN, 0.9, "sentence")),
        # Another script than the document's: never the document's language.
        ("Да.", Prediction("bul_Cyrl", 0.2), Prediction(DE, 0.99), ("bul_Cyrl", 0.2, "sentence")),
        # A document without a language decides nothing.
        ("Ja, gut.", Prediction("nld_Latn", 0.3), Prediction("und", 0.0), ("nld_Latn", 0.3, "sentence")),
        # Japanese in kanji alone, in a Japanese document, is not Chinese.
        ("東京都", Prediction("zho_Hant", 0.5), Prediction("jpn_Jpan", 0.9), ("jpn_Jpan", 0.9, "document")),
        ("漢字です", Prediction("jpn_Jpan", 0.5), Prediction("zho_Hans", 0.9), ("jpn_Jpan", 0.5, "sentence")),
    ],
)
def test_who_decides(
    sentence: str, prediction: Prediction, document: Prediction, expected: tuple[str, float, str]
) -> None:
    assert decide_language(sentence, prediction, document) == expected


def test_scripts_that_a_language_mixes() -> None:
    assert script_of_language("jpn_Jpan", "東京都") == "Hani"
    assert script_of_language("jpn_Jpan", "です") == "Jpan"
    assert script_of_language("zho_Hans", "漢字") == "Hani"
    assert script_of_language("deu_Latn", "漢字") == "Latn"


def test_sentences_and_their_places(tmp_path: Path) -> None:
    repeated = GERMAN[1].replace(".", " !").upper()
    root = tmp_path / "run"
    langid(root, [" ".join(GERMAN[:3]), f"{GERMAN[3]}\n{repeated} {GERMAN[0]}", " ".join(ENGLISH[:2])])
    sentences = kit.rows(root, "sentences/deu_Latn")
    assert [row["text"] for row in sentences] == GERMAN[:4]
    assert [row["sentence_id"] for row in sentences] == [0, 1, 2, 3]
    assert all(row["text_hash"] == hash128(dedup_key(row["text"])) for row in sentences)
    places = [(row["sentence_id"], row["doc_id"], row["position"]) for row in kit.rows(root, "occurrences/deu_Latn")]
    assert places == [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 1), (2, 0, 2), (3, 1, 0)]
    assert kit.dropped(root, "langid", "distinct") == {"duplicate_sentence": 2}
    assert [row["text"] for row in kit.rows(root, "sentences/eng_Latn")] == ENGLISH[:2]


def test_every_sentence_of_a_run_stands_where_it_says(finished: Path) -> None:
    documents = {row["doc_id"]: row for row in kit.rows(finished, "distinct")}
    identifier = load_identifier(languages=[languages.resolve(code) for code in languages.EMS_CODES])
    seen = 0
    for short in ("de", "en", "es", "fr"):
        lang = languages.resolve(short)
        sentences = {row["sentence_id"]: row for row in kit.rows(finished, f"sentences/{lang}")}
        assert sorted(row["text"] for row in sentences.values()) == sorted(kit.PARALLEL[short])
        for place in kit.rows(finished, f"occurrences/{lang}"):
            text = documents[place["doc_id"]]["text"]
            sentence = split_sentences(text, identifier.identify([text])[0].lang)[place["position"]]
            assert dedup_key(sentence) == dedup_key(sentences[place["sentence_id"]]["text"])
            seen += 1
    assert seen == 4 * kit.NUM_PARALLEL + 3


def test_reasons_of_what_is_dropped(tmp_path: Path) -> None:
    root = tmp_path / "run"
    long = "Das ist " + "sehr " * 300 + "lang."
    russian = "Вчера вечером мы долго гуляли по берегу реки."
    langid(root, [f"{GERMAN[0]}\n{long}\n12 + 30 = 42\n{russian}"])
    assert kit.dropped(root, "langid", "split") == {"too_long": 1, "no_letters": 1, "other_language": 1}
    rejects = {row["reason"]: row for row in kit.rows(root, "rejects/langid.split")}
    assert (rejects["no_letters"]["id"], rejects["no_letters"]["sample"]) == ("0:2", "12 + 30 = 42")
    assert rejects["other_language"]["sample"] == russian


def test_an_uncertain_language_is_dropped(tmp_path: Path) -> None:
    langid(tmp_path / "run", [" ".join(GERMAN[:4])], LangidSettings(min_lid_score=1.0))
    scores = [row["lid_score"] for row in kit.rows(tmp_path / "run", "sentences/deu_Latn")]
    counts = kit.dropped(tmp_path / "run", "langid", "split")
    assert all(score == 1.0 for score in scores)
    assert len(scores) + counts.get("uncertain_language", 0) == 4


@pytest.mark.parametrize("text", ["12345 67.", "!!! ???", "12\n13\n\n", "🙂🙂", "\ue000\ue001 \ue002."])
def test_a_document_without_any_language_is_no_obstacle(tmp_path: Path, text: str) -> None:
    root = tmp_path / "run"
    langid(root, [text, GERMAN[0]])
    counts = kit.dropped(root, "langid", "split")
    assert set(counts) <= {"no_letters", "other_language"}
    assert sum(counts.values()) == len(text.split("\n\n")[0].split("\n"))
    assert [row["text"] for row in kit.rows(root, "sentences/deu_Latn")] == [GERMAN[0]]


def test_a_language_that_does_not_occur_has_empty_shards(tmp_path: Path) -> None:
    langid(tmp_path / "run", [GERMAN[0]], pairs=parse_pairs(["de-sw"]))
    assert kit.rows(tmp_path / "run", "sentences/swa_Latn") == []
    assert (tmp_path / "run" / "sentences" / "swa_Latn" / "00000.parquet").exists()


@pytest.mark.parametrize("shard_rows", [1, 5, 7, 1000])
def test_partitions_hold_every_sentence_once(tmp_path: Path, shard_rows: int) -> None:
    root = tmp_path / "run"
    texts = [" ".join(GERMAN[n : n + 6]) for n in range(0, 20, 4)]
    langid(root, texts, LangidSettings(shard_rows=shard_rows))
    shards = sorted((root / "sentences" / "deu_Latn").glob("*.parquet"))
    total = sum(len(GERMAN[n : n + 6]) for n in range(0, 20, 4))
    assert len(shards) == -(-total // shard_rows)
    sentences = kit.rows(root, "sentences/deu_Latn")
    assert sorted(row["text"] for row in sentences) == sorted(GERMAN[:22])
    assert len({row["sentence_id"] for row in sentences}) == 22
    for number, shard in enumerate(shards):
        assert {row["sentence_id"] >> 40 for row in kit.rows(root, str(shard.relative_to(root)))} <= {number}
    by_id = {row["sentence_id"]: row["text"] for row in sentences}
    places = Counter(by_id[row["sentence_id"]] for row in kit.rows(root, "occurrences/deu_Latn"))
    assert places == Counter(text for n in range(0, 20, 4) for text in GERMAN[n : n + 6])
    # The first place, which the pairs show, comes first.
    order = [(row["sentence_id"], row["doc_id"], row["position"]) for row in kit.rows(root, "occurrences/deu_Latn")]
    assert order == sorted(order)
