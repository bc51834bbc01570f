"""The store: status of tasks, manifests, and finished steps."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emsmine.errors import (
    AccountingError,
    CorruptOutputError,
    InputError,
    StaleOutputError,
    TaskFailedError,
)
from emsmine.pipelines.store.manifests import StepManifest, TaskManifest, merkle_root
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import JSON, FileRef, Runtime, TaskReport, TaskSpec

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


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_status(store: Store) -> None:
    spec = make_spec()
    assert store.status(spec) == "missing"
    report = write_documents(store, spec)
    assert store.status(spec, verify=True) == "done"
    path = store.root / report.outputs[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert store.status(spec) == "missing"
    path.write_bytes(b"?" * len(whole))
    assert store.status(spec) == "done"
    assert store.status(spec, verify=True) == "missing"
    write_documents(store, spec)
    assert path.read_bytes() == whole
    path.unlink()
    assert store.status(spec) == "missing"


def test_stale_output_names_the_changed_field(store: Store) -> None:
    write_documents(store, make_spec(params={"limit": 5, "model": "toy"}))
    changed = make_spec(params={"limit": 6, "model": "toy"})
    with pytest.raises(StaleOutputError, match=r"ingest\.read/00000: .*params\.limit 5 -> 6.*--redo ingest") as caught:
        store.status(changed)
    assert "model" not in str(caught.value)
    assert store.status(changed, redo=True) == "stale"


def test_a_damaged_manifest_means_run_again(store: Store) -> None:
    write_documents(store, make_spec())
    path = store.root / "manifests/ingest.read/00000.json"
    path.write_bytes(path.read_bytes().replace(b'"rows_in": 5', b'"rows_in": 6'))
    assert store.status(make_spec()) == "missing"
    with pytest.raises(CorruptOutputError, match="checksum"):
        store.manifest("ingest", "read", "00000")


def test_a_manifest_in_the_wrong_place_is_refused(store: Store) -> None:
    write_documents(store, make_spec())
    path = store.root / "manifests/ingest.read/00000.json"
    path.with_name("00001.json").write_bytes(path.read_bytes())
    assert store.status(make_spec("00001")) == "missing"


def test_the_first_of_two_attempts_wins(store: Store) -> None:
    spec = make_spec()
    with store.task(spec) as late:
        late.writer("documents", SCHEMA, counted=True).write(rows(5, start=100))
        late.count_in(5)
        first = write_documents(store, spec)
    assert late.report.outputs == first.outputs
    assert pq.read_table(store.root / first.outputs[0].path).equals(rows(5))
    assert len(files_below(store.root)) == 2


def test_a_finished_step_lists_its_tasks(store: Store) -> None:
    specs = [make_spec(f"{i:05}") for i in (2, 0, 1)]
    for spec in specs:
        write_documents(store, spec)
    assert not store.has_step("ingest", "read")
    with pytest.raises(InputError, match="not finished"):
        store.manifests("ingest", "read")
    step = store.finish_step("ingest", "read", specs)
    assert store.has_step("ingest", "read")
    assert step == store.step_manifest("ingest", "read")
    assert list(step.tasks) == ["00000", "00001", "00002"]
    assert (step.totals["rows_out"], step.totals["files"], step.totals["tasks"]) == (15, 3, 3)
    assert [manifest.spec.partition for manifest in store.manifests("ingest", "read")] == ["00000", "00001", "00002"]
    assert store.finish_step("ingest", "read", reversed(specs)).encode() == step.encode()


def test_an_empty_step_can_finish(store: Store) -> None:
    store.finish_step("ingest", "read", [])
    assert store.outputs("ingest", "read", "documents") == []


def test_an_unfinished_step_is_refused(store: Store) -> None:
    write_documents(store, make_spec("00000"))
    with pytest.raises(TaskFailedError, match=r"1 of 2 tasks are not done \(first: ingest\.read/00001\)"):
        store.finish_step("ingest", "read", [make_spec("00000"), make_spec("00001")])


def test_two_tasks_may_not_write_one_file(store: Store) -> None:
    specs = [make_spec("eng_Latn/00000"), make_spec("deu_Latn/00000")]
    for spec in specs:
        write_documents(store, spec)
    with pytest.raises(AccountingError, match=r"both wrote documents/00000\.parquet"):
        store.finish_step("ingest", "read", specs)


def test_leftovers_of_an_earlier_plan_go(store: Store) -> None:
    old = [make_spec(f"{i:05}") for i in range(3)]
    for spec in old:
        write_documents(store, spec)
    store.finish_step("ingest", "read", old)
    store.finish_step("ingest", "read", old[:2])
    assert [ref.path for ref in store.outputs("ingest", "read", "documents")] == [
        "documents/00000.parquet",
        "documents/00001.parquet",
    ]
    assert not (store.root / "documents/00002.parquet").exists()
    assert store.status(old[2]) == "missing"


def test_a_new_result_unfinishes_the_step(store: Store) -> None:
    write_documents(store, make_spec())
    store.finish_step("ingest", "read", [make_spec()])
    write_documents(store, make_spec(params={"limit": 6}), n=6)
    assert not store.has_step("ingest", "read")


def test_listed_manifests_are_verified(store: Store) -> None:
    write_documents(store, make_spec())
    store.finish_step("ingest", "read", [make_spec()])
    path = store.root / "manifests/ingest.read/00000.json"
    data = path.read_bytes()
    for damaged in (data[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(CorruptOutputError, match="--redo ingest"):
            store.outputs("ingest", "read", "documents")
    path.unlink()
    with pytest.raises(CorruptOutputError, match="missing"):
        store.outputs("ingest", "read", "documents")


def test_remove_step_leaves_the_others(store: Store) -> None:
    ref = write_documents(store, make_spec()).outputs[0].ref
    other = make_spec(stage="dedup", inputs=(ref,))
    with store.task(other) as task:
        task.count_in(5)
        task.drop("duplicate", id=0, n=5)
        task.writer("kept/eng_Latn", SCHEMA, counted=True)
    store.finish_step("ingest", "read", [make_spec()])
    before = files_below(store.root)
    store.finish_step("dedup", "read", [other])
    store.remove_step("dedup", "read")
    assert files_below(store.root) == [path for path in before if "dedup" not in path and "kept" not in path]
    assert not (store.root / "kept").exists()
    assert store.status(make_spec(), verify=True) == "done"
    store.remove_step("dedup", "read")


def test_a_step_stands_for_all_its_outputs(store: Store) -> None:
    specs = [make_spec(f"{i:05}") for i in range(3)]
    for spec in specs:
        write_documents(store, spec)
    store.finish_step("ingest", "read", specs)
    ref = store.step_ref("ingest", "read")
    assert ref.rows == 15
    with store.task(make_spec(stage="dedup", inputs=(ref,))) as task:
        refs = task.inputs_of(ref, "documents")
        assert [task.read(item).num_rows for item in refs] == [5, 5, 5]
    path = store.root / ref.path
    path.write_bytes(path.read_bytes().replace(b"00002", b"00003"))
    with pytest.raises(CorruptOutputError), store.task(make_spec(stage="dedup", inputs=(ref,))) as task:
        task.inputs_of(ref, "documents")


def test_clean_temporaries_spares_other_files(store: Store) -> None:
    write_documents(store, make_spec())
    (store.root / "documents/.tmp-notes").write_text("a user's own file")
    (store.root / "documents/.tmp-12-0123abcd-00000.parquet").write_text("left by a killed attempt")
    before = files_below(store.root)
    assert store.clean_temporaries() == 1
    assert files_below(store.root) == [path for path in before if "0123abcd" not in path]


def test_runtime_reaches_the_task_but_not_the_fingerprint(store: Store) -> None:
    with store.task(make_spec(), Runtime(device="cuda:1", threads=4, extra={"log": "debug"})) as task:
        assert (task.runtime.device, task.runtime.threads) == ("cuda:1", 4)
    assert store.status(make_spec()) == "done"


def test_merkle_root_by_hand() -> None:
    import hashlib

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    a, b, c = (bytes([i]) * 32 for i in (1, 2, 3))
    assert merkle_root([]) == hashlib.sha256().hexdigest()
    assert merkle_root([a.hex()]) == a.hex()
    assert merkle_root([a.hex(), b.hex(), c.hex()]) == node(node(a, b), c).hex()


def test_the_two_kinds_of_manifest_are_told_apart(store: Store) -> None:
    write_documents(store, make_spec())
    step = store.finish_step("ingest", "read", [make_spec()])
    with pytest.raises(CorruptOutputError, match="no TaskManifest"):
        TaskManifest.decode(step.encode(), "somewhere")
    with pytest.raises(CorruptOutputError, match="no StepManifest"):
        StepManifest.decode(store.manifest("ingest", "read", "00000").encode(), "somewhere")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 100_000, b'{"checksum": 3, "x": NaN}', b"\xff\xfe"])
def test_manifests_that_are_none_are_refused(data: bytes) -> None:
    for kind in (TaskManifest, StepManifest):
        with pytest.raises(CorruptOutputError, match="manifest somewhere is damaged"):
            kind.decode(data, "somewhere")
