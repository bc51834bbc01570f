"""What a task is: its specification, its fingerprint, and what it reports.

A task is planned from input manifests and configuration only, so the same plan gives the same specifications on any
machine. The SHA-256 of a specification's canonical JSON is its *fingerprint*: it decides whether existing output is
still valid. Settings that cannot change a result (workers, device, threads) travel in `Runtime` and stay out of it.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from emsmine.errors import ConfigError

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
"""Any value that JSON can hold. NaN and infinities are refused: they have no canonical form."""

_Kind = TypeVar("_Kind", int, float, str, bool, list[JSON], dict[str, JSON])

# The first character is never '.', which keeps '..' and the store's own '.tmp-…' files out, nor '-', which a shell
# would take for an option. 128 characters leave room for the prefix of a temporary name within the usual 255.
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_relative_path(name: str, what: str) -> str:
    """Return `name` unchanged if it is a safe relative path.

    Args:
        name: components of `[A-Za-z0-9_.-]` joined by '/', none of them starting with '.' or '-'.
        what: the thing named, for the message (`partition`, `dataset`).

    Raises:
        ConfigError: the name is empty, absolute, leaves its folder, or holds other characters.
    """
    if not all(_COMPONENT.fullmatch(part) for part in name.split("/")):
        raise ConfigError(
            f"{what} {name!r} is not a safe relative path; use letters, digits and '_.-' in parts of at most 128 "
            "characters joined by '/', no part starting with '.' or '-'"
        )
    return name


def _normalise(value: object, where: str) -> JSON:
    """Copy a parameter into plain dicts and lists, so that equal settings have equal canonical JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{where} is {value}; a parameter must be finite (use null for 'no limit')")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where} has the key {key!r} of type {type(key).__name__}; keys must be strings")
        return {key: _normalise(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normalise(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ConfigError(f"{where} is of type {type(value).__name__}; use null, bool, int, float, str, list or dict")


def canonical_json(value: JSON) -> bytes:
    """Serialise to the one form that is hashed: sorted keys, no spaces, ASCII with escapes.

    Raises:
        ConfigError: a value has no canonical form (NaN, a set, a NumPy scalar, a key that is not a string).
    """
    normal = _normalise(value, "value")
    return json.dumps(normal, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class FileRef:
    """A file by name and content.

    Args:
        path: relative to the run directory with '/', or absolute or a URL for an external input.
        sha256: hex digest of the whole file. An external input that is too large or remote to hash beforehand may
            carry another identity with a scheme (`etag:…`); it is part of the fingerprint but cannot be verified.
        rows: number of rows or records; 0 where the file has none or the number is not known yet.
    """

    path: str
    sha256: str
    rows: int

    def to_json(self) -> dict[str, JSON]:
        """Return the three fields as a JSON object."""
        return {"path": self.path, "sha256": self.sha256, "rows": self.rows}


@dataclass(frozen=True)
class OutputRef:
    """A file that a task wrote: a `FileRef` and its size.

    Args:
        path: relative to the run directory with '/'.
        sha256: hex digest of the whole file.
        rows: number of rows or lines.
        bytes: size.
    """

    path: str
    sha256: str
    rows: int
    bytes: int

    @property
    def ref(self) -> FileRef:
        """The reference that a later task takes as its input."""
        return FileRef(self.path, self.sha256, self.rows)

    def to_json(self) -> dict[str, JSON]:
        """Return the four fields as a JSON object."""
        return {"path": self.path, "sha256": self.sha256, "rows": self.rows, "bytes": self.bytes}


@dataclass(frozen=True)
class Runtime:
    """Settings that cannot change a result and so are never fingerprinted.

    Args:
        device: where models run (`cpu`, `cuda:0`).
        threads: threads that one task may use.
        workers: processes that run tasks at the same time.
        gpu_memory_bytes: of a GPU, that the searches of all of them may take together; None: what is free.
        extra: anything else of this kind, by name.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    gpu_memory_bytes: int | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """One unit of work, complete enough to be run anywhere.

    Args:
        stage: name of the stage (`dedup`).
        step: phase within the stage (`map`, `reduce`).
        version: raised by hand when the code of the step changes its results.
        params: the result-changing settings; copied, so that later changes to the mapping have no effect.
        inputs: every file that the task reads.
        partition: which part of the step this is, as a relative path: `00003`, `deu_Latn/00003`,
            `deu_Latn-eng_Latn/00001-00002`.

    Raises:
        ConfigError: a name is not safe as a path, or a parameter has no canonical JSON.
    """

    stage: str
    step: str
    version: int
    params: Mapping[str, JSON]
    inputs: tuple[FileRef, ...]
    partition: str

    def __post_init__(self) -> None:
        for what, word in (("stage", self.stage), ("step", self.step)):
            if not _WORD.fullmatch(word):
                raise ConfigError(f"{what} name {word!r} must be lower-case letters, digits and '_', a letter first")
        check_relative_path(self.partition, "partition")
        object.__setattr__(self, "params", _normalise(self.params, f"{self.stage}.{self.step}: parameter"))
        object.__setattr__(self, "inputs", tuple(self.inputs))

    def __hash__(self) -> int:
        return hash(self.canonical())

    @property
    def task_id(self) -> str:
        """The readable name: `stage.step/partition`."""
        return f"{self.stage}.{self.step}/{self.partition}"

    def to_json(self) -> dict[str, JSON]:
        """Return all fields as a JSON object."""
        return {
            "stage": self.stage,
            "step": self.step,
            "version": self.version,
            "params": self.params,
            "inputs": [ref.to_json() for ref in self.inputs],
            "partition": self.partition,
        }

    def canonical(self) -> bytes:
        """Return the canonical JSON that the fingerprint hashes."""
        return canonical_json(self.to_json())

    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def param(self, name: str, kind: type[_Kind]) -> _Kind:
        """Return a parameter with its type checked.

        Args:
            name: key in `params`.
            kind: int, float (an int is accepted and converted), str, bool, list or dict.

        Raises:
            ConfigError: the parameter is absent or of another type.
        """
        value = self.params.get(name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{self.task_id}: parameter {name} must be {kind.__name__}, got {value!r}")
        return value


def work_of(spec: TaskSpec) -> tuple[float, str]:
    """Return how much work a task is, for showing progress only: rows of its inputs, or bytes of files from outside."""
    rows = sum(ref.rows for ref in spec.inputs)
    if rows:
        return rows, "rows"
    sizes = [os.path.getsize(ref.path) for ref in spec.inputs if os.path.isfile(ref.path)]
    return (sum(sizes), "bytes") if sizes else (1, "tasks")


@dataclass(frozen=True)
class TaskReport:
    """What a task did.

    Args:
        task_id: `TaskSpec.task_id`.
        fingerprint: `TaskSpec.fingerprint()`.
        rows_in: rows taken in.
        rows_out: rows passed on.
        dropped: rows dropped, by reason.
        counters: other numbers of interest, by name.
        outputs: the files written, sorted by path.
        skipped: the output existed and was kept.
        seconds: wall time; for people only, never written to a manifest.
        identities: inode and mtime of the files written, by path; for `stat_cache`, never written to a manifest.
        peak_rss_bytes: most memory that the process had until now; for people only.
        error: None, or why the task failed. The first line is a summary; a traceback may follow.
    """

    task_id: str
    fingerprint: str
    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int | float] = field(default_factory=dict)
    outputs: tuple[OutputRef, ...] = ()
    skipped: bool = False
    seconds: float = 0.0
    error: str | None = None
    identities: dict[str, tuple[int, int]] = field(default_factory=dict)
    peak_rss_bytes: int = 0

    @classmethod
    def failed(cls, spec: TaskSpec, error: str, seconds: float = 0.0) -> "TaskReport":
        """Report that the task of `spec` did not finish."""
        return cls(spec.task_id, spec.fingerprint(), seconds=seconds, error=error)


def _shorten(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _differences(old: JSON, new: JSON, where: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            inner = f"{where}.{key}"
            if key not in old:
                yield f"{inner} (new) {_shorten(new[key])}"
            elif key not in new:
                yield f"{inner} {_shorten(old[key])} (gone)"
            else:
                yield from _differences(old[key], new[key], inner)
    elif canonical_json(old) != canonical_json(new):
        yield f"{where} {_shorten(old)} -> {_shorten(new)}"


def describe_changes(old: TaskSpec, new: TaskSpec) -> list[str]:
    """Name the fields in which two specifications of the same task differ, with old and new values.

    Returns:
        One line per difference, parameters first: `params.k 4 -> 8`, `input documents/00000.parquet changed (…)`.
    """
    lines = list(_differences(old.params, new.params, "params"))
    lines += _differences(old.version, new.version, "version")
    before, after = ({ref.path: ref for ref in spec.inputs} for spec in (old, new))
    for path in sorted({*before, *after}):
        was, now = before.get(path), after.get(path)
        if was is None:
            lines.append(f"input {path} (new)")
        elif now is None:
            lines.append(f"input {path} (gone)")
        elif was != now:
            was_text, now_text = (f"{ref.rows} rows, sha256 {ref.sha256[:12]}" for ref in (was, now))
            lines.append(f"input {path} changed ({was_text} -> {now_text})")
    if not lines and old.inputs != new.inputs:
        lines.append("the order of the inputs")
    return lines
