"""ingest: input files → documents, one task per file."""

import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from emsmine.errors import InputError
from emsmine.mining.text.normalise import sanitise
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.readers.read import read_records
from emsmine.pipelines.readers.records import Problem, Record
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, library_versions
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.files import hash_file
from emsmine.pipelines.store.layout import LOCK_NAME, shard_name
from emsmine.pipelines.store.schemas import DOCUMENTS
from emsmine.pipelines.store.tasks import FileRef, Runtime, TaskSpec

logger = logging.getLogger(__name__)

_BATCH = 512
_FILE_SHIFT = 40


def expand_inputs(inputs: tuple[str, ...]) -> dict[str, bool]:
    """Replace folders by the files below them, sorted, and check that every local input exists.

    A run directory inside a folder is left out: its files were made from the inputs, perhaps by the run that asks.

    Returns:
        The files in order; True for one that was named itself, False for one that was found in a folder.

    Raises:
        InputError: an input does not exist, a folder is empty, or nothing is given.
    """
    files: dict[str, bool] = {}
    for path in inputs:
        if "://" in path:
            files[path] = True
        elif Path(path).is_dir():
            found = _files_below(path)
            if not found and _is_run_directory(path):
                raise InputError(
                    f"ingest: {path} is a run directory; give the crawl files, or a folder that holds them"
                )
            if not found:
                raise InputError(f"ingest: folder {path} holds no files; give a crawl file or a folder of them")
            files |= {file: files.get(file, False) for file in found}
        elif Path(path).is_file():
            files[path] = True
        else:
            raise InputError(f"ingest: {path} does not exist; give WARC, WET, JSONL, Parquet or text files")
    if not files:
        raise InputError("ingest: no input; name at least one file: emsmine run INPUT… --pairs de-en --output DIR")
    return files


def _files_below(folder: str) -> list[str]:
    """Return the files of a folder, sorted, without hidden files and without run directories."""
    found = []
    for directory, _, names in _walk(folder):
        found += [os.path.join(directory, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if os.path.isfile(path))


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for directory, folders, names in os.walk(str(Path(folder))):
        if _is_run_directory(directory):
            folders.clear()
            _say_left_out(os.path.abspath(directory))
        else:
            yield directory, folders, names


def _is_run_directory(folder: str) -> bool:
    """Tell whether a folder is one that a run writes to; the lock is its first file, and a copy may lack it."""
    if os.path.isfile(os.path.join(folder, LOCK_NAME)):
        return True
    return all(os.path.exists(os.path.join(folder, name)) for name in ("manifests", "config.toml"))


@functools.cache  # the inputs of a run are expanded several times
def _say_left_out(folder: str) -> None:
    logger.warning("ingest: %s is a run directory inside an input folder; no file of it is read", _printable(folder))


def _printable(path: str) -> str:
    """Return a path as a string that can be written as UTF-8: bytes that are none become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse a wrong input before a run directory is made for it."""
    expand_inputs(settings.inputs)


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per input file, numbered in the order given."""
    specs = []
    libraries = library_versions("resiliparse")
    files = [
        (path if "://" in path else os.path.abspath(path), named)
        for path, named in expand_inputs(context.settings.inputs).items()
    ]
    total = sum(os.path.getsize(path) for path, _ in files if "://" not in path)
    with Progress("ingest: hash", total, "bytes") as progress:
        for number, (path, named) in enumerate(files):
            ref = FileRef(path, hash_file(path, progress.advance)[0], 0)
            params = {
                **context.settings.params("ingest"),
                "file_number": number,
                "named": named,
                "libraries": libraries,
            }
            specs.append(step.spec(params, (ref,), shard_name(number)))
    return specs


def run(task: TaskContext) -> None:
    """Read one file; every record becomes a document or a counted reject."""
    spec = task.spec
    path = task.external(spec.inputs[0])
    writer = task.writer("documents", DOCUMENTS, counted=True)
    first_id = spec.param("file_number", int) << _FILE_SHIFT
    rows: list[tuple[object, ...]] = []
    # Names only: an absolute path in the data would say more about the machine than about the text.
    source_file = sanitise(_printable(path if "://" in path else os.path.basename(path)))
    for number, item in enumerate(_items(task, path)):
        task.count_in()
        if isinstance(item, Problem):
            task.drop(item.reason, id=f"{source_file}:{item.offset}", sample=item.sample or item.detail)
            continue
        text = _clean(item.text)
        if not text:
            # What the reader took for text was invisible characters.
            task.drop("no_text", id=f"{source_file}:{item.offset}", sample=item.url)
            continue
        rows.append((first_id + number, *_columns(item, source_file, text)))
        if len(rows) == _BATCH:
            writer.write(_table(rows))
            rows = []
    writer.write(_table(rows))


def _items(task: TaskContext, path: str) -> Iterator[Record | Problem]:
    """Read a file; one that a folder happened to hold and that is no crawl file is one problem, not the end."""
    spec = task.spec
    try:
        yield from read_records(
            path,
            format=spec.param("format", str),
            text_field=spec.param("text_field", str),
            url_field=spec.param("url_field", str),
            on_bytes=task.progress,
        )
    except InputError as error:
        if spec.param("named", bool):
            raise
        yield Problem("unusable_file", 0, sample=_printable(os.path.basename(path)), detail=str(error))


def _clean(text: str) -> str:
    return "\n".join(line for line in map(sanitise, text.split("\n")) if line)


def _columns(record: Record, source_file: str, text: str) -> tuple[object, ...]:
    return (
        sanitise(record.url),
        record.date,
        source_file,
        record.offset,
        record.length,
        text,
        record.html_lang,
        record.lang,
        list(record.mt_hints),
    )


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(DOCUMENTS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DOCUMENTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=DOCUMENTS)


STAGE = Stage((Step("ingest", "read", 1, plan, run),), check)
