"""The only way in which a task touches the run directory.

Inside `with store.task(spec, runtime) as task:` a task reads its inputs, writes its outputs and counts its rows. When
the block ends well, the books are checked and everything is published, the manifest last; when it ends with an
exception, nothing is.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from emsmine.errors import AccountingError, CorruptOutputError, InputError
from emsmine.pipelines.store import layout
from emsmine.pipelines.store.files import AtomicFile, matches_hash, matches_inside, new_attempt
from emsmine.pipelines.store.manifests import RESERVED, TaskManifest, rejects_path
from emsmine.pipelines.store.parquet import ROW_GROUP_ROWS, ParquetSink, read_batches, read_slice, read_table
from emsmine.pipelines.store.publish import publish_task
from emsmine.pipelines.store.tasks import (
    FileRef,
    OutputRef,
    Runtime,
    TaskReport,
    TaskSpec,
    check_relative_path,
    work_of,
)
from emsmine.progress import report

logger = logging.getLogger(__name__)

REJECTS_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("stage", "reason", "id", "sample")]
)
MAX_SAMPLES_PER_REASON = 1000
MAX_SAMPLE_CHARACTERS = 200
_REASON = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TaskContext:
    """One attempt at a task; made by `Store.task`.

    Args:
        root: run directory.
        spec: the task.
        runtime: settings that cannot change the result.
    """

    def __init__(self, root: Path, spec: TaskSpec, runtime: Runtime) -> None:
        self.spec = spec
        self.runtime = runtime
        self._root = root
        self._attempt = new_attempt()
        self._files: dict[str, AtomicFile] = {}
        self._counted: set[str] = set()
        self._sinks: list[ParquetSink] = []
        self._readable = frozenset(spec.inputs)
        self._rows_in = 0
        self._rows_out = 0
        self._dropped: dict[str, int] = {}
        self._samples: dict[str, int] = {}
        self._rejects: list[tuple[str, str, str, str]] = []
        self._counters: dict[str, int | float] = {}
        self._started = 0.0
        self._work = work_of(spec)[0]
        self._report: TaskReport | None = None

    def __enter__(self) -> "TaskContext":
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            self._discard_unpublished()

    @property
    def report(self) -> TaskReport:
        """The report of the finished task, to be read after the `with` block."""
        if self._report is None:
            raise ValueError(f"{self.spec.task_id}: report asked for before the task was published")
        return self._report

    # ---- reading ----

    def read(self, ref: FileRef, columns: Sequence[str] | None = None) -> Any:
        """Read an input that an earlier task wrote, verifying its hash and page checksums.

        Args:
            ref: one of `spec.inputs`, or of `inputs_of`.
            columns: names to read; all if None.

        Returns:
            pyarrow Table.

        Raises:
            CorruptOutputError: the file is missing or damaged.
            InputError: a column is absent.
            ValueError: the file is no input of this task.
        """
        table = read_table(self._verified(ref), columns, use_threads=self.runtime.threads > 1)
        self._check_rows(ref, table.num_rows)
        return table

    def batches(
        self, ref: FileRef, columns: Sequence[str] | None = None, batch_rows: int = ROW_GROUP_ROWS
    ) -> Iterator[Any]:
        """Like `read`, piece by piece.

        Args:
            ref: one of `spec.inputs`, or of `inputs_of`.
            columns: names to read; all if None.
            batch_rows: largest number of rows per batch.

        Returns:
            pyarrow RecordBatches in file order.
        """
        num_rows = 0
        for batch in read_batches(self._verified(ref), columns, batch_rows):
            num_rows += batch.num_rows
            yield batch
            self.progress(batch.num_rows)
        self._check_rows(ref, num_rows)

    def read_slice(self, ref: FileRef, start: int, stop: int, columns: Sequence[str] | None = None) -> Any:
        """Like `read`, for rows `start` to `stop` (exclusive); only their row groups are read."""
        return read_slice(self._verified(ref), start, stop, columns)

    def file(self, ref: FileRef) -> Path:
        """Return where an input that an earlier task wrote lies, after verifying its hash, for what is not Parquet.

        Args:
            ref: one of `spec.inputs`, or of `inputs_of`.

        Raises:
            CorruptOutputError: the file is missing or damaged.
            ValueError: the file is no input of this task.
        """
        return self._verified(ref)

    def inputs_of(self, ref: FileRef, dataset: str) -> list[FileRef]:
        """List the files of a dataset that a finished step wrote, where the input is the step as a whole.

        A task that reads all outputs of a large step names its step manifest (`Store.step_ref`) as its input, which
        stands for all of them.

        Args:
            ref: one of `spec.inputs`, the step manifest.
            dataset: first folders of the files wanted (`shuffle`, `sentences/eng_Latn`).

        Returns:
            References sorted by path, which `read` accepts from now on.

        Raises:
            CorruptOutputError: a manifest is missing or damaged.
        """
        self._verified(ref)
        stage, _, step_name = ref.path.removeprefix("manifests/").removesuffix(".json").partition(".")
        step = layout.load_step_manifest(self._root, stage, step_name)
        refs = layout.select_outputs(layout.load_listed(self._root, step), dataset)
        self._readable = self._readable.union(refs)
        return refs

    def external(self, ref: FileRef) -> str:
        """Return the path or URL of an input from outside the run directory, after verifying its hash.

        Args:
            ref: one of `spec.inputs`. One whose `sha256` is no SHA-256 (`etag:…`) is not verified.

        Raises:
            InputError: the file has changed since the plan was made, or cannot be read.
            ValueError: the file is no input of this task.
        """
        self._check_declared(ref)
        if _SHA256.fullmatch(ref.sha256):
            try:
                good, found = matches_hash(ref.path, ref.sha256)
            except OSError as error:
                raise InputError(f"{self.spec.task_id}: cannot read the input {ref.path}: {error}") from error
            if not good:
                raise InputError(
                    f"{self.spec.task_id}: input {ref.path} changed since the run was planned: its SHA-256 was "
                    f"{ref.sha256[:12]}, now {found[:12]}; start the run again to plan with the new content"
                )
        return ref.path

    def _check_declared(self, ref: FileRef) -> None:
        if ref not in self._readable:
            raise ValueError(f"{self.spec.task_id} reads {ref.path}, which its specification does not list as an input")

    def _verified(self, ref: FileRef) -> Path:
        self._check_declared(ref)
        path = self._root / ref.path
        try:
            # An absolute path is one of an earlier run, checked when it was planned (`EarlierRun.external`).
            good, found = (
                matches_hash(path, ref.sha256)
                if Path(ref.path).is_absolute()
                else matches_inside(self._root, ref.path, ref.sha256)
            )
        except FileNotFoundError:
            good, found = False, "no file"
        if not good:
            raise CorruptOutputError(
                f"{self.spec.task_id}: {path} does not match its manifest: SHA-256 expected {ref.sha256[:12]}, "
                f"found {found[:12]}; {self._remedy(ref)}"
            )
        return path

    def _remedy(self, ref: FileRef) -> str:
        """Say what to do about a damaged file; one by its absolute path belongs to another run."""
        if Path(ref.path).is_absolute():
            return "it belongs to an earlier run that is reused: repair that run, or do without it (--reuse '')"
        return f"rerun the stage that made it with --redo {layout.stage_that_made(self._root, ref.path)}"

    def _check_rows(self, ref: FileRef, found: int) -> None:
        if found != ref.rows:
            raise CorruptOutputError(
                f"{self.spec.task_id}: {self._root / ref.path} has {found} rows, its manifest says {ref.rows}; "
                f"{self._remedy(ref)}"
            )

    # ---- writing ----

    def writer(
        self,
        dataset: str,
        schema: Any,
        *,
        counted: bool = False,
        name: str | None = None,
        row_group_rows: int = ROW_GROUP_ROWS,
        compression: str | Mapping[str, str] | None = None,
    ) -> ParquetSink:
        """Open a Parquet output, `<dataset>/<name>.parquet`.

        Args:
            dataset: folder, as in `documents` or `sentences/eng_Latn`.
            schema: Arrow schema of the rows.
            counted: add the rows written to `rows_out`.
            name: file name without its ending; default: the last component of the partition.
            row_group_rows: rows per row group; fewer for wide rows.
            compression: see `ParquetSink`.

        Returns:
            An object with `write(table_or_batch)`. It need not be closed.
        """
        file = self._open(f"{dataset}/{name or self.spec.partition.split('/')[-1]}.parquet", rows=0, counted=counted)
        sink = ParquetSink(file, schema, row_group_rows=row_group_rows, compression=compression)
        self._sinks.append(sink)
        return sink

    def bytes_writer(self, path: str, *, rows: int | None = None, counted: bool = False) -> AtomicFile:
        """Open an output that is not Parquet.

        Args:
            path: relative to the run directory with '/'.
            rows: number of rows or lines (0 for a file without any), unless set later as `file.rows`.
            counted: add them to `rows_out`.

        Returns:
            A binary file object. It must be closed (or used in a `with` statement) before the task ends, so that
            nothing is left in a wrapper's buffer.
        """
        return self._open(path, rows=rows, counted=counted)

    def _open(self, path: str, *, rows: int | None, counted: bool) -> AtomicFile:
        check_relative_path(path, "output file")
        if path.split("/")[0] in RESERVED:
            raise ValueError(f"{self.spec.task_id}: output {path} would lie among the store's own files")
        return self._open_unchecked(path, rows=rows, counted=counted)

    def _open_unchecked(self, path: str, *, rows: int | None, counted: bool) -> AtomicFile:
        if path in self._files:
            raise ValueError(f"{self.spec.task_id}: output {path} is opened twice")
        file = AtomicFile(self._root / path, self._attempt, rows, root=self._root)
        self._files[path] = file
        if counted:
            self._counted.add(path)
        return file

    # ---- counting ----

    def progress(self, amount: float) -> None:
        """Tell that so many further rows (bytes, of a file from outside) of the inputs are dealt with, see `work_of`.

        `batches` does it by itself. For people only.
        """
        report(amount / max(self._work, 1))

    def count_in(self, n: int = 1) -> None:
        """Count rows taken in."""
        self._rows_in += n

    def count_out(self, n: int = 1) -> None:
        """Count rows passed on; not those of writers opened with `counted`, which count themselves."""
        self._rows_out += n

    def counter(self, name: str, n: int | float = 1) -> None:
        """Add to a number of interest. It goes into the manifest, so it must not depend on time or machine."""
        self._counters[name] = self._counters.get(name, 0) + n

    def drop(self, reason: str, *, id: str | int, sample: str = "", n: int = 1) -> None:
        """Count dropped rows and keep a sample of them in the rejects dataset.

        Args:
            reason: code such as `too_short`: letters, digits and '_.:-', at most 64.
            id: identifies the row, or the first of them.
            sample: text to show; cut at 200 characters. At most 1000 samples per reason and task are kept, all counted.
            n: number of rows.

        Raises:
            ValueError: the reason code has another form, or `n` is negative.
        """
        if not _REASON.fullmatch(reason) or n < 0:
            raise ValueError(f"{self.spec.task_id}: drop({reason!r}, n={n}): reason must be a code, n at least 0")
        if n == 0:
            return
        self._dropped[reason] = self._dropped.get(reason, 0) + n
        if self._samples.get(reason, 0) < MAX_SAMPLES_PER_REASON:
            self._samples[reason] = self._samples.get(reason, 0) + 1
            row = (self.spec.stage, reason, str(id), sample[:MAX_SAMPLE_CHARACTERS])
            # Lone surrogates, which damaged input can hold, have no UTF-8.
            stage, reason, name, text = (value.encode("utf-8", "replace").decode("utf-8") for value in row)
            self._rejects.append((stage, reason, name, text))

    # ---- ending ----

    def _commit(self) -> None:
        self._write_rejects()
        for sink in self._sinks:
            sink.close()
        for path, file in self._files.items():
            if not file.complete or file.rows is None:
                fault = "was not closed" if not file.complete else "has no number of rows (set .rows)"
                raise ValueError(f"{self.spec.task_id}: output {path} {fault} before the task ended")
        manifest = self._manifest()
        published = publish_task(self._root, manifest, self._files, self._attempt)
        report = published.report(skipped=False, seconds=time.monotonic() - self._started)
        # Where another attempt was first, its files stand.
        own = self._files.items() if published is manifest else ()
        self._report = replace(report, identities={path: file.identity for path, file in own if file.identity})

    def _write_rejects(self) -> None:
        if self._rejects:
            file = self._open_unchecked(rejects_path(self.spec), rows=0, counted=False)
            sink = ParquetSink(file, REJECTS_SCHEMA)
            self._sinks.append(sink)
            columns = [pa.array(column, pa.string()) for column in zip(*self._rejects, strict=True)]
            sink.write(pa.Table.from_arrays(columns, schema=REJECTS_SCHEMA))

    def _manifest(self) -> TaskManifest:
        rows_out = self._rows_out + sum(self._files[path].rows or 0 for path in self._counted)
        if self._rows_in != rows_out + sum(self._dropped.values()):
            drops = ", ".join(f"{reason} {n}" for reason, n in sorted(self._dropped.items())) or "none"
            raise AccountingError(
                f"{self.spec.task_id}: {self._rows_in} rows in, but {rows_out} rows out and dropped: {drops}; "
                f"{self._rows_in - rows_out - sum(self._dropped.values()):+d} rows have no reason. Nothing was "
                "published; this is a bug in the stage, please report it"
            )
        outputs = [OutputRef(path, file.sha256(), file.rows or 0, file.size) for path, file in self._files.items()]
        return TaskManifest(
            spec=self.spec,
            fingerprint=self.spec.fingerprint(),
            rows_in=self._rows_in,
            rows_out=rows_out,
            dropped=dict(sorted(self._dropped.items())),
            counters=dict(sorted(self._counters.items())),
            outputs=tuple(sorted(outputs, key=lambda output: output.path)),
        )

    def _discard_unpublished(self) -> None:
        # The files first: a writer that is closed after its file was discarded writes into the void.
        for close in [*(file.discard for file in self._files.values()), *(sink.discard for sink in self._sinks)]:
            try:
                close()
            except Exception:
                logger.warning("%s: a temporary file could not be removed", self.spec.task_id, exc_info=True)
