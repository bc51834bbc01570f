"""Properties of the store: canonical bytes, detected damage, and fingerprints that follow content."""

import itertools
import json
import os
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.errors import AccountingError, ConfigError, CorruptOutputError
from emsmine.pipelines.store import parquet
from emsmine.pipelines.store.manifests import TaskManifest
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef, TaskSpec, canonical_json, check_relative_path

few = settings(deadline=None, max_examples=50)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
params = st.dictionaries(st.text(), values, max_size=5)

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("flag", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("near", pa.list_(pa.float32(), 2)),
        ("place", pa.struct([("file", pa.large_string()), ("offset", pa.int32())])),
        ("hash", pa.binary(16)),
        ("nothing", pa.null()),
    ]
)
row_values = st.fixed_dictionaries(
    {
        "id": st.integers(-5, 5),
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        "flag": st.none() | st.booleans(),
        "tags": st.none() | st.lists(st.sampled_from(["", "a", "long " * 9]), max_size=3),
        "near": st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
        "place": st.none() | st.fixed_dictionaries({"file": st.text("ab"), "offset": st.integers(0, 9)}),
        "hash": st.none() | st.binary(min_size=16, max_size=16),
        "nothing": st.none(),
    }
)


def make_spec(inputs: tuple[FileRef, ...] = (), **fields: Any) -> TaskSpec:
    return TaskSpec("toy", "write", 1, fields, inputs, "00000")


@contextmanager
def temporary_store() -> Iterator[Store]:
    # In memory where the system offers it: fsync on a disk would take most of the time.
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Store(folder)


@few
@given(params)
def test_a_fingerprint_survives_json_and_the_order_of_keys(settings_given: dict[str, Any]) -> None:
    spec = make_spec(value=settings_given)
    again = json.loads(spec.canonical())
    reordered = dict(reversed(list(again["params"]["value"].items())))
    assert make_spec(value=reordered).fingerprint() == spec.fingerprint()


@few
@given(params, params)
def test_fingerprints_differ_exactly_where_canonical_json_does(one: dict[str, Any], two: dict[str, Any]) -> None:
    same = canonical_json(one) == canonical_json(two)
    assert (make_spec(value=one).fingerprint() == make_spec(value=two).fingerprint()) == same
    assert json.loads(canonical_json(one)) == one


@few
@given(st.text(max_size=12) | st.text(string.ascii_letters + "./-_", max_size=12))
def test_names_never_leave_their_folder(name: str) -> None:
    try:
        check_relative_path(name, "name")
    except ConfigError:
        return
    root = Path("/data/of/run")
    inner = (root / name).resolve()
    assert inner.is_relative_to(root.resolve())
    assert inner != root


@few
@given(st.lists(row_values, max_size=40), st.data())
def test_bytes_do_not_depend_on_batches(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8).map(sorted))
    group_rows = data.draw(st.integers(1, 12))
    group_bytes = data.draw(st.integers(1, 600))
    written = []
    for edges in ([0, len(rows)], [0, *cuts, len(rows)], list(range(len(rows) + 1))):
        with temporary_store() as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr(parquet, "ROW_GROUP_BYTES", group_bytes)
            with store.task(make_spec()) as task:
                writer = task.writer("data", SCHEMA, row_group_rows=group_rows)
                for start, stop in itertools.pairwise(edges):
                    piece = table.slice(start, stop - start)
                    # Once as a view of a larger array, once as a copy of its own.
                    writer.write(piece if start % 2 else pa.Table.from_pylist(piece.to_pylist(), SCHEMA))
            written.append((store.root / "data/00000.parquet").read_bytes())
            with store.task(make_spec((task.report.outputs[0].ref,))) as reader:
                assert reader.read(task.report.outputs[0].ref).to_pylist() == rows
    assert written[0] == written[1] == written[2]


def write_toy(store: Store) -> FileRef:
    table = pa.table({"id": list(range(300)), "text": [f"invented {i * i}" for i in range(300)]})
    with store.task(make_spec()) as task:
        task.writer("data", table.schema, row_group_rows=100).write(table)
    return task.report.outputs[0].ref


@settings(deadline=None, max_examples=150)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_of_a_data_file_is_noticed(where: float, flip: int) -> None:
    with temporary_store() as store:
        ref = write_toy(store)
        path = store.root / ref.path
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= flip
        path.write_bytes(data)
        with pytest.raises(CorruptOutputError), store.task(make_spec((ref,))) as task:
            task.read(ref)
        assert store.status(make_spec()) == "done"
        assert store.status(make_spec(), verify=True) == "missing"


@few
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_page_checksums_notice_damage_without_the_file_hash(where: float, bit: int) -> None:
    with temporary_store() as store:
        path = store.root / write_toy(store).path
        expected = parquet.read_table(path, None)
        data = bytearray(path.read_bytes())
        pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        data[4 + int(where * (pages - 4))] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = parquet.read_table(path, None)
        except CorruptOutputError:
            return
        # A bit of a page header that carries no meaning may change; the rows may not.
        assert found.equals(expected)


@settings(deadline=None, max_examples=150)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_of_a_manifest_is_noticed(where: float, flip: int) -> None:
    manifest = TaskManifest(make_spec(k=4), make_spec(k=4).fingerprint(), 7, 5, {"short": 2}, {"n": 1.5}, ())
    data = bytearray(manifest.encode())
    assert TaskManifest.decode(bytes(data), "here") == manifest
    data[int(where * len(data))] ^= flip
    with pytest.raises(CorruptOutputError):
        TaskManifest.decode(bytes(data), "here")


@few
@given(st.integers(0, 9), st.integers(0, 9), st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)))
def test_rows_are_accounted_for_or_nothing_is_published(rows_in: int, rows_out: int, drops: dict[str, int]) -> None:
    def work(store: Store) -> None:
        with store.task(make_spec()) as task:
            task.count_in(rows_in)
            task.count_out(rows_out)
            for reason, n in drops.items():
                task.drop(reason, id=0, n=n)

    with temporary_store() as store:
        if rows_in == rows_out + sum(drops.values()):
            work(store)
            assert store.status(make_spec()) == "done"
        else:
            with pytest.raises(AccountingError):
                work(store)
            assert store.status(make_spec()) == "missing"
