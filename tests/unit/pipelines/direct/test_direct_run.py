"""`emsmine.run`, `emsmine.Run` and `emsmine.read_embeddings`: the bytes of `emsmine run`, and what it left."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import emsmine
from emsmine.errors import ConfigError, CorruptOutputError, InputError, LanguageError, StaleOutputError
from emsmine.pipelines.store import schemas

FORMATS = "tsv,moses,parquet,jsonl"


@pytest.fixture(scope="module")
def ran(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> emsmine.Run:
    """Return a run made from Python with the settings of the fixture `finished`."""
    root = tmp_path_factory.mktemp("python") / "out"
    return emsmine.run(
        crawl, pairs=list(kit.PAIRS), output=root, rescore=False, threshold=1.0, formats=FORMATS.split(","), workers=1
    )


def test_a_run_leaves_the_bytes_of_the_command(ran: emsmine.Run, finished: Path) -> None:
    assert kit.tree(ran.output) == kit.tree(finished)


def test_the_same_call_changes_nothing_and_bare_words_do(ran: emsmine.Run, crawl: list[Path], tmp_path: Path) -> None:
    root = shutil.copytree(ran.output, tmp_path / "out")
    before = kit.tree(root)
    pairs = ",".join(kit.PAIRS)
    again = emsmine.run(
        [str(path) for path in crawl],
        pairs=pairs,
        output=str(root),
        rescore=False,
        threshold=1,
        formats=FORMATS,
        workers=1,
    )
    assert again == emsmine.Run(root)
    # The settings are saved beside the results.
    emsmine.run(output=root, workers=1)
    assert kit.tree(root) == before
    with pytest.raises(StaleOutputError, match="threshold"):
        emsmine.run(output=root, threshold=1.1, workers=1)
    emsmine.run(output=root, threshold=1.1, redo="select", workers=1)
    assert kit.tree(root) != before


def test_inputs_may_be_patterns_and_one_bare_path(
    crawl: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "crawl/deep"
    folder.mkdir(parents=True)
    for name in ("b.txt", "a.txt", "odd[1].txt"):
        (folder / name).write_text("The lighthouse keeper paints the stairs.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cases: list[tuple[Any, list[str]]] = [
        ("crawl/deep/*.txt", ["a.txt", "b.txt", "odd[1].txt"]),
        (["crawl/**/[ab].txt", "crawl/deep/a.txt"], ["a.txt", "b.txt"]),
        (["crawl/deep/b.txt", "crawl/deep/?.txt"], ["b.txt", "a.txt"]),
        (folder / "odd[1].txt", ["odd[1].txt"]),
        (Path("crawl"), ["a.txt", "b.txt", "odd[1].txt"]),
    ]
    for number, (given, names) in enumerate(cases):
        run = emsmine.run(given, output=f"out{number}", until="ingest", workers=1)
        sources = [row["source_file"] for row in kit.rows(run.output, "documents")]
        assert list(dict.fromkeys(os.path.basename(path) for path in sources)) == names
    for pattern in ("crawl/*.warc.gz", "nowhere/**"):
        with pytest.raises(InputError, match="matches no file"):
            emsmine.run([crawl[0], pattern], output="none", pairs="de-en")
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"treshold": 1.0}, ConfigError, "no setting 'treshold'; did you mean threshold"),
        ({"qqq": 1.0}, ConfigError, "no setting 'qqq'; settings: format, text_field"),
        ({"threshold": "1.0"}, ConfigError, "select.threshold is '1.0'; it must be of type float"),
        ({"formats": "tsv,csv"}, ConfigError, "'csv'; choose from tsv"),
        ({"until": "exprot"}, ConfigError, "'exprot' is no stage"),
        ({"redo": "exprot"}, ConfigError, "unknown stage exprot"),
        ({"pairs": "de"}, LanguageError, "one code"),
        ({"pairs": ()}, ConfigError, "no language pair given"),
        ({"inputs": ()}, InputError, "no input"),
        ({"inputs": "nowhere.warc.gz"}, InputError, "does not exist"),
        ({"output": ""}, ConfigError, "is empty"),
        ({"output": "s3://bucket/out"}, ConfigError, "is a URL"),
        ({"workers": 0}, ConfigError, "workers must be at least 1"),
        ({"config": "nowhere.toml"}, ConfigError, "cannot read nowhere.toml"),
        ({"encoder": "word2vec:x"}, ConfigError, "'word2vec'"),
    ],
)
def test_wrong_use_is_an_error_of_ours_and_leaves_nothing(
    given: dict[str, Any],
    kind: type[Exception],
    words: str,
    crawl: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    whole: dict[str, Any] = {"inputs": crawl, "pairs": ["de-en"], "output": "out", "workers": 1, **given}
    with pytest.raises(kind, match=words):
        emsmine.run(whole.pop("inputs"), **whole)
    assert not Path("out/documents").exists()


def test_a_script_needs_no_guard_for_its_workers(crawl: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import emsmine\nprint('once')\n"
        f"run = emsmine.run({[str(path) for path in crawl]!r}, pairs='de-en', output='out', workers=2, "
        "rescore=False, threshold=1)\n"
        "print(len(run.pairs()))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    assert words[0] == "once"
    assert int(words[1]) > kit.NUM_PARALLEL / 2
    assert len(words) == 2


def test_pairs_are_the_exported_ones(ran: emsmine.Run) -> None:
    pairs = ran.pairs("de-en")
    tsv = (ran.output / "export/de-en.tsv").read_text(encoding="utf-8")
    assert "".join(f"{pair.score:.6f}\t{pair.source}\t{pair.target}\n" for pair in pairs) == tsv
    exported = pq.read_table(ran.output / "export/de-en.parquet")
    assert pairs.to_arrow()["source_url"].to_pylist() == exported["source_url"].to_pylist()
    assert pairs.to_arrow()["source_id"].to_pylist() == exported["source_sentence_id"].to_pylist()
    assert {name.removeprefix("target_") for name in pairs.to_arrow().column_names} >= {"url", "doc_id", "position"}
    assert ran.pairs("deu_Latn-eng").to_list() == pairs.to_list()


def test_pairs_may_be_asked_for_the_other_way_round(ran: emsmine.Run) -> None:
    pairs, swapped = ran.pairs("es-fr"), ran.pairs("fr-es")
    assert [(p.score, p.source, p.target, p.source_id) for p in pairs] == [
        (p.score, p.target, p.source, p.target_id) for p in swapped
    ]
    assert swapped.to_arrow()["source_url"].to_pylist() == pairs.to_arrow()["target_url"].to_pylist()
    assert swapped.to_arrow().column_names == pairs.to_arrow().column_names


def test_pairs_that_are_not_there(ran: emsmine.Run, crawl: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no pair de-fr; it has de-en, es-fr"):
        ran.pairs("de-fr")
    with pytest.raises(InputError, match="has the pairs de-en, es-fr; name one"):
        ran.pairs()
    with pytest.raises(LanguageError, match="german"):
        ran.pairs("german-en")
    with pytest.raises(InputError, match="holds no run; make one"):
        emsmine.Run(tmp_path)
    early = emsmine.run(crawl, output=tmp_path / "early", until="ingest", workers=1)
    with pytest.raises(InputError, match=r"filter\.filter is not finished"):
        early.pairs("de-en")


def test_the_funnel_is_that_of_the_report(ran: emsmine.Run) -> None:
    funnel = ran.funnel()
    assert funnel.to_list() == json.loads(kit.emsmine("report", ran.output, "--json").out)
    assert f"{funnel}\n" == kit.emsmine("report", ran.output).out
    assert "every row is accounted for" in str(funnel)
    rows = funnel.to_arrow().to_pylist()
    assert [row["rows_in"] for row in rows] == [row.rows_in for row in funnel.rows]
    assert [dict(row["dropped"]) for row in rows] == [row.dropped for row in funnel.rows]
    assert all(row["adds_up"] for row in rows)


def test_rejects_by_stage_and_reason(ran: emsmine.Run, caplog: pytest.LogCaptureFixture) -> None:
    everything = ran.rejects()
    assert sorted(everything.to_list(), key=str) == sorted(kit.rows(ran.output, "rejects"), key=str)
    bad = ran.rejects(reason="invalid_json").to_list()
    assert [(row["stage"], row["reason"]) for row in bad] == [("ingest", "invalid_json")]
    assert {row["stage"] for row in ran.rejects(stage="langid").to_list()} == {"langid"}
    assert len(ran.rejects(stage="export")) == 0
    assert caplog.text == ""
    assert len(ran.rejects(reason="invalid_jsn")) == 0
    assert "nothing was dropped for 'invalid_jsn'; reasons here: " in caplog.text
    with pytest.raises(ConfigError, match="'exprot' is unknown"):
        ran.rejects(stage="exprot")


def test_a_damaged_file_of_a_run_is_not_read(ran: emsmine.Run, tmp_path: Path) -> None:
    root = shutil.copytree(ran.output, tmp_path / "out")
    for folder in ("pairs/deu_Latn-eng_Latn", "rejects/ingest.read"):
        path = next((root / folder).glob("*.parquet"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    run = emsmine.Run(root)
    with pytest.raises(CorruptOutputError, match="does not match its manifest"):
        run.pairs("de-en")
    with pytest.raises(CorruptOutputError, match="does not match its manifest"):
        run.rejects()
    assert "NOT COMPLETE" in str(run.funnel())


def test_embeddings_of_a_folder_of_files_and_of_a_run(ran: emsmine.Run) -> None:
    folder = ran.output / "embeddings/deu_Latn"
    table = pq.read_table(folder)
    found = emsmine.read_embeddings(folder)
    np.testing.assert_array_equal(found.vectors, schemas.read_embeddings(table))
    assert found.vectors.dtype == np.float32
    assert found.ids.tolist() == table["sentence_id"].to_pylist()
    assert [row.tobytes() for row in found.text_hashes] == table["text_hash"].to_pylist()
    encoder = emsmine.load_encoder("ems:default", device="cpu")
    assert (found.encoder, found.fingerprint, found.dim) == (encoder.name, encoder.fingerprint(), encoder.dim)
    assert repr(found) == "Embeddings(24 vectors of 384 by ems:default)"
    files = sorted(folder.glob("*.parquet"))
    for same in (emsmine.read_embeddings(files), emsmine.read_embeddings(str(files[0])), ran.embeddings("de")):
        assert same.vectors.tobytes() == found.vectors.tobytes()
    twice = emsmine.read_embeddings([files[0], files[0]])
    assert twice.vectors.tobytes() == 2 * found.vectors.tobytes()
    rows = found.to_list()
    np.testing.assert_array_equal(rows[3]["vector"], found.vectors[3])
    assert rows[3]["sentence_id"] == found.ids[3]
    assert schemas.embeddings_metadata(found.to_arrow().schema)["encoder"] == "ems:default"


def test_embeddings_are_mined_by_their_ids(ran: emsmine.Run) -> None:
    german, english = ran.embeddings("de"), ran.embeddings("en")
    pairs = emsmine.mine(german, english, threshold=1.0)
    exported = {(pair.source_id, pair.target_id): pair.score for pair in ran.pairs("de-en")}
    assert {(pair.source_id, pair.target_id): pair.score for pair in pairs} == exported
    found = emsmine.search(german, english, k=1)
    best = next(iter(pairs))
    assert found.forward.ids[german.ids.tolist().index(best.source_id), 0] == best.target_id


def test_what_holds_no_embeddings_says_so(ran: emsmine.Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    file = next((ran.output / "embeddings/deu_Latn").glob("*.parquet"))
    table = pq.read_table(file)
    other = schemas.embeddings_schema(384, "other", "f")
    cases = {"other": table.replace_schema_metadata(other.metadata), "bare": table.replace_schema_metadata({})}
    wide = schemas.embeddings_schema(400, "other", "f")
    cases |= {"wide": table.replace_schema_metadata(wide.metadata), "numbers": pa.table({"a": [1]})}
    paths = {name: tmp_path / f"{name}.parquet" for name in cases}
    for name, content in cases.items():
        pq.write_table(content, paths[name])
    text = tmp_path / "a.txt"
    text.write_text("no Parquet at all", encoding="utf-8")
    damaged = tmp_path / "damaged.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (ran.output, InputError, "name one of the folders in it: embeddings/deu_Latn, embeddings/eng_Latn"),
        (ran.output / "embeddings", InputError, "name one of the folders in it: deu_Latn, eng_Latn"),
        (tmp_path / "empty", InputError, "holds no embeddings; encode sentences first"),
        (tmp_path / "nowhere", InputError, "does not exist"),
        ([], InputError, "no file is given"),
        ([file, paths["other"]], InputError, "holds vectors of other .*read them one by one"),
        (paths["bare"], InputError, "its metadata lack"),
        (paths["numbers"], InputError, "its metadata lack dim, dtype or encoder; columns: a"),
        (paths["wide"], InputError, "not those that its metadata describe"),
        (next((ran.output / "documents").glob("*.parquet")), InputError, "columns: doc_id, url"),
        (text, CorruptOutputError, "a.txt is damaged"),
        (damaged, CorruptOutputError, "damaged.parquet is damaged"),
    ]
    for path, kind, words in wrong:
        with pytest.raises(kind, match=words):
            emsmine.read_embeddings(path)
    with pytest.raises(InputError, match="ita_Latn does not exist"):
        ran.embeddings("it")


def test_embeddings_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, dim = 64 * 256, 128
    schema = schemas.embeddings_schema(dim, "x", "y")
    vectors = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float16)
    columns = [pa.array(np.arange(rows)), schemas.fixed_binary(np.zeros((rows, 16), np.uint8))]
    table = pa.Table.from_arrays([*columns, schemas.fixed_binary(vectors)], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=256, compression="none")
    del table, columns
    held: list[int] = []
    read = schemas.read_embeddings

    def watched(part: pa.Table) -> Any:
        held.append(pa.total_allocated_bytes())
        return read(part)

    monkeypatch.setattr(schemas, "read_embeddings", watched)
    before = pa.total_allocated_bytes()
    found = emsmine.read_embeddings(tmp_path / "a.parquet")
    assert len(held) == 64
    assert max(held) - before < vectors.nbytes / 8
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert found.ids.tolist() == list(range(rows))


def test_an_empty_file_of_embeddings_is_no_vectors(tmp_path: Path) -> None:
    schema = schemas.embeddings_schema(4, "x", "y")
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    found = emsmine.read_embeddings(tmp_path / "a.parquet")
    assert found.vectors.shape == (0, 4)
    assert found.to_list() == []


def test_a_run_is_quiet(crawl: list[Path], tmp_path: Path) -> None:
    settings = "pairs='de-en', output='out', rescore=False, threshold=1, workers=1"
    program = f"import emsmine; emsmine.run({str(crawl[1])!r}, {settings})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert logging.getLogger("emsmine").handlers == []
