"""The two kinds of manifest: one per task, which marks it as done, and one per finished step.

Both are JSON with sorted keys and a checksum over everything else in the file, so that damage is noticed before a value
is used. They hold no time, host or process number: the same work gives the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from emsmine.errors import ConfigError, CorruptOutputError, ForeignPathError
from emsmine.pipelines.store.tasks import (
    JSON,
    FileRef,
    OutputRef,
    TaskReport,
    TaskSpec,
    canonical_json,
    check_relative_path,
)

RESERVED = ("manifests", "rejects", "logs", "emsmine.lock", "emsmine.stat", "config.toml")
"""First parts of paths that no stage may write to: the store's own."""


def rejects_path(spec: TaskSpec) -> str:
    """Return the path of a task's rejects, relative to the run directory."""
    return f"rejects/{spec.stage}.{spec.step}/{spec.partition}.parquet"


@dataclass(frozen=True)
class TaskManifest:
    """The record of a finished task. Its presence is what makes the task done.

    Args:
        spec: what was run.
        fingerprint: of `spec`, as it was computed then.
        rows_in: rows taken in.
        rows_out: rows passed on.
        dropped: rows dropped, by reason.
        counters: other numbers, by name.
        outputs: the files written, sorted by path.
    """

    spec: TaskSpec
    fingerprint: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    counters: dict[str, int | float]
    outputs: tuple[OutputRef, ...]

    def report(self, *, skipped: bool, seconds: float = 0.0) -> TaskReport:
        """Return the manifest's numbers as a report."""
        return TaskReport(
            task_id=self.spec.task_id,
            fingerprint=self.fingerprint,
            rows_in=self.rows_in,
            rows_out=self.rows_out,
            dropped=dict(self.dropped),
            counters=dict(self.counters),
            outputs=self.outputs,
            skipped=skipped,
            seconds=seconds,
        )

    def encode(self) -> bytes:
        """Return the bytes of the manifest file."""
        body: dict[str, JSON] = {
            **self.spec.to_json(),
            "fingerprint": self.fingerprint,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "dropped": self.dropped,
            "counters": self.counters,
            "outputs": [output.to_json() for output in self.outputs],
        }
        return _encode(body)

    @classmethod
    def decode(cls, data: bytes, where: str) -> "TaskManifest":
        """Read the bytes of a manifest file.

        Args:
            data: content of the file.
            where: its path, for messages.

        Raises:
            CorruptOutputError: the content is damaged.
        """
        body = _decode(data, where, cls)
        with _checking(where):
            _check_path(body["partition"], where, "partition")
            spec = TaskSpec(
                stage=body["stage"],
                step=body["step"],
                version=body["version"],
                params=body["params"],
                inputs=tuple(FileRef(**ref) for ref in body["inputs"]),
                partition=body["partition"],
            )
            outputs = tuple(OutputRef(**output) for output in body["outputs"])
            for output in outputs:
                _check_output(output, spec, where)
            for ref in (*spec.inputs, *(output.ref for output in outputs)):
                _check_types([ref.path, ref.sha256], str)
                _check_types([ref.rows], int)
            numbers = {key: body[key] for key in ("fingerprint", "rows_in", "rows_out", "dropped", "counters")}
            _check_types([spec.version, body["rows_in"], body["rows_out"], *body["dropped"].values()], int)
            _check_types([output.bytes for output in outputs], int)
            _check_types(body["counters"].values(), (int, float))
            _check_types([body["fingerprint"]], str)
            return cls(spec=spec, outputs=outputs, **numbers)


@dataclass(frozen=True)
class StepManifest:
    """The record of a finished step: which task manifests count, and their totals.

    Args:
        stage: name of the stage.
        step: name of the step.
        tasks: SHA-256 of each task manifest by partition, sorted.
        totals: sums over the tasks (`tasks, files, rows, bytes, rows_in, rows_out, dropped, counters`).
        merkle_root: one hash that stands for all task manifests, see `merkle_root`.
    """

    stage: str
    step: str
    tasks: dict[str, str]
    totals: Mapping[str, JSON]
    merkle_root: str

    def encode(self) -> bytes:
        """Return the bytes of the manifest file."""
        tasks: list[JSON] = [{"partition": key, "manifest_sha256": value} for key, value in self.tasks.items()]
        return _encode(
            {
                "stage": self.stage,
                "step": self.step,
                "tasks": tasks,
                "totals": self.totals,
                "merkle_root": self.merkle_root,
            }
        )

    @classmethod
    def decode(cls, data: bytes, where: str) -> "StepManifest":
        """Read the bytes of a step manifest file.

        Raises:
            CorruptOutputError: the content is damaged.
        """
        body = _decode(data, where, cls)
        with _checking(where):
            tasks = {task["partition"]: task["manifest_sha256"] for task in body["tasks"]}
            for partition in tasks:
                _check_path(partition, where, "partition")
            _check_types([body["stage"], body["step"], body["merkle_root"], *tasks.values()], str)
            _check_types([body["totals"]], dict)
            return cls(body["stage"], body["step"], tasks, body["totals"], body["merkle_root"])

    @classmethod
    def build(cls, stage: str, step: str, manifests: Iterable[TaskManifest]) -> "StepManifest":
        """Gather the task manifests of a step; their order does not matter."""
        ordered = sorted(manifests, key=lambda manifest: manifest.spec.partition)
        tasks = {item.spec.partition: hashlib.sha256(item.encode()).hexdigest() for item in ordered}
        outputs = [output for item in ordered for output in item.outputs]
        totals: dict[str, JSON] = {
            "tasks": len(ordered),
            "files": len(outputs),
            "rows": sum(output.rows for output in outputs),
            "bytes": sum(output.bytes for output in outputs),
            "rows_in": sum(item.rows_in for item in ordered),
            "rows_out": sum(item.rows_out for item in ordered),
            "dropped": _add(item.dropped for item in ordered),
            "counters": _add(item.counters for item in ordered),
        }
        return cls(stage, step, tasks, totals, merkle_root(list(tasks.values())))


def merkle_root(hashes: Sequence[str]) -> str:
    """Return the root of a binary hash tree, in hex.

    A node is SHA-256 of the byte 1 and its two children; a leaf without a partner moves up unchanged, and an empty tree
    is SHA-256 of nothing. The leaves are file hashes, which cannot be mistaken for nodes because of the leading byte.

    Args:
        hashes: hex digests, in order.
    """
    level = [bytes.fromhex(item) for item in hashes] or [hashlib.sha256().digest()]
    while len(level) > 1:
        paired = [
            hashlib.sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = paired + level[len(paired) * 2 :]
    return level[0].hex()


def _add(parts: Iterable[Mapping[str, int | float]]) -> dict[str, JSON]:
    sums: dict[str, int | float] = {}
    for part in parts:
        for key in sorted(part):
            sums[key] = sums.get(key, 0) + part[key]
    return dict(sorted(sums.items()))


def _encode(body: dict[str, JSON]) -> bytes:
    checked = {**body, "checksum": hashlib.sha256(canonical_json(body)).hexdigest()}
    return json.dumps(checked, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def _corrupt(where: str, reason: str) -> CorruptOutputError:
    return CorruptOutputError(f"manifest {where} is damaged: {reason}; rerun its stage with --redo STAGE")


@contextmanager
def _checking(where: str) -> Iterator[None]:
    """Turn what a manifest of other fields raises into one error: a right checksum says nothing about its maker."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as error:
        raise _corrupt(where, f"not the fields that emsmine writes ({error!r})") from None


def _check_types(values: Iterable[object], kind: type | tuple[type, ...]) -> None:
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{value!r:.80} is of type {type(value).__name__}")


def _check_path(path: object, where: str, what: str) -> None:
    try:
        check_relative_path(str(path), what)
    except ConfigError:
        raise _foreign(path, where, what) from None


def _check_output(output: OutputRef, spec: TaskSpec, where: str) -> None:
    """Refuse an output that no task of ours can have written: it would be read, replaced or removed."""
    # The rejects of a task with the longest of names have an ending more.
    if output.path == rejects_path(spec):
        return
    _check_path(output.path, where, "output")
    if output.path.split("/")[0] in RESERVED:
        raise _foreign(output.path, where, "output")


def _foreign(path: object, where: str, what: str) -> ForeignPathError:
    return ForeignPathError(
        f"manifest {where} names the {what} {str(path)!r:.200}, which is none that emsmine writes inside a run "
        "directory; nothing there was touched. It was not written by emsmine: delete that manifest, then run the same "
        "command again, or choose another output directory"
    )


def _decode(data: bytes, where: str, kind: type[TaskManifest] | type[StepManifest]) -> dict[str, Any]:
    try:
        body = json.loads(data)
        found = body.pop("checksum")
        expected = hashlib.sha256(canonical_json(body)).hexdigest()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, ConfigError) as error:
        raise _corrupt(where, f"not the JSON that emsmine writes ({error})") from None
    if found != expected:
        raise _corrupt(where, f"its checksum says {str(found)[:12]}, its content {expected[:12]}")
    # A changed blank or line break leaves the values alone; still, bytes that we did not write are not ours.
    if _encode(body) != data:
        raise _corrupt(where, "its layout differs from what emsmine writes")
    if ("fingerprint" in body) != (kind is TaskManifest):
        raise _corrupt(where, f"it is no {kind.__name__}")
    return dict(body)
