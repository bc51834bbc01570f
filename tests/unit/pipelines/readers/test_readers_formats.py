"""The readers on sound input and on input that is wrong in one known way."""

import gzip
import hashlib
import json
import zlib
from base64 import b32encode
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from emsmine.errors import ConfigError, InputError, MissingDependencyError
from emsmine.pipelines.readers.read import detect_format, read_records
from emsmine.pipelines.readers.records import Limits, Problem, Record

PAGE = '<html lang="de"><body><nav>Menü</nav><main><h1>Brot</h1><p>Das Brot ist frisch.</p></main></body></html>'


def warc_record(
    block: bytes, kind: str = "response", url: str = "https://bread.example/", *, digest: bool = True, extra: str = ""
) -> bytes:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: {url}",
        "WARC-Date: 2026-01-31T12:00:00Z",
        *extra.split(),
    ]
    if digest:
        lines.append("WARC-Block-Digest: sha1:" + b32encode(hashlib.sha1(block).digest()).decode())
    head = "\r\n".join([*lines, f"Content-Length: {len(block)}"])
    return head.encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def http(body: bytes, content_type: str = "text/html; charset=utf-8", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode() + body


def items(path: Path, content: bytes, **options: object) -> list[Record | Problem]:
    path.write_bytes(content)
    return list(read_records(str(path), **options))  # type: ignore[arg-type]


def reasons(found: list[Record | Problem]) -> list[str]:
    return [item.reason if isinstance(item, Problem) else "ok" for item in found]


def test_warc_gz_gives_page_with_member_offsets(tmp_path: Path) -> None:
    info = gzip.compress(warc_record(b"software: x\r\n", "warcinfo"))
    page = gzip.compress(warc_record(http(PAGE.encode())))
    found = items(tmp_path / "a.warc.gz", info + page + info)
    assert found == [
        Record(
            "https://bread.example/", "2026-01-31T12:00:00Z", len(info), len(page), "Brot\nDas Brot ist frisch.", "de"
        )
    ]


def test_records_inside_one_large_member_have_decompressed_offsets(tmp_path: Path) -> None:
    record = warc_record(http(PAGE.encode()))
    found = items(tmp_path / "a.warc.gz", gzip.compress(record * 3))
    assert [(item.offset, item.length) for item in found if isinstance(item, Record)][1:] == [
        (len(record), len(record)),
        (2 * len(record), len(record)),
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_each_codec_gives_the_same_texts(tmp_path: Path, pack: object) -> None:
    record = warc_record(http(PAGE.encode()))
    found = items(tmp_path / "pages.warc", b"".join(pack(record) for _ in range(3)))  # type: ignore[operator]
    assert [item.text for item in found if isinstance(item, Record)] == ["Brot\nDas Brot ist frisch."] * 3


def test_a_skippable_frame_tells_zstd_whatever_the_name(tmp_path: Path) -> None:
    dictionary = b"\x5d\x2a\x4d\x18\x04\x00\x00\x00abcd"
    found = items(tmp_path / "pages.warc", dictionary + zstandard.compress(warc_record(http(PAGE.encode()))))
    assert [item.text for item in found if isinstance(item, Record)] == ["Brot\nDas Brot ist frisch."]


def test_a_crawl_unpacked_on_the_way_is_read_although_its_first_page_is_no_utf_8(tmp_path: Path) -> None:
    page = http(PAGE.encode("latin-1"), "text/html; charset=iso-8859-1")
    found = items(tmp_path / "pages.warc.gz", warc_record(page))
    assert [item.text for item in found if isinstance(item, Record)] == ["Brot\nDas Brot ist frisch."]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (http(b"gone", status="404 Not Found"), "http_status"),
        (http(b"%PDF-1.4", "application/pdf"), "content_type"),
        (http(b"<html><body><pre>x = 1</pre></body></html>"), "no_text"),
        (b"no status line", "malformed_http"),
        (http(b"\xff\xd8\xff\xe0" + bytes(99), ""), "content_type"),
        (http(PAGE.encode(), extra="Content-Length: 100000\r\n"), "truncated"),
        (http(gzip.compress(PAGE.encode())[:-20], extra="Content-Encoding: gzip\r\n"), "truncated"),
        (http(b"5\r\nhel", extra="Transfer-Encoding: chunked\r\n"), "truncated"),
        (http(PAGE.encode(), extra="Content-Encoding: rot13\r\n"), "content_encoding"),
        (http(b"<p>\xff\xfe\xff abc", "text/html; charset=gb18030"), "bad_encoding"),
    ],
)
def test_unusable_response_gives_one_problem_and_reading_goes_on(tmp_path: Path, block: bytes, reason: str) -> None:
    good = warc_record(http(PAGE.encode()))
    found = items(tmp_path / "a.warc", warc_record(block) + good)
    assert reasons(found) == [reason, "ok"]
    assert found[0].sample == "https://bread.example/"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "block",
    [
        http(gzip.compress(PAGE.encode()), extra="Content-Encoding: gzip\r\n"),
        http(zlib.compress(PAGE.encode()), extra="Content-Encoding: deflate\r\n"),
        http(zlib.compress(PAGE.encode())[2:-4], extra="Content-Encoding: deflate\r\n"),
        http(zstandard.compress(PAGE.encode()), extra="Content-Encoding: zstd\r\n"),
        http(PAGE.encode(), extra="Content-Encoding: gzip\r\n"),  # stored decoded with the old header
        http(b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE.encode()), PAGE.encode()), extra="Transfer-Encoding: chunked\r\n"),
        http(PAGE.encode(), extra="Transfer-Encoding: chunked\r\n"),
        http(PAGE.encode(), ""),
        http(PAGE.encode()).replace(b"\r\n", b"\n"),
    ],
)
def test_http_codings(tmp_path: Path, block: bytes) -> None:
    found = items(tmp_path / "a.warc", warc_record(block))
    assert [item.text for item in found if isinstance(item, Record)] == ["Brot\nDas Brot ist frisch."]


@pytest.mark.parametrize(
    ("encoding", "header", "meta"),
    [
        ("iso-8859-1", "iso-8859-1", ""),
        ("windows-1251", "", "windows-1251"),
        ("utf-8", "iso-8859-1", ""),  # a wrong declaration
        ("utf-16", "", ""),
        ("iso2022_jp", "iso-2022-jp", ""),
        ("shift_jis", "", "x-sjis"),
    ],
)
def test_character_sets(tmp_path: Path, encoding: str, header: str, meta: str) -> None:
    word = {"windows-1251": "Свежий хлеб", "iso2022_jp": "新しいパン", "shift_jis": "新しいパン"}.get(
        encoding, "Brötchen für"
    )
    page = f'<html><head><meta charset="{meta}"></head><body><p>{word}</p></body></html>'
    block = http(page.encode(encoding), f"text/html; charset={header}" if header else "text/html")
    found = items(tmp_path / "a.warc", warc_record(block))
    assert [item.text for item in found if isinstance(item, Record)] == [word]


def test_digest_mismatch_is_found_and_can_be_switched_off(tmp_path: Path) -> None:
    content = warc_record(http(PAGE.encode())).replace(b"frisch", b"fr1sch")
    good = warc_record(http(PAGE.encode()))
    assert reasons(items(tmp_path / "a.warc", content + good)) == ["digest_mismatch", "ok"]
    assert reasons(items(tmp_path / "a.warc", content + good, limits=Limits(check_digests=False))) == ["ok", "ok"]


def test_wrong_content_length_loses_one_record(tmp_path: Path) -> None:
    good = warc_record(http(PAGE.encode()))
    bad = good.replace(b"Content-Length: 1", b"Content-Length: 2")
    assert bad != good
    assert reasons(items(tmp_path / "a.warc", good + bad + good + good)) == ["ok", "malformed_record", "ok", "ok"]


def test_wet_text_as_given_with_declared_language(tmp_path: Path) -> None:
    record = warc_record(b"Ein Satz.\n\nNoch  einer.", "conversion", extra="WARC-Identified-Content-Language:deu")
    found = items(tmp_path / "a.warc.wet.gz", gzip.compress(record))
    assert [(item.text, item.lang) for item in found if isinstance(item, Record)] == [("Ein Satz.\nNoch einer.", "deu")]


def test_jsonl_rows_and_problems(tmp_path: Path) -> None:
    rows = [
        b"\xef\xbb\xbf"
        + json.dumps({"text": "eins\u2028zwei\r\n\ndrei", "url": "u", "lang": "de", "date": "2026-01-31"}).encode(),
        b"",
        b"{broken",
        b"[1]",
        b'{"txt": "x"}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": " "}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "' + b"x" * 2_000_000 + b'"}',
        b'{"text": "last", "metadata": {"url": "inner"}}',
    ]
    found = items(tmp_path / "a.jsonl", b"\n".join(rows), url_field="metadata.url")
    expected = """ok invalid_json not_an_object missing_text text_not_string missing_text no_text lone_surrogate
        invalid_utf8 invalid_json line_too_long ok"""
    assert " ".join(reasons(found)) == " ".join(expected.split())
    assert found[0] == Record("", "2026-01-31T00:00:00Z", 0, len(rows[0]) + 1 - 3, "eins zwei\ndrei", lang="de")
    assert found[-1] == Record("inner", "", len(b"\n".join(rows[:-1])) + 1, len(rows[-1]), "last")


def test_parquet_rows_problems_and_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["eins", None, "", "vier"], "url": ["a", "b", "c", None], "n": [1, 2, 3, 4]})
    pq.write_table(table, path, row_group_size=2)
    found = list(read_records(str(path)))
    assert reasons(found) == ["ok", "null_text", "no_text", "ok"]
    assert [item.offset for item in found] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"no column 'body'; it has: text, url, n. Name one with text_field"):
        list(read_records(str(path), text_field="body"))
    with pytest.raises(InputError, match="holds int64, not strings"):
        list(read_records(str(path), text_field="n"))


def test_text_documents_are_blocks_between_blank_lines(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfeins\r\nzwei\x0bhalb\n \n\ndrei\n\xff\xff\nvier"
    found = items(tmp_path / "a.txt", content)
    assert reasons(found) == ["ok", "invalid_utf8", "ok"]
    assert [item.text for item in found if isinstance(item, Record)] == ["eins\nzwei halb", "drei\nvier"]
    long = items(tmp_path / "b.txt", b"x\n" * 2500)
    assert [item.text.count("x") for item in long if isinstance(item, Record)] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.warc.gz", gzip.compress(b"WARC/1.0\r\n"), "warc"),
        ("a.bin", zstandard.compress(b"WARC/1.0\r\n"), "warc"),
        ("a.warc.wet.gz", gzip.compress(b"WARC/1.0\r\n"), "wet"),
        ("a.jsonl", b"PAR1", "parquet"),
        ("a.data", b' {"text": 1}', "jsonl"),
        ("a.ndjson.zst", zstandard.compress(b"{}"), "jsonl"),
        ("a.txt.gz", gzip.compress(b"hello"), "text"),
        ("a.parquet", b"", "parquet"),
        ("unnamed", b"", "text"),
    ],
)
def test_detect_format(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert detect_format(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n", "cannot tell the format .*starts with b'a,b.*known are warc, wet, jsonl, parquet, text"),
        ("a.txt.bz2", b"BZh91AY", "holds bzip2"),
        ("a.txt", "hallo".encode("utf-16"), "UTF-16"),
    ],
)
def test_unknown_content_is_an_input_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_records(str(tmp_path / name)))


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        list(read_records(str(tmp_path / "absent.warc")))
    with pytest.raises(InputError, match="is a directory"):
        list(read_records(str(tmp_path)))
    with pytest.raises(InputError, match="nosuch"):
        list(read_records("nosuch://x/a.warc"))
    with pytest.raises(ConfigError, match="choose auto, warc"):
        list(read_records("x", format="csv"))


def test_missing_driver_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def fail(path: str, mode: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open", fail)
    with pytest.raises(MissingDependencyError, match="pip install s3fs"):
        list(read_records("s3://bucket/a.warc.gz"))


def test_fsspec_urls_are_read(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://readers/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"text": "fern"}\n'))
    assert [item.text for item in read_records("memory://readers/a.jsonl.gz") if isinstance(item, Record)] == ["fern"]
    (tmp_path / "a b.txt").write_text("nah")
    uri = (tmp_path / "a b.txt").as_uri()
    assert [item.text for item in read_records(uri) if isinstance(item, Record)] == ["nah"]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.jsonl", "a.parquet", "a.txt.zst"])
def test_empty_file_gives_nothing(tmp_path: Path, name: str) -> None:
    assert items(tmp_path / name, b"") == []
    if not name.endswith(".parquet"):
        assert items(tmp_path / name, gzip.compress(b"")) == []


def test_items_are_the_same_every_time(tmp_path: Path) -> None:
    content = b"".join(gzip.compress(warc_record(http(PAGE.encode()))) for _ in range(5)) + b"garbage"
    assert items(tmp_path / "a.warc.gz", content) == items(tmp_path / "a.warc.gz", content)
