"""Running tasks on this machine: in this process, or in spawned worker processes.

Each worker has its own pipe and holds one task at a time, so when a worker dies it is known which task was lost. A task
that fails or kills its worker becomes a failed report; the other tasks go on.
"""

import atexit
import contextlib
import ctypes
import functools
import logging
import multiprocessing

# Registers its exit handler on import. Handlers run in reverse, and the one in `map` must run before it.
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType, ModuleType, TracebackType
from typing import Any, Protocol

from emsmine.errors import ConfigError, EmsmineError, TaskFailedError
from emsmine.pipelines.store.tasks import TaskReport, TaskSpec
from emsmine.progress import listening

logger = logging.getLogger(__name__)

RunTask = Callable[[TaskSpec], TaskReport]
OnProgress = Callable[[TaskSpec, float], None]
"""Receives a task and the share of it, from 0 to 1, that was done since the last call."""
_READY = "ready"
_PR_SET_PDEATHSIG = 1
_LIFE_CHECK_SECONDS = 1.0
_PROGRESS_SECONDS = 0.25


class Executor(Protocol):
    """Whatever runs tasks. Stages cannot see it."""

    def map(
        self, run: RunTask, specs: Sequence[TaskSpec], on_progress: OnProgress | None = None
    ) -> Iterator[TaskReport]:
        """Run tasks and yield their reports as they finish, in no promised order.

        Args:
            run: runs one task; a module-level function or a `functools.partial` of one.
            specs: the tasks.
            on_progress: hears how far the tasks have come.
        """
        ...


def run_guarded(run: RunTask, spec: TaskSpec) -> TaskReport:
    """Run one task; turn an exception into a failed report.

    The report's error is the message of an error that the user can act on, else a summary line and the traceback.
    """
    started = time.monotonic()
    try:
        return run(spec)
    except EmsmineError as error:
        message = str(error)
    except Exception as error:
        message = f"{spec.task_id}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    return TaskReport.failed(spec, message, time.monotonic() - started)


def _run_here(run: RunTask, spec: TaskSpec, on_progress: OnProgress | None) -> TaskReport:
    with listening(lambda share: on_progress(spec, share) if on_progress else None):
        return run_guarded(run, spec)


class LocalExecutor:
    """Runs tasks on this machine.

    Within a `with` block the worker processes live from one `map` to the next, as long as it is given the same `run`
    object: starting Python and its libraries anew for every step would take longer than many a step.

    Args:
        workers: number of processes; with 1 the tasks run in the calling process, unprotected from their crashes.
        environment: variables that worker processes start with, beside those of this process, which win.

    Raises:
        ConfigError: `workers` is below 1.
    """

    def __init__(self, workers: int = 1, *, environment: Mapping[str, str] | None = None) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self._environment = dict(environment or {})
        self._keep = False
        self._pool: _Pool | None = None

    def __enter__(self) -> "LocalExecutor":
        self._keep = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep = False
        self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.kill()
            atexit.unregister(self._pool.kill)
            self._pool = None

    def map(
        self, run: RunTask, specs: Sequence[TaskSpec], on_progress: OnProgress | None = None
    ) -> Iterator[TaskReport]:
        """Run tasks and yield their reports as they finish, in no promised order.

        When the caller stops early (an exception, `KeyboardInterrupt`, a closed generator), the workers are killed;
        what they left is for `Store.clean_temporaries`.

        Args:
            run: runs one task; a module-level function or a `functools.partial` of one.
            specs: the tasks.
            on_progress: hears how far the tasks have come.

        Raises:
            TaskFailedError: worker processes cannot start at all.
        """
        if self.workers == 1:
            for spec in specs:
                yield _run_here(run, spec, on_progress)
            return
        if self._pool is None or not self._pool.runs(run):
            self._close()
            self._pool = _Pool(run, self.workers, self._environment)
            # An uncaught exception keeps this generator alive in its traceback; without this, the interpreter would
            # wait for idle workers for ever on its way out.
            atexit.register(self._pool.kill)
        finished = False
        try:
            yield from self._pool.map(specs, on_progress)
            finished = True
        finally:
            # Workers that still hold tasks of a map that was left early are of no use to the next.
            if not (finished and self._keep):
                self._close()


class _Worker:
    """A spawned process, its pipe, and the task that it holds."""

    def __init__(self, run: RunTask, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection: Connection[Any, Any]
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, run, os.getpid()))
        # A spawned process can only inherit: set what it shall have, for the moment of its start.
        added = [name for name in environment if name not in os.environ]
        # A worker ignores Ctrl-C, but only once it runs our code: until then it is held back. The tracker of resources
        # goes first, since to start it lifts the block.
        multiprocessing.resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            os.environ.update({name: environment[name] for name in added})
            with _without_main(run):
                self.process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for name in added:
                del os.environ[name]
            # Held by the worker alone, the other end closes when the worker ends.
            theirs.close()
        self.ready = False
        self.spec: TaskSpec | None = None
        self.started = 0.0

    @property
    def idle(self) -> bool:
        return self.ready and self.spec is None

    def give(self, spec: TaskSpec) -> bool:
        """Hand over a task; False if the worker died before it could take it."""
        if not self.process.is_alive():
            return False
        try:
            self.connection.send(spec)
        except OSError:
            return False
        self.spec, self.started = spec, time.monotonic()
        return True

    def receive(self) -> Any:
        """Return the next message, or None if the worker died."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def describe_death(self) -> str:
        # Not `join(timeout)`: it waits for a pipe that a process started by the task may hold open.
        deadline = time.monotonic() + 10
        while self.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        code = self.process.exitcode
        if code is None:
            return f"worker process {self.process.pid} closed its pipe without an answer"
        if code >= 0:
            return f"worker process {self.process.pid} exited with code {code} before its task ended"
        name = signal.Signals(-code).name
        cause = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
        return f"worker process {self.process.pid} was killed by {name}{cause}"


@contextlib.contextmanager
def _without_main(run: RunTask) -> Iterator[None]:
    """Start processes that do not import the main module of this one, unless what they run is defined there.

    They would run a user's script once more, from its top: a script that calls us without `if __name__ == "__main__"`
    would start a run within each of its workers.
    """
    function = run.func if isinstance(run, functools.partial) else run
    main = sys.modules["__main__"]
    if getattr(function, "__module__", "__main__") != "__main__":
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Pool:
    """A fixed number of workers; one that dies is replaced if work is left."""

    def __init__(self, run: RunTask, size: int, environment: Mapping[str, str]) -> None:
        self._run = run
        self._size = size
        self._environment = environment
        self._workers: list[_Worker] = []

    def runs(self, run: RunTask) -> bool:
        return self._run is run

    def map(self, specs: Sequence[TaskSpec], on_progress: OnProgress | None) -> Iterator[TaskReport]:
        waiting = deque(specs)
        num_left = len(specs)
        while num_left:
            while len(self._workers) < min(self._size, num_left):
                self._workers.append(_Worker(self._run, self._environment))
            self._hand_out(waiting)
            # A dead worker's pipe is ready at once, unless a process that its task started still holds it open.
            ready = wait([worker.connection for worker in self._workers], timeout=_LIFE_CHECK_SECONDS)
            for worker in list(self._workers):
                if worker.connection not in ready and worker.process.is_alive():
                    continue
                report = self._attend(worker, on_progress)
                if report is not None:
                    num_left -= 1
                    # Before the caller has its turn, which may be long.
                    self._hand_out(waiting)
                    yield report

    def _hand_out(self, waiting: deque[TaskSpec]) -> None:
        for worker in self._workers:
            if waiting and worker.idle and worker.give(waiting[0]):
                waiting.popleft()

    def _attend(self, worker: _Worker, on_progress: OnProgress | None) -> TaskReport | None:
        """Handle what a worker sent, or its death. Return the report of a task that ended."""
        message = worker.receive()
        spec = worker.spec
        if message is None:
            return self._bury(worker)
        if isinstance(message, float):
            if spec is not None and on_progress:
                on_progress(spec, message)
            return None
        worker.ready, worker.spec = True, None
        return message if spec is not None else None

    def _bury(self, worker: _Worker) -> TaskReport | None:
        fate = worker.describe_death()
        self._workers.remove(worker)
        worker.kill()
        if not worker.ready:
            raise TaskFailedError(f"executor: {fate} (while starting, before any task); see its output above")
        if worker.spec is None:
            logger.warning("executor: idle %s", fate)
            return None
        error = f"{worker.spec.task_id}: {fate}; the other tasks go on. Try fewer --workers, then run the command again"
        return TaskReport.failed(worker.spec, error, time.monotonic() - worker.started)

    def kill(self) -> None:
        while self._workers:
            self._workers.pop().kill()


def _work(connection: "Connection[Any, Any]", run: RunTask, parent: int) -> None:
    """Be a worker: answer each task with its report until killed."""
    _die_with_parent(parent)
    # Ctrl-C reaches the whole process group; what to do about it is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send(_READY)
    while True:
        try:
            spec = connection.recv()
        except EOFError:
            return
        with listening(_sender(connection)):
            report = run_guarded(run, spec)
        connection.send(report)


def _sender(connection: "Connection[Any, Any]") -> Callable[[float], None]:
    """Return a listener that passes progress on, a few times a second at most."""
    collected, sent = 0.0, time.monotonic()

    def send(share: float) -> None:
        nonlocal collected, sent
        collected += share
        if time.monotonic() - sent >= _PROGRESS_SECONDS:
            connection.send(collected)
            collected, sent = 0.0, time.monotonic()

    return send


def _die_with_parent(parent: int) -> None:
    """End this process when its parent ends, so that no task writes without the parent's lock."""
    if sys.platform == "linux":
        # Immediate, even while C code keeps Python from running.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    process = multiprocessing.parent_process()

    def watch() -> None:
        if process is not None:
            wait([process.sentinel])
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # it ended before the two lines above took effect
        os._exit(1)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit(143)` within a `with` block, so that clean-up code runs. Main thread only."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
