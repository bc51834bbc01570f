"""ingest: files become documents, and what cannot become one is a reject that can be found."""

import gzip
from pathlib import Path

import pipeline_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emsmine.errors import InputError, TaskFailedError
from emsmine.pipelines.settings import IngestSettings, Settings
from emsmine.pipelines.stages.ingest import expand_inputs

GOOD = kit.json_line("https://good.example", "A good page with one plain sentence.")


def ingest(root: Path, *files: Path, settings: IngestSettings | None = None) -> None:
    inputs = tuple(str(file) for file in files)
    kit.run_stage(root, Settings(inputs=inputs, ingest=settings or IngestSettings()), "ingest")


def test_documents_keep_their_place_in_the_file(tmp_path: Path, crawl: list[Path]) -> None:
    ingest(tmp_path / "run", *crawl)
    rows = kit.rows(tmp_path / "run", "documents")
    assert len(rows) == 18
    content = {path.name: path.read_bytes() for path in crawl}
    for row in rows:
        record = content[row["source_file"]][row["source_offset"] : row["source_offset"] + row["source_length"]]
        if row["source_file"].endswith(".gz"):
            record = gzip.decompress(record)
        assert row["url"].encode() in record
        assert row["text"].split("\n")[0].split(".")[0].encode() in record
        assert row["date"] == "2026-03-02T06:00:00Z"
    # The file number in the upper bits, the record number in the lower: every item counts, the broken line too.
    assert [row["doc_id"] for row in rows] == [*range(8), *((1 << 40) + n for n in range(11) if n != 3)]


def test_text_is_clean_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(kit.json_line("http://a\u200b", " One\u00a0\u00a0line.\r\n\n\u200b\n\tAn\u0000other\u2028line. "))
    ingest(tmp_path / "run", file)
    (row,) = kit.rows(tmp_path / "run", "documents")
    assert row["text"] == "One line.\nAnother line."
    assert row["url"] == "http://a"


BAD_FILES = {
    "cut.warc.gz": (
        b"".join(kit.warc_record(f"https://w.example/{n}", "Some text on a page.") for n in range(3))[:-40]
    ),
    "cut.jsonl.gz": gzip.compress(GOOD * 400, mtime=0)[:-30],
    "cut.warc": gzip.decompress(kit.warc_record("https://w.example/", "Some text on a page."))[:-60],
    "latin.jsonl": b'{"text": "caf\xe9"}\n',
    "latin.txt": b"caf\xe9\n",
    "long.jsonl": b'{"text": "' + b"x" * (10 << 20) + b'"}\n',
    "long.txt": b"x" * (10 << 20),
    "half.jsonl": b'{"text": "half',
    "list.jsonl": b"[1, 2]\n",
    "number.jsonl": b'{"text": 5}\n',
    "no-text.jsonl": b'{"url": "http://a"}\n',
    "invisible.jsonl": kit.json_line("http://a", "\u200b\u0001\u2060"),
    "surrogate.jsonl": b'{"text": "\\ud800"}\n',
    "damaged.parquet": b"PAR1 and nothing more",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_one_bad_file_among_good_ones_is_a_counted_reject(tmp_path: Path, name: str) -> None:
    bad, good = tmp_path / name, tmp_path / "good.jsonl"
    bad.write_bytes(BAD_FILES[name])
    good.write_bytes(GOOD)
    ingest(tmp_path / "run", bad, good)
    counts = kit.dropped(tmp_path / "run", "ingest", "read")
    assert sum(counts.values()) == 1, counts
    (reject,) = kit.rows(tmp_path / "run", "rejects/ingest.read")
    assert reject["stage"] == "ingest"
    assert {reject["reason"]: 1} == counts
    assert reject["id"].startswith(f"{name}:")
    assert any(row["url"] == "https://good.example" for row in kit.rows(tmp_path / "run", "documents"))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.warc.gz", "empty.txt", "empty.jsonl.zst", "empty.warc"])
def test_empty_files_hold_no_documents(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    ingest(tmp_path / "run", tmp_path / name)
    assert kit.rows(tmp_path / "run", "documents") == []
    assert kit.dropped(tmp_path / "run", "ingest", "read") == {}


def test_parquet_takes_the_named_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["First text here.", None], "link": ["http://a", "http://b"]}), file)
    ingest(tmp_path / "run", file, settings=IngestSettings(text_field="body", url_field="link"))
    (row,) = kit.rows(tmp_path / "run", "documents")
    assert (row["text"], row["url"]) == ("First text here.", "http://a")
    assert sum(kit.dropped(tmp_path / "run", "ingest", "read").values()) == 1


def test_parquet_without_the_column_says_which_there_are(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "link": ["y"]}), file)
    with pytest.raises(TaskFailedError) as caught:
        ingest(tmp_path / "run", file)
    for word in (str(file), "'text'", "body"):
        assert word in str(caught.value)


def test_format_overrides_the_name(tmp_path: Path) -> None:
    file = tmp_path / "sentences.list"
    file.write_text("First sentence.\nSecond sentence.\n", encoding="utf-8")
    with pytest.raises(TaskFailedError, match="cannot tell the format"):
        ingest(tmp_path / "run", file)
    ingest(tmp_path / "other", file, settings=IngestSettings(format="text"))
    assert [row["text"] for row in kit.rows(tmp_path / "other", "documents")] == ["First sentence.\nSecond sentence."]


def test_folders_are_read_sorted_without_hidden_files_and_nothing_twice(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl", "a.jsonl", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    found = expand_inputs((str(tmp_path / "b" / "2.jsonl"), str(tmp_path)))
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == ["b/2.jsonl", "a.jsonl", "b/1.jsonl"]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for inputs, word in (((), "no input"), ((str(tmp_path / "empty"),), "no files"), (("no/such",), "does not exist")):
        with pytest.raises(InputError, match=word):
            expand_inputs(inputs)


def test_many_documents_come_out_in_order(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(kit.json_line(f"http://{n}", f"Text number {n}.") for n in range(1300)))
    ingest(tmp_path / "run", file)
    assert [row["url"] for row in kit.rows(tmp_path / "run", "documents")] == [f"http://{n}" for n in range(1300)]
