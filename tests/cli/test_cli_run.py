"""`emsmine run`, the stage commands and `report`, as a user calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pipeline_kit as kit
import pyarrow.parquet as pq
import pytest

from emsmine import languages
from emsmine.mining.text.langid import load_identifier
from emsmine.mining.text.split import split_sentences
from emsmine.pipelines.settings import STAGE_NAMES

FORMATS = ("--formats", "tsv,moses,parquet,jsonl")


def command(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "emsmine", *map(str, args)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=cwd,
        check=False,
    )


def test_every_pair_can_be_traced_to_its_two_places(finished: Path, crawl: list[Path]) -> None:
    documents = {row["doc_id"]: row for row in kit.rows(finished, "documents")}
    identifier = load_identifier(languages=[languages.resolve(code) for code in languages.EMS_CODES])
    pages = {url: text for lang in ("de", "en", "es", "fr") for url, text in kit.pages(lang).items()}
    num_pairs = 0
    for pair, sides in (("de-en", ("de", "en")), ("es-fr", ("es", "fr"))):
        rows = kit.rows(finished, f"export/{pair}.parquet")
        num_pairs += len(rows)
        for row in rows:
            for side, lang in zip(("source", "target"), sides, strict=True):
                text, url = row[f"{side}_text"], row[f"{side}_url"]
                document = documents[row[f"{side}_doc_id"]]
                split = split_sentences(document["text"], identifier.identify([document["text"]])[0].lang)
                assert split[row[f"{side}_position"]] == text
                assert (document["url"], document["date"]) == (url, row[f"{side}_date"])
                assert text in pages[url]
                assert text in kit.PARALLEL[lang]
                stored = kit.rows(finished, f"sentences/{languages.resolve(lang)}")
                (sentence,) = [item for item in stored if item["sentence_id"] == row[f"{side}_sentence_id"]]
                assert (sentence["text"], sentence["lid_score"]) == (text, row[f"{side}_lid_score"])
                assert 0.5 <= row[f"{side}_lid_score"] <= 1
        # Any usable model finds most of two dozen plain translations.
        right = sum(
            kit.PARALLEL[sides[0]].index(row["source_text"]) == kit.PARALLEL[sides[1]].index(row["target_text"])
            for row in rows
        )
        assert right > kit.NUM_PARALLEL / 2
    assert num_pairs > kit.NUM_PARALLEL


def test_files_are_what_the_field_expects(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "export").iterdir())
    expected = []
    for left, right in (("de", "en"), ("es", "fr")):
        pair = f"{left}-{right}"
        expected += [f"corpus.{pair}.{left}", f"corpus.{pair}.{right}"]
        expected += [f"{pair}.{ending}" for ending in ("jsonl", "parquet", "tsv")]
        content = (finished / "export" / f"{pair}.tsv").read_bytes()
        assert b"\r" not in content
        assert content.endswith(b"\n")
        table = [line.split("\t") for line in content.decode("utf-8").split("\n")[:-1]]
        assert {len(row) for row in table} == {3}
        scores = [float(row[0]) for row in table]
        assert scores == sorted(scores, reverse=True)
        for column, lang in ((1, left), (2, right)):
            moses = (finished / "export" / f"corpus.{pair}.{lang}").read_text(encoding="utf-8").split("\n")[:-1]
            assert moses == [row[column] for row in table]
            assert set(moses) <= set(kit.PARALLEL[lang])
        lines = (finished / "export" / f"{pair}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["translation"] for line in lines] == [{left: row[1], right: row[2]} for row in table]
        stored = pq.read_table(finished / "export" / f"{pair}.parquet").to_pylist()
        assert [(row["source_text"], row["target_text"]) for row in stored] == [(row[1], row[2]) for row in table]
        assert [row["score"] for row in stored] == [row["margin"] for row in stored]
        assert [round(row["margin"], 6) for row in stored] == pytest.approx(scores, abs=1e-6)
    assert names == sorted(expected)


def test_stages_one_by_one_give_the_bytes_of_run(finished: Path, crawl: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert kit.emsmine("ingest", *crawl, "-o", root, "-j", 1).code == 0
    assert kit.emsmine("dedup", "-o", root, "-j", 1).code == 0
    for name in STAGE_NAMES[2:]:
        more = {"langid": ["-p", "de-en", "-p", "fr-es"], "select": ["--threshold", "1.0"], "export": FORMATS}
        more["rescore"] = ["--no-rescore"]
        result = kit.emsmine(name, "-o", root, "-j", 1, *more.get(name, []))
        assert result.code == 0, result.err
        assert result.out == ""
    assert kit.tree(root) == kit.tree(finished)


def test_order_of_pairs_and_codes_makes_no_difference(finished: Path, crawl: list[Path], tmp_path: Path) -> None:
    result = kit.run(crawl, tmp_path / "run", *FORMATS, pairs=["eng-deu_Latn", "fra_Latn-es", "de-en"])
    assert result.code == 0
    assert kit.tree(tmp_path / "run") == kit.tree(finished)


def test_workers_make_no_difference(finished: Path, crawl: list[Path], tmp_path: Path) -> None:
    result = kit.run(crawl, tmp_path / "run", *FORMATS, workers=3)
    assert result.code == 0, result.err
    assert kit.tree(tmp_path / "run") == kit.tree(finished)


def test_shards_make_no_difference_to_the_pairs(finished: Path, crawl: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert kit.run(crawl, root, "--shard-rows", 20).code == 0
    assert len(list((root / "sentences" / "deu_Latn").glob("*.parquet"))) == 2
    for pair in ("de-en", "es-fr"):
        tables = [
            {(row["source_text"], row["target_text"]): row for row in kit.rows(where, f"export/{pair}.parquet")}
            for where in (root, finished)
        ]
        assert set(tables[0]) == set(tables[1])
        for key, row in tables[0].items():
            other = tables[1][key]
            assert row["margin"] == pytest.approx(other["margin"], abs=1e-6)
            for side in ("source", "target"):
                for name in ("url", "doc_id", "position", "lid_score"):
                    assert row[f"{side}_{name}"] == other[f"{side}_{name}"]


def test_everything_empty_ends_well(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.warc.gz", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    result = kit.run([tmp_path / "a.jsonl", tmp_path / "b.warc.gz", tmp_path / "c.txt"], tmp_path / "run", *FORMATS)
    assert result.code == 0, result.err
    assert "every row is accounted for" in result.out
    exported = tmp_path / "run" / "export"
    assert {path.stat().st_size for path in exported.iterdir() if path.suffix != ".parquet"} == {0}
    assert kit.rows(tmp_path / "run", "export/es-fr.parquet") == []


def test_a_crawl_without_one_of_the_languages_ends_well(crawl: list[Path], tmp_path: Path) -> None:
    result = kit.run(crawl, tmp_path / "run", pairs=["de-sw"])
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "export" / "de-sw.tsv").read_bytes() == b""


def test_one_bad_file_among_good_ones_is_in_the_funnel(crawl: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.warc.gz"
    bad.write_bytes(crawl[0].read_bytes()[:-300])
    result = kit.run([*crawl, bad], tmp_path / "run")
    assert result.code == 0, result.err
    assert "truncated" in result.out
    assert "every row is accounted for" in result.out
    (reject,) = [row for row in kit.rows(tmp_path / "run", "rejects/ingest.read") if row["id"].startswith("bad.")]
    assert reject["reason"].startswith("truncated")


def test_configuration_file_and_flags(crawl: list[Path], tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text(
        f'inputs = ["{crawl[1]}"]\npairs = ["en-de"]\n[select]\nthreshold = 1.3\n[export]\nformats = ["tsv"]\n',
        encoding="utf-8",
    )
    result = kit.emsmine("run", "-c", config, "-o", tmp_path / "run", "-j", 1, "--no-rescore", "--threshold", "1.01")
    assert result.code == 0, result.err
    assert [path.name for path in (tmp_path / "run" / "export").iterdir()] == ["de-en.tsv"]
    scores = [row["score"] for row in kit.rows(tmp_path / "run", "selected")]
    assert min(scores) >= 1.01


def test_a_run_may_go_on_from_another_folder(
    crawl: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(crawl[0].parent)
    first = kit.emsmine("run", crawl[1].name, "-o", tmp_path / "run", "-p", "de-en", "--until", "ingest", "-j", 1)
    assert first.code == 0, first.err
    monkeypatch.chdir(tmp_path)
    assert kit.emsmine("run", "-o", "run", "--until", "ingest", "-j", 1).code == 0


USAGE = [
    (["-p", "de-xx"], 2, ["unknown code 'xx'", "emsmine langs"]),
    (["-p", "deutsch-en"], 2, ["'deutsch'", "de (German)"]),
    (["-p", "de-de"], 2, ["de"]),
    (["-p", "de"], 2, ["'de'"]),
    (["-p", "de-en", "--encoder", "ems:nothing"], 2, ["'nothing'", "default"]),
    (["-p", "de-en", "--encoder", "bert"], 2, ["'bert'", "KIND:NAME"]),
    (["-p", "de-en", "--margin", "cosine"], 2, ["--margin", "cosine", "ratio"]),
    (["-p", "de-en", "--k", "0"], 2, ["search.k", "at least 1"]),
    (["-p", "de-en", "--k", "many"], 2, ["--k", "many"]),
    (["-p", "de-en", "--formats", "tsv,xml"], 2, ["'xml'", "moses"]),
    (["-p", "de-en", "--rules-off", "nope"], 2, ["nope", "too_short"]),
    (["-p", "de-en", "--redo", "selct"], 2, ["selct", "select"]),
    (["-p", "de-en", "--until", "selct"], 2, ["selct", "select"]),
    (["-p", "de-en", "--device", "tpu9"], 2, ["'tpu9'", "cpu"]),
    (["-p", "de-en", "-j", "0"], 2, ["-j", "0"]),
    (["-p", "de-en", "--threshhold", "1"], 2, ["--threshhold", "--threshold"]),
    ([], 2, ["Missing", "--pairs"]),
    (["-p", "de-en", "no-such.warc.gz"], 1, ["no-such.warc.gz", "does not exist"]),
    (["-p", "de-en", "-c", "no-such.toml"], 2, ["no-such.toml", "cannot read"]),
]


@pytest.mark.parametrize(("args", "code", "words"), USAGE, ids=[" ".join(args) for args, _, _ in USAGE])
def test_wrong_arguments_end_before_anything_is_written(
    crawl: list[Path], tmp_path: Path, args: list[str], code: int, words: list[str]
) -> None:
    result = kit.emsmine("run", crawl[1], "-o", tmp_path / "run", *args)
    assert result.code == code, result.err
    assert result.out == ""
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[selekt]\n", ["selekt", "select"]),
        ("[select]\nthresh = 1\n", ["select has unknown keys thresh", "threshold"]),
        ("[select]\nthreshold = '1'\n", ["select.threshold", "'1'", "float"]),
        ("[search]\nk = 1.5\n", ["search.k", "1.5", "int"]),
        ("pairs = 'de-en'\n", ["pairs", "list of strings"]),
        ("pairs = ['de-qq']\n", ["qq"]),
        ("[select\n", ["is not TOML"]),
        ("select = 3\n", ["[select]", "table"]),
    ],
)
def test_wrong_configuration(crawl: list[Path], tmp_path: Path, toml: str, words: list[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(toml, encoding="utf-8")
    result = kit.emsmine("run", crawl[1], "-o", tmp_path / "run", "-c", config)
    assert result.code == 2, result.err
    for word in words:
        assert word in result.err
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be(crawl: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    for output, code in (
        (file, 2),
        (file / "below", 1),
        ("/proc/emsmine-cannot-write-here", 1),
        ("s3://bucket/run", 2),
    ):
        result = kit.emsmine("run", crawl[1], "-p", "de-en", "-o", output)
        assert result.code == code, result.err
        assert str(output) in result.err
        assert "Traceback" not in result.err
    assert file.read_text(encoding="utf-8") == "x"


def test_damaged_model_directory(crawl: list[Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    result = kit.emsmine("run", crawl[1], "-p", "de-en", "-o", tmp_path / "run", "--encoder", f"ems:{model}")
    assert result.code == 1
    assert str(model) in result.err
    (model / "config.json").write_text("{}", encoding="utf-8")
    result = kit.emsmine("run", crawl[1], "-p", "de-en", "-o", tmp_path / "run", "--encoder", f"ems:{model}")
    assert result.code == 1
    assert str(model / "config.json") in result.err
    assert not (tmp_path / "run").exists()


def test_report_of_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "no"):
        result = kit.emsmine("report", folder)
        assert result.code == 1
        assert "holds no finished stage" in result.err
    assert not (tmp_path / "no").exists()


def test_report_repeats_the_funnel_of_run(finished: Path) -> None:
    again = kit.emsmine("run", "-o", finished, "-j", 1)
    assert kit.emsmine("report", finished).out == again.out


def test_quiet_says_nothing_but_the_result(finished: Path) -> None:
    assert kit.emsmine("-q", "run", "-o", finished, "-j", 1).err == ""


def test_as_a_program(crawl: list[Path], finished: Path, tmp_path: Path) -> None:
    args = ["-p", "de-en,es-fr", *kit.MARGIN_OF_ONE, *FORMATS, "-j", "1"]
    done = command("run", *crawl, "-o", "run", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("every row is accounted for\n")
    assert kit.tree(tmp_path / "run") == kit.tree(finished)
