"""The store: what a task reads, writes and counts."""

import gzip
import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emsmine.errors import (
    AccountingError,
    ConfigError,
    CorruptOutputError,
    InputError,
)
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.files import hash_file
from emsmine.pipelines.store.parquet import ROW_GROUP_ROWS
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import JSON, FileRef, TaskReport, TaskSpec

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def make_spec(
    partition: str = "00000",
    params: Mapping[str, JSON] | None = None,
    inputs: tuple[FileRef, ...] = (),
    stage: str = "ingest",
) -> TaskSpec:
    return TaskSpec(stage, "read", 1, params or {"limit": 5}, inputs, partition)


def rows(n: int, start: int = 0) -> pa.Table:
    return pa.table({"id": range(start, start + n), "text": [f"sentence {i}" for i in range(start, start + n)]}, SCHEMA)


def write_documents(store: Store, spec: TaskSpec, n: int = 5) -> TaskReport:
    with store.task(spec) as task:
        task.count_in(n)
        task.writer("documents", SCHEMA, counted=True).write(rows(n))
    return task.report


def attempt(store: Store, work: Callable[[TaskContext], None]) -> None:
    with store.task(make_spec()) as task:
        work(task)


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_written_rows_are_read_back(store: Store) -> None:
    report = write_documents(store, make_spec())
    ref = report.outputs[0].ref
    assert files_below(store.root) == ["documents/00000.parquet", "manifests/ingest.read/00000.json"]
    with store.task(make_spec(stage="dedup", inputs=(ref,))) as task:
        assert task.read(ref).equals(rows(5))
        assert task.read(ref, ["id"]).column_names == ["id"]
        assert pa.Table.from_batches(task.batches(ref, batch_rows=2)).equals(rows(5))
        assert max(batch.num_rows for batch in task.batches(ref, batch_rows=2)) == 2
        assert task.read_slice(ref, 2, 4).equals(rows(2, start=2))
        assert task.read_slice(ref, 5, 5).num_rows == 0


def test_report_and_manifest_agree(store: Store) -> None:
    with store.task(make_spec()) as task:
        task.count_in(8)
        task.writer("documents", SCHEMA, counted=True).write(rows(5))
        task.drop("too_short", id=7, sample="x" * 300)
        task.drop("empty", id="page:9", n=2)
        task.counter("bytes_read", 100)
        task.counter("bytes_read", 11)
    report = task.report
    manifest = store.manifest("ingest", "read", "00000")
    assert (report.rows_in, report.rows_out, report.dropped) == (8, 5, {"empty": 2, "too_short": 1})
    assert report.counters == manifest.counters == {"bytes_read": 111}
    paths = [output.path for output in report.outputs]
    assert paths == ["documents/00000.parquet", "rejects/ingest.read/00000.parquet"]
    for output in manifest.outputs:
        assert hash_file(store.root / output.path) == (output.sha256, output.bytes)
    rejects = pq.read_table(store.root / "rejects/ingest.read/00000.parquet").to_pylist()
    assert rejects == [
        {"stage": "ingest", "reason": "too_short", "id": "7", "sample": "x" * 200},
        {"stage": "ingest", "reason": "empty", "id": "page:9", "sample": ""},
    ]
    assert store.skipped(make_spec()).skipped
    assert b"second" not in (store.root / "manifests/ingest.read/00000.json").read_bytes()


def test_samples_are_capped_but_all_drops_counted(store: Store) -> None:
    with store.task(make_spec()) as task:
        task.count_in(2500)
        for i in range(1500):
            task.drop("duplicate", id=i, sample="\ud800 damaged")
        task.drop("other", id=0, n=1000)
    assert task.report.dropped == {"duplicate": 1500, "other": 1000}
    assert task.report.outputs[0].rows == 1001
    assert pq.read_table(store.root / task.report.outputs[0].path)["sample"][0].as_py() == "? damaged"


@pytest.mark.parametrize(("reason", "n"), [("", 1), ("has space", 1), ("fine", -1)])
def test_drop_checks_its_arguments(store: Store, reason: str, n: int) -> None:
    with pytest.raises(ValueError, match="drop"), store.task(make_spec()) as task:
        task.drop(reason, id=1, n=n)


@pytest.mark.parametrize("rows_in", [4, 6])
def test_unexplained_rows_stop_the_task(store: Store, rows_in: int) -> None:
    def work(task: TaskContext) -> None:
        task.count_in(rows_in)
        task.writer("documents", SCHEMA, counted=True).write(rows(5))

    with pytest.raises(AccountingError, match=f"{rows_in} rows in, but 5 rows out"):
        attempt(store, work)
    assert files_below(store.root) == []


def test_an_exception_publishes_nothing(store: Store) -> None:
    def work(task: TaskContext) -> None:
        task.writer("documents", SCHEMA).write(rows(ROW_GROUP_ROWS + 1))
        task.bytes_writer("export/a.tsv").write(b"half a li")
        raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        attempt(store, work)
    assert files_below(store.root) == []
    assert store.status(make_spec()) == "missing"


def test_there_is_no_report_before_the_end(store: Store) -> None:
    with store.task(make_spec()) as task, pytest.raises(ValueError, match="report"):
        _ = task.report


def test_one_task_writes_several_datasets(store: Store) -> None:
    spec = make_spec("deu_Latn/00007")
    with store.task(spec) as task:
        for language in ("eng_Latn", "deu_Latn"):
            task.writer(f"sentences/{language}", SCHEMA, counted=True).write(rows(3).to_batches()[0])
        task.writer("occurrences", SCHEMA, name="all").write(rows(2))
        task.count_in(6)
    store.finish_step("ingest", "read", [spec])
    assert [ref.path for ref in store.outputs("ingest", "read", "sentences")] == [
        "sentences/deu_Latn/00007.parquet",
        "sentences/eng_Latn/00007.parquet",
    ]
    assert [ref.path for ref in store.outputs("ingest", "read", "sentences/eng_Latn")] == [
        "sentences/eng_Latn/00007.parquet"
    ]
    assert store.outputs("ingest", "read", "sent") == []
    assert [ref.rows for ref in store.outputs("ingest", "read", "occurrences")] == [2]


def test_empty_output_is_a_valid_file(store: Store) -> None:
    report = write_documents(store, make_spec(), n=0)
    assert pq.read_table(store.root / report.outputs[0].path).equals(rows(0))
    with store.task(make_spec(stage="dedup", inputs=(report.outputs[0].ref,))) as task:
        assert task.read(report.outputs[0].ref).num_rows == 0


def test_other_schemas_are_refused_by_name(store: Store) -> None:
    wrong = pa.table({"id": pa.array([1], pa.int32()), "text": ["a"]})
    with pytest.raises(ValueError, match=r"column pyarrow.Field<id: int32>"), store.task(make_spec()) as task:
        task.writer("documents", SCHEMA).write(wrong)


def test_bytes_outputs(store: Store) -> None:
    with store.task(make_spec()) as task:
        with task.bytes_writer("export/corpus.de", rows=2, counted=True) as plain:
            plain.write(b"eins\nzwei\n")
        with task.bytes_writer("export/corpus.en.gz") as packed:
            with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as stream:
                stream.write(b"one\ntwo\n")
            packed.rows = 2
        with io.TextIOWrapper(task.bytes_writer("report.json", rows=0), encoding="utf-8", newline="\n") as text:
            text.write("{}\n")
        task.count_in(2)
    assert (store.root / "export/corpus.de").read_bytes() == b"eins\nzwei\n"
    assert gzip.decompress((store.root / "export/corpus.en.gz").read_bytes()) == b"one\ntwo\n"
    assert next((o.path, o.rows, o.bytes) for o in task.report.outputs) == ("export/corpus.de", 2, 10)


def test_a_bytes_output_left_open_is_an_error(store: Store) -> None:
    def work(task: TaskContext) -> None:
        text = io.TextIOWrapper(task.bytes_writer("export/a.tsv", rows=1))
        text.write("still in the buffer of the wrapper")
        kept.append(text)

    kept: list[io.TextIOBase] = []
    with pytest.raises(ValueError, match="was not closed"):
        attempt(store, work)
    assert files_below(store.root) == []


def test_a_bytes_output_without_rows_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="number of rows"), store.task(make_spec()) as task:
        task.bytes_writer("export/a.tsv").close()


@pytest.mark.parametrize("path", ["../a", "/a", "manifests/a.json", "rejects/a", "emsmine.lock", "a/.tmp-1"])
def test_outputs_stay_in_their_place(store: Store, path: str) -> None:
    with pytest.raises((ConfigError, ValueError), match="output"), store.task(make_spec()) as task:
        task.bytes_writer(path)


def test_an_output_opened_twice_is_an_error(store: Store) -> None:
    def work(task: TaskContext) -> None:
        task.writer("documents", SCHEMA)
        task.writer("documents", SCHEMA)

    with pytest.raises(ValueError, match="opened twice"):
        attempt(store, work)


def test_only_declared_inputs_are_readable(store: Store) -> None:
    ref = write_documents(store, make_spec()).outputs[0].ref
    with pytest.raises(ValueError, match="does not list"), store.task(make_spec(stage="dedup")) as task:
        task.read(ref)


def test_unknown_columns_are_named(store: Store) -> None:
    ref = write_documents(store, make_spec()).outputs[0].ref
    with (
        pytest.raises(InputError, match="no column 'url'; it has id, text"),
        store.task(make_spec(stage="dedup", inputs=(ref,))) as task,
    ):
        task.read(ref, ["url"])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_inputs_are_refused(store: Store, damage: str) -> None:
    ref = write_documents(store, make_spec()).outputs[0].ref
    path = store.root / ref.path
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1] if damage == "truncate" else data)
    if damage == "remove":
        path.unlink()
    with (
        pytest.raises(
            CorruptOutputError, match=r"dedup\.read/00000: .*00000\.parquet .*expected .*found .*--redo [a-z]+$"
        ),
        store.task(make_spec(stage="dedup", inputs=(ref,))) as task,
    ):
        list(task.batches(ref))


def test_a_wrong_row_number_is_refused(store: Store) -> None:
    ref = write_documents(store, make_spec()).outputs[0].ref
    lie = FileRef(ref.path, ref.sha256, 6)
    with (
        pytest.raises(CorruptOutputError, match="has 5 rows, its manifest says 6"),
        store.task(make_spec(stage="dedup", inputs=(lie,))) as task,
    ):
        task.read(lie)


def test_external_inputs(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(b"hello\n")
    ref = FileRef(str(path), hash_file(path)[0], 1)
    tagged = FileRef("s3://bucket/part.warc.gz", "etag:abc", 0)
    with store.task(make_spec(inputs=(ref, tagged))) as task:
        assert task.external(ref) == str(path)
        assert task.external(tagged) == "s3://bucket/part.warc.gz"
    path.write_bytes(b"other, longer\n")
    with pytest.raises(InputError, match="changed since the run was planned"), store.task(task.spec) as task:
        task.external(ref)
    path.unlink()
    with pytest.raises(InputError, match="cannot read"), store.task(task.spec) as task:
        task.external(ref)


def test_remote_files_are_hashed_like_local_ones(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(b"hello\n")
    assert hash_file(f"file://{path}") == hash_file(path)


def test_a_url_is_no_run_directory() -> None:
    with pytest.raises(ConfigError, match="must be local"):
        Store("s3://bucket/run")


def columns_of(path: Path) -> dict[str, Any]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}


def test_vectors_are_stored_plainly_and_text_compressed(store: Store) -> None:
    schema = pa.schema([("text", pa.string()), ("tags", pa.list_(pa.string())), ("embedding", pa.binary(64))])
    table = pa.table({"text": ["a"] * 9, "tags": [["x"]] * 9, "embedding": [bytes(range(64))] * 9}, schema)
    with store.task(make_spec()) as task:
        task.writer("embeddings", schema).write(table)
        task.writer("other", schema, compression={"embedding": "zstd", "tags": "none"}).write(table)
        task.writer("third", schema, compression="gzip").write(table)
    columns = columns_of(store.root / "embeddings/00000.parquet")
    assert {name: column.compression for name, column in columns.items()} == {
        "text": "ZSTD",
        "tags.list.element": "ZSTD",
        "embedding": "UNCOMPRESSED",
    }
    assert not columns["embedding"].is_stats_set
    assert "RLE_DICTIONARY" not in columns["embedding"].encodings
    other = {name: column.compression for name, column in columns_of(store.root / "other/00000.parquet").items()}
    assert other == {"text": "ZSTD", "tags.list.element": "UNCOMPRESSED", "embedding": "ZSTD"}
    assert {column.compression for column in columns_of(store.root / "third/00000.parquet").values()} == {"GZIP"}


def test_pages_do_not_depend_on_batches(tmp_path: Path) -> None:
    # Several pages of 1 MiB: pyarrow looks whether a page is full at the end of each array that it is given.
    generator = random.Random(1)
    texts = ["".join(generator.choices("abcdefgh ", k=300)) for _ in range(12_000)]
    table = pa.table({"id": range(len(texts)), "text": texts}, SCHEMA)
    hashes = set()
    for batch_rows in (12_000, 777, 100):
        with Store(tmp_path / str(batch_rows)).task(make_spec()) as task:
            writer = task.writer("documents", SCHEMA)
            for start in range(0, len(texts), batch_rows):
                writer.write(table.slice(start, batch_rows))
        hashes.add(task.report.outputs[0].sha256)
    assert len(hashes) == 1


def test_row_groups_have_a_fixed_number_of_rows(store: Store) -> None:
    with store.task(make_spec()) as task:
        task.writer("documents", SCHEMA).write(rows(2 * ROW_GROUP_ROWS + 3))
        task.writer("wide", SCHEMA, row_group_rows=10).write(rows(25))
    for path, expected in [("documents", [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 3]), ("wide", [10, 10, 5])]:
        metadata = pq.ParquetFile(store.root / path / "00000.parquet").metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == expected
