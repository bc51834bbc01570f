"""encode: one float16 unit vector per sentence; those without one are counted."""

from pathlib import Path

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq

from emsmine.encoder.registry import load_encoder
from emsmine.mining.text.normalise import hash128
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.schemas import SENTENCES, read_embeddings


def put_sentences(root: Path, by_lang: dict[str, list[str]]) -> None:
    parts = {}
    for lang, texts in by_lang.items():
        columns = [list(range(10, 10 + len(texts))), texts, [0.9] * len(texts), ["sentence"] * len(texts)]
        columns.append([hash128(text) for text in texts])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SENTENCES, strict=True)]
        parts[f"{lang}/00000"] = {f"sentences/{lang}": pa.Table.from_arrays(arrays, schema=SENTENCES)}
    kit.publish(root, "langid", "distinct", parts)


def test_vectors_are_those_of_the_encoder(tmp_path: Path) -> None:
    texts = {"deu_Latn": kit.PARALLEL["de"], "eng_Latn": kit.PARALLEL["en"]}
    put_sentences(tmp_path, texts)
    kit.run_stage(tmp_path, Settings(pairs=parse_pairs(["de-en"])), "encode")
    encoder = load_encoder("ems:default", device="cpu")
    for lang in texts:
        table = pq.read_table(tmp_path / "embeddings" / lang / "00000.parquet", partitioning=None)
        assert table["sentence_id"].to_pylist() == list(range(10, 10 + kit.NUM_PARALLEL))
        assert table["text_hash"].to_pylist() == [hash128(text) for text in texts[lang]]
        np.testing.assert_allclose(read_embeddings(table), encoder.encode(texts[lang], lang=lang), atol=2e-3)
        metadata = table.schema.metadata
        assert metadata[b"encoder"] == b"ems:default"
        assert metadata[b"encoder_fingerprint"].decode() == encoder.fingerprint()
        assert (metadata[b"dim"], metadata[b"dtype"]) == (str(encoder.dim).encode(), b"float16")


def test_sentences_without_tokens_are_counted_and_very_long_ones_are_cut(tmp_path: Path) -> None:
    long = "word " * 10_000
    put_sentences(tmp_path, {"deu_Latn": ["", "\u200b", "Guten Morgen."], "eng_Latn": [long, "Good morning."]})
    kit.run_stage(tmp_path, Settings(pairs=parse_pairs(["de-en"])), "encode")
    assert [row["sentence_id"] for row in kit.rows(tmp_path, "embeddings/deu_Latn")] == [12]
    assert [row["sentence_id"] for row in kit.rows(tmp_path, "embeddings/eng_Latn")] == [10, 11]
    assert kit.dropped(tmp_path, "encode", "encode") == {"zero_vector": 2}
    assert [row["id"] for row in kit.rows(tmp_path, "rejects/encode.encode")] == ["10", "11"]


def test_the_encoder_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    from emsmine.pipelines.stages.base import PlanContext
    from emsmine.pipelines.stages.encode import STAGE
    from emsmine.pipelines.store.store import Store

    put_sentences(tmp_path, {"deu_Latn": ["Guten Morgen."], "eng_Latn": ["Good morning."]})
    step = STAGE.steps[0]
    specs = step.plan(step, PlanContext(Store(tmp_path), Settings(pairs=parse_pairs(["de-en"]))))
    expected = load_encoder("ems:default", device="cpu").fingerprint()
    assert [spec.param("encoder_fingerprint", str) for spec in specs] == [expected] * 2
