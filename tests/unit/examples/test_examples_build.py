"""The built example files: current, reproducible, valid WARC, and in agreement with their sources."""

import gzip
import hashlib
import html
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PAIRS = ["-".join(pair) for pair in combinations(("de", "el", "en", "fr", "ru", "zh"), 2)]


def load_build() -> ModuleType:
    """Import the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("examples_build", EXAMPLES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.fixture(scope="module")
def responses() -> dict[str, Any]:
    """Return (status, content type, charset, body) of each URL, in crawl order."""
    found = {}
    with (EXAMPLES / "crawl" / "sites.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
            http = record.http_headers
            url = record.headers["WARC-Target-URI"]
            assert url not in found
            found[url] = (http.status_code, http["Content-Type"], record.http_charset, record.reader.read())
    return found


@pytest.fixture(scope="module")
def feed_lines() -> list[str]:
    """Return the lines of the feeds."""
    return gzip.decompress((EXAMPLES / "crawl" / "feeds.jsonl.gz").read_bytes()).decode().splitlines()


def build_in(folder: Path, hash_seed: str) -> dict[str, str]:
    """Build with a Python of its own and return the digest of each file."""
    command = [sys.executable, str(EXAMPLES / "build.py"), "--output", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = build_in(tmp_path / "first", "1"), build_in(tmp_path / "second", "2")
    assert first == second
    assert sorted(first) == sorted(
        ["crawl/feeds.jsonl.gz", "crawl/sites.warc.gz", *(f"gold/{pair}.tsv" for pair in PAIRS)]
    )


def test_the_built_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check"]) == 0, capsys.readouterr().out


def test_check_names_changed_missing_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--output", str(tmp_path)]) == 0
    assert build.main(["--check", "--output", str(tmp_path)]) == 0
    gold = tmp_path / "gold" / "de-en.tsv"
    gold.write_bytes(gold.read_bytes().replace(b"\t", b" ", 1))
    (tmp_path / "gold" / "en-ru.tsv").unlink()
    (tmp_path / "gold" / "en-it.tsv").write_bytes(b"")
    warc = tmp_path / "crawl" / "sites.warc.gz"
    warc.write_bytes(warc.read_bytes()[:-1])
    capsys.readouterr()
    assert build.main(["--check", "--output", str(tmp_path)]) == 1
    named = [line.split()[1].removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    assert named == ["crawl/sites.warc.gz", "gold/de-en.tsv", "gold/en-it.tsv", "gold/en-ru.tsv"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id\tsite", "id\tplace", "parallel.tsv:1: header"),
        ("\tlibrary\t", "\t\t", "parallel.tsv:2: 9 cells"),
        ("\tlibrary\t", "\tlibrary\tmore\t", "parallel.tsv:2: 10 cells"),
        ("\tlibrary\tp1\t", "\tlibrary\tp9\t", "page p9 of site 'library'"),
        ("\tlibrary\tp1\t", "\tlibrary\tp2\t", "with 6 sentences"),
    ],
)
def test_a_wrong_source_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    shutil.copytree(EXAMPLES / "sources", tmp_path / "sources")
    table = tmp_path / "sources" / "parallel.tsv"
    table.write_text(table.read_text("utf-8").replace(old, new, 1), "utf-8", newline="\n")
    assert build.main(["--sources", str(tmp_path / "sources"), "--output", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "crawl").exists()


def test_the_warc_is_valid() -> None:
    path = EXAMPLES / "crawl" / "sites.warc.gz"
    ids, types, offsets = set(), Counter[str](), []
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, parse_http=False):
            offsets.append(record.stream_pos)
            assert record.verify_block_digest()
            if record.record_type == WarcRecordType.response:
                record.parse_http()
                assert record.verify_payload_digest()
            ids.add(record.record_id)
            types[record.headers["WARC-Type"]] += 1
    assert types == {"warcinfo": 1, "response": 94}
    assert len(ids) == 95
    content = path.read_bytes()
    assert all(content[offset:].startswith(b"\x1f\x8b\x08") for offset in offsets)  # a gzip member for each record


def test_status_and_type_of_the_answers(responses: dict[str, Any]) -> None:
    assert Counter(status for status, *_ in responses.values()) == {200: 92, 301: 1, 404: 1}
    types = Counter(content_type for _, content_type, *_ in responses.values())
    assert types == {
        "text/html; charset=utf-8": 91,
        "text/html; charset=windows-1251": 1,
        "text/html": 1,
        "image/png": 1,
    }


def test_the_old_encodings_hold_the_sources(responses: dict[str, Any]) -> None:
    mono = build.read_table(EXAMPLES / "sources" / "mono.tsv", build.MONO_COLUMNS)
    for url, encoding, language in (
        ("https://chess.example/klub.html", "windows-1251", "ru"),
        ("https://teahouse.example/chaguan.html", "gb18030", "zh"),
    ):
        body = responses[url][3]
        text = html.unescape(body.decode(encoding))
        sentences = [row["text"] for row in mono if (row["lang"], row["page"]) == (language, "m1")]
        assert len(sentences) == 15
        assert all(sentence in text for sentence in sentences)
        with pytest.raises(UnicodeDecodeError):
            body.decode("utf-8")
    assert b'<meta charset="gb18030">' in responses["https://teahouse.example/chaguan.html"][3]


def test_noise_pages(responses: dict[str, Any]) -> None:
    original = "https://library.example/en/opening.html"
    assert responses[original][3] == responses[original + "?utm_source=newsletter"][3]
    page = responses["https://choir.example/saengerfest.html"][3].decode()
    printed = responses["https://choir.example/druck/saengerfest.html"][3].decode()
    texts = [[line for line in body.split("\n") if line.startswith("<p>")] for body in (page, printed)]
    assert [left == right for left, right in zip(*texts, strict=True)] == [True, True, False]
    assert "<nav>" in page
    assert "<nav>" not in printed
    assert b'<html lang="en">' in responses["https://bakery.example/el/apprentice.html"][3]
    assert b"GTranslate" in responses["https://choir.example/en/proben.html"][3]
    assert [url for url, (_, _, _, body) in responses.items() if b"<pre>" in body] == [
        "https://observatory.example/en/eclipse.html"
    ]
    assert responses["https://radio.example/empty.html"][3] == b""


def test_the_feeds_have_two_broken_lines(feed_lines: list[str]) -> None:
    problems, languages = Counter[str](), Counter[str]()
    for line in feed_lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            problems["malformed"] += 1
            continue
        problems["textless"] += "text" not in row
        languages[row["lang"]] += "text" in row
    assert problems == {"malformed": 1, "textless": 1}
    assert languages == {"de": 8, "el": 11, "en": 8, "fr": 11, "ru": 8, "zh": 8}


@pytest.mark.parametrize("pair", PAIRS)
def test_gold_has_all_rows_and_stands_in_the_crawl(pair: str, responses: dict[str, Any], feed_lines: list[str]) -> None:
    content = (EXAMPLES / "gold" / f"{pair}.tsv").read_bytes()
    assert b"\r" not in content
    rows = [line.split("\t") for line in content.decode().removesuffix("\n").split("\n")]
    assert len(rows) == 100
    assert all(len(row) == 2 for row in rows)
    pages = [html.unescape(body.decode()) for _, kind, _, body in responses.values() if kind.endswith("utf-8")]
    feeds = [json.loads(line)["text"] for line in feed_lines if line.endswith("}") and '"text"' in line]
    crawl = "\n".join(pages + feeds)
    assert [text for row in rows for text in row if text not in crawl] == []


def test_sources_have_the_promised_counts() -> None:
    parallel = build.read_table(EXAMPLES / "sources" / "parallel.tsv", build.PARALLEL_COLUMNS)
    mono = build.read_table(EXAMPLES / "sources" / "mono.tsv", build.MONO_COLUMNS)
    assert len(parallel) == 100
    assert Counter(row["lang"] for row in mono) == dict.fromkeys(build.LANGUAGES, 45)
    for language in build.LANGUAGES:  # a gold sentence has one translation only if no sentence stands twice
        texts = [row[language] for row in parallel] + [row["text"] for row in mono if row["lang"] == language]
        assert len(set(texts)) == len(texts)


def test_the_examples_stay_small() -> None:
    sizes = {path: path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert sum(sizes.values()) < 500_000
