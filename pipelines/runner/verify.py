"""Whether a run directory is whole: every manifest, every file that one lists, and what no manifest knows.

Reads everything, writes nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emsmine.errors import ConfigError, CorruptOutputError, ForeignPathError, InputError
from emsmine.pipelines.configuration import build_settings, read_saved_config
from emsmine.pipelines.rescoring import filled_in, unused_steps
from emsmine.pipelines.settings import STEPS, Settings
from emsmine.pipelines.store import inside, layout
from emsmine.pipelines.store.files import hash_inside, is_temporary
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.manifests import StepManifest, TaskManifest
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.tasks import OutputRef

Kind = Literal["damaged", "missing", "stale", "foreign", "temporary"]
OF_RESULTS: tuple[Kind, ...] = ("damaged", "missing", "stale")
"""Kinds of problems that put results into doubt; the others are things that do not belong here."""

_OWN = (layout.LOCK_NAME, layout.STAT_NAME, layout.CONFIG_NAME, layout.LOG_NAME)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: what kind of thing.
        path: file or step, relative to the run directory.
        text: what is wrong, and the next step.
    """

    kind: Kind
    path: str
    text: str


@dataclass
class Verification:
    """What was found.

    Args:
        problems: all of them; none if the directory is whole.
        unfinished: steps that are not finished, with the number of their tasks that are done.
        num_tasks, num_files, num_bytes: what the manifests list.
        hashed_bytes: how much of it was read; the rest was known by the record of earlier verifications.
    """

    problems: list[Problem] = field(default_factory=list)
    unfinished: dict[str, int] = field(default_factory=dict)
    num_tasks: int = 0
    num_files: int = 0
    num_bytes: int = 0
    hashed_bytes: int = 0

    def add(self, kind: Kind, path: str, text: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, path, text))


def verify(root: Path, threads: int, cache: StatCache | None = None) -> Verification:
    """Check a run directory.

    Args:
        root: run directory.
        threads: files to hash at a time.
        cache: files that it knows are not hashed again; None hashes all.

    Raises:
        InputError: there is no such folder, or no manifest in it.
    """
    found = Verification()
    listing = list(inside.walk(root))
    if not any(path.startswith("manifests/") for path in listing):
        raise InputError(f"{root} holds no results of a run; run: emsmine run INPUT… --output DIR")
    known = {path for path in listing if _is_plain(root, path, found)}
    steps = {name: _Step(root, name, known, found) for name in STEPS}
    manifests = {name: step.manifests for name, step in steps.items()}
    _check_outputs(root, [item for items in manifests.values() for item in items], threads, cache, found)
    _check_inputs(root, manifests, found)
    _check_rows(manifests, found)
    _check_settings(root, manifests, found)
    listed = {path for step in steps.values() for path in step.paths}
    for path in sorted(known - listed - set(_OWN)):
        if is_temporary(path.rpartition("/")[2]):
            found.add(
                "temporary", path, "left by an interrupted run; the next emsmine run on this directory removes it"
            )
        else:
            found.add("foreign", path, "no manifest lists it; move it away, or delete it")
    return found


def _is_plain(root: Path, path: str, found: Verification) -> bool:
    try:
        return inside.exists(root, path)
    except ForeignPathError as error:
        found.add("foreign", path, str(error))
        return False


class _Step:
    """The manifests of one step that can be read; what is wrong with the others is noted."""

    def __init__(self, root: Path, name: str, known: set[str], found: Verification) -> None:
        self.manifests: list[TaskManifest] = []
        self.paths: set[str] = set()
        self._root, self._name, self._found = root, name, found
        self._stage, self._step = name.split(".")
        folder = f"manifests/{name}/"
        existing = [path for path in sorted(known) if path.startswith(folder) and path.endswith(".json")]
        self._partitions = [
            path.removeprefix(folder).removesuffix(".json")
            for path in existing
            if not is_temporary(path.rpartition("/")[2])
        ]
        finished = self._finished(known)
        wanted = finished.tasks if finished else dict.fromkeys(self._partitions, "")
        for partition, sha256 in wanted.items():
            self._read(partition, sha256)
        for partition in self._partitions if finished else ():
            if partition not in wanted:
                path = layout.task_manifest_path(self._stage, self._step, partition)
                found.add("stale", path, f"the step does not list it; run again with --redo {self._stage}")
                self._read(partition, "")
        totals = StepManifest.build(self._stage, self._step, self.manifests) if finished else None
        if finished and len(self.manifests) == len(wanted) and totals != finished:
            self._damaged(layout.step_manifest_path(self._stage, self._step), "its totals are not those of its tasks")
        if finished is None:
            found.unfinished[name] = len(self.manifests)

    def _damaged(self, path: str, reason: str) -> None:
        self._found.add("damaged", path, f"{reason}; run again with --redo {self._stage}")

    def _finished(self, known: set[str]) -> StepManifest | None:
        path = layout.step_manifest_path(self._stage, self._step)
        self.paths.add(path)
        if path not in known:
            return None
        try:
            return layout.load_step_manifest(self._root, self._stage, self._step)
        except CorruptOutputError as error:
            self._found.add("damaged", path, str(error))
            return None

    def _read(self, partition: str, sha256: str) -> None:
        path = layout.task_manifest_path(self._stage, self._step, partition)
        self.paths.add(path)
        try:
            manifest = layout.load_task_manifest(self._root, self._stage, self._step, partition)
        except FileNotFoundError:
            self._found.add("missing", path, f"the step lists it; run again with --redo {self._stage}")
            return
        except CorruptOutputError as error:
            self._found.add("damaged", path, str(error))
            return
        if sha256 and hashlib.sha256(manifest.encode()).hexdigest() != sha256:
            self._damaged(path, "it is not the one that the step lists")
        if manifest.fingerprint != manifest.spec.fingerprint():
            self._damaged(path, "its fingerprint is not that of the task that it describes")
        if manifest.rows_in != manifest.rows_out + sum(manifest.dropped.values()):
            self._damaged(path, f"{manifest.rows_in} rows in, but other numbers out and dropped")
        self.manifests.append(manifest)
        self.paths.update(output.path for output in manifest.outputs)


def _check_outputs(
    root: Path, manifests: Sequence[TaskManifest], threads: int, cache: StatCache | None, found: Verification
) -> None:
    outputs = [(output, item.spec.stage) for item in manifests for output in item.outputs]
    cache = cache or StatCache(root, empty=True)
    pool = ThreadPoolExecutor(threads)
    try:
        states = pool.map(lambda pair: _state(cache, pair[0]), outputs)
        for (output, stage), state in zip(outputs, states, strict=True):
            if state == "missing":
                found.add("missing", output.path, f"its manifest lists it; run again, which makes it anew ({stage})")
            elif state == "damaged":
                text = f"its content is not that of its manifest; run again, which makes it anew ({stage})"
                found.add("damaged", output.path, text)
            elif state:
                found.add("damaged", output.path, state)
    finally:
        pool.shutdown(cancel_futures=True)
    found.num_tasks, found.num_files = len(manifests), len(outputs)
    found.num_bytes, found.hashed_bytes = sum(output.bytes for output, _ in outputs), cache.hashed_bytes


def _state(cache: StatCache, output: OutputRef) -> str:
    """Return "" for a good file, else what is wrong with it."""
    try:
        state = cache.state(output)
    except (OSError, ForeignPathError) as error:
        return str(error)
    return "" if state == "good" else state


def _check_inputs(root: Path, manifests: dict[str, list[TaskManifest]], found: Verification) -> None:
    """Find tasks that were run on other versions of files than those that are there now."""
    now = {output.path: output.sha256 for items in manifests.values() for item in items for output in item.outputs}
    for items in manifests.values():
        for item in items:
            for ref in item.spec.inputs:
                if ref.path.startswith("/") or "://" in ref.path:
                    continue
                if ref.path not in now and ref.path.startswith("manifests/"):
                    now[ref.path] = _hash(root, ref.path)
                if now.get(ref.path) != ref.sha256:
                    text = f"made from another version of {ref.path}; run again with --redo {item.spec.stage}"
                    found.add("stale", item.spec.task_id, text)
                    break


def _hash(root: Path, path: str) -> str:
    try:
        return hash_inside(root, path)[0]
    except (OSError, ForeignPathError):
        return ""


def _check_rows(manifests: dict[str, list[TaskManifest]], found: Verification) -> None:
    for after, before in ((name, told.takes) for name, told in STEPS.items() if told.takes):
        given, taken = (manifests[name] for name in (before, after))
        if before in found.unfinished or after in found.unfinished:
            continue
        rows_out, rows_in = sum(item.rows_out for item in given), sum(item.rows_in for item in taken)
        if rows_out != rows_in:
            text = f"it took {rows_in} rows, {before} gave {rows_out}; run again with --redo {after.split('.')[0]}"
            found.add("stale", after, text)


def _check_settings(root: Path, manifests: dict[str, list[TaskManifest]], found: Verification) -> None:
    """Compare the saved settings with those in the manifests."""
    try:
        settings = filled_in(build_settings(read_saved_config(root), {}))
    except (ConfigError, ForeignPathError) as error:
        found.add("damaged", layout.CONFIG_NAME, str(error))
        return
    for name, items in manifests.items():
        stage = name.split(".")[0]
        changed = sorted({text for item in items for text in _changes(settings, stage, item)})
        for text in changed:
            found.add("stale", name, f"{text}; run again with --redo {stage}, or restore {layout.CONFIG_NAME}")
    unused = unused_steps(settings)
    for name in (name for name, told in STEPS.items() if told.rows == "by pair"):
        there = {item.spec.partition.split("/")[0] for item in manifests[name]}
        absent = [pair_folder(pair) for pair in settings.pairs if pair_folder(pair) not in there]
        if absent and name not in found.unfinished and name not in unused:
            found.add("stale", name, f"no results of {', '.join(absent)}, which {layout.CONFIG_NAME} names; run again")


def _changes(settings: Settings, stage: str, manifest: TaskManifest) -> Iterator[str]:
    wanted = settings.params(stage)
    for key, made_with in manifest.spec.params.items():
        if key in wanted:
            now = wanted[key]
            now = list(now) if isinstance(now, tuple) else now
            if now != made_with:
                yield f"made with {key} {made_with!r:.80}, {layout.CONFIG_NAME} says {now!r:.80}"


def format_problem(problem: Problem) -> str:
    """Return the line of a problem."""
    return f"{problem.kind:<10} {problem.path}: {problem.text}"
