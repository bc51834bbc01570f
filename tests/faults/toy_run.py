"""A small pipeline for the fault tests, run in this process or as a script to be killed.

Two steps: `ingest.read` makes rows, drops some and writes a text file; `langid.assign` splits them by language. The
languages depend on the settings, so a redo with other settings must also remove files.
"""

import sys
from pathlib import Path

import pyarrow as pa

from emsmine.pipelines.store.lock import run_lock
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef, TaskSpec

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])
NUM_TASKS = 2


def read(store: Store, spec: TaskSpec) -> None:
    """Make rows; drop every seventh."""
    base = 1000 * int(spec.partition)
    with store.task(spec) as task, task.bytes_writer(f"notes/{spec.partition}.txt", rows=1) as notes:
        writer = task.writer("documents", SCHEMA, counted=True, row_group_rows=16)
        for i in range(base, base + spec.param("num_rows", int)):
            task.count_in()
            if i % 7:
                writer.write(pa.table({"id": [i], "text": [f"invented sentence {i}"]}, SCHEMA))
            else:
                task.drop("seventh", id=i, sample="invented")
        notes.write(f"{spec.partition}\n".encode())


def assign(store: Store, spec: TaskSpec) -> None:
    """Split the rows of one file over the languages."""
    languages = spec.params["languages"]
    assert isinstance(languages, list)
    with store.task(spec) as task:
        table = task.read(spec.inputs[0])
        task.count_in(table.num_rows)
        for k, language in enumerate(languages):
            rows = table.filter(pa.array([i % len(languages) == k for i in table["id"].to_pylist()]))
            task.writer(f"sentences/{language}", SCHEMA, counted=True).write(rows)


def plan(stage: str, inputs: list[FileRef], languages: list[str], num_rows: int) -> list[TaskSpec]:
    """Return the tasks of a stage."""
    if stage == "ingest":
        return [TaskSpec("ingest", "read", 1, {"num_rows": num_rows}, (), f"{i:05}") for i in range(NUM_TASKS)]
    params = {"languages": languages}
    return [TaskSpec("langid", "assign", 1, params, (ref,), f"{i:05}") for i, ref in enumerate(inputs)]


def run(root: Path, languages: list[str], *, num_rows: int = 30, redo: str = "") -> None:
    """Run what is not done yet.

    Args:
        root: run directory.
        languages: to split the rows over.
        num_rows: rows per task.
        redo: what to do with results of other settings: `` refuse, `remove` the whole step first, `replace` by task.
    """
    with run_lock(root, "toy"):
        store = Store(root)
        store.clean_temporaries()
        inputs: list[FileRef] = []
        for stage, step, work in (("ingest", "read", read), ("langid", "assign", assign)):
            specs = plan(stage, inputs, languages, num_rows)
            if redo == "remove" and any(store.status(spec, redo=True) == "stale" for spec in specs):
                store.remove_step(stage, step)
            for spec in specs:
                if store.status(spec, redo=bool(redo)) != "done":
                    work(store, spec)
            store.finish_step(stage, step, specs)
            inputs = store.outputs(stage, step, "documents")


if __name__ == "__main__":
    print("start", flush=True)
    run(Path(sys.argv[1]), sys.argv[2].split(","), num_rows=int(sys.argv[3]))
